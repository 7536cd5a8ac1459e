"""RIMs, section 4.4: RIMs in place of the LSTM of a policy that plays Atari games; an example, not the paper's table.

One file with all there is: games of ale-py, PPO of sb3-contrib, RIMs or an LSTM as its memory or none, and the score of
the last episodes during training. A game is seen as one small grey frame at a time, so that only a memory tells where
things move. Writes `results/atari.json` after every run, so that the command goes on where it was stopped, a picture,
and how much what a policy is made from varies before training. Needs the extra "atari", with the games in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from torch import Tensor, nn

from common import add, draw, read
from s2rm import RIMs
from s2rm.files import Row
from s2rm.policies import CorePolicy
from s2rm.report.figures import lines, png, side_by_side


class Normalised(nn.Module):
    """A core whose outputs are normalised by layer norm, since those of a new core are faint beside what it reads.

    Args:
        core: makes the core.
        input_size, hidden_size, layers: what it is made from.
    """

    def __init__(self, core: Callable[..., nn.Module], input_size: int, hidden_size: int, layers: int):
        super().__init__()
        self.core, self.norm = core(input_size, hidden_size, layers), nn.LayerNorm(hidden_size)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, layers  # sb3-contrib reads them

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:
        outputs, state = self.core(inputs, state)
        return self.norm(outputs), state


MODULES = {"num_modules": 6, "num_active": 4}
CORES: dict[str, Callable[..., nn.Module] | None] = {
    "RIMs": partial(RIMs, **MODULES, selection="across_modules"), "LSTM": nn.LSTM, "no memory": None,
    "RIMs, normalised": partial(Normalised, partial(RIMs, **MODULES)),
    "LSTM, normalised": partial(Normalised, nn.LSTM),
}  # fmt: skip
"""RIMs as in the authors' code for Atari, but with LSTM cells and fewer units; normalised, with the null row too"""


PLAYED = 300
"""actions at random in each game, over which it is measured how much varies in a policy that is not trained"""


@dataclass(frozen=True)
class Recipe:
    """What to train, and for how long."""

    games: tuple[str, ...] = ("boxing",)
    """as ale-py names them"""
    cores: tuple[str, ...] = tuple(CORES)
    """memories: RIMs, LSTM, the same with normalised outputs, no memory"""
    steps: int = 400_000
    """actions in training, over all games played side by side; each is held for four frames"""
    seeds: int = 1
    """of each memory"""
    hidden_size: int = 240
    """of the memory"""
    environments: int = 16
    """games played side by side"""
    between: int = 64
    """actions in each between updates, through which gradients flow"""
    side: int = 42
    """pixels of a frame, which is square"""
    out: Path = Path("results/atari.json")
    """the scores"""
    figures: Path = Path("docs/figures")
    """where the picture goes"""


class Games(VecEnv):
    """Games of ale-py side by side, played in its own threads, as Stable-Baselines3 expects them.

    Args:
        game: such as "pong".
        number: of games.
        side: pixels of a frame, which is square; observations are bytes of shape (1, side, side).
        seed: of the first game.
    """

    def __init__(self, game: str, number: int, side: int, seed: int):
        self.games = AtariVectorEnv(
            game, number, num_threads=1, img_height=side, img_width=side, stack_num=1, reward_clipping=False,
            autoreset_mode="SameStep",
        )  # fmt: skip
        self.first = seed
        super().__init__(number, spaces.Box(0, 255, (1, side, side), np.uint8), self.games.single_action_space)

    def reset(self) -> np.ndarray:
        return self.games.reset(seed=self.first)[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.games.send(actions)

    def step_wait(self) -> Any:
        seen, rewards, ended, cut, about = self.games.recv()
        over = ended | cut
        told: list[dict[str, Any]] = [{} for _ in over]
        for index in np.flatnonzero(over):
            told[index] = {"terminal_observation": about["final_obs"][index], "TimeLimit.truncated": bool(cut[index])}
        return seen, rewards.astype(np.float32), over, told

    def close(self) -> None:
        self.games.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.games, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class Progress(BaseCallback):
    """Notes the mean score of the last 100 episodes, by step, and says it, with the time that training still takes."""

    def __init__(self, steps: int, name: str):
        super().__init__()
        self.steps, self.name, self.scores, self.began = steps, name, dict[int, float](), time.monotonic()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        every, done, ended = self.steps // 25, self.num_timesteps, self.model.ep_info_buffer
        step = done // every * every
        if step and step not in self.scores and ended:
            self.scores[step] = float(np.mean([episode["r"] for episode in ended]))
            left = (time.monotonic() - self.began) / done * (self.steps - done) / 60
            about = f"{done:,} actions, mean score {self.scores[step]:.1f}, about {max(left, 0):.0f} minutes left"
            print(f"{self.name}: {about}", flush=True)


def main(recipe: Recipe) -> None:
    """Train what is missing."""
    for game in recipe.games:
        for seed in range(recipe.seeds):
            for name in (*recipe.cores, "random"):
                known = [row for row in read(recipe.out).get("rows", []) if "score" in row]
                if (game, name, seed) not in {(row["data"], row["predictor"], row["seed"]) for row in known}:
                    rows = _random(recipe, game, seed) if name == "random" else _trained(recipe, game, name, seed)
                    add(recipe.out, [], rows, steps=recipe.steps)
        known = {row["predictor"] for row in read(recipe.out)["rows"] if row["data"] == game and "spread" in row}
        spreads = [_untrained(recipe, game, name) for name in recipe.cores if name not in known]
        add(recipe.out, [], spreads, steps=recipe.steps)
    scored = [row for row in read(recipe.out)["rows"] if "score" in row]
    games = {game: [row for row in scored if row["data"] == game] for game in recipe.games}
    learned = side_by_side(games, lambda axes, rows: lines(axes, rows, "step", "score"), "score of 100 episodes",
                           xlabel="actions in training")  # fmt: skip
    draw(recipe.figures, atari=png(learned))


def _policy(recipe: Recipe, game: str, name: str, seed: int) -> BaseAlgorithm:
    """A new policy, with its games."""
    # Each pixel is normalised, since most of them never change and hide those that matter.
    env = VecNormalize(VecMonitor(Games(game, recipe.environments, recipe.side, 1000 * seed)))
    seeing = {"features_extractor_class": NatureCNN, "features_extractor_kwargs": {"normalized_image": True}}
    options: dict[str, Any] = {
        "learning_rate": lambda left: 5e-4 * max(left, 0.1), "n_steps": recipe.between, "n_epochs": 4, "ent_coef": 0.01,
        "batch_size": recipe.between * recipe.environments // 4, "clip_range": 0.1, "seed": seed,
    }  # fmt: skip
    torch.manual_seed(seed)
    core = CORES[name]
    if core is None:
        return PPO("CnnPolicy", env, policy_kwargs=seeing, **options)
    # The critic has no memory: if it shared the actor's, it would not train what both see with.
    memory = {"enable_critic_lstm": False, "lstm_hidden_size": recipe.hidden_size}
    return RecurrentPPO(CorePolicy, env, policy_kwargs={"core": core, **seeing, **memory}, **options)


def _trained(recipe: Recipe, game: str, name: str, seed: int) -> list[Row]:
    """Rows on the training of a policy."""
    progress, model = Progress(recipe.steps, f"{game}, {name}"), _policy(recipe, game, name, seed)
    model.learn(recipe.steps, progress)
    model.env.close()
    if not progress.scores:
        raise SystemExit(f"--steps {recipe.steps}: expected enough for an episode of {game} to end, got too few")
    size = sum(weight.numel() for weight in model.policy.parameters())
    about = {"minutes": (time.monotonic() - progress.began) / 60, "parameters": size}
    case = {"data": game, "predictor": name, "seed": seed}
    return [{**case, "step": step, "score": score, **about} for step, score in progress.scores.items()]


@torch.no_grad()
def _untrained(recipe: Recipe, game: str, name: str) -> Row:
    """The standard deviation, over frames of random play, of a number from which a new policy makes its actions."""
    model, drawn, made, state = _policy(recipe, game, name, 0), np.random.default_rng(0), list[Tensor](), None
    env, policy = model.env, model.policy
    seen = env.reset()
    for _ in range(PLAYED):
        outputs = policy.extract_features(torch.from_numpy(seen).float())
        if CORES[name] is not None:
            outputs, state = policy.lstm_actor(outputs[None], state)
        made.append(outputs.flatten(0, -2))
        seen, *_ = env.step(drawn.integers(env.action_space.n, size=env.num_envs))
    env.close()
    spread = float(torch.cat(made[PLAYED // 3 :]).std(0).mean())  # the running mean of the pixels is known by then
    return {"data": game, "predictor": name, "seed": 0, "spread": spread}


def _random(recipe: Recipe, game: str, seed: int) -> list[Row]:
    """The mean score of actions drawn at random, over 100 episodes, as a line over the steps."""
    number, drawn, ended = recipe.environments, np.random.default_rng(seed), list[float]()
    env = VecMonitor(Games(game, number, recipe.side, 1000 * seed))
    env.reset()
    while len(ended) < 100:
        *_, told = env.step(drawn.integers(env.action_space.n, size=number))
        ended += [one["episode"]["r"] for one in told if "episode" in one]
    env.close()
    row = {"data": game, "predictor": "random", "seed": seed, "score": float(np.mean(ended))}
    return [{**row, "step": step} for step in (0, recipe.steps)]


if __name__ == "__main__":
    main(tyro.cli(Recipe))
