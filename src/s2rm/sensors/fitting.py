"""How a forecaster is fitted: its periods, its training windows, its model, its training."""

from __future__ import annotations

import shutil
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from s2rm.files import read_json, write_json
from s2rm.folders import fingerprint, put_in_place
from s2rm.models.model import CONFIG, WEIGHTS
from s2rm.models.named import SPATIAL, build
from s2rm.models.s2rm import S2RM
from s2rm.models.saved import load
from s2rm.models.world_model import WorldModel
from s2rm.records import to_plain
from s2rm.sensors.checks import check_clock, check_learnable
from s2rm.sensors.guess import context_size, episode
from s2rm.sensors.reports import ROWS, Reports
from s2rm.sensors.scaling import AGEING, TILT, Scaling, Slots, slots
from s2rm.sensors.settings import NOTATION, Columns, Fit
from s2rm.sensors.times import in_steps, steps_a_day
from s2rm.training import LAST, MODEL, batches, fit, provenance
from s2rm.views import Episode

if TYPE_CHECKING:
    from s2rm.sensors.forecaster import Forecaster

FORECASTER, FORMAT, SUMMARY = "forecaster.json", 2, "summary.json"
FITTING, STARTED = "fitting", "started.json"
"""the folder of a fit that is not whole yet, in that of the forecaster, and the file there that says of what it is"""
PARTS = (f"{MODEL}/{CONFIG}", f"{MODEL}/{WEIGHTS}", SUMMARY, FORECASTER)
"""the files that make a forecaster; the last one ties them"""
WHOLE = "whole"
"""what the summary says of a fit to all steps"""
MOST_REPORTS = 25_000
"""reports in a batch of training windows, which has fewer windows if need be, but at least two"""
COVARIATE_NOISE, LEVEL_NOISE = 0.3, 1.0
"""standard deviations of the noise on a sensor's covariates in a training batch, and of the shift of all values of a
window, but for directions; both where there is noise"""
LEAST_WINDOWS = 16
"""windows in an epoch; where fewer steps can begin one, each begins several, which hide different reports"""
MOST_TARGETS = 64
"""slots of which a training window asks the values; of more, a random choice"""
MOST_SLOTS = 100_000
"""slots of the windows that tune the first guess; but at least eight windows"""


def periods(how: Fit, reports: Reports) -> tuple[int, int, int]:
    """Steps of the context, of the horizon, and before the validation: as set, or as the reports' length allows."""
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
            f"{2 * (context + horizon)} steps, got {length}, of which {length - split} for the validation; shorten "
            "them, lower validation, or take a shorter step"
        )
    return context, horizon, split


class Windows(Dataset[Episode]):
    """Training windows, indexed by keys `(rows, seed)`, at least one row for each step at which a window may begin.

    Most windows show no report after some step, the origin of a forecast. In half of these the blind part is the whole
    horizon, as otherwise the longest lead times would be learned too rarely. In most windows some sensors are withheld
    throughout. Withheld sensors and all reports after the origin are targets, so that a model learns to forecast; in
    some windows the targets are the withheld sensors at the last step that is seen, so that it learns to interpolate.

    Args:
        length, horizon: L, steps of a window, and how many of them may be blind.
        scaling, day: as for `episode`.
        noise: standard deviation of the displacement of each sensor in each batch, in the model's coordinates, which
            with noise on its covariates prevents overfitting to single sensors; none if 0.

    Raises:
        ValueError: fewer steps than a window has.
    """

    def __init__(self, seen: Slots, length: int, horizon: int, scaling: Scaling, day: int | None, noise: float = 0.0):
        if len(seen.sensor) < length:
            got = f"{len(seen.sensor)}; shorten the context or the horizon, or give a longer table"
            raise ValueError(f"windows: expected at least {length} steps of reports, got {got}")
        self.seen, self.length, self.horizon, self.scaling, self.day = seen, length, horizon, scaling, day
        self.num_starts, self.num_sensors, self.noise = len(seen.sensor) - length + 1, int(seen.sensor.max()) + 1, noise

    def __len__(self) -> int:
        return max(LEAST_WINDOWS, self.num_starts)

    def __getitem__(self, key: tuple[list[int], int]) -> Episode:
        (rows, seed), length = key, self.length
        generator, batch = torch.Generator().manual_seed(seed), len(rows)
        starts, window = torch.tensor(rows) % self.num_starts, torch.arange(length)
        blind = torch.randint(2 * self.horizon, (batch,), generator=generator).clamp(max=self.horizon)
        origin = torch.where(torch.rand(batch, generator=generator) < 0.3, length, length - 1 - blind)
        silent = 0.7 * torch.rand(batch, 1, generator=generator) * (torch.rand(batch, 1, generator=generator) < 0.7)
        # Half of the windows that are not blind interpolate, which needs withheld sensors.
        lag = ((torch.rand(batch, generator=generator) < 0.5) & (origin == length)).long()
        silent = torch.where(lag[:, None] == 1, silent.clamp(min=0.2), silent)
        speaks = torch.rand(batch, self.num_sensors, generator=generator) >= silent
        seen = self._displaced(generator) if self.noise else self.seen
        sensor = seen.sensor[starts[:, None] + window]
        shown = speaks.gather(1, sensor.clamp(min=0).flatten(1)).view_as(sensor)
        shown &= (window <= origin[:, None])[..., None]
        few = sensor.shape[-1] <= MOST_TARGETS
        asked = None if few else torch.randperm(sensor.shape[-1], generator=generator)[:MOST_TARGETS]
        level = None
        if self.noise:
            # Without a shift of all values a model learns a return to the mean of the data.
            shifts = [scale for turns in self.scaling.circular for scale in ((0.0, 0.0) if turns else (LEVEL_NOISE,))]
            level = torch.randn(batch, len(shifts), generator=generator) * torch.tensor(shifts)
        return episode(seen, seen, starts, shown, self.scaling, self.day, length // 4, lag, asked, level)

    def _displaced(self, generator: torch.Generator) -> Slots:
        """The reports, with one small displacement for each sensor throughout."""
        moved, sensor = {}, self.seen.sensor.clamp(min=0)
        for name, spread in (("positions", self.noise), ("covariates", COVARIATE_NOISE)):
            part = getattr(self.seen, name)
            moved[name] = part + spread * torch.randn(self.num_sensors, part.shape[-1], generator=generator)[sensor]
        return self.seen._replace(**moved)


def tuned(scaling: Scaling, seen: Slots, length: int, horizon: int, day: int | None) -> Scaling:
    """The scaling with the ageing, and then the tilt, whose first guesses have the least error on training windows.

    The best ageing depends on the quantity: the sea below a float changes little in a week, so that its own old report
    is worth more than a new one from far away; the wind changes within hours.
    """
    channels, number = scaling.num_channels, min(128, max(8, MOST_SLOTS // (length * seen.sensor.shape[1])))
    for name, choices in (("ageing", tuple(scaling.extent * share for share in AGEING)), ("tilt", TILT)):
        errors = []
        for choice in choices:
            tried = replace(scaling, **{name: (choice,) * channels})  # type: ignore[arg-type]
            windows = Windows(seen, length, horizon, tried, day)
            sample = windows[torch.linspace(0, len(windows) - 1, number).long().tolist(), 0]
            assert sample.context is not None
            error = (sample.targets.values - sample.context[..., : sample.targets.values.shape[-1]]).abs()
            errors.append(error[sample.targets.mask][:, :channels].nanmean(0))
        best = torch.stack(errors).nan_to_num(torch.inf).argmin(0)
        chosen = tuple(choices[index] for index in best.tolist())
        scaling = replace(scaling, **{name: chosen})  # type: ignore[arg-type]
    return scaling


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


def fit_model(
    how: Fit, reports: Reports, folder: Path, progress: bool, start: Forecaster | None = None, whole: bool = False
) -> None:
    """Fit a scaling and a model, and leave in a folder all that `Forecaster.load` reads, logs and a summary.

    From `start` its scaling and weights are taken, and its context and horizon where others are not set. If `whole`,
    the steps of the validation are trained on as well.

    The fit is made in a folder of its own, `FITTING`, and put in place when it is whole, so that an earlier forecaster
    stays until then. A fit of the same reports and settings that was killed goes on from its last checkpoint.

    Raises:
        ValueError: reports that no model can be fitted to, or a training that found no weights.
    """
    if start is not None:
        start.check(reports)
        how = replace(how, context=how.context or start.context, horizon=how.horizon or start.horizon)
    check_clock(reports)
    spans = periods(how, reports)
    train, validation = reports.between(0, spans[2]), reports.between(spans[2], reports.num_steps)
    check_learnable(train, validation, (spans[0] + spans[1]) // 4)
    if progress:
        print(reports.columns.geometry, file=sys.stderr, flush=True)
    finish(folder)
    started, staged = {"of": _fingerprint_of_fit(how, reports, start, whole)}, folder / FITTING
    resume = (staged / LAST).is_file() and (staged / STARTED).is_file() and read_json(staged / STARTED) == started
    if not resume:
        shutil.rmtree(staged, ignore_errors=True)
        write_json(staged / STARTED, started)
    try:
        _train(how, reports if whole else train, validation, spans, staged, resume, progress, start)
        if whole:
            write_json(staged / SUMMARY, {**read_json(staged / SUMMARY), WHOLE: True})
    except ValueError:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    finish(folder)


def finish(folder: Path) -> None:
    """Put a fit in place that was whole when it was killed, and remove what was left of writing."""
    if (folder / FITTING / FORECASTER).is_file():
        put_in_place(folder / FITTING, folder, PARTS, ("logs", "checkpoints"))
    for place in (folder, folder / MODEL):
        for left in place.glob("*.part"):
            # Of `write_whole`, hidden, and as it named them before.
            if left.name.startswith(".") or any(kind in left.name for kind in (".json", ".safetensors", ".html")):
                left.unlink(missing_ok=True)


def fingerprint_of(columns: Columns, scaling: Scaling, context: int, horizon: int, model: WorldModel) -> str:
    """A digest of all that a forecaster is, down to its weights."""
    about = [meaning(columns), to_plain(scaling), context, horizon, type(model).__name__, to_plain(model.arguments)]
    return fingerprint(about, {name: part.detach().cpu().numpy() for name, part in model.state_dict().items()})


def meaning(columns: Columns) -> dict[str, object]:
    """What columns mean, without how a table is written, which an earlier version did not keep."""
    return {name: part for name, part in to_plain(columns).items() if name not in NOTATION}


def _fingerprint_of_fit(how: Fit, reports: Reports, start: Forecaster | None, whole: bool) -> str:
    about = [to_plain(how), meaning(reports.columns), str(reports.start), reports.num_steps, reports.sensors]
    about += [start.fingerprint if start else "", whole] if start or whole else []
    return fingerprint(about, {name: getattr(reports, name) for name in ROWS})


def _train(
    how: Fit, train: Reports, validation: Reports, spans: tuple[int, int, int], staged: Path, resume: bool,
    progress: bool, start: Forecaster | None,
) -> None:  # fmt: skip
    """Fit to the training part, and leave all that makes a forecaster in a folder; `FORECASTER` comes last."""
    (context, horizon, _), training = spans, how.training
    scaling = start.scaling if start else Scaling.of(train)
    torch.manual_seed(training.seed)
    model = deepcopy(start.model).train() if start else build_model(how, scaling, train, context)
    day, length, seen = steps_a_day(train.columns, context), context + horizon, slots(train, scaling)
    scaling = scaling if start else tuned(scaling, seen, length, horizon, day)
    noise = scaling.spacing(np.unique(train.positions, axis=0)) / 3
    windows = Windows(seen, length, horizon, scaling, day, noise)
    later = Windows(slots(validation, scaling), length, horizon, scaling, day)
    size = min(training.batch_size, max(2, MOST_REPORTS // (length * seen.sensor.shape[1])))
    both = batches(windows, size, training.seed, True), batches(later, size, training.seed + 1, False)
    ended = fit(model, *both, staged, training, resume=resume, progress=progress)
    if not (staged / MODEL / WEIGHTS).is_file():
        raise ValueError(
            "fit: training found no weights with a finite loss; take a lower learning rate, or check the values"
        )
    about = {"parameters": model.num_parameters, "seed": training.seed, **provenance()}
    write_json(staged / SUMMARY, {**ended, **about})
    parts = {"columns": to_plain(train.columns), "scaling": to_plain(scaling), "context": context, "horizon": horizon}
    digest = fingerprint_of(train.columns, scaling, context, horizon, load(staged / MODEL))
    write_json(staged / FORECASTER, {"format": FORMAT, **parts, "digest": digest})


def _spread_out(places: Float[Tensor, "P n"], number: int) -> Float[Tensor, "M n"]:
    """Some of the places, each the farthest from those before; where there are too few, the same again."""
    chosen = [int((places - places.mean(0)).norm(dim=-1).argmin())]
    distance = torch.full((len(places),), torch.inf)
    while len(chosen) < min(number, len(places)):
        distance = torch.minimum(distance, (places - places[chosen[-1]]).norm(dim=-1))
        chosen.append(int(distance.argmax()))
    return places[[chosen[index % len(chosen)] for index in range(number)]]
