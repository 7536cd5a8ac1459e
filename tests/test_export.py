"""Models are compiled, exported, and leave Python as ONNX."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import onnxruntime
import pytest
import torch

from conftest import ARGUMENTS, MODELS, VALUE_SHAPE, make_gqn, make_s2rm, some_views, unchecked_shapes
from s2rm import MSA, Episode, extras
from s2rm.cli import main
from s2rm.export import StreamingStep
from s2rm.models import s2rm as module
from s2rm.models.modules import activity, count_modules, masked
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.training import MODEL, Training

# What the tools of PyTorch themselves warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def without_shape_checks():
    with unchecked_shapes():
        yield


MOST_VIEWS = 11
OWN_MODELS = MODELS | {"msa": partial(MSA, **ARGUMENTS, hidden_size=6, num_heads=3, num_layers=2, window=3)}


def given(step, batch, views, queries, modules=None):
    """Views, some of them not there and then of no matter, queries, and context and modules where a step takes them."""
    mask = torch.rand(batch, views) < 0.6
    if isinstance(step.model, MSA):  # which takes as many views at each step
        mask = torch.nn.functional.pad(mask, (0, MOST_VIEWS - views))
        views = MOST_VIEWS
    positions = (7 * torch.rand(batch, views, 2)).masked_fill(~mask[..., None], torch.nan)
    rest = [torch.randn(batch, queries, step.model.context_size)] if step.takes_context else []
    if step.num_modules:
        rest.append(torch.rand(step.num_modules) < 0.8 if modules is None else modules)
    return positions, torch.rand(batch, views, *VALUE_SHAPE).round(), mask, 7 * torch.rand(batch, queries, 2), *rest


def streamed(step, run, batch=3):
    """What a step puts out over ten steps, run by `run`, for sets of other sizes than that of the example it was
    exported with: steps without views among them, and one at which all modules but one are removed."""
    outputs, state = [], step.initial_state(batch, MOST_VIEWS)
    for number, views in enumerate((5, 7, 0, 1, 6, 0, 3, 2, 11, 4)):
        torch.manual_seed(number)
        one = torch.arange(step.num_modules) == 1 if number == 6 else None
        now = run(*given(step, batch, views, 2 + number % 3, one), *state)
        state = now[len(now) - len(state) :]
        outputs += now
    return outputs


@pytest.mark.parametrize("name", ["s2lstm", "rmc"])  # the others by way of ONNX below
def test_an_exported_step_is_the_step(name):
    step = StreamingStep(MODELS[name]().eval())
    with torch.no_grad():
        torch.testing.assert_close(streamed(step, step.exported().module()), streamed(step, step))


def test_a_model_that_is_trained_goes_on_training_after_an_export():
    model = make_gqn("gru").train()
    model.encoder.eval()
    StreamingStep(model).exported()
    assert (model.training, model.decoder.training, model.encoder.training) == (True, True, False)


def test_a_model_of_polar_images_is_exported_with_its_targets_shape():
    shapes = {"value_shape": (15, *VALUE_SHAPE), "target_shape": (14, *VALUE_SHAPE)}
    step = StreamingStep(MODELS["s2gru"](codec="polar", likelihood="mixed", **shapes).eval())
    positions, values, mask, *asked = given(step, 3, 5, 2)
    images = values[:, :, None].repeat(1, 1, 15, 1, 1)
    with torch.no_grad():
        ours, expected = (
            run(positions, images, mask, *asked, *step.initial_state(3)) for run in (step.exported().module(), step)
        )
    torch.testing.assert_close(ours, expected)
    assert expected[0].shape == expected[1].shape == (3, 2, 14, *VALUE_SHAPE)


def test_a_sparse_model_is_exported_dense(monkeypatch):
    monkeypatch.setattr(module, "DENSE_PAIRS", 0)
    step = StreamingStep(MODELS["s2gru"](normalise="neighbourhood").eval())
    with torch.no_grad():
        ours, expected = (streamed(step, run) for run in (step.exported().module(), step))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("s2gru", {"context_size": 15, "corrects": True}),
        ("s2rmc", {}),
        ("rims", {}),
        ("gru", {"rotation": 5.0}),
        ("msa", {}),
    ],
)
def test_onnx_runs_elsewhere_with_equal_results(name, own, tmp_path):
    step = StreamingStep(OWN_MODELS[name](**own).eval())
    step.save_onnx(tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    names = [given.name for given in session.get_inputs()]
    assert names == step.inputs
    assert [put.name for put in session.get_outputs()] == step.outputs

    def run(*tensors):
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    with torch.no_grad():
        torch.testing.assert_close(streamed(step, run), streamed(step, step), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "own", [{}, {"normalise": "neighbourhood"}, {"ablate": ("intercell_local", "input_nonlocal")}], ids=str
)
@pytest.mark.parametrize("kept", [(0, 2), (1,)])
def test_a_masked_module_is_a_removed_one(own, kept):
    model = make_s2rm(**own).double()
    views, present = some_views(), torch.tensor([number in kept for number in range(3)])
    smaller = model.without_modules(*{0, 1, 2} - set(kept))
    queries = 7 * torch.rand(2, 4, 2, dtype=torch.float64)
    with torch.no_grad(), masked(model, present):
        states, expected = model.observe(views), smaller.observe(views)
        torch.testing.assert_close(states[:, :, list(kept)], expected)
        ours, theirs = (m.predict(m.last(s), queries).mean for m, s in ((model, states), (smaller, expected)))
        torch.testing.assert_close(ours, theirs)
    state = model.last(expected := model.observe(views))
    assert not torch.equal(states, expected), "afterwards all are there"
    seen = activity(model, views.at(-1), state, present)
    assert torch.equal(seen.active, present.expand(2, -1))
    assert not seen.reads[:, ~present].any()
    assert not seen.hears[:, ~present].any()
    assert not seen.hears[..., ~present].any()


def test_attention_is_what_a_step_uses():
    model = make_s2rm(truncation=-1.0, bandwidth=1e-9).double()  # every kernel is 1: what is left is the softmax
    views, state = some_views().at(0), torch.randn(2, 3, 11, dtype=torch.float64)
    reads, hears = model.attention(views, state)
    sums = torch.where(views.mask.any(-1), 1.0, 0.0).double().expand(-1, 3)
    torch.testing.assert_close(reads.sum(-1), sums)
    torch.testing.assert_close(hears.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert not reads[(~views.mask).expand(-1, 3, -1)].any()
    _, encodings = model.encode(views)
    queries, keys = (torch.einsum("bih,hkd->bkid", x, w) for x, w in (
        (state, model.input_attention.query), (encodings[:, 0], model.input_attention.key)
    ))  # fmt: skip
    scores = torch.einsum("bkid,bkjd->bkij", queries, keys).masked_fill(~views.mask[:, None], -torch.inf)
    torch.testing.assert_close(reads, scores.softmax(-1).mean(1).nan_to_num(), rtol=1e-6, atol=1e-6)


def test_the_activity_of_rims_is_their_trace():
    model = MODELS["rims"]().double()
    views = some_views()
    present = torch.arange(6) != 2
    seen = activity(model, views.at(0), model.initial_state(2), present)
    _, (trace,) = model.core.trace(model.summed(views.at(0)), masked_modules=(2,))
    assert torch.equal(seen.active, trace.active[:, 0])
    assert not seen.active[:, 2].any()
    torch.testing.assert_close(seen.reads[..., 0], trace.input_weights[:, 0, 0, :, 1])
    assert count_modules(model) == 6
    with pytest.raises(ValueError, match="has no modules; take an S2RM or RIMs"):
        activity(MODELS["lstm"]().double(), views.at(0), None, present)


COMPILE = """
import torch
from conftest import MODELS, some_views
from s2rm import Episode
for name, make in MODELS.items():
    if name in ("lstm", "gru"):
        continue  # PyTorch does not compile its own nn.LSTM and nn.GRU unless told to
    model = make(**{"rotation": 5.0} if name in ("s2gru", "rims") else {}).double().eval()
    views = some_views(steps=3)
    state = model.initial_state(2)
    with torch.no_grad():
        ours = torch.compile(model.step, fullgraph=True, backend="eager")(views.at(0), state)
        torch.testing.assert_close(ours, model.step(views.at(0), state))
    loss = torch.compile(model.train().loss, fullgraph=True, backend="aot_eager")(Episode(views))
    loss.backward()
"""


def test_steps_compile_without_a_graph_break():
    # In a process of its own, since the shape checks of these tests cannot be compiled.
    subprocess.run([sys.executable, "-c", COMPILE], cwd=Path(__file__).parent, check=True, timeout=300)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_to_bfloat16_costs_little(name, monkeypatch):
    model, episode = MODELS[name](), Episode(some_views()).to(torch.float32)
    exact = model.loss(episode)
    exact.backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(episode)
    rounded.backward()
    torch.testing.assert_close(rounded.float(), exact, rtol=1e-2, atol=0)
    assert rounded.item() != exact.item(), "autocast was on"
    rounded_gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert torch.nn.functional.cosine_similarity(rounded_gradients, gradients, dim=0) > 0.99


def test_autocast_reaches_the_sparse_path(monkeypatch):
    monkeypatch.setattr(module, "DENSE_PAIRS", 0)
    model, episode = MODELS["s2gru"](normalise="neighbourhood"), Episode(some_views()).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(episode)
        rounded.backward()
    torch.testing.assert_close(rounded.float(), model.loss(episode), rtol=1e-2, atol=0)


def test_the_oracle_cannot_stream():
    with pytest.raises(ValueError, match="cannot stream; take another model"):
        StreamingStep(make_gqn("tto"))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "find_spec", lambda package: None if package == "onnxscript" else object())
    with pytest.raises(ImportError, match=r"this needs onnxscript of the extra \[onnx\], which is not installed"):
        StreamingStep(MODELS["lstm"]()).save_onnx(tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_a_run_is_exported_from_the_command_line(tmp_path):
    settings = Settings(training=Training(epochs=1))
    Run.create(tmp_path / "run", settings, world=preset("tiny"))
    settings.build(preset("tiny")).save(tmp_path / "run" / MODEL)
    main(["export", str(tmp_path / "run")])
    names = [put.name for put in onnxruntime.InferenceSession(tmp_path / "run" / "model.onnx").get_outputs()]
    assert names == ["predicted_mean", "predicted_stddev", "active", "reads", "hears", "enclaves", "next_0"]
