"""The columns of a table of observations, and the settings of a fit."""

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
LONGITUDES = {"lon", "lons", "longitude", "longitudes", "lng", "long", "xlon", "xlong", "länge", "laenge", "längengrad",
              "laengengrad", "longitud", "longitudine"}  # fmt: skip
LATITUDES = {"lat", "lats", "latitude", "latitudes", "ylat", "xlat", "breite", "breitengrad", "latitud", "latitudine"}
_WORD = re.compile(r"[A-ZÄÖÜ]+(?![a-zäöüß])|[A-ZÄÖÜ]?[a-zäöüß]+")
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
        if "_" not in str(code) and math.isfinite(number := float(code)):  # Python alone reads 9_9 as 99
            return number
    return str(code).strip()


@dataclass(frozen=True)
class Columns:
    """The meaning of a table's columns.

    Raises:
        ValueError: no position or no values; a column named twice; a direction that is not among the values; not two
            coordinates for longitude and latitude; or an invalid separator, decimal sign, encoding or time format.
    """

    time: str
    """the time of an observation"""
    position: tuple[str, ...]
    """longitude and latitude in degrees, in this order, or planar coordinates in any unit"""
    values: tuple[str, ...]
    """the quantities that are measured and forecast"""
    sensor: str | None = None
    """name of the station or other sensor; if not given, each place is a sensor"""
    covariates: tuple[str, ...] = ()
    """constant properties of each place, such as altitude; an empty cell takes the last value of its sensor"""
    circular: tuple[str, ...] = ()
    """values that are directions in degrees"""
    nonnegative: tuple[str, ...] = ()
    """values that are never negative, such as rain (which may often be 0) and concentrations"""
    counts: tuple[str, ...] = ()
    """values that are integers from 0 up"""
    fractions: tuple[str, ...] = ()
    """values that are shares from 0 to 1"""
    percent: tuple[str, ...] = ()
    """values that are shares from 0 to 100"""
    heavy_tailed: tuple[str, ...] = ()
    """values with outliers many standard deviations away"""
    ahead: tuple[str, ...] = ()
    """quantities that change in time and are known beyond the last observation, such as a weather model's wind"""
    flow: tuple[str, ...] = ()
    """those of `ahead` that carry the values along, as a wind does: its speed along each coordinate of the position, in
    this order, in any unit; on the globe eastward and northward"""
    step: str = "1h"
    """the time step, a pandas duration; observations are binned to it"""
    globe: bool | None = None
    """whether positions are longitude and latitude in degrees; if not given, the names of their columns decide, and
    values out of range are refused"""
    separator: str | None = field(default=None, compare=False)
    """separator of cells in a text file: one character, "tab", or " " for any number of spaces; detected if not
    given"""
    decimal: str | None = field(default=None, compare=False)
    """decimal sign of numbers in text, . or ,; if not given, it is detected"""
    encoding: str | None = field(default=None, compare=False)
    """encoding of a text file; if not given, it is detected"""
    time_format: str | None = field(default=None, compare=False)
    """format of times in text, such as "%d.%m.%Y %H:%M"; a time of day may follow a format of dates only, such as
    %d.%m.%Y; if not given, it is detected, or else ISO 8601"""
    missing: tuple[float | str, ...] = field(default=(), compare=False)
    """numbers and strings that mean a missing value, position or covariate, such as -999"""

    def __post_init__(self) -> None:
        self._check_names()
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

    def _check_names(self) -> None:
        """Bring several names to a tuple, and refuse what is no name."""
        for name in ("time", *(("sensor",) if self.sensor is not None else ())):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"columns: {name} must be the name of a column, got {getattr(self, name)!r}")
        for name in ("position", "values", "covariates", "circular", *RANGES, "ahead", "flow"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(one, str) for one in given):
                raise ValueError(f"columns: {name} must be names of columns, such as ('a', 'b'), got {given!r}")
            object.__setattr__(self, name, tuple(given))

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
            if "%H" in self.time_format and "%p" in self.time_format:
                raise ValueError(
                    f"columns: expected hours of a half day, %I, beside %p in time_format, got {self.time_format!r}, "
                    "in which %p would be ignored"
                )
            if read is None or read.date() != then.date():
                raise ValueError(
                    f"columns: time_format must have a day, month and year, as %d.%m.%Y, got {self.time_format!r}"
                )

    @property
    def notation(self) -> str:
        """The declared or detected format of a table, in words."""
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
        """The columns that must not be empty in any row."""
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
    """Settings of a fit. Defaults depend on the data.

    Raises:
        ValueError: a size that is not an integer of at least 1, a validation that is not a share, or an option that
            the model does not have.
    """

    model: ForecastModel = "s2gru"
    """which model"""
    num_modules: int | None = None
    """S2RM only: number of modules; if not given, one for every five sensors, at least 10 and at most 64"""
    hidden_size: int | None = None
    """size of a module's state; if not given, 16 to 64, growing with the number of observed values. The state of a
    recurrent baseline is four times as large (for rims rounded to a multiple of 6, the number of modules). For msa, the
    size of the tokens, 64 by default"""
    share_parameters: bool = True
    """S2RM only: modules share their parameters and differ only in position and state, which reduces overfitting"""
    latent_size: int = 0
    """S2RM only: size of a latent variable of each module at each step; 0 for none"""
    context: int | str | None = None
    """length of the period of observations before a forecast, a duration such as 36h or a number of steps; if not
    given, 36 hours but at most 36 steps; a month for daily steps; 24 steps for longer ones; at most a quarter of the
    table and at least 12 steps"""
    horizon: int | str | None = None
    """longest lead time in training, a duration such as 24h or a number of steps; if not given, a day; two weeks for
    daily steps; 12 steps for longer ones; at most a sixth of the table and at least 6 steps"""
    validation: float = 0.15
    """share of the steps (the last ones) and of the sensors that are withheld from training to choose the best weights
    and the share of the correction that is kept"""
    training: Training = field(
        default_factory=lambda: Training(
            learning_rate=1e-3, batch_size=16, updates=1_200, minutes=8.0, patience=15, gradient_norm=1.0, average=0.98
        )
    )
    """how to train; batches contain fewer windows than batch_size if windows have many observations"""

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
