"""Skirmishes: the statistics of units hold, impossible events do not occur, and the two teams are alike."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2rm.tasks.battles import tactics
from s2rm.tasks.battles.fighting import (
    LEAST_DAMAGE,
    MAX_OVERLAP,
    SHIELD_DELAY,
    SHIELD_RATE,
    SLACK,
    UNITS,
    Battlefield,
    Orders,
    Slots,
    _hits,
    _strike,
    advance,
    line_up,
    starts,
)
from s2rm.tasks.battles.scores import episodes
from s2rm.tasks.battles.skirmish import PRESETS, SkirmishWorld, battles, preset, simulate
from s2rm.tasks.battles.tactics import LONGEST_DELAY, Temper, draw_tempers, give_orders
from s2rm.tasks.battles.trajectories import ACTIONS, TENSORS, UNIT_TYPES, Trajectories, team

WORLD = replace(preset("tiny"), num_steps=48)
COARSE = replace(WORLD, substeps=4)
SIDE, STEP = WORLD.side, WORLD.seconds_per_step
SECONDS = STEP / WORLD.substeps
"""of a substep"""
ATTACK = ACTIONS.index("attack")


@pytest.fixture(scope="module")
def fought() -> Trajectories:
    return simulate(WORLD, "1c3s5z", 48, seed=0)


def lined_up(own: str, other: str) -> Slots:
    return line_up(team(own), team(other))


def a_field(own: str, other: str, positions: list[tuple[float, float]], targets: list[int]):
    """One battle in which everyone attacks."""
    slots = lined_up(own, other)
    shape = (1, len(targets))
    field = Battlefield(
        positions=torch.tensor([positions]),
        health=slots.health.clone()[None],
        shield=slots.shield.clone()[None],
        cooldown=torch.zeros(shape),
        unhurt=torch.full(shape, SHIELD_DELAY),
        target=torch.tensor([targets]),
        goal=torch.full((1, 2, 2), 16.0),
    )
    attack = torch.tensor([[target != unit for unit, target in enumerate(targets)]])
    orders = Orders(attack, torch.zeros(shape, dtype=torch.bool), torch.zeros(*shape, 2), torch.zeros(shape))
    return slots, field, orders


def standing(battles: Trajectories, up_to: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """Health left of each team at a step."""
    health = battles.stats[:, up_to, :, 0]
    return (health * battles.friendly).sum(1), (health * ~battles.friendly).sum(1)


def test_the_same_seed_gives_the_same_battles():
    world = replace(WORLD, num_steps=5, clip=2)
    first, again, other = (simulate(world, "1s2z", 3, seed) for seed in (5, 5, 6))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in TENSORS)
    assert not torch.equal(first.positions, other.positions)


def test_no_two_splits_share_a_battle():
    world = replace(PRESETS["tiny"], num_steps=2, clip=2, train_scenarios=("1s2z", "2z"), train_battles=5)
    parts = [battles(world, split, seed) for split in ("train", "val") for seed in (0, 1)]
    parts += [battles(world, "test", seed, name) for seed in (0, 1) for name in ("1s2z", "2z")]
    starts = torch.cat([part.positions[:, 0, :2].flatten(1) for part in parts])
    assert len(starts.unique(dim=0)) == len(starts)


def test_training_has_equal_shares_of_its_scenarios_and_testing_has_one():
    tiny = replace(PRESETS["tiny"], num_steps=2, clip=2)
    train = battles(tiny, "train", 0)
    assert train.names == ("1c3s5z", "3s5z", "2s5z")
    assert train.scenario.bincount().tolist() == [3, 3, 3]
    assert train.alive[:, 0].sum(-1).tolist() == [18] * 3 + [16] * 3 + [14] * 3
    odd = battles(replace(tiny, val_battles=5), "val", 0)
    assert sorted(odd.scenario.bincount().tolist()) == [1, 2, 2]
    test = battles(tiny, "test", 0, "5s3z")
    assert (test.names, len(test)) == (("5s3z",), 2)


def test_units_and_teams_are_those_of_the_name(fought):
    names = ["colossus"] + ["stalker"] * 3 + ["zealot"] * 5
    assert [UNIT_TYPES[unit] for unit in fought.types[0]] == names * 2
    assert fought.friendly[0].tolist() == [True] * 9 + [False] * 9
    uneven = simulate(replace(WORLD, num_steps=2, clip=2), "1c", 1, 0, "2z")
    assert uneven.names == ("1c_vs_2z",)
    assert uneven.friendly.tolist() == [[True, False, False]]


@settings(max_examples=3, deadline=None)
@given(name=st.sampled_from(["2s5z", "1s2z", "2c2z", "9z"]), seed=st.integers(0, 2**40))
def test_invariants_hold(name, seed):
    invariants(simulate(replace(COARSE, num_steps=32), name, 4, seed), name)


def test_invariants_hold_in_large_battles(fought):
    invariants(fought, "1c3s5z")


def invariants(played: Trajectories, name: str) -> None:
    """What holds at every step of every battle."""
    slots = lined_up(name, name)
    alive, positions = played.alive, played.positions
    edge = slots.radius[:, None] - 1e-5
    assert (positions >= edge).all(), "nobody leaves the map"
    assert (positions <= WORLD.map_size - edge).all()
    assert not (alive[:, 1:] & ~alive[:, :-1]).any(), "the dead stay dead"
    health, energy, cooldown, shield = played.stats.unbind(-1)
    assert played.stats.min() >= 0
    assert (health <= slots.health).all()
    assert (shield <= slots.shield).all()
    assert (energy == 0).all()
    assert (cooldown <= slots.cooldown + LONGEST_DELAY).all()
    assert torch.equal(health > 0, alive)
    assert (health.diff(dim=1) <= 0).all(), "hit points do not come back"
    gaps = (positions[:, :, :, None] - positions[:, :, None]).norm(dim=-1)
    both = alive[..., None] & alive[:, :, None]
    assert (torch.where(both, slots.apart - gaps, 0.0) <= MAX_OVERLAP + 1e-4).all()
    moved = positions.diff(dim=1).norm(dim=-1)
    assert (moved <= slots.speed * WORLD.seconds_per_step + 1e-4).all(), "nobody outruns the table"
    assert (moved[~alive[:, :-1]] == 0).all()
    assert 0 <= played.terrain.min() <= played.terrain.max() <= 1


def test_only_a_colossus_walks_over_others():
    apart = lined_up("2c1s", "1c1z").apart
    collides = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    assert torch.equal(apart > 0, collides.bool())
    assert apart[2, 4] == 1.125


@pytest.mark.parametrize(
    ("attacker", "victim", "attacks", "shield", "health"),
    [
        ("1s", "1z", 1, 37, 100),
        ("1s", "1z", 4, 0, 99),  # 11 of the fourth 13 on the shield, 2 less 1 of armour on the health
        ("1s", "1z", 5, 0, 87),
        ("1s", "1s", 1, 62, 80),  # 13 and 5 against armoured
        ("1s", "1s", 5, 0, 71),  # four of 18 leave 8, then 18 - 8 - 1
        ("1z", "1s", 1, 64, 80),  # two hits of 8
        ("1z", "1s", 6, 0, 66),  # each of two hits less 1
        ("1z", "1z", 4, 0, 88),  # six hits leave 2; then 8 - 2 - 1 and 8 - 1
        ("1c", "1z", 2, 0, 91),  # 15 against light: 45 leave 5, then 15 - 5 - 1
        ("1c", "1s", 1, 60, 80),
        ("1z", "1c", 1, 134, 200),
    ],
)
def test_damage_is_that_of_the_table(attacker, victim, attacks, shield, health):
    slots, field, orders = a_field(attacker, victim, [(10.0, 10.0), (11.0, 10.0)], [1, 1])
    fires = orders.attack
    for _ in range(attacks):
        field.health, field.shield = _strike(slots, field.health, field.shield, *_hits(slots, field, fires))
    assert field.shield[0].tolist() == [slots.shield[0], shield]
    assert field.health[0].tolist() == [slots.health[0], health]


def test_hits_at_once_are_as_hits_one_after_the_other():
    slots = lined_up("3s4z", "2s2z")
    generator = torch.Generator().manual_seed(0)
    battle = torch.randint(5, (60,), generator=generator)
    attacker = torch.randint(7, (60,), generator=generator)
    victim = torch.randint(7, 11, (60,), generator=generator)
    health, shield = slots.health.repeat(5, 1), (slots.shield * torch.rand(5, 11, generator=generator)).round()
    together = _strike(slots, health, shield, battle, attacker, victim)
    for b, a, v in zip(battle.tolist(), attacker.tolist(), victim.tolist(), strict=True):
        damage = float(slots.damage[a, v])
        taken = min(damage, float(shield[b, v]))
        shield[b, v] -= taken
        if damage > taken:
            health[b, v] -= max(damage - taken - float(slots.armour[v]), LEAST_DAMAGE)
    assert torch.equal(together[0], health.clamp(min=0))
    assert torch.equal(together[1], shield)


def test_a_lance_sweeps_across_the_line_of_fire():
    # Target ahead; one to its side, touched; one too far to the side; one behind it, not on the line; a friend on it.
    places = [(10.0, 10.0), (15.0, 11.8), (15.0, 10.0), (15.0, 8.3), (15.0, 12.0), (16.0, 10.0)]
    slots, field, orders = a_field("1c1z", "4z", places, [2, 1, 2, 3, 4, 5])
    battle, attacker, victim = _hits(slots, field, orders.attack)
    assert victim.tolist() == [2, 2, 3, 3]
    assert set(battle.tolist()) | set(attacker.tolist()) == {0}


def test_two_attacks_are_a_cooldown_apart_and_land_in_the_same_substep_as_the_foe_s():
    slots, field, orders = a_field("1z", "1z", [(10.0, 10.0), (11.0, 10.0)], [1, 0])
    when = []
    for substep in range(200):
        before = field.health + field.shield
        advance(slots, field, orders, SIDE, SECONDS)
        if (field.health + field.shield < before).any():
            when.append(substep * SECONDS)
            assert field.health[0, 0] == field.health[0, 1], "both strike at once"
    gaps = torch.tensor(when).diff()
    assert gaps.min() >= UNITS["zealot"].cooldown
    assert gaps.max() <= UNITS["zealot"].cooldown + 2 * SECONDS
    # 150 points: three attacks on the shield, a fourth of 5 and 7, and seven of 7 and 7 on the 88 left.
    assert len(when) == 4 + 7
    assert (field.health == 0).all(), "of equals neither survives"


def test_shields_come_back_after_the_delay_and_no_sooner():
    slots, field, orders = a_field("1s", "1z", [(4.0, 4.0), (28.0, 28.0)], [0, 1])
    field.shield[0, 1], field.unhurt[0, 1] = 20.0, 0.0
    for _ in range(math.floor(SHIELD_DELAY / SECONDS)):
        advance(slots, field, orders, SIDE, SECONDS)
    assert field.shield[0, 1] == 20
    for _ in range(16):
        advance(slots, field, orders, SIDE, SECONDS)
    assert field.shield[0, 1] == pytest.approx(20 + 16 * SECONDS * SHIELD_RATE)
    for _ in range(190):
        advance(slots, field, orders, SIDE, SECONDS)
    assert field.shield[0, 1] == UNITS["zealot"].shield


def test_actions_are_what_units_do(fought):
    actions, alive = fought.actions, fought.alive
    assert torch.equal(actions == ACTIONS.index("no-op"), ~alive)
    assert not (actions == ACTIONS.index("unknown")).any()
    steps = fought.positions.diff(dim=1)
    for name, direction in {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}.items():
        walked = steps[(actions == ACTIONS.index(name))[:, :-1] & alive[:, 1:]]
        ahead = (walked * torch.tensor(direction)).sum(-1)
        assert len(ahead) > 50
        # Others push, but a quarter turn takes more than that.
        assert (ahead > 0.5 * walked.norm(dim=-1)).float().mean() > 0.9
    cooldown = fought.stats[..., 2]
    fired = cooldown[:, 1:] > cooldown[:, :-1]
    assert (actions[:, :-1][fired] == ATTACK).all(), "nobody hits without an order"
    stopped = steps[(actions == ACTIONS.index("stop"))[:, :-1]].norm(dim=-1)
    assert (stopped == 0).float().mean() > 0.8


def test_attackers_have_an_enemy_in_range(fought):
    gaps = (fought.positions[:, :, :, None] - fought.positions[:, :, None]).norm(dim=-1)
    slots = lined_up("1c3s5z", "1c3s5z")
    gaps = gaps - slots.radius[:, None] - slots.radius
    there = slots.enemy & fought.alive[:, :, None]
    nearest = torch.where(there, gaps, math.inf).amin(-1)
    assert (nearest <= slots.reach + SLACK + 1e-4)[fought.actions == ATTACK].all()


def test_teams_meet_fight_and_one_wins():
    played = simulate(replace(COARSE, num_steps=70), "1s2z", 32, seed=1)
    up = torch.stack([(played.alive & side).any(-1) for side in (played.friendly[:, None], ~played.friendly[:, None])])
    assert up[:, :, 0].all()
    assert (~up[:, :, -1].all(0)).float().mean() > 0.95
    assert played.positions[:, -1][played.alive[:, -1]].std() > 3, "survivors walk about"


def test_mirror_matches_are_even():
    played = simulate(replace(COARSE, num_steps=50), "1s2z", 1_000, seed=0)
    own, other = standing(played)
    difference = own - other
    assert difference.mean().abs() < 3 * difference.std() / 1_000**0.5
    leads = (own > other).float() - (other > own).float()
    assert leads.mean().abs() < 3 * leads.std() / 1_000**0.5
    assert ((own == 0) | (other == 0)).float().mean() > 0.3


def test_teams_that_change_places_do_the_same(monkeypatch):
    """Exactly, but for the random swerve: orders, hits and moves of a battle and of its mirror image."""
    generator, slots = torch.Generator().manual_seed(0), lined_up("1c2s3z", "1c2s3z")
    swap = torch.arange(12).roll(6)
    start, temper = starts(slots, SIDE, 16, generator), draw_tempers(slots, 16, generator)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))
    monkeypatch.setattr(tactics, "uniform", lambda low, high, size, generator: torch.full(size, (low + high) / 2))

    def field(order: torch.Tensor) -> Battlefield:
        full = (16, 12)
        return Battlefield(
            start[:, order], slots.health.expand(full), slots.shield.expand(full), torch.zeros(full),
            torch.full(full, SHIELD_DELAY), torch.arange(12).expand(full), torch.full((16, 2, 2), 16.0),
        )  # fmt: skip

    first, second = field(torch.arange(12)), field(swap)
    swapped = Temper(*(part[:, swap] for part in temper))
    for step in range(12):
        one, actions = give_orders(slots, first, temper, SIDE, STEP, step * STEP, generator)
        two, mirrored = give_orders(slots, second, swapped, SIDE, STEP, step * STEP, generator)
        assert torch.equal(actions[:, swap], mirrored)
        assert torch.equal(swap[first.target[:, swap]], second.target)
        for _ in range(WORLD.substeps):
            advance(slots, first, one, SIDE, SECONDS)
            advance(slots, second, two, SIDE, SECONDS)
        for name in ("positions", "health", "shield"):
            torch.testing.assert_close(getattr(first, name)[:, swap], getattr(second, name), atol=1e-4, rtol=0)
            setattr(second, name, getattr(first, name)[:, swap])
        second.goal = first.goal.flip(1)
    assert (first.health < slots.health).any(), "they fought"


def test_more_units_win_whichever_side_they_are_on():
    for own, other, winner in (("5s3z", "1s2z", 0), ("1s2z", "5s3z", 1)):
        left = standing(simulate(replace(COARSE, num_steps=36), own, 16, 0, other))
        assert (left[winner] > 0).all()
        assert (left[1 - winner] == 0).all()


def test_episodes_are_clips_for_training_and_whole_battles_for_validation():
    world = replace(PRESETS["tiny"], num_steps=4, clip=3, train_scenarios=("2z",), substeps=4)
    assert episodes(world, "train")[[0, 4], 1].views.num_steps == 3
    whole = episodes(world, "val", seed=2)
    assert len(whole) == 3
    played = battles(world, "val", 2)
    views = whole[[1], 0].views
    assert torch.equal(views.positions[0], played.positions[1, :, :2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1}, "num_steps of at least 2, got 1"),
        ({"map_size": 8}, "map_size of at least 16, got 8"),
        ({"val_battles": 10**10}, "at most 1e[+]12 values in all, got 10000000000 x 100 x "),
        (
            {"map_size": 16, "train_scenarios": ("9c",)},
            "at most a tenth of the map of 16 x 16, got 9c .* map_size of",
        ),
        ({"clip": 200}, "clip must be at most num_steps, 100, got 200"),
        ({"seconds_per_step": 2.0}, r"seconds_per_step in \(0, 1\] with 8 substeps, got 2.0"),
        ({"train_scenarios": ("3x",)}, "got '3x'"),
        ({"train_scenarios": ()}, "at least one of train_scenarios"),
        ({"train_battles": 2}, "train_battles of at least 3, got 2"),
    ],
)
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SkirmishWorld(), **changes)


def test_impossible_wishes_are_refused():
    with pytest.raises(ValueError, match="unknown split 'all'; choose from train, val, test"):
        battles(WORLD, "all", 0)
    for split, name in (("test", None), ("train", "3s5z")):
        with pytest.raises(ValueError, match=f"a scenario with the test split and no other, got {name} with {split}"):
            battles(WORLD, split, 0, name)
    with pytest.raises(ValueError, match="at least 1 battle, got 0"):
        simulate(WORLD, "1z", 0, 0)
    with pytest.raises(ValueError, match="got 999z against 1z"):
        simulate(WORLD, "999z", 1, 0, "1z")
    with pytest.raises(ValueError, match=r"of c .colossus., s .stalker., z .zealot. or whole names, got '1m'"):
        simulate(WORLD, "1m", 1, 0)
    with pytest.raises(ValueError, match="unknown preset 'huge'; choose from paper, small, tiny"):
        preset("huge")
