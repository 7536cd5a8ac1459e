"""The transformer over recent reports: what every model keeps to, and what is its own."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import test_models as contract
import test_sensors_forecaster as sensors
from conftest import ARGUMENTS, VALUE_SHAPE, some_views
from s2rm import MSA, Episode, Views, load
from s2rm.sensors import Fit, Forecaster
from s2rm.training import Training

SMALL = {"hidden_size": 12, "num_layers": 2, "num_heads": 3, "window": 3}


def make_msa(**changes) -> MSA:
    return MSA(**{**ARGUMENTS, "likelihood": "bernoulli", **SMALL, **changes})


@pytest.fixture
def model() -> MSA:
    return make_msa().double()


def some_queries(steps: int = 5, queries: int = 4) -> torch.Tensor:
    return 7 * torch.rand(2, steps, queries, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    "keeps",
    [
        contract.test_predictions_have_the_shape_of_the_views,
        contract.test_the_order_of_views_never_matters,
        contract.test_what_is_not_there_never_matters,
        contract.test_padding_never_matters,
        contract.test_a_world_without_any_view_is_fine,
        contract.test_a_channel_that_was_not_measured_is_not_a_zero,
        contract.test_observe_equals_step_by_step,
        contract.test_observing_in_two_parts_is_observing_once,
        contract.test_loss_is_the_mean_over_what_is_there,
        contract.test_rollouts_feed_back_or_stay_blind,
        contract.test_views_of_another_world_are_refused,
        contract.test_positions_have_a_time_as_their_states_have,
        contract.test_a_state_may_be_a_plain_tuple_of_its_parts,
        contract.test_positions_of_another_world_are_refused,
        contract.test_a_state_of_another_batch_or_device_is_refused,
    ],
    ids=lambda keeps: keeps.__name__,
)
@pytest.mark.parametrize("window", [1, 12])
def test_it_keeps_the_contract_of_every_model(keeps, window):
    keeps(make_msa(window=window).double())


def test_it_corrects_a_guess_as_other_models_do():
    contract.test_a_model_that_corrects_starts_at_the_guess_and_learns_from_its_context(MSA)


@pytest.mark.parametrize(("likelihood", "codec"), [("bernoulli", "mlp"), ("gaussian", "cnn")])
def test_saved_and_loaded_is_the_same(likelihood, codec, tmp_path):
    model = make_msa(likelihood=likelihood, codec=codec)
    model.loss(Episode(some_views().to(torch.float32)))
    model.eval().save(tmp_path)
    again = load(tmp_path)
    assert again.arguments == model.arguments
    assert again.draws == 1
    views, queries = some_views().to(torch.float32), some_queries().float()
    assert torch.equal(*(m.predict(m.observe(views), queries).mean for m in (model, again)))


def test_attention_is_the_transformers_own(model):
    """The library's encoder over reports and queries in one sequence, with the mask of all pairs."""
    reports, queries = torch.randn(3, 7, 12).double(), torch.randn(3, 5, 12).double()
    there = torch.rand(3, 7) < 0.6
    there[:, 0] = True
    unheard = torch.ones(12, 12, dtype=torch.bool)
    unheard[:, :7] = False
    unheard.fill_diagonal_(False)
    missing = torch.cat([~there, torch.zeros(3, 5, dtype=torch.bool)], 1)

    def gradients_of(attend):
        model.zero_grad()
        attended = attend()
        attended.square().sum().backward()
        found = [parameter.grad.clone() for parameter in model.transformer.parameters()]
        return [attended.detach(), *found]

    ours = gradients_of(lambda: model.attend(reports, there, queries))
    joint = torch.cat([reports, queries], 1)
    theirs = gradients_of(lambda: model.transformer(joint, unheard, missing)[:, 7:])
    contract.assert_all_close(ours, theirs)
    with torch.no_grad():
        contract.assert_all_close([model.eval().attend(reports, there, queries)], ours[:1])


@pytest.mark.parametrize("most", [1, 14, 4096])
def test_few_sequences_at_a_time_and_all_at_once_are_the_same(model, most, monkeypatch):
    """Outputs and gradients, with some, all and none of the observations there."""
    monkeypatch.setattr("s2rm.models.msa.MOST_TOKENS", most)
    reports, queries = torch.randn(5, 7, 12).double(), torch.randn(5, 3, 12).double()
    there = torch.rand(5, 7) < 0.5
    there[0], there[1] = True, False
    found = []
    for attend in (model.attend, model._attend):
        given = [part.clone().requires_grad_() for part in (reports, queries)]
        attended = attend(given[0], there, given[1])
        weights = [*model.transformer.parameters()]
        found.append([attended, *torch.autograd.grad(attended.square().sum(), [*given, *weights])])
    contract.assert_all_close(*found)


class LargestTensor(TorchDispatchMode):
    """The size of the largest tensor that is made within."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.size = max(self.size, *(part.numel() for part in tree_leaves(made) if isinstance(part, torch.Tensor)), 0)
        return made


@pytest.mark.parametrize(("reports", "queries"), [(1500, 11), (11, 1500)])
def test_no_tensor_holds_all_pairs(reports, queries):
    """A month of many sensors is thousands of observations, and a map thousands of queries."""
    model, there = make_msa().eval(), torch.ones(1, reports, dtype=torch.bool)
    with torch.no_grad(), LargestTensor() as largest:
        model.attend(torch.randn(1, reports, 12), there, torch.randn(1, queries, 12))
    assert 1500 * 12 <= largest.size < 1500 * 100


def test_a_query_without_any_report_hears_itself_only(model):
    reports, queries = torch.randn(3, 7, 12).double(), torch.randn(3, 5, 12).double()
    there = torch.zeros(3, 7, dtype=torch.bool)
    there[1, 2] = True
    heard = model.attend(reports, there, queries)
    assert heard.isfinite().all()
    torch.testing.assert_close(model.transformer(queries[:1, 2:3]), heard[:1, 2:3])
    again = model.attend(reports + 1, there, queries)
    assert [torch.equal(*pair) for pair in zip(heard, again, strict=True)] == [True, False, True]


def test_no_prediction_depends_on_what_else_is_asked(model):
    states, queries = model.observe(some_views()), some_queries()
    together = model.predict(states, queries).logits
    alone = torch.cat([model.predict(states, queries[:, :, [q]]).logits for q in range(4)], 2)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-11)


def test_it_remembers_the_last_steps_at_which_anything_was_seen(model):
    views = some_views(steps=9)
    there = torch.tensor([[1, 1, 0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0]], dtype=torch.bool)
    views.mask[:] = there[..., None]
    states = model.observe(views)
    assert states.slots.shape == states.ages.shape == (2, 9, 3)
    assert states.ages[0].tolist() == [
        [0, 0, 1], [0, 2, 1], [0, 3, 2], [4, 3, 1], [4, 2, 1], [5, 3, 2], [6, 4, 3], [5, 4, 1],
        [6, 5, 2],
    ]  # fmt: skip
    assert states.ages[1].tolist() == [[0, 0, 0]] * 4 + [[0, 0, age] for age in range(1, 6)]
    kept = Views(views.positions, views.values, views.mask & (torch.arange(9) >= 3)[:, None])
    state, recent = model.last(states), model.last(model.observe(kept))
    torch.testing.assert_close(state, recent)
    assert [tuple(part.shape) for part in state] == [(2, 3, 7, 12), (2, 3, 7), (2, 3), (2, 3)]


def test_a_blind_state_ages_and_stays_of_one_size(model):
    state = model.last(model.observe(some_views()))
    nothing = Views.none(2, 2, VALUE_SHAPE, torch.zeros((), dtype=torch.float64))
    queries, said, before = some_queries(1)[:, 0], [], state
    for _ in range(50):
        said.append(model.predict(state, queries).logits)
        state = model.step(nothing, state)
    assert torch.equal(state.ages, torch.where(before.ages > 0, before.ages + 50, 0))
    assert torch.equal(state.tokens, before.tokens)
    assert torch.stack(said).isfinite().all()
    assert all(not torch.allclose(one, other) for one, other in pairwise(said[:13]))


def test_the_number_of_views_may_differ_from_call_to_call(model):
    few, many = some_views(views=2), some_views(views=7)
    state = model.last(model.observe(few))
    assert model.step(many.at(0), state).mask.shape == (2, 3, 7)
    widened = Views(
        *(
            torch.cat([part, part.new_zeros(2, 5, 5, *part.shape[3:])], 2)
            for part in (few.positions, few.values, few.mask)
        )
    )
    once = model.observe(widened.then(many))
    torch.testing.assert_close(model.last(model.observe(many, state)), model.last(once))
    other = model.last(model.observe(many))
    assert model.step(few.at(0), other).mask.shape == (2, 3, 7)


def test_a_state_of_another_shape_is_refused(model):
    views, state = some_views(), model.initial_state(2)
    with pytest.raises(ValueError, match="MSA: expected a state of .* start from initial_state") as error:
        model.step(views.at(0), state._replace(tokens=state.tokens[:, 1:]))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="MSA: expected a state of"):
        model.observe(views, model.observe(views))


def test_the_steps_of_a_loss_are_spread_over_those_with_targets():
    model = make_msa(steps_per_loss=3)
    there = torch.zeros(4, 20, dtype=torch.bool)
    there[0, 5:14] = True
    there[1, [2, 17]] = True
    there[2] = True
    counts, rounds = torch.zeros(4, 20), 600
    for _ in range(rounds):
        steps, drawn = model._draw(there)
        assert drawn.tolist() == [[True] * 3, [True, True, False], [True] * 3, [False] * 3]
        assert (there.gather(1, steps) | ~drawn).all()
        assert steps[1, :2].tolist() == [2, 17], "all of them, where they are few"
        assert (steps[0] // 3 - torch.tensor([1, 2, 3])).abs().amax() <= 1, "one of each third"
        counts.scatter_add_(1, steps, drawn.float())
    assert ((counts[0, 5:14] / rounds - 1 / 3).abs() < 0.1).all()
    assert ((counts[2] / rounds - 3 / 20).abs() < 0.07).all(), "each as likely as any other"
    model.eval()
    assert model._draw(there)[0][0].tolist() == [6, 9, 12]
    assert all(torch.equal(*pair) for pair in zip(model._draw(there), model._draw(there), strict=True))


def test_the_loss_is_the_mean_over_the_steps_drawn(model):
    views, targets = some_views(steps=12), some_views(steps=12, views=3)
    episode = Episode(views, targets)
    model.eval()
    after = targets.steps(1, None)
    steps, _ = model._draw(after.mask.any(-1))
    at = torch.arange(2)[:, None], steps
    assert len(set(steps[0].tolist())) == 4
    logits = model.predict(model.observe(views.steps(0, -1)), after.positions).logits[at]
    values, mask = after.values[at], after.mask[at]
    expected = nn.functional.binary_cross_entropy_with_logits(logits[mask], values[mask])
    torch.testing.assert_close(model.loss(episode), expected)
    torch.testing.assert_close(model.loss(episode, recompute=2), expected)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        model.loss(episode, recompute=0)


def test_draws_differ_and_go_on_after_a_restart(model):
    episode = Episode(some_views(steps=20))
    losses = [model.loss(episode).item() for _ in range(4)]
    assert len(set(losses)) == 4
    resumed = make_msa().double()
    resumed.load_state_dict(model.state_dict())
    torch.manual_seed(7)
    assert resumed.loss(episode).item() == model.loss(episode).item()


def test_it_learns_a_short_sequence():
    model = make_msa(value_shape=(2,), likelihood="gaussian", hidden_size=24, steps_per_loss=3)
    places = 7 * torch.rand(1, 1, 5, 2)
    phase = torch.arange(8)[:, None] / 2 + places.sum(-1)
    views = Views(places.expand(1, 8, 5, 2), torch.stack([phase.sin(), phase.cos()], -1))
    episode = Episode(views)
    before = model.eval().loss(episode).item()
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(episode).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()
    assert model.eval().loss(episode).item() < before - 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10}, "hidden_size must be a positive multiple of the number of heads, 3, got 10"),
        ({"hidden_size": 0}, "hidden_size must be a positive multiple of the number of heads, 3, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"steps_per_loss": 0}, "steps_per_loss must be at least 1, got 0"),
        ({"likelihood": "poisson"}, "MSA: likelihood must be one of .* got 'poisson'"),
        ({"corrects": True}, "MSA: corrects needs a context_size of at least"),
    ],
)
def test_it_refuses(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        make_msa(**changes)
    assert "\n" not in str(error.value)


def test_it_forecasts_sensors(tmp_path):
    training = Training(batch_size=4, epochs=1, learning_rate=1e-3)
    how = Fit("msa", hidden_size=8, context=26, horizon=6, training=training)
    made = Forecaster.fit(sensors.some_reports(160), tmp_path / "made", how, progress=False)
    assert isinstance(made.model, MSA)
    assert made.model.window == 12
    sensors.test_a_fitted_forecaster_forecasts_from_what_was_known((made, tmp_path / "made"))
    sensors.test_a_stream_forecasts_as_the_table_does((made, tmp_path / "made"), tmp_path)


def test_context_where_there_is_no_target_has_no_effect_on_gradients():
    model, views = make_msa(context_size=2).double().eval(), some_views()
    context, grads = torch.randn(*views.mask.shape, 2, dtype=torch.float64), []
    for given in (context, context.where(views.mask[..., None], torch.nan)):
        model.zero_grad()
        model.loss(Episode(views, views, given)).backward()
        grads.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    assert not views.mask.all()
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))
