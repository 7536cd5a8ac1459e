"""The command line: `s2rm demo`, `train`, `collect`, `evaluate`, `rollout`, `report`, `export`, `explore`, `fit`,
`forecast`, `next-sensor`, `pack`."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import tyro

from s2rm.cli import commands
from s2rm.cli.refusals import refusal
from s2rm.cli.terminal import console
from s2rm.names import one_line

COMMANDS: dict[str, Callable[..., object]] = {
    "demo": commands.Demo,
    "train": commands.Train,
    "collect": commands.Collect,
    "evaluate": commands.Evaluate,
    "rollout": commands.Rollout,
    "report": commands.Report,
    "export": commands.Export,
    "explore": commands.Explore,
    "fit": commands.FitTable,
    "forecast": commands.Forecast,
    "next-sensor": commands.NextSensor,
    "pack": commands.Pack,
}
WORK = {name: ("s2rm.cli.runs", name) for name in COMMANDS} | {
    "collect": ("s2rm.cli.agents", "collect"),
    "explore": ("s2rm.cli.explorer", "explore"),
    "fit": ("s2rm.cli.sensors", "fit_table"),
    "forecast": ("s2rm.cli.sensors", "forecast"),
    "next-sensor": ("s2rm.cli.forecasters", "place"),
    "pack": ("s2rm.cli.sensors", "pack_tables"),
}
"""the module and function that do the work, imported when they are needed: they load PyTorch and Lightning"""
OURS = re.compile(r"\w+: ")
"""what each of our errors begins with: the command, or the record of options"""
WIDE = 100_000
"""characters of a terminal in which tyro breaks no line"""
KEPT = {"--resume", "--updates", "--epochs", "--minutes", "--devices", "--num-nodes", "--strategy"}
"""the options that may stand beside --resume"""


def quiet() -> None:
    """Keep Lightning from introducing itself. It sets its own levels when it is imported, so that comes first."""
    import lightning.pytorch  # noqa: F401

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _refuse_settings(given: Sequence[str]) -> None:
    """Refuse what a run that is resumed would ignore, even where it is the default."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in given if argument.startswith("--")]
    # A positional follows neither an option nor its name: each option in KEPT takes one value.
    names += [
        argument
        for before, argument in pairwise(given)
        if not argument.startswith("--") and (not before.startswith("--") or "=" in before)
    ]
    if ignored := [name for name in names if name not in KEPT]:
        allowed = ", ".join(sorted(KEPT - {"--resume"}))
        raise ValueError(
            f"train: --resume keeps the run's settings; only {allowed} may be given, got {', '.join(ignored)}; leave "
            "it out, or train again in another folder"
        )


def _kept(given: list[str]) -> object:
    """The fit that goes on, with the settings that it has; and the arguments of one from a forecaster, or to a store,
    as `given`."""
    for name in ("--from", "--resume"):
        for at, argument in enumerate(given):
            if argument.startswith(f"{name}="):
                given[at : at + 1] = [name, argument.removeprefix(f"{name}=")]
    stores = [argument for argument in given[1:2] if (Path(argument) / "store.json").is_file()]
    if given[:1] != ["fit"] or not {"--resume", "--from", *stores} & {*given} or {"-h", "--help"} & {*given}:
        return None
    from s2rm.cli import forecasters

    if "--resume" not in given:
        given[:] = forecasters.with_columns(given) if "--from" in given else forecasters.of_store(given)
        return None
    if len(given) != 3 or given[1] != "--resume":
        raise ValueError("fit: --resume RUN takes the settings of the fit in RUN and nothing else; leave all else out")
    return forecasters.going_on(Path(given[2]))


def _parsed(given: Sequence[str]) -> object:
    """The command with its options. A value that is refused, by a record of options or by tyro, is raised; tyro would
    frame it."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command = _read(given)
    except SystemExit as ended:
        if not ended.code:  # help was shown
            raise
        cause: BaseException | None = ended
        while cause is not None and not (isinstance(cause, ValueError) and OURS.match(str(cause))):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        if line := _refused_value(given):
            raise ValueError(line) from None
        _read(given)  # in the words of tyro, which ends it
        raise
    sys.stderr.write(said.getvalue())
    return command


def _refused_value(given: Sequence[str]) -> str | None:
    """The line that says which value tyro refused; None where it is something else."""
    said, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDE)
    try:
        with redirect_stderr(said), suppress(SystemExit):
            _read(given)
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    return refusal(said.getvalue(), next((name for name in given if name in COMMANDS), ""))


def _read(given: Sequence[str]) -> object:
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="s2rm",
        description="Spatially structured recurrent modules: world models for partially observed worlds.",
        args=given,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    said: set[str] = set()

    def once(message: Warning | str, *_: object, **__: object) -> str:
        """A warning as one line, without the line of code that caused it; nothing where it was said before."""
        line = f"s2rm: {one_line(str(message))}\n"
        new = line not in said
        said.add(line)
        return line if new else ""

    warnings.formatwarning = once  # type: ignore[assignment]
    try:
        command = _kept(given) or _parsed(given)
        if isinstance(command, commands.Train) and command.resume is not None:
            _refuse_settings(given)
        if isinstance(command, commands.Train):
            command.check()
        module, work = next(WORK[name] for name, kind in COMMANDS.items() if type(command) is kind)
        getattr(import_module(module), work)(command)
    except (ValueError, ImportError, OSError) as error:
        console.print(f"s2rm: {one_line(str(error))}", style="red", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        # Processes that trained beside the first one leave quietly.
        from lightning.pytorch.utilities import rank_zero_only

        trains = given[:1] in (["train"], ["fit"])
        goes_on = ", resume training with --resume" if trains else ""
        rank_zero_only(console.print)(f"s2rm: stopped; saved files are kept{goes_on}")
        sys.exit(130)
