"""Names and texts of the user's, written so that no output takes them for something else."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ARITHMETIC = re.compile(r"[-+\d.,eE \xa0]*")
"""negative numbers and coordinates, which a spreadsheet may compute"""


def one_line(text: str, length: int | None = None) -> str:
    """A text of any kind in one line of printable characters, cut at a length."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if length is None or len(line) <= length else line[: length - 3] + "..."


def for_figure(text: str) -> str:
    """A text as it is: matplotlib would typeset what stands between two dollar signs as a formula."""
    return one_line(text).replace("$", r"\$")


def for_csv(text: str) -> str:
    """A cell that a spreadsheet takes for no formula: an apostrophe before `=`, `+`, `-`, `@`, tab or return.

    Numbers and coordinates stay as they are.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _ARITHMETIC.fullmatch(text) else text


def for_netcdf(names: Iterable[str]) -> dict[str, str]:
    """The name of each variable or dimension in a NetCDF file: without slashes, control characters and blanks, which
    would part a list of coordinates, and no two alike."""
    names = list(dict.fromkeys(names))
    plain = {name: re.sub(r"[\s/]", "_", one_line(name)) or "_" for name in names}
    taken = {name for name in names if plain[name] == name}
    for name in names:
        if plain[name] != name:
            plain[name] = apart(plain[name], taken)
            taken.add(plain[name])
    return plain


def apart(name: str, taken: Iterable[str]) -> str:
    """A name with as many underscores after it as it takes to differ from those that are taken."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name
