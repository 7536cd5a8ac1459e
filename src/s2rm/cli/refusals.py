"""Values that the parser of the command line refuses, in one line like our own refusals instead of its frame."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterable

KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text", "PATH": "a path", "{None}": "None"}
SEVERAL = {"INT": "whole numbers", "FLOAT": "numbers", "STR": "texts", "PATH": "paths"}
FRAME = " ╭╮╰╯│"
_CHOICE = re.compile(
    r"invalid choice '(?P<got>.*)' for argument '(?P<option>.*)'\. Expected one of (?P<choices>\(.*\))"
)
_MISSING = re.compile(r"Missing value for argument '(?P<option>.*)'")
_VALUE = re.compile(
    r"Error parsing (?P<option>\S+): .*?(?P<got>\[.*\]|'[^']*'|\"[^\"]*\")\.?$(?:.|\n)*?"
    r"^Argument helptext:\n(?:--\S+ )?(?P<kind>\S.*)$",
    re.MULTILINE,
)


def refusal(said: str, command: str) -> str | None:
    """What the parser refused, in one line; None where it is no value, or said in words that are not known.

    Args:
        said: the frame that the parser printed, in a terminal so wide that no line of it is broken.
        command: whose options they are.
    """
    text = "\n".join(line.strip(FRAME) for line in said.splitlines())
    if found := _VALUE.search(text):
        got = literal_eval(found["got"])
        expected, given = _in_words(found["kind"]), repr(got if isinstance(got, str) else " ".join(got))
    elif found := _CHOICE.search(text):
        expected, given = f"one of {_listed(literal_eval(found['choices']))}", repr(found["got"])
    elif found := _MISSING.search(text):
        expected, given = "a value", "none"
    else:
        return None
    return f"{command}: expected {expected} for {found['option']}, got {given}; see s2rm {command} --help"


def _listed(choices: Iterable[str]) -> str:
    """Choices in an order that is always the same, None last."""
    return ", ".join(sorted(choices, key=lambda choice: (choice == "None", choice)))


def _in_words(kind: str) -> str:
    """What the parser expects, such as `{None}|INT` or `[FLOAT [FLOAT ...]]`, in words."""
    if several := re.fullmatch(r"\[(\w+) \[\1 \.\.\.\]\]", kind):
        return SEVERAL.get(several[1], kind)
    parts = [KINDS.get(part) or part.strip("{}").replace(",", ", ") for part in kind.split("|")]
    return " or ".join(sorted(parts, key="None".__eq__))
