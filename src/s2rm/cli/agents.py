"""The work of `s2rm collect`: episodes of agents, played and written to a file, which is a world."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from rich.progress import Progress

from s2rm.cli.commands import Collect
from s2rm.cli.terminal import console, say
from s2rm.tasks.agents import random_actions, record
from s2rm.tasks.arrays import write_world
from s2rm.tasks.arrays.files import check_path


def collect(command: Collect) -> None:
    """Play episodes and write them."""
    if command.out.exists():
        raise ValueError(f"collect: {command.out} exists already; choose another --out")
    check_path(command.out)
    if command.episodes < 3:
        raise ValueError(
            f"collect: expected at least 3 episodes, to train, validate and test, got {command.episodes}; increase it"
        )
    position = named(command.position, "--position")
    policy = random_actions if command.policy is None else named(command.policy, "--policy")
    observation = None if command.observation is None else named(command.observation, "--observation")
    try:
        options = json.loads(command.options)
        environment = named(command.environment, "the environment")(**options)
    except ImportError:
        raise
    except Exception as error:  # PettingZoo's environments assert
        if str(error).startswith("collect: "):
            raise
        raise ValueError(
            f"collect: {command.environment} cannot be made with --options {command.options} ({error!r}); give a JSON "
            "object of its arguments"
        ) from error

    try:
        with Progress(console=console) as shown:  # which ends before an error is printed

            def bar(numbers: Iterable[Any]) -> Iterable[Any]:
                return shown.track(list(numbers), description="Collecting")

            arrays = record(
                environment, position, policy, num_episodes=command.episodes, num_steps=command.steps,
                seed=command.seed, observation=observation, progress=bar,
            )  # fmt: skip
    except (ValueError, ImportError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"collect: the environment or the policy failed ({error!r}); fix it") from error
    world = write_world(command.out, arrays)
    episodes, steps, agents = arrays["mask"].shape
    found = f"{episodes:,} episodes of up to {steps} steps and {agents} agents"
    say(f"{command.out}: {found}; best simple predictor one step ahead, on the training part: {world.guess}")


def named(path: str, what: str) -> Callable[..., Any]:
    """The function of a path `module:name`; modules are looked for in the current folder too.

    Raises:
        ValueError: no such module or function.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"collect: {what} must be MODULE:FUNCTION, got {path!r}; name a function of a module")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(f"collect: {what} {path!r} is not there ({error}); check the name, or install it") from error
    except AttributeError as error:
        raise ValueError(f"collect: {what}: module {module} has no function {name}; check the name") from error
    if not callable(found):
        raise ValueError(f"collect: {what} {path!r} must be a function, got {type(found).__name__}; name a function")
    return found
