"""The fit of a forecaster: its periods, training windows, model and training."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from s2rm.files import read_json, write_json
from s2rm.folders import fingerprint, put_in_place
from s2rm.models.model import CONFIG, WEIGHTS
from s2rm.models.named import SPATIAL, build
from s2rm.models.s2rm import S2RM
from s2rm.models.saved import load
from s2rm.models.world_model import WorldModel
from s2rm.names import one_line
from s2rm.records import to_plain
from s2rm.sensors.ahead import context_views, forecast_ahead
from s2rm.sensors.checks import check_alike, check_clock
from s2rm.sensors.dependence import Dependence, hindcasts
from s2rm.sensors.first_guess.guess import FirstGuess, context_size
from s2rm.sensors.first_guess.history import MOST_CELLS
from s2rm.sensors.first_guess.tuning import first_guess, gated, tuned, with_dynamics
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.learnable import check_learnable
from s2rm.sensors.mapped import is_mapped, number_known
from s2rm.sensors.marginals import kinds_in_words, with_kinds
from s2rm.sensors.reports import Places, Reports, arrays_of, expect_reports
from s2rm.sensors.scaling import Scaling, marginals_of
from s2rm.sensors.settings import NOTATION, Columns, Fit
from s2rm.sensors.times import DAY, in_steps, step_microseconds
from s2rm.training import LAST, MODEL, Machines, batches, fit, provenance
from s2rm.training.settings import is_first_process

if TYPE_CHECKING:
    from s2rm.sensors.forecaster import Forecaster

FORECASTER, FORMAT, SUMMARY = "forecaster.json", 6, "summary.json"
FITTING, STARTED = "fitting", "started.json"
"""the folder of a fit that is not whole yet, in that of the forecaster, and the file there that says of what it is"""
PARTS = (f"{MODEL}/{CONFIG}", f"{MODEL}/{WEIGHTS}", SUMMARY, FORECASTER)
"""the files that make a forecaster; the last one ties them"""
WHOLE = "whole"
"""what the summary says of a fit to all steps"""
MOST_REPORTS = 25_000
"""reports in a batch of training windows, which has fewer windows if need be, but at least two"""
EPOCH, LEAST_WINDOWS = 50, 16
"""the most batches between two validations, and the fewest windows; else as many as there are steps to begin one"""
SHORTEST = 1 / 2
"""a share of the extent, the shortest wavelength by which positions turn encodings. On the globe waves run through the
space of its unit vectors, so that they have neither seams nor poles; a wavelength is then a chord"""
NOISE = 1 / 3
"""a share of the median spacing of the sensors, by which they are displaced in training"""
FEWEST, MOST_HIDDEN = 5, 50
"""the least number of sensors of which some are kept for the validation, as large a share as of the steps, and how many
of them at most"""


def periods(how: Fit, reports: Reports) -> tuple[int, int, int]:
    """Steps of the context, of the horizon, and before the validation: as set, or as the reports' length allows."""
    step, length = reports.columns.step, reports.num_steps
    # A day and a half, and a day; of steps of a day a month, and two weeks; of longer ones two dozen, and one.
    day = DAY / step_microseconds(step)
    usual = (min(36, round(1.5 * day)), round(day)) if day > 1 else (30, 14) if day == 1 else (24, 12)
    context, horizon = max(12, min(usual[0], length // 4)), max(6, min(usual[1], length // 6))
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


def build_model(how: Fit, scaling: Scaling, train: Reports, context: int) -> WorldModel:
    """A model of a size that suits the number of values and sensors, for the extent of their positions."""
    shared: dict[str, object] = {
        "value_shape": (scaling.num_channels + len(scaling.covariate_mean),), "context_size": context_size(scaling),
        "extent": scaling.box, "shortest": scaling.extent / 2, "longest": 8 * scaling.extent,
        "embedding_dim": 18 if scaling.num_coordinates == 3 else 8 * scaling.num_coordinates,
        "likelihood": "gaussian", "codec": "mlp", "rotation": SHORTEST * scaling.extent,
    }  # fmt: skip
    if how.model == "msa":
        return build(how.model, hidden_size=how.hidden_size or 64, window=min(context, 12), **shared)
    # 24 for 25,000 values, 64 for 180,000: larger states overfit a short table.
    size = how.hidden_size or min(64, max(16, 8 * round(number_known(train.values).sum() ** 0.5 / 52)))
    if how.model not in SPATIAL:
        each = 6 if how.model == "rims" else 1  # its modules, which share the state
        return build(how.model, hidden_size=each * max(1, 4 * size // each), **shared)
    modules = how.num_modules or min(64, max(10, len(train.reporting) // 5))
    own = {"num_modules": modules, "share_parameters": how.share_parameters, "latent_size": how.latent_size}
    model = build(how.model, hidden_size=size, **own, **shared)
    assert isinstance(model, S2RM)
    places = scaling.coordinates(train.places)
    model.modules_on_sphere.places = nn.Parameter(model.embedding(_spread_out(places, modules)))
    return model


def fit_model(
    how: Fit, reports: Reports, folder: Path, progress: bool, start: Forecaster | None = None,
    trusted: FirstGuess | None = None, machines: Machines | None = None,
) -> None:  # fmt: skip
    """Fit a scaling and a model, and write everything that `Forecaster.load` reads, logs and a summary to a folder.

    With `start`, its scaling and weights are used, and its context and horizon unless others are given. With `trusted`,
    the first guess of an earlier fit, the model is trained on all sensors and steps and keeps its shares of the
    correction.

    The fit works in a separate folder, `FITTING`, and is moved into place when complete, so that an earlier forecaster
    is kept until then. An interrupted fit to the same reports with the same settings resumes from its last checkpoint.

    Of several processes each trains on its share of every batch; the first one alone writes. The others end with it.

    Raises:
        ValueError: reports that no model can be fitted to, or training that found no weights.
    """
    expect_reports(reports, "fit")
    if start is not None:
        start.check(reports)
        check_alike(reports, start.scaling, "fit")
        reports = with_kinds(reports, start.columns)
        how = replace(how, context=how.context or start.context, horizon=how.horizon or start.horizon)
    check_clock(reports)
    spans = periods(how, reports)
    reports = last_of(reports, spans[0] + spans[1])
    spans = periods(how, reports)
    hidden = hidden_sensors(reports, how.validation, how.training.seed)
    if trusted is not None:
        hidden = np.zeros_like(hidden)
    train, validation = reports.of(~hidden).between(0, spans[2]), reports.between(spans[2], reports.num_steps)
    check_learnable(train, validation)
    first = is_first_process()
    if progress and first:
        for line in filter(None, (reports.columns.geometry, kinds_in_words(train))):
            print(one_line(line), file=sys.stderr, flush=True)
    if first:
        finish(folder)
    started, staged = {"of": _fingerprint_of_fit(how, reports, start, trusted is not None)}, folder / FITTING
    # In this order: where another process has just begun anew, the checkpoint is gone before the file is there.
    same = (staged / STARTED).is_file() and read_json(staged / STARTED) == started
    resume = same and (staged / LAST).is_file()
    if first and not resume:
        shutil.rmtree(staged, ignore_errors=True)
        write_json(staged / STARTED, started)
    try:
        _train(how, reports, hidden, spans, staged, resume, progress, start, trusted, machines)
        if trusted is not None:
            write_json(staged / SUMMARY, {**read_json(staged / SUMMARY), WHOLE: True})
    except ValueError:
        if first:
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


def fingerprint_of(
    columns: Columns, scaling: Scaling, guess: FirstGuess, context: int, horizon: int, model: WorldModel
) -> str:
    """A digest of all that a forecaster is, down to its weights."""
    kind = type(model).__name__, to_plain(model.arguments)
    about = [meaning(columns), to_plain(scaling), to_plain(guess), context, horizon, *kind]
    return fingerprint(about, {name: part.detach().cpu().numpy() for name, part in model.state_dict().items()})


def meaning(columns: Columns) -> dict[str, object]:
    """What columns mean, without how a table is written."""
    return {name: part for name, part in to_plain(columns).items() if name not in NOTATION}


def _fingerprint_of_fit(how: Fit, reports: Reports, start: Forecaster | None, whole: bool) -> str:
    about = [to_plain(how), meaning(reports.columns), str(reports.start), reports.num_steps, reports.sensors]
    about += [start.fingerprint if start else "", whole] if start or whole else []
    return fingerprint(about, arrays_of(reports))


def _train(
    how: Fit, reports: Reports, hidden: Bool[NDArray, " S"], spans: tuple[int, int, int], staged: Path,
    resume: bool, progress: bool, start: Forecaster | None, trusted: FirstGuess | None, machines: Machines | None,
) -> None:  # fmt: skip
    """Fit to the training part, and leave all that makes a forecaster in a folder; `FORECASTER` comes last."""
    (context, horizon, since), training = spans, how.training
    train = reports.of(~hidden).between(0, since) if trusted is None else reports
    # The scaling knows the places of all sensors, so that those of the validation are not out of its range.
    scaling = start.scaling if start else Scaling.of(reports if trusted is not None else reports.between(0, since))
    torch.manual_seed(training.seed)
    model = deepcopy(start.model).train() if start else build_model(how, scaling, train, context)
    length, most = context + 1, np.bincount(reports.step).max()
    size = min(training.batch_size, max(2, MOST_REPORTS // int(length * most)))
    # Fitted to the steps of the validation too, the guess is a strong rival of the correction there.
    known = reports.of(~hidden)
    # So that a climatology of the same steps is a standard normal score.
    scaling = scaling if start else replace(scaling, marginals=marginals_of(known))
    guess = trusted or first_guess(known, scaling, context, horizon)
    # Without dynamics until they are fitted to these steps.
    guess = tuned(Windows(known, scaling, replace(guess, dynamics=()), length, horizon))
    noise = NOISE * scaling.spacing(train.places)
    number = min(EPOCH * size, max(LEAST_WINDOWS, train.num_steps - length))
    windows = Windows(train, scaling, guess, length, horizon, noise=noise, number=number)
    number = min(24, max(8, 4 * (reports.num_steps - since) // length))
    later = Windows(
        reports, scaling, guess, length, horizon, since=since, hidden=torch.from_numpy(hidden), number=number,
        at_random=False,
    )  # fmt: skip
    both = batches(windows, size, training.seed, True), batches(later, size, training.seed + 1, False)
    ended = fit(model, *both, staged, training, machines=machines, resume=resume, progress=progress)
    if not is_first_process():
        raise SystemExit  # what follows is done once
    if not (staged / MODEL / WEIGHTS).is_file():
        raise ValueError(
            "fit: training found no weights with a finite loss; take a lower learning rate, or check the values"
        )
    best = load(staged / MODEL)
    if trusted is None:
        guess = gated(guess, best, later, size)
    else:  # the validation part has been trained on
        shares = {name: getattr(trusted, name) for name in ("share", "spread_share", "spread_shift")}
        guess = replace(guess, **shares)  # type: ignore[arg-type]
    guess = with_dynamics(guess, reports, scaling)
    about = {"parameters": model.num_parameters, "seed": training.seed, **provenance()}
    write_json(staged / SUMMARY, {**ended, **about})
    parts = {
        "columns": to_plain(train.columns), "scaling": to_plain(scaling), "guess": to_plain(guess),
        "context": context, "horizon": horizon,
    }  # fmt: skip
    dependence = dependence_of(best, guess, scaling, reports, context, horizon)
    parts |= {} if dependence is None else {"dependence": to_plain(dependence)}
    digest = fingerprint_of(train.columns, scaling, guess, context, horizon, best)
    write_json(staged / FORECASTER, {"format": FORMAT, **parts, "digest": digest})


def dependence_of(
    model: WorldModel, guess: FirstGuess, scaling: Scaling, reports: Reports, context: int, horizon: int
) -> Dependence | None:
    """How the errors of forecasts from these reports depend on each other; None where there are too few."""

    @torch.no_grad()
    def forecast(
        known: Reports, places: Places, own: NDArray[np.int64], leads: Sequence[int]
    ) -> tuple[NDArray, NDArray]:
        state = model.last(model.observe(context_views(known, context, scaling)))
        mean, stddev = scaling.units(*forecast_ahead(model, guess, scaling, state, known, places, leads, own))
        return mean[0], stddev[0]

    past = hindcasts(forecast, reports, scaling, guess.steps_kept(context), horizon)
    return Dependence.of(past, scaling.extent)


def last_of(reports: Reports, least: int) -> Reports:
    """The last steps of a table if its derived tables would be too large for memory; otherwise, or if they are in
    files, the whole table."""
    number = max(4 * least, MOST_CELLS // max(1, len(reports.sensors) * reports.values.shape[1]))
    if reports.num_steps <= number or is_mapped(reports.step):
        return reports
    warnings.warn(
        f"fit: {reports.num_steps:,} steps of {len(reports.sensors):,} sensors are more than a fit can hold; the last "
        f"{number:,} steps are used. Pack the table (s2rm pack) for all of them, or take a longer step",
        stacklevel=4,
    )
    return reports.between(reports.num_steps - number, reports.num_steps)


def hidden_sensors(reports: Reports, share: float, seed: int) -> Bool[NDArray, " S"]:
    """The sensors that a fit withholds for validation, at random; none if there are few, or few measure a value."""
    reporting = reports.reporting
    number = min(MOST_HIDDEN, max(1, round(share * len(reporting)))) if len(reporting) >= FEWEST else 0
    chosen = np.random.default_rng(seed % 2**32).permutation(reporting)[:number]
    hidden = np.isin(np.arange(len(reports.sensors)), chosen)
    of_hidden = sum(number_known(reports.values[part][hidden[reports.sensor[part]]]) for part in reports.parts)
    # A value that mostly the hidden ones measure would be lost.
    return hidden & ~(of_hidden > number_known(reports.values) / 2).any()


def _spread_out(places: Float[Tensor, "P n"], number: int) -> Float[Tensor, "M n"]:
    """Some of the places, each the farthest from those before; where there are too few, the same again."""
    chosen = [int((places - places.mean(0)).norm(dim=-1).argmin())]
    distance = torch.full((len(places),), torch.inf)
    while len(chosen) < min(number, len(places)):
        distance = torch.minimum(distance, (places - places[chosen[-1]]).norm(dim=-1))
        chosen.append(int(distance.argmax()))
    return places[[chosen[index % len(chosen)] for index in range(number)]]
