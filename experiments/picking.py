"""RIMs, section 4.3 and Figure 4: pick up one object among others, then among others of kinds that are new.

One file with all there is: an environment on minigrid's BabyAI, PPO of sb3-contrib, RIMs or an LSTM as its memory, and
the share of episodes in which the object is picked up in time. Writes `results/picking.json` after every run, so that
the command goes on where it was stopped. Needs the extra "policies".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import ObjDesc, PickupInstr
from minigrid.wrappers import ImgObsWrapper, OneHotPartialObsWrapper
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from common import add, read
from s2rm import RelationalMemory, RIMs
from s2rm.files import Row
from s2rm.policies import CorePolicy

CORES: dict[str, Callable[..., nn.Module]] = {
    "RIMs": RIMs, "RMC": partial(RelationalMemory, num_slots=4, num_heads=3), "LSTM": nn.LSTM,
}  # fmt: skip
TARGET = ("key", "red")
KNOWN = (("ball", "blue"), ("ball", "green"), ("box", "grey"))
NEW = (("ball", "purple"), ("box", "yellow"), ("box", "blue"))
"""kinds of distractors: of training, and of the test"""


class Picking(RoomGridLevel):
    """A room with a red key, which is to be picked up, and distractors.

    Args:
        kinds: of which distractors are drawn.
        distractors: their number.
        room: side of the room, with its walls.
    """

    def __init__(self, kinds: tuple[tuple[str, str], ...] = KNOWN, distractors: int = 2, room: int = 6):
        self.kinds, self.distractors = kinds, distractors
        super().__init__(num_rows=1, num_cols=1, room_size=room, max_steps=64)

    def gen_mission(self) -> None:
        self.place_agent()
        self.add_object(0, 0, *TARGET)
        for _ in range(self.distractors):
            self.add_object(0, 0, *self.kinds[self._rand_int(0, len(self.kinds))])
        self.check_objs_reachable()
        self.instrs = PickupInstr(ObjDesc(*TARGET))


@dataclass(frozen=True)
class Recipe:
    """What to train, and for how long."""

    cores: tuple[str, ...] = ("RIMs", "LSTM")
    """memories: RIMs, RMC, LSTM"""
    frames: int = 300_000
    """steps of the environment in training, over all environments"""
    seeds: int = 5
    """of each memory"""
    hidden_size: int = 120
    """of the memory"""
    environments: int = 8
    """played side by side"""
    steps: int = 128
    """of each environment between updates"""
    distractors: int = 2
    """in training"""
    tested: tuple[int, ...] = (0, 2, 4)
    """numbers of distractors in the test"""
    episodes: int = 200
    """of each test"""
    out: Path = Path("results/picking.json")
    """the scores"""


def environments(number: int, **options: Any) -> DummyVecEnv:
    """Environments side by side; an observation has 20 one-hot channels of each of 7 x 7 cells before the agent."""

    def make() -> gymnasium.Env:
        return ImgObsWrapper(OneHotPartialObsWrapper(Picking(**options)))

    return DummyVecEnv([make] * number)


def success(act: Callable[..., Any], episodes: int, seed: int, **options: Any) -> float:
    """The share of episodes that end with the object picked up."""
    env = environments(8, **options)
    env.seed(seed)
    seen, state, starts, ends = env.reset(), None, np.ones(8, bool), []
    while len(ends) < episodes:
        actions, state = act(seen, state, starts)
        seen, rewards, starts, _ = env.step(actions)
        ends += (rewards[starts] > 0).tolist()
    return float(np.mean(ends[:episodes]))


def main(recipe: Recipe) -> None:
    """Train and score what is missing."""
    for seed in range(recipe.seeds):
        for name in (*recipe.cores, "random"):
            if (name, seed) in {(row["predictor"], row["seed"]) for row in read(recipe.out).get("rows", [])}:
                continue
            torch.manual_seed(seed)
            act, about = _random(seed), {}
            if name != "random":
                act, about = _trained(recipe, name, seed)
            rows: list[Row] = []
            for kinds, which in ((KNOWN, "as in training"), (NEW, "new")):
                for number in recipe.tested:
                    share = success(act, recipe.episodes, 10_000 + seed, kinds=kinds, distractors=number)
                    case = {"predictor": name, "seed": seed, "size": number, "data": which}
                    rows.append({**case, "success": share, **about})
            add(recipe.out, [], rows, frames=recipe.frames)


def _trained(recipe: Recipe, name: str, seed: int) -> tuple[Callable[..., Any], Row]:
    began, options = time.monotonic(), {"core": CORES[name], "lstm_hidden_size": recipe.hidden_size}
    model = RecurrentPPO(
        CorePolicy, environments(recipe.environments, distractors=recipe.distractors), learning_rate=7e-4,
        n_steps=recipe.steps, batch_size=recipe.steps * recipe.environments // 4, n_epochs=4, ent_coef=0.01,
        policy_kwargs=options, seed=seed,
    )  # fmt: skip
    model.learn(recipe.frames)
    size = sum(weight.numel() for weight in model.policy.parameters())
    return model.predict, {"minutes": (time.monotonic() - began) / 60, "parameters": size}


def _random(seed: int) -> Callable[..., Any]:
    drawn = np.random.default_rng(seed)
    return lambda seen, state, starts: (drawn.integers(7, size=len(seen)), state)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
