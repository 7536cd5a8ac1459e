"""Windows of reports as episodes: what a model sees, and what it must predict."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from s2rm.sensors.guess import context
from s2rm.sensors.scaling import AGEING, IN_SLOTS, TILT, Scaling, Slots, views_of
from s2rm.views import Episode, Views

COVARIATE_NOISE = 0.3
"""standard deviations of the noise on a sensor's covariates in a training batch, where there is noise"""
LEVEL_NOISE = 1.0
"""standard deviations of the shift of all values of a training window, where there is noise; directions stay"""
LEAST_WINDOWS = 16
"""windows in an epoch; where fewer steps can begin one, each begins several, which hide different reports"""
MOST_TARGETS = 64
"""slots of which a training window asks the values; of more, a random choice"""
MOST_SLOTS = 100_000
"""slots of the windows that tune the first guess; but at least eight windows"""


def episode(
    seen: Slots, asked: Slots, starts: Int[Tensor, " B"], shown: Bool[Tensor, "B L A"], scaling: Scaling,
    day: int | None, first: int = 1, lag: Int[Tensor, " B"] | None = None,
    slots_asked: Int[Tensor, " Q"] | None = None, level: Float[Tensor, "B D"] | None = None,
) -> Episode:  # fmt: skip
    """Windows of L steps as an episode for a model that corrects a first guess.

    The values of a view are the channels and the covariates. The channels of a target are to be predicted; its context
    is that of [`context`][s2rm.sensors.guess.context].

    Args:
        seen, asked: the reports, and the targets or queries at the same steps.
        starts: the step at which each window begins.
        shown: which reports of the windows the model sees.
        scaling, day: as for `context`.
        first: the first step of a window with targets.
        lag: 0 to forecast: the targets at a step are of that step. 1 to interpolate: they are of the step before, the
            last one that is seen, and only reports that are not shown are targets.
        slots_asked: the slots that are targets, by default all.
        level: a shift of all values of each window.
    """
    lag, window = torch.zeros_like(starts) if lag is None else lag, torch.arange(shown.shape[1])
    steps = starts[:, None] + window
    reported = Slots(*(part[steps] for part in seen))
    targets = Slots(*(part[(steps - lag[:, None]).clamp(min=0)] for part in asked))
    if level is not None:
        shift = level[:, None, None]
        reported, targets = (part._replace(channels=part.channels + shift) for part in (reported, targets))
    views = views_of(reported, shown)
    seen_there = views.mask.roll(1, 1) & (lag == 1)[:, None, None]
    if slots_asked is not None:
        targets = targets._replace(**{name: getattr(targets, name)[:, :, slots_asked] for name in IN_SLOTS})
        seen_there = seen_there[:, :, slots_asked]
    wanted = torch.cat([targets.channels, torch.full_like(targets.covariates, torch.nan)], -1)
    there = (targets.sensor >= 0) & (window[:, None] >= first) & ~targets.channels.isnan().all(-1)
    if asked is seen:
        there = there & ~seen_there
    queries = Views._unchecked(targets.positions, wanted, there)
    return Episode(views, queries, context(reported, targets, views.mask, scaling, day, lag))


class Windows(Dataset[Episode]):
    """Training windows, indexed by keys `(rows, seed)`, at least one row for each step at which a window may begin.

    Most windows show no report after some step, the origin of a forecast. In half of these the blind part is the whole
    horizon, as otherwise the longest lead times would be learned too rarely. In most windows some sensors are withheld
    throughout. Withheld sensors and all reports after the origin are targets, so that a model learns to forecast; in
    some windows the targets are the withheld sensors at the last step that is seen, so that it learns to interpolate.

    Args:
        length: L, steps of a window.
        horizon: steps of a window that may be blind.
        scaling, day: as for `context`.
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
        sensor = self.seen.sensor.clamp(min=0)

        def off(part: Tensor, spread: float) -> Tensor:
            return part + spread * torch.randn(self.num_sensors, part.shape[-1], generator=generator)[sensor]

        positions, covariates = off(self.seen.positions, self.noise), off(self.seen.covariates, COVARIATE_NOISE)
        return self.seen._replace(positions=positions, covariates=covariates)


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
