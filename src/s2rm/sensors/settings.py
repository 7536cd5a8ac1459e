"""What a forecaster is fitted to, and how: which columns of a table mean what, and the settings of a fit."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Literal

from s2rm.models.named import SPATIAL
from s2rm.training.settings import Training

ForecastModel = Literal["s2gru", "s2lstm", "s2rmc", "msa", "rims", "rmc", "lstm", "gru"]
LONGITUDES = {"lon", "lons", "longitude", "longitudes", "lng", "long", "xlon", "xlong"}
LATITUDES = {"lat", "lats", "latitude", "latitudes", "ylat", "xlat"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""a word of a column's name; stationLat, LAT_WGS84 and "lat (deg)" each have the word lat"""


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""probabilities of the quantiles in a forecast"""
RANGES: dict[str, tuple[float | None, float | None]] = {
    "nonnegative": (0, None), "counts": (0, None), "fractions": (0, 1), "percent": (0, 100),
    "heavy_tailed": (None, None),
}  # fmt: skip
"""the fields of `Columns` that name values that are not Gaussian, and the range of each"""
NOTATION = ("separator", "decimal", "encoding", "time_format", "missing")
"""the fields of `Columns` that say how a table is written, which is no part of what its columns mean"""


def check_share(share: object, name: str) -> float:
    """A share, from 0 to 1; anything else, such as a percentage, is refused, `name` first."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= float(share) <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, got {share!r}; write for example 0.15 for 15 %")
    return float(share)


def _code(code: float | str) -> float | str:
    """A code of missing values as a number, or as a text without blanks around it."""
    with suppress(ValueError):
        if math.isfinite(number := float(code)):
            return number
    return str(code).strip()


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what.

    Raises:
        ValueError: no position, no values, a column named twice, a direction that is not among the values, a number of
            coordinates that longitude and latitude do not have, or no separator, decimal sign, encoding or format.
    """

    time: str
    """the time of an observation"""
    position: tuple[str, ...]
    """where: longitude and latitude in degrees, in this order, or planar coordinates of any unit"""
    values: tuple[str, ...]
    """the quantities that are measured and forecast"""
    sensor: str | None = None
    """name of the station or other sensor; if not given, each place is a sensor"""
    covariates: tuple[str, ...] = ()
    """quantities known at each place that do not change, such as altitude"""
    circular: tuple[str, ...] = ()
    """those of the values that are directions in degrees"""
    nonnegative: tuple[str, ...] = ()
    """those of the values that are never negative, such as rain, which may often be 0, and concentrations"""
    counts: tuple[str, ...] = ()
    """those that are whole numbers from 0 on"""
    fractions: tuple[str, ...] = ()
    """those that are shares from 0 to 1"""
    percent: tuple[str, ...] = ()
    """those that are shares from 0 to 100"""
    heavy_tailed: tuple[str, ...] = ()
    """those of which some lie far more standard deviations away than those of a normal distribution"""
    ahead: tuple[str, ...] = ()
    """quantities that change in time and are known ahead of it, such as a weather model's wind or opening hours"""
    flow: tuple[str, ...] = ()
    """those of them that carry the values along, as a wind does: its speed along each coordinate of the position, in
    this order, in any unit; on the globe eastward and northward"""
    step: str = "1h"
    """the time step, as pandas writes durations; observations are binned to it"""
    globe: bool | None = None
    """whether positions are longitude and latitude in degrees; if not given, the names of their columns decide, and
    values out of the range of degrees are refused"""
    separator: str | None = field(default=None, compare=False)
    """what separates the cells of a text file: one character, "tab", or " " for any number of blanks; if not given, a
    comma, or what is found"""
    decimal: str | None = field(default=None, compare=False)
    """the decimal sign of numbers in texts, . or ,; if not given, a point, or what is found"""
    encoding: str | None = field(default=None, compare=False)
    """of a text file; if not given, utf-8, or what is found"""
    time_format: str | None = field(default=None, compare=False)
    """how times in texts are written, such as "%d.%m.%Y %H:%M"; one of dates only, such as %d.%m.%Y, may have a time of
    day behind it; if not given, ISO 8601, or what is found"""
    missing: tuple[float | str, ...] = field(default=(), compare=False)
    """numbers and texts that mean a missing value, position or covariate, such as -999"""

    def __post_init__(self) -> None:
        for name in ("position", "values"):
            if not getattr(self, name):
                raise ValueError(f"columns: expected at least one column for {name}, got none; name it")
        twice = sorted({name for name in self.named if self.named.count(name) > 1})
        if twice:
            raise ValueError(f"columns: {', '.join(twice)} named twice; a column has one meaning")
        kinds: dict[str, str] = {}
        for kind in ("circular", *RANGES):
            for name in getattr(self, kind):
                if name not in self.values:
                    raise ValueError(f"columns: {kind} must be among the values, {list(self.values)}, got [{name!r}]")
                if kinds.setdefault(name, kind) != kind:
                    raise ValueError(f"columns: {name!r} is named as {kinds[name]} and as {kind}; a value has one kind")
        self._check_flow()
        if self.globe and len(self.position) != 2:
            raise ValueError(
                f"columns: positions on the globe are a longitude and a latitude, got {self.position}; name these two "
                "columns, or set globe to False"
            )
        self._check_notation()

    def _check_flow(self) -> None:
        if absent := [name for name in self.flow if name not in self.ahead]:
            raise ValueError(f"columns: flow must be among what is known ahead, {list(self.ahead)}, got {absent}")
        if self.flow and len(self.flow) != len(self.position):
            raise ValueError(
                f"columns: flow must have a speed along each of {list(self.position)}, got {list(self.flow)}; name one "
                "for each, in this order"
            )

    def _check_notation(self) -> None:
        """Bring separator and codes to one form, and refuse what is no notation."""
        separator = {"tab": "\t", "\\t": "\t"}.get(self.separator or "", self.separator)
        object.__setattr__(self, "separator", separator)
        object.__setattr__(self, "missing", tuple(map(_code, self.missing)))
        if separator is not None and (len(separator) != 1 or separator.isalnum() or separator in "\r\n\"'+-_"):
            raise ValueError(f"columns: separator must be one character such as ; or tab, got {self.separator!r}")
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"columns: decimal must be . or , got {self.decimal!r}; leave it out to have it found")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, ValueError) as error:
                raise ValueError(
                    f"columns: encoding must be one such as utf-8 or latin-1, got {self.encoding!r}"
                ) from error
        if self.time_format is not None:
            then, read = datetime(2024, 12, 31, tzinfo=UTC), None
            with suppress(ValueError):
                read = datetime.strptime(then.strftime(self.time_format), self.time_format)
            if read is None or read.date() != then.date():
                raise ValueError(
                    f"columns: time_format must have a day, month and year, as %d.%m.%Y, got {self.time_format!r}"
                )

    @property
    def notation(self) -> str:
        """How a table is written, in words, as far as it is declared or was found."""
        signs = {name.replace("_", " "): getattr(self, name) for name in NOTATION[:4]}
        return ", ".join(f"{name} {'tab' if sign == chr(9) else repr(sign)}" for name, sign in signs.items() if sign)

    @property
    def on_the_globe(self) -> bool:
        """Whether positions are longitude and latitude in degrees: as declared, or by the names of their columns.

        Raises:
            ValueError: one name alone means a longitude or latitude, both mean the same, or the latitude is first.
        """
        if self.globe is not None or len(self.position) < 2:
            return bool(self.globe)
        words = [{word.lower() for word in _WORD.findall(name)} for name in self.position]
        meant = ["x" * bool(own & LONGITUDES) + "y" * bool(own & LATITUDES) for own in words]
        if len(self.position) > 2:
            if "x" in meant and "y" in meant:
                raise ValueError(
                    f"read: expected a longitude and a latitude alone, got position {self.position}; leave the others "
                    "out, or set globe to False where a degree may count as much as a unit of them"
                )
            return False
        if meant in (["x", "y"], ["", ""]):
            return meant == ["x", "y"]
        expected = "the names of a longitude and a latitude, or of neither"
        remedy = "set globe to True for degrees, to False for planar coordinates"
        if meant == ["y", "x"]:
            expected, remedy = "the longitude first", "swap the two names, or set globe to False where they are planar"
        raise ValueError(f"read: expected {expected}, got position {self.position}; {remedy}")

    @property
    def keys(self) -> list[str]:
        """The columns that no row may leave empty."""
        return [self.time, *([self.sensor] if self.sensor else []), *self.position]

    @property
    def named(self) -> list[str]:
        """All columns that are read."""
        return [*self.keys, *self.values, *self.covariates, *self.ahead]

    @property
    def is_circular(self) -> tuple[bool, ...]:
        """Whether each value is a direction in degrees."""
        return tuple(name in self.circular for name in self.values)

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """The field of `RANGES` that names each value; None for the others, Gaussian ones and directions."""
        return tuple(next((kind for kind in RANGES if name in getattr(self, kind)), None) for name in self.values)

    @property
    def geometry(self) -> str:
        """What positions are, in words."""
        return f"positions: {'longitude and latitude in degrees' if self.on_the_globe else 'planar'}"


@dataclass(frozen=True)
class Fit:
    """How a forecaster is fitted. What is not given follows from the data.

    Raises:
        ValueError: a size that is not a whole number of at least 1, a validation that is no share, or an option that
            the model does not have.
    """

    model: ForecastModel = "s2gru"
    """which model"""
    num_modules: int | None = None
    """S2RM only: number of modules; if not given, one for every five sensors, at least 10 and at most 64"""
    hidden_size: int | None = None
    """size of a module's state; if not given, 16 to 64, growing with the number of observed values. The state of a
    recurrent baseline is four times that; in rims a multiple of 6, its modules. The tokens of msa have 64 if not
    given"""
    share_parameters: bool = True
    """S2RM only: the modules differ in place and state only, which prevents overfitting of short tables"""
    latent_size: int = 0
    """S2RM only: size of a latent variable of each module at each step; 0 for none"""
    context: int | str | None = None
    """length of the period from which a forecast starts, as a duration such as 36h or in steps; if not given, a day
    and a half but at most 36 steps, a month where a step is a day, two dozen longer ones, and at least 12"""
    horizon: int | str | None = None
    """longest lead time in training, as a duration such as 24h or in steps; if not given, a day, two
    weeks where a step is a day, a dozen longer ones, and at least 6 steps"""
    validation: float = 0.15
    """share of the steps, the last ones, and of the sensors, on which the best weights are chosen, and how far they are
    trusted"""
    training: Training = field(
        default_factory=lambda: Training(
            learning_rate=1e-3, batch_size=16, updates=1_200, minutes=8.0, patience=15, gradient_norm=1.0, average=0.98
        )
    )
    """how to train; where windows hold many observations, a batch has fewer of them than its size"""

    def __post_init__(self) -> None:
        for name in ("num_modules", "hidden_size"):
            size = getattr(self, name)
            if size is not None:
                if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
                    raise ValueError(f"fit: {name} must be a whole number of at least 1, got {size!r}; or leave it out")
                object.__setattr__(self, name, int(size))
        usual = {"num_modules": None, "share_parameters": True, "latent_size": 0}
        given = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.model not in SPATIAL and given:
            raise ValueError(f"fit: {given[0]} is an option of {', '.join(SPATIAL)}, not of {self.model}; leave it out")
        object.__setattr__(self, "validation", check_share(self.validation, "fit: validation"))
