"""Models read from disk: the weights from safetensors, the constructor's arguments from JSON. Nothing is unpickled."""

from __future__ import annotations

import inspect
import json
import math
import time
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

import cattrs
import torch
from safetensors import SafetensorError
from torch import Tensor

from s2rm.files import read_json, read_safetensors
from s2rm.models.gqn import GQN
from s2rm.models.inputs import Arguments
from s2rm.models.model import ARGUMENTS, CONFIG, FORMAT, WEIGHTS, Model, without_memory
from s2rm.models.msa import MSA
from s2rm.models.s2rm import S2RM
from s2rm.models.sequence_model import SequenceModel
from s2rm.models.world_model import WorldModel
from s2rm.records import converter

KNOWN: dict[str, type[Model]] = {model.__name__: model for model in (S2RM, GQN, MSA, SequenceModel)}
"""the models that can be read"""
ATTEMPTS = 100
"""to read a model that another process saves meanwhile"""
PLAUSIBLE = 1_000_000
"""a number among a model's arguments may be this large whatever the size of its weights"""
DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class _Mismatch(ValueError):
    """Weights and config are of different models, perhaps because another process is saving one now."""


def load(folder: str | Path) -> WorldModel:
    """The world model that `save` wrote into `folder`, on the CPU, in evaluation mode.

    The files need not be trusted: sizes are compared before memory of such a size is allocated.

    Raises:
        ValueError: a folder that is missing, incomplete, of a newer format, or not written by `save`; weights that are
            not finite or do not match the config; a sequence model.
    """
    model = load_any(folder)
    if not isinstance(model, WorldModel):
        raise ValueError(
            f"load: expected a world model in {folder}, found a {type(model).__name__}; take s2rm.models.saved.load_any"
        )
    return model


def load_any(folder: str | Path) -> Model:
    """As `load`, for models of any kind, including [`SequenceModel`][s2rm.models.sequence_model.SequenceModel].

    Raises:
        ValueError: no saved model, files of different models or of another version, or one that is written anew at each
            attempt.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"load: expected a saved model with {CONFIG} and {WEIGHTS}, found no {folder / name}")
    for _ in range(ATTEMPTS):
        before = _versions(folder)
        try:
            return _load(folder)
        except _Mismatch:
            time.sleep(0.05)
            if _versions(folder) == before:
                raise
    raise ValueError(f"load: {folder} was written anew at each of {ATTEMPTS} attempts; load it when that has ended")


def _versions(folder: Path) -> list[tuple[int, int]]:
    about = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
    return [(each.st_ino, each.st_mtime_ns) for each in about]


def _load(folder: Path) -> Model:
    name, arguments = _config(folder / CONFIG)
    path = folder / WEIGHTS
    try:
        weights, metadata = read_safetensors(path)
        kept = json.loads(metadata.get(ARGUMENTS, "{}"))
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"load: {path} is no safetensors file ({error}); it was not written by save and is not opened"
        ) from error
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    model = _without_numbers(folder / CONFIG, name, arguments, shapes)
    if {key: tuple(value.shape) for key, value in model.state_dict().items()} != shapes:
        raise _Mismatch(
            f"load: the weights in {path} do not fit its config; save the model again, or "
            "build it as it was saved, if it was changed, and load them with load_state_dict"
        )
    now = json.loads(json.dumps(model.arguments))
    if not isinstance(kept, dict) or any(now.get(key) != value for key, value in kept.items()):
        raise _Mismatch(f"load: {path} and {CONFIG} beside it are of different models; save the model again")
    dtype = _dtype(path, weights, model)
    model.to_empty(device="cpu").to(dtype)
    model.load_state_dict(weights)
    return model.eval()


def _dtype(path: Path, weights: dict[str, Tensor], model: Model) -> torch.dtype:
    """The one dtype of the weights, which must be finite."""
    floats = {key: value for key, value in weights.items() if value.is_floating_point()}
    dtypes = {value.dtype for value in floats.values()}
    expected = {key for key, value in model.state_dict().items() if value.is_floating_point()}
    if floats.keys() != expected or len(dtypes) != 1 or not dtypes <= DTYPES:
        got = ", ".join(sorted({str(value.dtype) for value in weights.values()}))
        raise ValueError(f"load: expected weights of one float dtype in {path}, got {got}; save the model again")
    # Most sums are finite only if all values are, and are faster than to look at each.
    wrong = [key for key, value in floats.items() if not (value.sum().isfinite() or value.isfinite().all())]
    if wrong:
        raise ValueError(
            f"load: the weights in {path} are not finite, as after training that diverged: {wrong[0]} and "
            f"{len(wrong) - 1} more; train again with a lower learning rate, or save a model that is finite"
        )
    return dtypes.pop()


def _config(path: Path) -> tuple[str, object]:
    """The name and the arguments of a saved model."""
    try:
        config = read_json(path)
        written, name, arguments = config["format"], config["model"], config["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load: {path} is not a saved model's config ({error!r}); save it again") from error
    if not isinstance(written, int) or written > FORMAT:
        raise ValueError(f"load: {path.parent} has format {written}, this version reads up to {FORMAT}; update s2rm")
    if not isinstance(name, str) or name not in KNOWN:
        raise ValueError(
            f"load: {path} names the model {name!r:.100}, known are {sorted(KNOWN)}; update s2rm or, if it is a class "
            f"of your own, build it and load {WEIGHTS} with load_state_dict"
        )
    if written == 1 and isinstance(arguments, dict):
        arguments = {"inject_positions": True, **arguments}
        arguments |= {"batch_norm": False} if name == "GQN" else {}
    return name, arguments


def _without_numbers(path: Path, name: str, arguments: object, shapes: dict[str, tuple[int, ...]]) -> Model:
    """The model of a config on the meta device, where nothing takes memory."""
    try:
        given = converter.structure(arguments, _arguments_of(KNOWN[name]))
        largest = max(sum(map(math.prod, shapes.values())), PLAUSIBLE)
        for key, value in given.items():
            limit = len(shapes) if key == "num_layers" else largest
            if isinstance(value, int) and value > limit:
                raise ValueError(f"{key} is {value}, more than the weights have room for")
        with without_memory():
            return KNOWN[name](**given)
    except cattrs.BaseValidationError as error:
        wrong = "; ".join(cattrs.transform_error(error, path="arguments"))
    except (TypeError, ValueError, RuntimeError, OverflowError, ArithmeticError) as error:
        wrong = " ".join(str(error).split())
    raise ValueError(f"load: the arguments in {path} do not make a {name} ({wrong:.500}); save the model again")


@cache
def _arguments_of(model: type[Model]) -> Any:
    """The names and types of the arguments that a model is built with: its own, and those that it shares."""
    own = get_type_hints(model.__init__)
    parameters = inspect.signature(model).parameters.values()
    named = {each.name: own[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    shared = get_type_hints(Arguments) if any(each.kind is each.VAR_KEYWORD for each in parameters) else {}
    return TypedDict("_", {**shared, **named}, total=False)  # type: ignore[operator]
