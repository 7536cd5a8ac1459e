"""RIMs, section 4.3 and Figure 4: pick up one object among others, then among others of kinds that are new.

One file with all there is: an environment on minigrid's BabyAI, PPO of sb3-contrib, RIMs or an LSTM as its memory or
none, and the share of episodes in which the object is picked up in time. Writes `results/picking.json` after every run,
so that the command goes on where it was stopped, and a picture. Needs the extra "policies".

Observations are normalised over all that were seen: one-hot cells that hardly ever change are otherwise so faint beside
those that always are there that the memory learns next to nothing.
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
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch import nn

from common import add, draw, read
from s2rm import RelationalMemory, RIMs
from s2rm.files import Row
from s2rm.policies import CorePolicy
from s2rm.report.figures import lines, png, side_by_side

CORES: dict[str, Callable[..., nn.Module] | None] = {
    "RIMs": RIMs, "RMC": partial(RelationalMemory, num_slots=4, num_heads=3), "LSTM": nn.LSTM, "no memory": None,
}  # fmt: skip
CORES |= {f"{name}, not normalised": core for name, core in CORES.items()}
TARGET = ("key", "red")
KNOWN = (("ball", "blue"), ("ball", "green"), ("box", "grey"))
NEW = (("ball", "purple"), ("box", "yellow"), ("box", "blue"))
"""kinds of distractors: of training, and of the test"""
DURING = "during training"
"""the data of rows on the training itself"""


class Picking(RoomGridLevel):
    """A room with a red key, which is to be picked up, and distractors.

    Args:
        kinds: of which distractors are drawn.
        distractors: their number.
        room: side of the room, with its walls.
    """

    def __init__(self, kinds: tuple[tuple[str, str], ...] = KNOWN, distractors: int = 2, room: int = 8):
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

    cores: tuple[str, ...] = ("RIMs", "LSTM", "no memory", "LSTM, not normalised")
    """memories: RIMs, RMC, LSTM, no memory; followed by ", not normalised" for observations as they are"""
    frames: int = 300_000
    """steps of the environment in training, over all environments"""
    seeds: int = 5
    """of each memory"""
    hidden_size: int = 120
    """of the memory"""
    environments: int = 128
    """played side by side"""
    steps: int = 8
    """of each environment between updates, through which gradients flow"""
    distractors: int = 4
    """in training"""
    tested: tuple[int, ...] = (0, 2, 4, 8)
    """numbers of distractors in the test"""
    episodes: int = 200
    """of each test"""
    out: Path = Path("results/picking.json")
    """the scores"""
    figures: Path = Path("docs/figures")
    """where the picture goes"""


class Progress(BaseCallback):
    """Notes the share of the last 100 episodes that ended with the object picked up, by step of the environment."""

    def __init__(self, every: int):
        super().__init__()
        self.every, self.found = every, dict[int, float]()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        step = self.num_timesteps // self.every * self.every
        ended = self.model.ep_info_buffer
        if step and step not in self.found and ended:
            self.found[step] = float(np.mean([episode["r"] > 0 for episode in ended]))


def environments(number: int, **options: Any) -> DummyVecEnv:
    """Environments side by side; an observation has 20 one-hot channels of each of 7 x 7 cells before the agent."""

    def make() -> gymnasium.Env:
        return ImgObsWrapper(OneHotPartialObsWrapper(Picking(**options)))

    return DummyVecEnv([make] * number)


def success(act: Callable[..., Any], episodes: int, seed: int, **options: Any) -> float:
    """The share of episodes that end with the object picked up. Each environment contributes equally: the first
    episodes to end would contain too many successes."""
    env, each = environments(8, **options), -(-episodes // 8)
    env.seed(seed)
    seen, state, starts = env.reset(), None, np.ones(8, bool)
    ends: list[list[bool]] = [[] for _ in starts]
    while min(map(len, ends)) < each:
        actions, state = act(seen, state, starts)
        seen, rewards, starts, _ = env.step(actions)
        for number in np.flatnonzero(starts):
            ends[number].append(rewards[number] > 0)
    return float(np.mean([found[:each] for found in ends]))


def main(recipe: Recipe) -> None:
    """Train and score what is missing."""
    for seed in range(recipe.seeds):
        for name in (*recipe.cores, "random"):
            if (name, seed) in {(row["predictor"], row["seed"]) for row in read(recipe.out).get("rows", [])}:
                continue
            torch.manual_seed(seed)
            act, rows = _random(seed), list[Row]()
            if name != "random":
                act, rows = _trained(recipe, name, seed)
            for kinds, which in ((KNOWN, "as in training"), (NEW, "new")):
                for number in recipe.tested:
                    share = success(act, recipe.episodes, 10_000 + seed, kinds=kinds, distractors=number)
                    case = {"predictor": name, "seed": seed, "size": number, "data": which}
                    rows.append({**case, "success": share})
            add(recipe.out, [], rows, frames=recipe.frames, distractors=recipe.distractors)
    curves = [row for row in read(recipe.out)["rows"] if row["data"] == DURING]
    learned = side_by_side({"": curves}, lambda axes, rows: lines(axes, rows, "step", "success"), "success",
                           xlabel="steps of the environment in training", ylim=(0, 1))  # fmt: skip
    draw(recipe.figures, picking=png(learned))


def _trained(recipe: Recipe, name: str, seed: int) -> tuple[Callable[..., Any], list[Row]]:
    """How a trained policy acts, and rows on its training."""
    began, progress = time.monotonic(), Progress(max(recipe.frames // 25, 1))
    env = VecMonitor(environments(recipe.environments, distractors=recipe.distractors))
    env = VecNormalize(env, norm_obs="not normalised" not in name, norm_reward=False)
    options: dict[str, Any] = {
        "learning_rate": 1e-3, "n_steps": recipe.steps, "batch_size": recipe.steps * recipe.environments // 4,
        "n_epochs": 4, "ent_coef": 0.01, "seed": seed,
    }  # fmt: skip
    model: BaseAlgorithm
    if CORES[name] is None:
        model = PPO("MlpPolicy", env, **options)
    else:
        # Actor and critic share the memory, which takes half of the time.
        memory = {"shared_lstm": True, "enable_critic_lstm": False, "lstm_hidden_size": recipe.hidden_size}
        model = RecurrentPPO(CorePolicy, env, policy_kwargs={"core": CORES[name], **memory}, **options)
    model.learn(recipe.frames, progress)
    size = sum(weight.numel() for weight in model.policy.parameters())
    about = {"minutes": (time.monotonic() - began) / 60, "parameters": size}
    env.training = False  # the test uses the means and spreads of training

    def act(seen: np.ndarray, state: Any, starts: np.ndarray) -> Any:
        return model.predict(env.normalize_obs(seen), state, starts)

    case = {"predictor": name, "seed": seed, "size": recipe.distractors, "data": DURING}
    return act, [{**case, "step": step, "success": share, **about} for step, share in progress.found.items()]


def _random(seed: int) -> Callable[..., Any]:
    drawn = np.random.default_rng(seed)
    return lambda seen, state, starts: (drawn.integers(7, size=len(seen)), state)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
