"""Planning on `simple_spread` of mpe2: three agents are to cover three landmarks, without a collision.

A world model is trained on episodes of random actions, and the cross-entropy method plans in it; beside it random
actions, none at all, and a rule that knows the task: each agent goes to the landmark of the best assignment. Writes
`results/planning.json` and `docs/figures/planning.png`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from mpe2 import simple_spread_v3
from numpy.typing import NDArray
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student
from torch import Tensor

from common import draw, write
from s2rm.report.figures import COLOURS, figure, png
from s2rm.runs import Run, score
from s2rm.settings import Settings
from s2rm.tasks import agents, arrays
from s2rm.tasks.arrays.planning import Policy, Reward
from s2rm.tasks.arrays.rollouts import Ahead
from s2rm.tasks.arrays.world import tracked
from s2rm.training import Training

LANDMARKS = slice(4, 10)
"""of an observation: places as seen from the agent"""
STEPS, TOUCH, FIRST_TEST = 25, 0.3, 10_000
"""steps of an episode; distance at which two agents collide; seed of the first test episode"""
SHOWN, SHOWN_FROM = 4, 3
"""episodes in the picture, and the step from which the plan is that is shown"""


@dataclass(frozen=True)
class Planning:
    """How much to record, how long to train, how to plan, where to write."""

    recorded: int = 1000
    """episodes of random actions, each held for a few steps"""
    updates: int = 1000
    """of S2GRU, which corrects the best predictor without training"""
    episodes: int = 20
    """test episodes of each policy"""
    candidates: int = 64
    """plans that are drawn in each round"""
    steps: int = 6
    """how far a plan looks ahead"""
    runs: Path = Path("runs/planning")
    """where the world and the run are; a run that is finished is not trained again"""
    out: Path = Path("results/planning.json")
    """the rewards"""
    figures: Path = Path("docs/figures")
    """where the picture goes"""


def place(environment: Any, agent: str) -> NDArray[np.float64]:
    """The position of an agent."""
    found: NDArray[np.float64] = body(environment, agent).state.p_pos
    return found


def body(environment: Any, agent: str) -> Any:
    """An agent, as the environment knows it."""
    return next(each for each in environment.unwrapped.world.agents if each.name == agent)


def held(environment: Any, observations: Mapping[str, Any], generator: np.random.Generator) -> dict[str, object]:
    """Random actions, each held for four steps on average, so that fast agents are recorded too."""
    before = getattr(environment, "held", {})
    environment.held = {
        agent: before[agent] if agent in before and generator.random() < 0.75 else int(generator.integers(5))
        for agent in environment.agents
    }
    return environment.held


def velocity(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of an agent's observation, what the model sees: the rest follows from where agents and landmarks are."""
    return seen[:2]


def landmarks(environment: Any) -> NDArray[np.float64]:
    """The positions `(3, 2)` of the landmarks, which stay where they are."""
    return np.stack([each.state.p_pos for each in environment.unwrapped.world.landmarks])


def covering(places: NDArray[np.float64]) -> Reward:
    """The reward of a step, the mean over agents as in the environment, from where the agents are expected to be."""
    wanted = torch.from_numpy(places).float()

    def reward(expected: Ahead) -> Tensor:
        at = expected.positions
        distance = torch.cdist(wanted.expand(len(at), -1, -1), at).amin(2).sum(1)
        touching = (torch.cdist(at, at) < TOUCH).float().sum((1, 2)) - at.shape[1]  # all but each with itself
        return -(distance + touching / at.shape[1]) / 2

    return reward


def planning(planner: Callable[[Reward], arrays.Planner]) -> Policy:
    """Plans with the landmarks of the episode."""
    own: list[Policy] = []

    def act(environment: Any, observations: Mapping[str, Any], generator: np.random.Generator) -> dict[str, object]:
        own[:] = own or [planner(covering(landmarks(environment))).policy(place, velocity)]
        return own[0](environment, observations, generator)

    return act


def still(environment: Any, observations: Mapping[str, Any], generator: np.random.Generator) -> dict[str, object]:
    """No action."""
    return dict.fromkeys(environment.agents, 0)


def assigned(environment: Any, observations: Mapping[str, Any], generator: np.random.Generator) -> dict[str, object]:
    """Each agent goes to its landmark, by the assignment of the least sum of distances, and brakes before it."""
    places = np.stack([seen[LANDMARKS].reshape(3, 2) for seen in observations.values()])
    _, landmarks = linear_sum_assignment(np.linalg.norm(places, axis=-1))
    actions: dict[str, object] = {}
    for number, agent in enumerate(observations):
        to_go = places[number, landmarks[number]] - 0.4 * observations[agent][:2]  # it coasts for 0.4 of its velocity
        axis = int(np.abs(to_go).argmax())
        actions[agent] = 0 if abs(to_go[axis]) < 0.05 else 1 + 2 * axis + int(to_go[axis] > 0)
    return actions


Played = tuple[dict[str, NDArray[Any]], NDArray[np.float64]]
"""an episode, and the positions of its landmarks"""


def played(policy: Policy, seed: int, steps: int = STEPS + 1) -> Played:
    """One episode, and its landmarks; with one step more than it has, all of its rewards."""
    environment = simple_spread_v3.parallel_env(N=3)
    episode = agents.record(
        environment, place, policy, num_episodes=1, num_steps=steps, seed=seed, observation=velocity
    )
    return episode, landmarks(environment)


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """A mean with its 95 % interval, by Student's t."""
    mean, half = values.mean(), student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}


def imagined(planner: arrays.Planner, episode: Mapping[str, NDArray[Any]], seed: int) -> tuple[NDArray[Any], ...]:
    """The path of an episode up to a step, the one imagined from there on, and what comes of that plan in truth."""
    past = SHOWN_FROM + 1
    points, features, actions = (
        torch.from_numpy(episode[name][:, :past]) for name in ("points", "features", "actions")
    )
    mask = torch.ones(points.shape[:3], dtype=torch.bool)
    views, _ = tracked(planner.world, points, features, actions, mask, mask)
    plan = planner.plan(views, seed)
    script = [*actions[0, :SHOWN_FROM], *plan.actions, plan.actions[-1]]  # nothing that is seen follows from the last

    def replay(environment: Any, observations: Mapping[str, Any], generator: np.random.Generator) -> dict[str, object]:
        return dict(zip(environment.agents, script.pop(0).argmax(-1).tolist(), strict=True))

    real = played(replay, seed, past + planner.steps)[0]["points"][0]
    return real[:past], np.concatenate([real[past - 1 : past], plan.positions.numpy()]), real[past - 1 :]


def picture(planner: Callable[[Reward], arrays.Planner], episodes: list[Played]) -> bytes:
    """Imagined rollouts, broken, over what came of the same actions; the landmarks are crosses."""
    made, (panels,) = figure(1, len(episodes), 2.6 * len(episodes), 2.9)
    for number, (axes, (episode, places)) in enumerate(zip(panels, episodes, strict=True)):
        axes.plot(*places.T, "x", color="#4a4a4a", markersize=8)
        found = imagined(planner(covering(places)), episode, FIRST_TEST + number)
        paths = (np.swapaxes(path, 0, 1) for path in found)
        for agent, (past, ours, real) in enumerate(zip(*paths, strict=True)):
            axes.plot(*past.T, color="#b0b0b0", lw=1)
            axes.plot(*real.T, color=COLOURS[agent], lw=1.5)
            axes.plot(*ours.T, "o--", color=COLOURS[agent], lw=1, markersize=3.5, mfc="white")
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
        axes.set_title(f"test episode {number}", fontsize=9)
    return png(made)


def main(recipe: Planning) -> None:
    """Record, train, plan, score, draw."""
    path = recipe.runs / "spread.npz"
    if not path.is_file():
        environment = simple_spread_v3.parallel_env(N=3)
        found = agents.record(
            environment, place, held, num_episodes=recipe.recorded, num_steps=STEPS, seed=0, observation=velocity,
            progress=track,
        )  # fmt: skip
        arrays.write_world(path, found)
    world = arrays.open_world(path)
    training = Training(updates=recipe.updates, batch_size=16, learning_rate=2e-3, gradient_norm=1.0)
    run = Run.finished(recipe.runs / "s2gru", Settings(corrects=True, training=training), arrays.TASK.name, world)
    model = run.load_model()

    def planner(reward: Reward) -> arrays.Planner:
        return arrays.Planner(model, world, reward, steps=recipe.steps, candidates=recipe.candidates)

    policies = {"planned": lambda: planning(planner), "random": lambda: agents.random_actions,
                "still": lambda: still, "assigned": lambda: assigned}  # fmt: skip
    seeds = range(FIRST_TEST, FIRST_TEST + recipe.episodes)
    episodes = {
        name: [played(make(), seed) for seed in track(seeds, f"Playing, {name}")] for name, make in policies.items()
    }
    total = {name: np.array([each["rewards"].mean(-1).sum() for each, _ in some]) for name, some in episodes.items()}
    rows = [
        {"predictor": name, "episode": number, "reward": float(reward)}
        for name, rewards in total.items() for number, reward in enumerate(rewards)
    ]  # fmt: skip
    means = [
        {"predictor": name, **interval(rewards), "gain": interval(rewards - total["random"])}
        for name, rewards in total.items()
    ]
    ahead = [row for row in score([run])["rows"] if row["ahead"] in (1, recipe.steps)]
    write(
        recipe.out,
        [run.about()],
        rows,
        seed=0,
        means=means,
        ahead=ahead,
        recorded=recipe.recorded,
        steps=recipe.steps,
        candidates=recipe.candidates,
    )
    draw(recipe.figures, planning=picture(planner, episodes["planned"][:SHOWN]))


if __name__ == "__main__":
    main(tyro.cli(Planning))
