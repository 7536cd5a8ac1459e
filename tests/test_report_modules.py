import pytest
import torch

from conftest import make_gqn, make_s2rm, some_views
from s2rm import RIMs
from s2rm.report import figures as plots
from s2rm.report.modules import masking_effects


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_masking_a_module_changes_those_that_hear_it(cell):
    model, views = make_s2rm(cell, truncation=0.9).double(), some_views()
    with torch.no_grad():
        model.modules_on_sphere.places[0] = model.modules_on_sphere.places[2]
        model.modules_on_sphere.places[1] = -model.modules_on_sphere.places[2]
    effects = masking_effects(model, views)
    assert effects.diagonal().isnan().all()
    assert effects[0, 2] > 1e-6
    assert effects[2, 0] > 1e-6
    assert effects[1, [0, 2]].abs().max() < 1e-12, "nobody hears module 1"


def test_masking_effects_by_hand():
    model, views = make_s2rm().double(), some_views()
    effects = masking_effects(model, views)
    everyone, fewer = model.observe(views), model.without_modules(1).observe(views)
    expected = (fewer[:, :, 1] - everyone[:, :, 2]).norm(dim=-1).mean() / everyone[:, :, 2].norm(dim=-1).mean()
    torch.testing.assert_close(effects[1, 2], expected)


def test_masking_one_of_the_rims():
    rims = RIMs(7, 12, batch_first=True, num_modules=4, num_active=2)
    inputs = torch.randn(2, 5, 7)
    effects = masking_effects(rims, inputs)
    assert effects.shape == (4, 4)
    assert effects.diagonal().isnan().all()
    assert (effects.nan_to_num() >= 0).all()
    everyone = rims.trace(inputs)[0].unflatten(-1, (4, 3))
    masked = rims.trace(inputs, masked_modules=(3,))[0].unflatten(-1, (4, 3))
    expected = (masked - everyone)[:, :, 0].norm(dim=-1).mean() / everyone[:, :, 0].norm(dim=-1).mean()
    torch.testing.assert_close(effects[3, 0], expected)


def test_pictures_of_what_modules_do():
    model, rims = make_s2rm(), make_gqn("rims")
    views = some_views().to(torch.float32)
    line = torch.linspace(0.0, 7.0, 9)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    with torch.no_grad():
        weights, kernel = model.enclaves(grid), model.interaction_graph()
    assert weights.shape == (3, 9, 9)
    assert kernel.shape == (3, 3)
    _, (trace,) = rims.core.trace(rims.summed(views))
    for figure in (
        plots.enclaves(weights),
        plots.interaction_graph(kernel, weights),
        plots.masking_effects(masking_effects(model, views)),
        plots.activity(trace.active[0]),
    ):
        assert plots.png(figure).startswith(b"\x89PNG")
