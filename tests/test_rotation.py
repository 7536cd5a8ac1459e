"""Positions as rotations: a map that moves with the world."""

import pytest
import torch

from conftest import ARGUMENTS, MODELS, some_views
from s2rm import GQN, MSA, Episode, Views, load
from s2rm.nn.embedding import Rotation

ROTATED = {**MODELS, "msa": lambda **own: MSA(**{**ARGUMENTS, **own})}


def test_a_turn_by_hand():
    rotation = Rotation(5, 2, shortest=4.0, middle=(1.0, 2.0))
    with torch.no_grad():
        rotation.frequencies.copy_(torch.tensor([[torch.pi / 2, 0.0], [0.0, torch.pi]]))
    turned = rotation(torch.tensor([1.0, 2.0, 3.0, 4.0, 7.0]), torch.tensor([2.0, 3.0]))
    # The first pair, (1, 3), by a quarter turn; the second, (2, 4), by half a turn; the fifth channel stays.
    torch.testing.assert_close(turned, torch.tensor([-3.0, -2.0, 1.0, -4.0, 7.0]))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_back_undoes_a_turn(size):
    rotation = Rotation(size, 3, shortest=2.0, middle=(0.0, 0.0, 0.0)).double()
    vectors, positions = torch.randn(4, 5, size, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(rotation(rotation(vectors, positions), positions, back=True), vectors)
    assert rotation.frequencies.abs().max() <= torch.pi if size > 1 else rotation.frequencies.numel() == 0


def test_states_that_lie_time_first_are_turned_in_order():
    """As `nn.LSTM` makes them. Laid out as they are, each pass with the angles would jump, and products would copy."""
    rotation = Rotation(6, 2, shortest=4.0, middle=(0.0, 0.0))
    states, positions = torch.randn(3, 2, 6, requires_grad=True).transpose(0, 1), torch.randn(2, 3, 4, 2)
    read = states.unsqueeze(2).expand(2, 3, 4, 6)
    turned = rotation(read, positions)
    assert not torch.empty_like(read).is_contiguous()
    assert turned.is_contiguous()
    torch.testing.assert_close(turned, rotation(read.contiguous(), positions), rtol=0, atol=0)


@pytest.mark.parametrize("back", [False, True])
def test_the_gradients_of_a_turn(back):
    rotation = Rotation(5, 2, shortest=4.0, middle=(1.0, 2.0)).double()
    vectors, positions = (torch.randn(3, 2, size, dtype=torch.float64, requires_grad=True) for size in (5, 2))

    def turned(vectors, positions, frequencies):
        return torch.func.functional_call(rotation, {"frequencies": frequencies}, (vectors, positions, back))

    assert torch.autograd.gradcheck(turned, (vectors, positions, rotation.frequencies))
    by_hand = rotation(vectors, positions, back)
    with torch.autocast("cpu", torch.bfloat16):  # by autograd
        torch.testing.assert_close(rotation(vectors, positions, back).double(), by_hand, rtol=0.02, atol=0.05)


def test_frequencies_start_within_the_shortest_wavelength():
    drawn = Rotation(1000, 2, shortest=12.0, middle=(0.0, 0.0)).frequencies
    assert 0.99 * 2 * torch.pi / 12 < drawn.abs().max() <= 2 * torch.pi / 12
    with pytest.raises(ValueError, match="must be positive and finite, got 0"):
        Rotation(4, 2, shortest=0, middle=(0.0, 0.0))


@pytest.mark.parametrize("assign", [False, True])
def test_a_model_built_without_numbers_predicts_as_the_one_whose_weights_it_takes(assign):
    model, views = ROTATED["s2gru"](rotation=5.0).eval(), some_views()
    with torch.device("meta"):
        other = ROTATED["s2gru"](rotation=5.0).eval()
    other = other if assign else other.to_empty(device="cpu").double()
    other.load_state_dict(model.double().state_dict(), assign=assign)
    here, there = (each.predict(each.observe(views), views.positions).mean for each in (model, other))
    assert torch.equal(here, there)


@pytest.mark.parametrize("core", ["lstm", "gru", "rmc", "rims"])
def test_the_scaffold_s_sum_is_a_map_that_moves_with_all_positions(core):
    """Moving all views by the same vector turns their sum: the same map, read at the moved position."""
    model = GQN(**{**ARGUMENTS, "core": core, "hidden_size": 12, "rotation": 5.0, "batch_norm": False}).double()
    views = some_views()
    shift = torch.tensor([3.0, -2.0], dtype=torch.float64)
    moved = Views(views.positions + shift, views.values, views.mask)
    here, there = model.summed(views), model.summed(moved)
    torch.testing.assert_close(model.rotation(here, shift.expand(*here.shape[:-1], -1)), there)
    query = torch.rand(2, 5, 2, dtype=torch.float64)
    read = model.rotation(here, query, back=True)
    torch.testing.assert_close(model.rotation(there, query + shift, back=True), read)


@pytest.mark.parametrize("name", ROTATED)
def test_every_model_takes_a_rotation(name, tmp_path):
    model = ROTATED[name](rotation=5.0).double().eval()
    assert not model.inject_positions
    assert model.encoder.layers.first.in_features == 2 * 15, "the encoder does without positions"
    views = some_views()
    model.loss(Episode(views)).backward()
    assert model.rotation.frequencies.grad.abs().sum() > 0
    states = model.observe(views)
    together = model.predict(states, views.positions.nan_to_num()).mean
    # Step by step as all at once, whole slots as those that are there only.
    state = model.initial_state(2)
    for step in range(views.num_steps):
        state = model.step(views.at(step), state)
    torch.testing.assert_close(model.predict(state, views.positions[:, -1]).mean, together[:, -1])
    model.save(tmp_path)
    again = load(tmp_path)
    torch.testing.assert_close(again.predict(again.observe(views), views.positions).mean, together)


def test_a_rotation_runs_in_bfloat16():
    model, views = MODELS["s2gru"](rotation=5.0), some_views().to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.loss(Episode(views)).item()
    assert low == pytest.approx(model.loss(Episode(views)).item(), rel=0.02)


def test_models_without_a_rotation_draw_the_weights_that_they_drew():
    torch.manual_seed(3)
    plain = MODELS["lstm"]()
    torch.manual_seed(3)
    turned = MODELS["lstm"](rotation=5.0)
    assert "rotation.frequencies" not in plain.state_dict()
    assert "rotation.frequencies" in turned.state_dict()
