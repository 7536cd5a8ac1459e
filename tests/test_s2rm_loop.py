"""All steps as one node have the numbers and gradients of step after step."""

from unittest.mock import patch

import pytest
import torch

from s2rm.models.modules import masked
from s2rm.models.s2rm import S2RM
from s2rm.nn import s2rm_loop
from s2rm.nn.over_time import map_state
from test_models import assert_all_close

VARIANTS = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "aggregated": {"carry": "aggregated"},
    "shared": {"share_parameters": True},
    "shared lstm": {"share_parameters": True, "cell": "lstm"},
    "neighbourhood": {"normalise": "neighbourhood"},
    "ablated": {"ablate": ("input_local", "intercell_nonlocal")},
    "one module": {"num_modules": 1},
}


def model_of(**how):
    torch.manual_seed(0)
    how = {"num_modules": 3, "hidden_size": 12, **how}
    return S2RM(value_shape=(2,), num_coordinates=2, codec="mlp", shortest=24.0, longest=384.0, **how).double()


def given_to(model, steps, views, batch=13):
    """Places, encodings, a mask of the views and a state; the first sequence has no view at its first step."""
    torch.manual_seed(1)
    embedded = model.embedding(24 * torch.rand(batch, steps, views, 2).double())
    mask = torch.rand(batch, steps, views) > 0.3
    mask[0, 0] = False
    encodings = torch.randn(batch, steps, views, model.hidden_size).double() * mask[..., None]
    state = map_state(lambda part: torch.randn_like(part), model.initial_state(batch))
    return embedded, encodings, mask, state


def results(model, embedded, encodings, mask, state, present=None):
    """The states, and the gradients of views, state and parameters."""
    learned = [*model.cell.parameters(), *model.input_attention.parameters(), *model.intercell_attention.parameters()]
    learned += [model.modules_on_sphere.places]
    state = map_state(lambda part: part.requires_grad_(), state)
    of = [encodings.requires_grad_(), *((state,) if isinstance(state, torch.Tensor) else state), *learned]
    with masked(model, present):
        after = model.unroll(embedded.detach(), encodings, mask, state)
    assert type(after) is type(state)
    after = (after,) if isinstance(after, torch.Tensor) else after
    weighted = sum((part * torch.randn(part.shape, generator=torch.Generator().manual_seed(2))).sum() for part in after)
    return [*after, *torch.autograd.grad(weighted, of, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("steps", "views"), [(1, 4), (3, 1), (8, 9), (19, 5)])
@pytest.mark.filterwarnings("ignore:S2RM. carrying the aggregated state")
def test_all_steps_at_once_equal_step_after_step(variant, steps, views):
    model = model_of(**VARIANTS[variant])
    given = given_to(model, steps, views)
    with patch.object(s2rm_loop, "run", wraps=s2rm_loop.run) as run:
        ours = results(model, *given)
    assert run.called
    with patch.object(S2RM, "_in_one_node", return_value=False):
        expected = results(model, *given)
    assert_all_close(ours, expected)
    with torch.no_grad():
        after = model.unroll(*given)
    after = (after,) if isinstance(after, torch.Tensor) else after
    assert_all_close(after, expected[: len(after)])


def test_absent_modules_are_left_out_of_all_steps_at_once():
    model = model_of(num_modules=5)
    given, present = given_to(model, 6, 4), torch.tensor([True, False, True, True, False])
    ours = results(model, *given, present)
    with patch.object(S2RM, "_in_one_node", return_value=False):
        assert_all_close(ours, results(model, *given, present))


@pytest.mark.parametrize("how", ["few rows", "no views", "latents", "relational memory", "autocast"])
def test_other_cases_go_step_after_step(how):
    kinds = {"latents": {"latent_size": 2}, "relational memory": {"cell": "rmc"}}
    model = model_of(**kinds.get(how, {}))
    steps, views, batch = {"few rows": (1, 4, 1), "no views": (8, 0, 13)}.get(how, (8, 4, 13))
    given = given_to(model, steps, views, batch)
    with patch.object(s2rm_loop, "run") as run, torch.autocast("cpu", enabled=how == "autocast"), torch.no_grad():
        model.unroll(*given)
    assert not run.called


def test_second_derivatives_of_all_steps_at_once_are_refused():
    model = model_of()
    embedded, encodings, mask, state = given_to(model, 8, 4)
    after = model.unroll(embedded.detach(), encodings.requires_grad_(), mask, state)
    with pytest.raises(ValueError, match="no second derivatives"):
        torch.autograd.grad(after.sum(), encodings, create_graph=True)
