"""Trajectories: names of scenarios, what is refused, joining, and the file."""

from dataclasses import replace

import pytest
import torch

from s2rm.tasks.battles.trajectories import TENSORS, Trajectories, team


def made(battles: int = 2, steps: int = 3, units: int = 5, name: str = "a", seed: int = 0) -> Trajectories:
    generator = torch.Generator().manual_seed(seed)
    return Trajectories(
        positions=7 * torch.rand(battles, steps, units, 2, generator=generator),
        alive=torch.rand(battles, steps, units, generator=generator) < 0.8,
        types=torch.randint(9, (battles, units), generator=generator),
        friendly=torch.rand(battles, units, generator=generator) < 0.5,
        stats=50 * torch.rand(battles, steps, units, 4, generator=generator),
        actions=torch.randint(8, (battles, steps, units), generator=generator),
        terrain=torch.rand(battles, 7, 11, generator=generator),
        scenario=torch.zeros(battles, dtype=torch.long),
        names=(name,),
    )


def test_scenarios_name_units():
    assert team("1c3s12z") == ["colossus"] + 3 * ["stalker"] + 12 * ["zealot"]
    assert team("2marauder1medivac12zg") == 2 * ["marauder"] + ["medivac"] + 12 * ["zergling"]
    with pytest.raises(ValueError, match="each type of unit once, got '3z1s2zealot'"):
        team("3z1s2zealot")


@pytest.mark.parametrize("name", ["", "3", "z3", "3x", "1c3s5q", "0z", "3s 5z", "3s5", "3s5z_vs_3s6z", "1z2m"])
def test_unknown_scenarios_are_refused(name):
    known = ("colossus", "stalker", "zealot")
    with pytest.raises(
        ValueError, match=r"such as 1c3s5z, of c \(colossus\), s \(stalker\), z \(zealot\) or whole .*got"
    ):
        team(name, known)


def test_what_is_saved_is_loaded(tmp_path):
    before = made()
    before.save(tmp_path / "some" / "battles.safetensors")
    after = Trajectories.load(tmp_path / "some" / "battles.safetensors")
    assert after.names == before.names
    for name in TENSORS:
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_joined_battles_are_those_of_the_parts_with_empty_slots_where_a_part_is_smaller():
    first, second = made(), made(3, 2, 7, name="b", seed=1)
    both = Trajectories.join([first, second])
    assert len(both) == 5
    assert both.names == ("a", "b")
    assert both.scenario.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(both.positions[:2, :, :5], first.positions)
    assert torch.equal(both.stats[2:, :2], second.stats)
    assert not both.alive[:2, :, 5:].any()
    assert not both.alive[2:, 2:].any()


def test_rows_are_battles():
    some = made(4)[torch.tensor([2, 0])]
    assert torch.equal(some.positions[1], made(4).positions[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"types": t.types[:, 1:]}, r"expected types of shape \(2, 5\), got \(2, 4\)"),
        (lambda t: {"types": t.types + 9}, "expected types from 0 to 8, got [0-9]+ to"),
        (lambda t: {"actions": t.actions - 9}, "expected actions from 0 to 7"),
        (lambda t: {"scenario": t.scenario + 1}, "expected scenario from 0 to 0"),
        (
            lambda t: {name: getattr(t, name)[:, :1] for name in ("positions", "alive", "stats", "actions")},
            "at least 2 steps, got 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    battles = made()
    with pytest.raises(ValueError, match=message):
        replace(battles, **change(battles))


def test_maps_of_different_sizes_do_not_join():
    first = made()
    with pytest.raises(ValueError, match="maps of one size"):
        Trajectories.join([first, replace(first, terrain=first.terrain[:, 1:])])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "found no file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is cut short or no file of trajectories"),
        (lambda path: path.write_text("no"), "is cut short or no file of trajectories"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'format\\": 1', b'format\\": 7')),
            "has format 7, this version reads 1",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, spoil, message):
    path = tmp_path / "battles.safetensors"
    made().save(path)
    spoil(path)
    with pytest.raises(ValueError, match=message):
        Trajectories.load(path)
