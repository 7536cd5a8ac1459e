"""How the texts of a table are written: found where it is plain, refused or asked for where it may mean two things."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from s2rm.names import one_line

SEPARATORS = ",;\t|"
"""what may stand between the cells of a table without being declared; the comma is taken where it fits"""
BLANK = " "
"""declares cells that any number of blanks separate"""
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,]\d{3})+")
"""1,234: a thousand and more, or a number with three decimals"""
_SIGN = re.compile(r"[+-]?\d*[.,]\d+(e[+-]?\d+)?", re.IGNORECASE)
_DAY_OR_MONTH_FIRST = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2\d{4}(?!\d)")
_PARTS = {"d": r"\d{1,2}", "m": r"\d{1,2}", "Y": r"\d{4}", "y": r"\d{2}", "j": r"\d{1,3}", "b": r"[^\W\d]+\.?",
          "B": r"[^\W\d]+"}  # fmt: skip
_HOUR = re.compile(r"^[T,\s]*(?=\d)(\d(?=:))?")


def separator_of(header: str, named: Iterable[str]) -> str:
    """The separator with which a header contains all wanted names; else the one that gives the most cells."""
    cells = {separator: set(cells_of(header, separator)) for separator in SEPARATORS}
    fits = [separator for separator in SEPARATORS if cells[separator].issuperset(named)]
    return [*fits, max(SEPARATORS, key=lambda separator: len(cells[separator]))][0]


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of a line."""
    return line.split() if separator == BLANK else next(csv.reader([line], delimiter=separator), [])


def encoding_of(content: bytes, name: str) -> str:
    """The encoding of bytes that are no UTF-8: by their first ones, or the Latin letters of western Europe.

    Raises:
        ValueError: letters that those of another encoding may be; one line, with the first line at fault.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    # Control characters, or several letters with accents in a row, are the letters of another alphabet.
    if re.search(rb"[\x80-\x9f]|[\xc0-\xff]{3}", content):
        raise ValueError(encoding_error(content, "utf-8", name))
    return "latin-1"


def encoding_error(content: bytes, encoding: str, name: str) -> str:
    """What is wrong with bytes that are no text in an encoding, in one line."""
    try:
        content.decode(encoding)
        found = "what is none"
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        found = f"{content[start : start + 1]!r} in line {content.count(10, 0, start) + 1}"
    return (
        f"read: expected text in {encoding} in {name}, got {found}; name its encoding (--encoding), such as utf-8, "
        "latin-1 or cp1252"
    )


def decimal_of(texts: Iterable[str], numbers: Iterable[NDArray]) -> str | None:
    """The comma, where some texts are plainly numbers with one, and nothing else has a decimal point."""
    signed = [text for text in map(str.strip, texts) if _SIGN.fullmatch(text)]
    if not any("," in text and not _THOUSANDS.fullmatch(text) for text in signed):
        return None
    points = any("," not in text for text in signed)
    return None if points or any((column % 1 > 0).any() for column in numbers) else ","


def may_have_thousands(numbers: NDArray[np.float64]) -> bool:
    """Whether numbers may be some whose points mark thousands, 2.171 for 2171, beside others below a thousand: those
    with decimals have three, and are far below those without."""
    known = np.abs(numbers[~np.isnan(numbers)])
    whole = known % 1 == 0
    parts, rest = known[~whole], known[whole & (known > 0)]
    if not len(parts) or not len(rest) or rest.max() >= 1000 or parts.min() < 1 or parts.max() >= 1000:
        return False
    three = np.abs(1000 * parts - np.round(1000 * parts)) < 1e-6 * parts
    return bool(three.all() and np.median(rest) > 10 * np.median(parts))


def has_thousands(texts: Iterable[str]) -> bool:
    """Whether all texts with a point have groups of three digits after it, as thousands have, and some have none."""
    texts = [*map(str.strip, texts)]
    pointed = [text for text in texts if "." in text]
    return 0 < len(pointed) < len(texts) and all(_THOUSANDS.fullmatch(text) for text in pointed)


def has_marks(cell: object) -> bool:
    """Whether a cell would be a number, but for the sign of its decimals or marks of thousands."""
    return isinstance(cell, str) and bool(re.fullmatch(r"[+-]?[\d.,]*\d", cell.strip()))


def has_its_year_last(text: str) -> bool:
    """Whether a text begins with a date whose year comes last."""
    return bool(_DAY_OR_MONTH_FIRST.match(text))


def dates_of(texts: Sequence[str], where: str) -> str | None:
    """The format of dates whose year comes last: the one of days and months that cannot be a month comes to light.

    None where the first text is written in another way.

    Args:
        texts: times, each once, in the order of the table.
        where: the column and table, in words.

    Raises:
        ValueError: all days may be months, or some come first and some second; one line with an example.
    """
    if not texts or not (first := _DAY_OR_MONTH_FIRST.match(texts[0])):
        return None
    found = [(text, match) for text in texts if (match := _DAY_OR_MONTH_FIRST.match(text))]
    mark = first[2]
    day_first, month_first = f"%d{mark}%m{mark}%Y", f"%m{mark}%d{mark}%Y"
    late = [[text for text, match in found if int(match[part]) > 12] for part in (1, 3)]
    if bool(late[0]) == bool(late[1]):
        got = f"{late[0][0]!r} and {late[1][0]!r}" if late[0] else f"{texts[0]!r}, whose day may be the month"
        raise ValueError(
            f"read: expected dates of one kind in {where}, got {one_line(got)}; name their format (--time-format), "
            f"{day_first} or {month_first}, or write them as in ISO 8601, 2013-05-01T06:00"
        )
    return day_first if late[0] else month_first


def is_date_only(time_format: str) -> bool:
    """Whether a format is one of dates only, which a time of day may follow."""
    return all(letter in _PARTS for mark, letter in pairwise(time_format) if mark == "%")


def as_iso(texts: NDArray[np.object_], time_format: str) -> NDArray[np.object_]:
    """Texts whose dates are of a format as in ISO 8601, what follows the date as it is; others become empty."""
    import pandas as pd

    parts = re.split(r"%(\w)", time_format)
    pattern = re.compile("".join(_PARTS[part] if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))
    matches = [pattern.match(text) for text in texts]
    dates = pd.to_datetime(
        pd.Index([match[0] if match else "" for match in matches]), format=time_format, errors="coerce"
    )
    days = dates.strftime("%Y-%m-%d")
    made = np.full(len(texts), "", dtype=object)
    for row, (text, match, day) in enumerate(zip(texts, matches, days, strict=True)):
        if match and isinstance(day, str):
            rest = text[match.end() :]
            begun = _HOUR.match(rest)
            made[row] = f"{day}T{'0' if begun[1] else ''}{begun[1] or ''}{rest[begun.end() :]}" if begun else day + rest
    return made
