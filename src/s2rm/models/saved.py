"""Models read from disk: the weights from safetensors, the constructor's arguments from JSON. Nothing is unpickled."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

import cattrs
import safetensors.torch
from safetensors import SafetensorError

from s2rm.files import read_json
from s2rm.models import gqn, msa, s2rm  # noqa: F401, a model is known once it is imported
from s2rm.models.inputs import Arguments
from s2rm.models.world_model import CONFIG, FORMAT, WEIGHTS, WorldModel
from s2rm.records import converter


def load(folder: str | Path) -> WorldModel:
    """The model that `save` wrote into `folder`, on the CPU, in evaluation mode.

    Raises:
        ValueError: the folder is missing or half-written, of a newer format, or not what `save` writes.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"load: expected a saved model with {CONFIG} and {WEIGHTS}, found no {folder / name}")
    model, path = _build(folder / CONFIG), folder / WEIGHTS
    try:
        weights = safetensors.torch.load_file(path)
        model.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
        model.load_state_dict(weights)
    except SafetensorError as error:
        raise ValueError(
            f"load: {path} is no safetensors file ({error}); it was not written by save and is not opened"
        ) from error
    except (RuntimeError, StopIteration) as error:
        raise ValueError(f"load: the weights in {path} do not fit its config; save the model again") from error
    return model.eval()


def _build(path: Path) -> WorldModel:
    """The model of a config, with new weights."""
    try:
        config = read_json(path)
        written, name, arguments = config["format"], config["model"], config["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load: {path} is not a saved model's config ({error!r}); save it again") from error
    if not isinstance(written, int) or written > FORMAT:
        raise ValueError(f"load: {path.parent} has format {written}, this version reads up to {FORMAT}; update s2rm")
    known = {model.__name__: model for model in WorldModel.__subclasses__()}
    if name not in known:
        raise ValueError(f"load: {path} names the model {name!r}, known are {sorted(known)}; update s2rm")
    try:
        if written == 1:
            arguments = {"inject_positions": True, **arguments}
            arguments |= {"batch_norm": False} if name == "GQN" else {}
        return known[name](**converter.structure(arguments, _arguments_of(known[name])))
    except cattrs.BaseValidationError as error:
        wrong = "; ".join(cattrs.transform_error(error, path="arguments"))
    except TypeError as error:
        wrong = str(error)
    raise ValueError(f"load: the arguments in {path} do not make a {name} ({wrong}); save the model again")


def _arguments_of(model: type[WorldModel]) -> Any:
    """The names and types of the arguments that a model is built with: its own, and those that it shares."""
    own = get_type_hints(model.__init__)
    parameters = inspect.signature(model).parameters.values()
    named = {each.name: own[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    return TypedDict("_", {**get_type_hints(Arguments), **named}, total=False)  # type: ignore[operator]
