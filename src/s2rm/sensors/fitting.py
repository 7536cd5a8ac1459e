"""How a forecaster is fitted: its periods, its model, its training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.files import write_json
from s2rm.models.named import SPATIAL, build
from s2rm.models.s2rm import S2RM
from s2rm.models.world_model import WorldModel
from s2rm.sensors.guess import context_size
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Fit
from s2rm.sensors.times import in_steps, steps_a_day
from s2rm.sensors.windows import Windows
from s2rm.training import Training, batches, fit, provenance

SUMMARY = "summary.json"
MOST_REPORTS = 25_000
"""reports in a batch of training windows, which has fewer windows if need be, but at least two"""


class Periods(NamedTuple):
    """The periods of a fit, in steps; validation begins at `split`."""

    context: int
    horizon: int
    split: int

    @classmethod
    def of(cls, how: Fit, reports: Reports) -> Periods:
        """As the settings say, or as the length of the reports allows; too few steps are refused."""
        step, length, day = reports.columns.step, reports.num_steps, steps_a_day(reports.columns) or 24
        context, horizon = max(12, min(36, 3 * day // 2, length // 4)), max(6, min(day, length // 6))
        if how.context is not None:
            context = in_steps(how.context, step, "context")
        if how.horizon is not None:
            horizon = in_steps(how.horizon, step, "horizon")
        split = length - max(context + horizon, round(how.validation * length))
        if split < context + horizon:
            raise ValueError(
                f"fit: {context} steps of context and {horizon} of horizon need a table of at least "
                f"{2 * (context + horizon)} steps, got {length}; shorten them, or take a shorter step"
            )
        return cls(context, horizon, split)


def build_model(how: Fit, scaling: Scaling, train: Reports, context: int) -> WorldModel:
    """A model of a size that suits the number of values and sensors, for the extent of their positions."""
    shared: dict[str, object] = {
        "value_shape": (scaling.num_channels + len(scaling.covariate_mean),), "context_size": context_size(scaling),
        "num_coordinates": scaling.num_coordinates, "shortest": scaling.extent / 2, "longest": 8 * scaling.extent,
        "embedding_dim": 18 if scaling.num_coordinates == 3 else 8 * scaling.num_coordinates,
        "likelihood": "gaussian", "codec": "mlp", "corrects": True,
    }  # fmt: skip
    if how.model == "msa":
        return build(how.model, hidden_size=how.hidden_size or 64, window=min(context, 12), **shared)
    # 24 for 25,000 values, 64 for 180,000: larger states overfit a short table.
    size = how.hidden_size or min(64, max(16, 8 * round(np.isfinite(train.values).sum() ** 0.5 / 52)))
    if how.model not in SPATIAL:
        return build(how.model, hidden_size=4 * size, **shared)
    modules = how.num_modules or min(64, max(10, len(np.unique(train.sensor)) // 5))
    own = {"num_modules": modules, "inject_positions": True, "share_parameters": how.share_parameters}
    model = build(how.model, hidden_size=size, **own, **shared)
    assert isinstance(model, S2RM)
    places = scaling.coordinates(np.unique(train.positions, axis=0))
    model.modules_on_sphere.places = nn.Parameter(model.embedding(_spread_out(places, modules)))
    return model


def train_model(
    model: WorldModel, train: Windows, validation: Windows, folder: Path, training: Training, progress: bool
) -> None:
    """Train, and leave weights and summary in a folder."""
    size = min(training.batch_size, max(2, MOST_REPORTS // (train.length * train.seen.sensor.shape[1])))
    first = batches(train, size, training.seed, True)
    ended = fit(model, first, batches(validation, size, training.seed + 1, False), folder, training, progress=progress)
    about = {"parameters": model.num_parameters, "seed": training.seed, **provenance()}
    write_json(folder / SUMMARY, {**ended, **about})


def _spread_out(places: Float[Tensor, "P n"], number: int) -> Float[Tensor, "M n"]:
    """Some of the places, each the farthest from those before; where there are too few, the same again."""
    chosen = [int((places - places.mean(0)).norm(dim=-1).argmin())]
    distance = torch.full((len(places),), torch.inf)
    while len(chosen) < min(number, len(places)):
        distance = torch.minimum(distance, (places - places[chosen[-1]]).norm(dim=-1))
        chosen.append(int(distance.argmax()))
    return places[[chosen[index % len(chosen)] for index in range(number)]]
