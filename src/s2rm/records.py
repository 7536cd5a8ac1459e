"""Frozen records of settings to and from JSON, by cattrs, with types taken at their word."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args, get_origin

from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError

T = TypeVar("T")
converter = Converter(forbid_extra_keys=True)


def _strictly(*kinds: type) -> None:
    """Structure the last kind from values of these kinds only: JSON's true is no number, and "1" is none either."""

    def structure(value: object, _: object) -> object:
        if type(value) not in kinds:
            raise ValueError(f"expected {kinds[-1].__name__}, got {value!r}")
        return kinds[-1](value)

    converter.register_structure_hook(kinds[-1], structure)


for _kinds in ((bool,), (int,), (str,), (int, float)):
    _strictly(*_kinds)


def _one_of(value: object, kind: object) -> object:
    if value not in get_args(kind):
        raise ValueError(f"expected one of {', '.join(map(str, get_args(kind)))}, got {value!r}")
    return value


converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)


def _as_it_is(value: object, kind: object) -> object:
    """A number or text of a union of them, which JSON keeps apart."""
    if type(value) not in get_args(kind) and not (type(value) is int and float in get_args(kind)):
        raise ValueError(f"expected {kind}, got {value!r}")
    return value


for _union in (float | str, int | str | None):
    converter.register_structure_hook(_union, _as_it_is)


def to_plain(record: object) -> dict[str, object]:
    """A dataclass as what JSON can hold."""
    return converter.unstructure(record)


def from_plain(kind: type[T], plain: object) -> T:
    """The dataclass that `to_plain` took apart; keys that are missing have their defaults.

    Raises:
        ValueError: an unknown key, a value of another type or out of its range; one line.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"expected an object with the settings of {kind.__name__}, got {type(plain).__name__}")
    try:
        return converter.structure(plain, kind)
    except (BaseValidationError, ValueError, TypeError) as error:
        # Where the values are right one by one, the record itself may refuse them; its own line says it best.
        raise ValueError("; ".join(transform_error(error, format_exception=lambda e, _: str(e)))) from error
