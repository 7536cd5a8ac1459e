"""Models are compiled, exported, and leave Python as ONNX."""

import subprocess
import sys
from pathlib import Path

import jaxtyping
import onnxruntime
import pytest
import torch

from conftest import MODELS, VALUE_SHAPE, make_gqn, some_views
from s2rm import Episode, extras
from s2rm.cli import main
from s2rm.export import StreamingStep
from s2rm.models import s2rm as module
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.training import MODEL, Training

# What the tools of PyTorch themselves warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def without_shape_checks():
    """Symbolic shapes are not numbers that jaxtyping can compare."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def given(batch, views, queries):
    """Views, some of them not there and then of no matter, and queries."""
    mask = torch.rand(batch, views) < 0.6
    positions = (7 * torch.rand(batch, views, 2)).masked_fill(~mask[..., None], torch.nan)
    return positions, torch.rand(batch, views, *VALUE_SHAPE).round(), mask, 7 * torch.rand(batch, queries, 2)


def streamed(step, state, seeds=3):
    """What a step puts out as it streams, for sets of another size than that of the example it was exported with."""
    outputs = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        mean, spread, *state = step(*given(3, 5 + seed, 2), *state)
        outputs += [mean, spread, *state]
    return outputs


@pytest.mark.parametrize(
    ("name", "own"), [("s2gru", {"rotation": 5.0}), ("s2lstm", {}), ("gru", {"rotation": 5.0}), ("rmc", {})]
)  # the others by way of ONNX below
def test_an_exported_step_is_the_step(name, own):
    step = StreamingStep(MODELS[name](**own).eval())
    with torch.no_grad():
        torch.testing.assert_close(
            streamed(step.exported().module(), step.initial_state(3)), streamed(step, step.initial_state(3))
        )


def test_a_model_of_polar_images_is_exported_with_its_targets_shape():
    shapes = {"value_shape": (15, *VALUE_SHAPE), "target_shape": (14, *VALUE_SHAPE)}
    step = StreamingStep(MODELS["s2gru"](codec="polar", likelihood="mixed", **shapes).eval())
    positions, values, mask, queries = given(3, 5, 2)
    images = values[:, :, None].repeat(1, 1, 15, 1, 1)
    with torch.no_grad():
        ours, expected = (
            run(positions, images, mask, queries, *step.initial_state(3)) for run in (step.exported().module(), step)
        )
    torch.testing.assert_close(ours, expected)
    assert expected[0].shape == expected[1].shape == (3, 2, 14, *VALUE_SHAPE)


def test_a_sparse_model_is_exported_dense(monkeypatch):
    monkeypatch.setattr(module, "DENSE_PAIRS", 0)
    step = StreamingStep(MODELS["s2gru"](normalise="neighbourhood").eval())
    with torch.no_grad():
        ours, expected = (streamed(run, step.initial_state(3)) for run in (step.exported().module(), step))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["s2gru", "s2rmc", "rims", "lstm"])
def test_onnx_runs_elsewhere_with_equal_results(name, tmp_path):
    step = StreamingStep(MODELS[name]().eval())
    step.save_onnx(tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    names = [given.name for given in session.get_inputs()]
    assert names[:4] == ["positions", "values", "mask", "queries"]

    def run(*tensors):
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    with torch.no_grad():
        expected = streamed(step, step.initial_state(3))
    torch.testing.assert_close(streamed(run, step.initial_state(3)), expected, rtol=1e-4, atol=1e-5)


COMPILE = """
import torch
from conftest import MODELS, some_views
from s2rm import Episode
for name, make in MODELS.items():
    if name in ("lstm", "gru"):
        continue  # PyTorch does not compile its own nn.LSTM and nn.GRU unless told to
    model = make(**{"rotation": 5.0} if name in ("s2gru", "rims") else {}).double().eval()
    views = some_views()
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
    assert names == ["predicted_mean", "predicted_stddev", "next_0"]
