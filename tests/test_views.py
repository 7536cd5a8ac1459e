import pytest
import torch

from s2rm import Episode, Views


def parts(batch=2, steps=3, views=5, n=2, shape=(4,)):
    return torch.rand(batch, steps, views, n), torch.rand(batch, steps, views, *shape)


def test_without_a_mask_all_views_are_there():
    assert Views(*parts()).mask.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, v, m: (p.long(), v, m), "positions must be a float tensor, got torch.int64"),
        (lambda p, v, m: (p[0], v, m), "positions must be .batch, time, views, coordinates., got shape .3, 5, 2."),
        (lambda p, v, m: (p, v[:, :2], m), "values must begin with the .* .2, 3, 5., got shape .2, 2, 5, 4."),
        (lambda p, v, m: (p, v, m[..., None]), "mask must be a bool tensor of shape .2, 3, 5., got"),
        (lambda p, v, m: (p, v, m.float()), "mask must be a bool tensor of shape .2, 3, 5., got torch.float32"),
        (lambda p, v, m: (p, v.double(), m), "positions and values one dtype; got torch.float32"),
        (lambda p, v, m: (p, v.to("meta"), m), "must share one device"),
        (lambda p, v, m: (p.index_fill(2, torch.tensor(1), torch.nan), v, m), "positions .* must be finite"),
        (lambda p, v, m: (p, v.index_fill(3, torch.tensor(1), torch.inf), m), "got infinity"),
        (lambda p, v, m: (p, v.index_fill(2, torch.tensor(1), torch.nan), m), "at least one measured channel"),
    ],
)
def test_bad_views_are_refused_in_one_line(change, message):
    positions, values = parts()
    with pytest.raises(ValueError, match=message) as error:
        Views(*change(positions, values, torch.ones(2, 3, 5, dtype=torch.bool)))
    assert "\n" not in str(error.value)
    assert ";" in str(error.value), "a remedy follows"


def test_what_is_not_there_may_be_anything():
    positions, values = parts()
    mask = torch.rand(2, 3, 5) < 0.5
    Views(positions.masked_fill(~mask[..., None], torch.nan), values.masked_fill(~mask[..., None], torch.inf), mask)


def test_filled_has_zeros_and_flags_for_what_is_missing():
    positions, values = parts()
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[0, 0, 0] = False
    values[0, 0, 0], positions[0, 0, 0], values[1, 2, 3, 1] = torch.nan, torch.nan, torch.nan
    filled_positions, filled_values, missing = Views(positions, values, mask).filled()
    assert not filled_positions.isnan().any()
    assert filled_positions[0, 0, 0].eq(0).all()
    assert filled_values[0, 0, 0].eq(0).all()
    assert filled_values[1, 2, 3].tolist() == [values[1, 2, 3, 0], 0, *values[1, 2, 3, 2:]]
    assert missing.sum() == 4 + 1


def test_slices_and_edits_are_new_views():
    views = Views(*parts(steps=3))
    assert views.steps(1, None).num_steps == 2
    assert torch.equal(views.at(-1).values, views.values[:, 2:])
    with pytest.raises(ValueError, match="expected a mask of bool, got torch.int64"):
        views.keep(torch.arange(5))
    fewer = views.keep(torch.arange(5) < 2)
    assert fewer.mask.sum() == 2 * 3 * 2
    assert views.mask.all()
    assert views.to(torch.float64).values.dtype == torch.float64
    with pytest.raises(IndexError):
        views.at(3)
    with pytest.raises(AttributeError):
        views.mask = None


@pytest.mark.parametrize("shape", [(7,), (1, 2, 3, 5), (2, 3, 5, 5), (4, 1, 1)])
def test_a_mask_of_other_views_keeps_none(shape):
    views = Views(*parts())
    with pytest.raises(ValueError, match=r"broadcasts to \(batch, time, views\), \(2, 3, 5\), got shape"):
        views.keep(torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda context: context.double(), "a tensor like the targets, torch.float32 on cpu, got .torch.float64"),
        (lambda context: context[:, 1:], r"\(2, 3, 5\), got shape \(2, 2, 5, 2\); give one row"),
        (lambda context: torch.full_like(context, torch.nan), "finite where there is a target, got NaN"),
    ],
)
def test_context_that_would_spoil_a_loss_is_refused(change, message):
    views = Views(*parts())
    with pytest.raises(ValueError, match=message):
        Episode(views, context=change(torch.ones(2, 3, 5, 2)))
    hidden = torch.full((2, 3, 5, 2), torch.nan)
    hidden[:, 1:] = 0
    hidden[0, 2, 1] = torch.nan
    assert Episode(views, views.keep(~hidden[..., 0].isnan()), hidden).context is hidden


def test_an_episode_predicts_its_own_views_unless_told_otherwise():
    views = Views(*parts())
    episode = Episode(views)
    assert episode.targets is views
    other = Views(*parts(views=1, shape=(2,)))
    assert Episode(views, other).targets is other
    with pytest.raises(ValueError, match=r"targets must have the .batch, time. of the views, .2, 3., got .2, 2."):
        Episode(views, other.steps(0, 2))
    with pytest.raises(ValueError, match="at least 2 time steps, got 1"):
        Episode(views.at(0))
