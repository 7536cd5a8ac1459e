"""S2RMs with latent variables: means by default, samples in training and in rollouts without views."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from conftest import COORDINATES, VALUE_SHAPE, make_s2rm, some_views
from s2rm import Episode, Views, load
from s2rm.export import StreamingStep
from s2rm.likelihoods import Mean
from s2rm.nn.latent import Answered, Beliefs, divergence, moments
from s2rm.runs import Run
from s2rm.sensors import Fit
from s2rm.settings import Core, Settings
from s2rm.tasks.balls.scores import episodes
from s2rm.tasks.balls.world import preset
from s2rm.tasks.battles import skirmish
from s2rm.tasks.worlds import LEAST_SEEN, blinded
from s2rm.training import Training

CELLS = ("gru", "lstm", "rmc")
make = partial(make_s2rm, latent_size=4)


def leaf(state):
    return state if isinstance(state, torch.Tensor) else state[0]


@pytest.mark.parametrize("cell", CELLS)
def test_means_are_taken_in_evaluation_and_samples_in_training(cell):
    model, views = make(cell).double(), some_views()
    torch.manual_seed(1)
    once, again = (leaf(model.observe(views)) for _ in range(2))
    assert not torch.equal(once, again)
    assert torch.equal(*(leaf(model.eval().observe(views)) for _ in range(2)))
    with model.sampling():
        assert not torch.equal(*(leaf(model.observe(views)) for _ in range(2)))
    state = model.initial_state(2)
    for step in range(views.num_steps):
        state = model.step(views.steps(step, step + 1), state)
    torch.testing.assert_close(leaf(state), leaf(model.observe(views))[:, -1])


@pytest.mark.parametrize("cell", CELLS)
def test_rollouts_without_views_are_samples_and_others_are_not(cell):
    model, views = make(cell).double().eval(), some_views()
    places = 7 * torch.rand(2, 3, COORDINATES, dtype=torch.float64)

    def means(**how):
        return torch.stack([made.mean for made in model.rollout(views, places, 3, **how)])

    one, two = means(closed_loop=False), means(closed_loop=False)
    assert torch.equal(one[0], two[0]), "the state after the prompt is none"
    assert (one[1:] != two[1:]).any()
    assert torch.equal(means(), means())
    torch.manual_seed(5)
    one = means(closed_loop=False)
    torch.manual_seed(5)
    assert torch.equal(one, means(closed_loop=False))


def test_the_loss_gains_a_divergence_whose_parts_add_up_and_reaches_all_weights():
    model, episode = make().double(), Episode(some_views())
    torch.manual_seed(2)
    terms = model.loss_terms(episode)
    assert list(terms) == ["nll", "kl"]
    assert terms["kl"].count == terms["nll"].count
    assert list(make(latent_size=0).double().loss_terms(episode)) == ["nll"]
    model.loss(episode).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.latents.parameters())
    model.eval()
    whole, parts = model.loss_terms(episode)["kl"], model.loss_terms(episode, recompute=2)["kl"]
    torch.testing.assert_close((whole.total, whole.count), (parts.total, parts.count))
    # Also where nothing is measured in some of the parts.
    steps = torch.ones(episode.views.num_steps, 1, dtype=torch.bool)
    steps[1:4] = False
    some = Episode(episode.views, episode.views.keep(steps))
    whole, parts = model.loss_terms(some)["kl"], model.loss_terms(some, recompute=2)["kl"]
    torch.testing.assert_close((whole.total, whole.count), (parts.total, parts.count))


def test_nothing_measured_costs_nothing():
    views = some_views()
    assert make().double().loss(Episode(views, views.keep(torch.tensor(False)))).item() == 0


def test_the_divergence_is_that_of_torch_and_steps_without_views_are_free():
    prior, posterior = torch.randn(2, 3, 5, 14, dtype=torch.float64).unbind(0)
    seen = torch.tensor([True, False, True])[:, None]
    got = divergence([Beliefs(prior, posterior, seen)] * 2, 0.0)
    wanted = kl_divergence(Normal(*moments(posterior)), Normal(*moments(prior)))[seen[:, 0]].sum()
    torch.testing.assert_close(got, 2 * wanted)
    torch.testing.assert_close(divergence([Beliefs(prior, prior, seen)], 0.7).item(), 0.7 * 2 * 5)


def test_a_step_without_views_takes_the_prior():
    model = make().double().eval()
    views = some_views(batch=3)
    views.mask[1, 2] = False
    with model.latents.collecting() as beliefs:
        model.observe(views)
    assert len(beliefs) == views.num_steps
    for step, made in enumerate(beliefs):
        assert torch.equal(made.seen[:, 0], views.mask[:, step].any(-1))
        same = (made.prior == made.posterior).flatten(1).all(1)
        assert torch.equal(same, ~made.seen[:, 0])


def test_the_divergence_of_bfloat16_is_summed_in_full_and_that_of_modules_which_are_there():
    beliefs = [Beliefs(*torch.randn(2, 3, 5, 14).bfloat16().unbind(0), torch.ones(3, 1, dtype=torch.bool))] * 2
    assert divergence(beliefs, 0.0).dtype == Mean.where(beliefs[0].seen, beliefs[0].prior[..., 0]).total.dtype
    assert divergence(beliefs, 0.0).dtype == torch.float32
    model, views = make().double().eval(), some_views()
    present = torch.arange(model.num_modules) != 1
    with model.masked(present):
        masked = model.loss_terms(Episode(views))
    removed = model.without_modules(1).loss_terms(Episode(views))
    torch.testing.assert_close(masked["kl"].value, removed["kl"].value)


@pytest.mark.parametrize("cell", CELLS)
def test_what_training_does_not_show_is_read_by_the_posterior_alone(cell):
    model, views = make(cell).double().eval(), some_views(steps=6)
    shown = views.keep(torch.arange(6)[:, None] < 3)
    values = views.values.clone()
    values[:, 4] = 1 - values[:, 4]

    def states(values):
        episode = Answered.of(Episode(shown, Views(views.positions, values, views.mask)))
        with model.latents.collecting(answers=views.mask.shape[-1]):
            return leaf(model.observe(episode.views))

    one, other, alone = states(views.values), states(values), leaf(model.observe(shown))
    assert torch.equal(one[:, :4], other[:, :4])
    assert (one[:, 4:] != other[:, 4:]).any(-1).any(-1).all()
    torch.testing.assert_close(one[:, :3], alone[:, :3], msg="what is shown is read as ever")
    torch.nn.init.zeros_(model.latents.to_inputs.weight)
    torch.testing.assert_close(states(views.values), leaf(model.observe(shown)), msg="z is the only way in")


def test_the_loss_reads_what_it_does_not_show():
    model, views = make().double().eval(), some_views(steps=6)
    shown = views.keep(torch.arange(6)[:, None] < 3)
    whole, parts = (model.loss_terms(Episode(shown, views), how) for how in (None, 2))
    for name in whole:
        torch.testing.assert_close((whole[name].total, whole[name].count), (parts[name].total, parts[name].count))
    few = model.loss_terms(Episode(shown, views.keep(torch.arange(6)[:, None] > 3)))
    assert whole["kl"].total > few["kl"].total > model.loss_terms(Episode(shown))["kl"].total


@pytest.mark.parametrize("cell", CELLS)
def test_saved_removed_and_more_modules(cell, tmp_path):
    model, views = make(cell, share_parameters=True).eval(), some_views()
    views = type(views)(views.positions.float(), views.values.float(), views.mask)
    model.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.arguments["latent_size"] == 4
    torch.testing.assert_close(leaf(loaded.observe(views)), leaf(model.observe(views)))
    assert "latent_size" not in make_s2rm(cell).arguments, "digests of models without stay as they were"
    fewer = model.without_modules(1)
    with model.masked(torch.tensor([True, False, True])):
        whole = leaf(model.observe(views))[:, :, [0, 2]]
    torch.testing.assert_close(leaf(fewer.observe(views)), whole)
    more = model.with_modules_at(7 * torch.rand(5, COORDINATES))
    with more.sampling():
        assert leaf(more.observe(views)).shape[2] == 5


def test_a_resumed_run_ends_as_one_that_was_not(tmp_path):
    def ended(name, *epochs):
        for number in epochs:
            settings = Settings("s2gru", latent_size=3, blind_steps=0.5, training=Training(epochs=number))
            if number == epochs[0]:
                run = Run.create(tmp_path / name, settings, "balls", preset("tiny")).train(progress=False)
            else:
                torch.rand(7)  # another process draws other noise
                run = run.with_limits(epochs=number).train(resume=True, progress=False)
        return run.summary()["val_loss"]

    assert ended("whole", 3) == ended("parts", 1, 3)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 20, 44), (1.0, 64, 64)])
def test_a_share_of_the_sequences_shows_nothing_from_a_random_step_on(share, least, most):
    world = replace(preset("tiny"), clip=12)
    rows = list(range(8)) * 8
    whole, part = (source[rows, 7] for source in (episodes(world, "train"), blinded(episodes(world, "train"), share)))
    seen = part.views.mask.any(-1)
    assert torch.equal(part.targets.values, whole.targets.values)
    assert part.targets.mask.all()
    assert (seen[:, 1:] <= seen[:, :-1]).all(), "blind until the end"
    assert seen[:, :LEAST_SEEN].all()
    assert least <= (~seen).any(1).sum() <= most


def test_options_and_what_is_refused():
    world = preset("tiny")
    for wrong, said in (
        ({"blind_steps": 1.5}, "at most 1, got 1.5"),
        ({"blind_steps": 0.5, "corrects": True}, "hides"),
    ):
        with pytest.raises(ValueError, match=f"train: blind_steps .*{said}"):
            Settings(**wrong).check(world)
    with pytest.raises(ValueError, match="train: blind_steps teach latent variables by targets that are views"):
        Settings(latent_size=8, blind_steps=0.5).check(skirmish.preset("tiny"))
    with pytest.raises(ValueError, match="train: blind_steps teach latent variables .*, got points"):
        Settings(latent_size=8, blind_steps=0.5).check(SimpleNamespace(kind="points", model_arguments=dict))
    Settings(latent_size=8, blind_steps=0.5).check(world)
    assert Settings("s2gru", latent_size=8).build(world).latents is not None
    assert Settings("s2gru").build(world).latents is None
    with pytest.raises(ValueError, match="train: latent_size is an option of S2RMs, not of lstm; leave it out"):
        Settings("lstm", latent_size=8).check(world)
    for model in ("s2gru", "lstm"):
        assert Settings(model, core=Core(hidden_size=24)).build(world).arguments["hidden_size"] == 24
    assert Settings(core=Core(num_modules=7)).build(world).num_modules == 7
    with pytest.raises(ValueError, match="train: of the core, s2gru takes hidden_size and num_modules only"):
        Settings(core=Core(num_active=2)).check(world)
    with pytest.raises(ValueError, match="train: of the core, lstm takes hidden_size only"):
        Settings("lstm", core=Core(num_modules=7)).check(world)
    with pytest.raises(ValueError, match="fit: latent_size is an option of s2gru, .* not of msa; leave it out"):
        Fit(model="msa", latent_size=8)
    with pytest.raises(ValueError, match="latent_size must be at least 0, got -1"):
        make(latent_size=-1)
    with pytest.raises(ValueError, match="export: latent variables cannot be sampled in a file; export a model"):
        StreamingStep(make(value_shape=VALUE_SHAPE))
