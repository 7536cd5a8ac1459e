import pytest
import torch

from conftest import make_gqn, make_s2rm, some_views
from s2rm import RIMs
from s2rm.report.modules import masking_effects, module_pictures
from s2rm.report.page import Entry


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
    for label, each, number in (("S2GRU", model, 3), ("RIMs", rims, 3), ("LSTM", make_gqn(), 0)):
        pictures = module_pictures([Entry(label, each, {}, 1e-3)], grid, views)
        assert len(pictures) == number
        assert all(picture.content.startswith(b"\x89PNG") and label in picture.title for picture in pictures)
