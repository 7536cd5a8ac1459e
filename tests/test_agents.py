"""Views from parallel environments: a hand-made one, MAgent2's battle, and MPE's worlds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s2rm import GQN, S2GRU
from s2rm.cli import main
from s2rm.runs import Run
from s2rm.settings import Core, Settings
from s2rm.tasks import arrays
from s2rm.tasks.agents import collect, record
from s2rm.views import Episode

NEEDS = 'needs pip install "s2rm[agents]"'


class Discrete:
    """As Gymnasium's, where it matters here."""

    def __init__(self, n, start=0):
        self.n, self.start, self.generator = n, start, np.random.default_rng(0)

    def seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def sample(self, mask=None):
        allowed = np.arange(self.n) if mask is None else np.nonzero(mask)[0]
        return np.int64(self.start + self.generator.choice(allowed))


class World:
    """Walkers on a line: at step t those of `present[t]` are there; an agent observes what `seen` says."""

    def __init__(self, present, seen=None, spaces=None):
        self.present, self.spaces = present, spaces or {}
        self.seen = seen or (lambda world, agent: np.array([world.x[agent], world.time], dtype=np.float64))

    def action_space(self, agent):
        return self.spaces.setdefault(agent, Discrete(3, start=-1))

    def reset(self, seed=None, options=None):
        self.time, self.moves = 0, []
        generator = np.random.default_rng(seed)
        self.x = {agent: generator.random() for agent in sorted({a for step in self.present for a in step})}
        return self._observe()

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.moves.append(actions)
        for agent, action in actions.items():
            self.x[agent] += action
        self.time += 1
        observations, infos = self._observe()
        return observations, {}, {}, {}, infos

    def _observe(self):
        # As in PettingZoo, `agents` is not there before the first reset, and who left observes once more.
        before = list(getattr(self, "agents", [])) if self.time else []
        self.agents = list(self.present[self.time]) if self.time < len(self.present) else []
        return {agent: self.seen(self, agent) for agent in {*self.agents, *before}}, {}


def place(world, agent):
    return world.x[agent], -world.time


def some(world, position=place, **arguments):
    return collect(world, position, **{"num_episodes": 2, "num_steps": 4, "seed": 0, **arguments})


def test_agents_enter_and_leave_and_keep_their_slots():
    world = World(["ab", "b", "bc", "bc", "c"])
    views = some(world, num_episodes=3, num_steps=7).views
    assert views.positions.shape == (3, 7, 3, 2)
    expected = ["110", "010", "011", "011", "001", "000", "000"]
    assert views.mask.int().tolist() == [[[int(flag) for flag in step] for step in expected]] * 3
    there = views.mask
    assert torch.equal(views.values[..., 0][there], views.positions[..., 0][there])
    steps = torch.arange(7.0)[:, None].expand(3, 7, 3)
    assert torch.equal(views.values[..., 1][there], steps[there])
    assert torch.equal(views.positions[..., 1][there], -steps[there])
    # Positions are those before the actions of a step: b's moves of the last episode.
    moves = [float(step["b"]) for step in world.moves if "b" in step]
    assert views.positions[2, 1:4, 1, 0].diff().tolist() == pytest.approx(moves[1:3], abs=1e-6)
    assert len(world.moves) == 5


def test_a_seed_gives_the_same_episodes_and_another_one_others():
    first, again, other = (some(World(["abc"] * 9), num_steps=9, seed=seed).views for seed in (1, 1, 2))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert not torch.equal(first.values[0], first.values[1])


def test_long_episodes_are_cut():
    world = World(["ab"] * 9)
    assert some(world).views.mask.all()
    assert len(world.moves) == 3


@pytest.mark.parametrize("shape", [(), (5,), (4, 7), (2, 4, 7)])
def test_actions_are_further_features_or_channels_of_the_views_and_not_of_the_targets(shape):
    chosen = {"a": -1, "b": 1}
    world = World(["ab", "b", "b"], seen=lambda world, agent: np.full(shape, world.x[agent]))
    episode = some(
        world, policy=lambda world, *_: {agent: chosen[agent] for agent in world.agents}, num_steps=3, with_actions=True
    )
    assert episode.targets.value_shape == shape
    channels = shape[0] if len(shape) in (1, 3) else 1
    image = shape[-2:] if len(shape) > 1 else ()
    assert episode.views.value_shape == (channels + 3, *image)
    seen = episode.views.values[..., :channels, :, :] if image else episode.views.values[..., :channels]
    assert torch.equal(seen.reshape_as(episode.targets.values), episode.targets.values)
    acts = episode.views.values[:, :, :, channels:]
    acts = acts.flatten(4).amax(-1) if image else acts
    assert acts[0, 0].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert acts[0, 2, 1].tolist() == [0.0, 0.0, 1.0]


def test_what_is_no_array_becomes_one_and_masked_actions_are_left_out():
    world = World(["ab"] * 6, seen=lambda world, agent: {
        "observation": [world.x[agent]], "action_mask": np.array([0, 1, 0], dtype=np.int8)
    })  # fmt: skip
    views = some(world, observation=lambda seen: np.array(seen["observation"]), num_steps=6).views
    assert views.value_shape == (1,)
    assert torch.equal(views.values[:, 0], views.values[:, 5])  # only 0, which is no move, was allowed


def ragged(world, agent):
    return np.zeros(3 if agent == "b" else 4)


@pytest.mark.parametrize(
    ("world", "arguments", "message"),
    [
        (World(["ab"] * 9), {"num_steps": 1}, "num_steps of at least 2, got 1"),
        (World(["ab"] * 9), {"num_steps": 10**9}, "at most 100,000,000 steps in all, got 2 x 1000000000"),
        (World(["ab"] * 9), {"num_episodes": 0}, "num_episodes of at least 1, got 0"),
        (World(["ab"]), {}, "agents at 2 steps or more, got 1 in episode 0"),
        (World([]), {}, "agents at 2 steps or more, got 0 in episode 0"),
        (World(["ab", "b", "ab"]), {}, "that left not to return, .* got 'a' back at step 2 of episode 0"),
        (
            World(["ab"] * 9),
            {"position": lambda world, agent: world.place},
            "position.*'a'. to return .* AttributeError",
        ),
        (World(["ab"] * 9), {"position": lambda world, agent: (0, float("nan"))}, r"finite .* got \[0.0, nan\]"),
        (World(["ab"] * 9), {"position": lambda world, agent: None}, "'a'. to return "),
        (World(["ab"] * 9), {"position": lambda world, agent: 3.0}, "to return finite .x, y, .*, got 3.0"),
        (
            World(["ab"] * 9),
            {"position": lambda world, agent: (0,) * (1 + (agent == "b"))},
            "1 coordinates, .* got 2 for",
        ),
        (World(["ab"] * 9, seen=ragged), {}, r"one shape, \(4,\) as of 'a', got \(3,\) of 'b'; pass `observation`"),
        (
            World(["ab"] * 9, seen=lambda world, agent: np.full(2, np.nan if agent == "b" and world.time == 2 else 0)),
            {},
            "numbers in the observation of 'b' at step 2 of episode 0, got only NaN",
        ),
        (World(["ab"] * 9, seen=lambda world, agent: {"x": 1}), {}, "'a' to observe an array of numbers, got dict"),
        (
            World(["ab"] * 9, spaces={"b": Discrete(5)}),
            {"with_actions": True},
            "expected 3 actions, as for the first agent, got 5 for 'b'",
        ),
        (
            World(["ab"] * 9, spaces={"a": SimpleNamespace(seed=lambda seed: None, sample=lambda: 0.5)}),
            {"with_actions": True},
            "expected Discrete or Box actions of real numbers, got .* for 'a'",
        ),
    ],
)
def test_what_cannot_be_views_is_refused(world, arguments, message):
    with pytest.raises(ValueError, match=message):
        some(world, **arguments)


def test_a_reset_without_infos_and_missing_observations_are_refused():
    world = World(["abc"] * 9)
    observe = world._observe
    world.reset = lambda seed: World.reset(world, seed)[0]
    with pytest.raises(ValueError, match=r"parallel: expected reset.. to return .observations, infos., got dict"):
        some(world)
    del world.reset
    world._observe = lambda: ({name: seen for name, seen in observe()[0].items() if name != "b" or world.time != 1}, {})
    with pytest.raises(ValueError, match="an observation of every agent, got none of 'b' at step 1 of episode 0"):
        some(world)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            [np.zeros(2), np.zeros(2)],
            r"reset.. to return .observations, infos., got list of ndarray",
        ),
        ((), "got tuple of nothing"),
        (np.zeros((2, 2)), "got ndarray"),
    ],
)
def test_a_reset_that_is_not_by_agent_is_refused(result, message):
    world = World(["ab"] * 9)
    world.reset = lambda seed: result
    with pytest.raises(ValueError, match=message):
        some(world)


def test_a_reset_without_a_seed_is_refused():
    world = World(["ab"] * 9)
    world.reset = lambda: World.reset(world)
    with pytest.raises(ValueError, match="expected reset.. to take a seed"):
        some(world)


@pytest.mark.parametrize(
    ("result", "got"), [({"a": 1}, "dict"), (([1], 0, 0, 0, 0), "tuple of 5 that begins with list"), ((), "of 0")]
)
def test_a_step_that_is_not_by_agent_is_refused(result, got):
    world = World(["ab"] * 9)
    world.step = lambda actions: result
    with pytest.raises(ValueError, match=f"expected step.. to return .*{got}.* at step 0 of episode 0"):
        some(world)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [(np.ma.array([1, 999], mask=[0, 1]), [1.0, np.nan]), (torch.ones(2, requires_grad=True), [1.0, 1.0])],
)
def test_masked_arrays_and_tensors_with_gradients_are_observed_for_what_they_are(seen, expected):
    views = some(World(["a"] * 4, seen=lambda world, agent: seen)).views
    np.testing.assert_array_equal(views.values[0, 0, 0], expected)


def test_agents_that_have_ended_but_are_listed_are_gone():
    world = World(["ab"] * 9)
    play = lambda actions: World.step(world, actions)  # noqa: E731
    ends = lambda: {"a": world.time >= 2, "b": world.time >= 3}  # noqa: E731
    world.step = lambda actions: (*play(actions)[:2], ends(), {}, {})
    mask = some(world).views.mask
    assert mask[0].tolist() == [[True, True], [True, True], [False, True], [False, False]]
    world.step = lambda actions: (*play(actions)[:2], ends(), {})  # one "dones", as in the older interface
    assert torch.equal(some(world).views.mask, mask)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda world, seen, generator: None, "actions by agent, got NoneType at step 0 of episode 0"),
        (lambda world, seen, generator: {"a": 0}, "an action for every agent, got none for 'b' at step 0"),
        (lambda world, seen, generator: {"a": 0, "b": "up"}, "of 'b' that is a whole number at step 0 .*, got 'up'"),
        (lambda world, seen, generator: {"a": 0, "b": 0.7}, "of 'b' that is a whole number at step 0 .*, got 0.7"),
        (lambda world, seen, generator: {"a": 0, "b": np.inf}, "of 'b' that is a whole number at step 0 .*, got inf"),
        (lambda world, seen, generator: {"a": 0, "b": 2}, "of 'b' from -1 to 1 at step 0 of episode 0, got 2"),
    ],
)
def test_policies_without_an_action_for_each_agent_are_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        some(World(["ab"] * 9), policy=policy, with_actions=True)


def test_infinite_observations_are_refused_by_agent_and_step():
    far = lambda world, agent: np.full(2, np.inf if agent == "b" and world.time == 1 else 0)  # noqa: E731
    with pytest.raises(ValueError, match="in the observation of 'b' at step 1 of episode 0, got infinity"):
        some(World(["ab"] * 9, seen=far))


def test_observations_made_equal_are_taken():
    some(World(["ab"] * 9, seen=ragged), observation=lambda seen: seen[:3])


def trained(model, episode):
    """Its loss before and after a few steps on the episode."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model.loss(episode)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def battle_position(environment, agent):
    """(x, y) in cells; the world numbers its agents over both armies."""
    world = environment.unwrapped
    number = world.possible_agents.index(agent)
    for army in world.handles:
        (found,) = (world.env.get_agent_id(army) == number).nonzero()
        if len(found):
            return world.env.get_pos(army)[found[0]]
    raise KeyError(agent)


def fight(environment, observations, generator):
    """Strike about when an enemy is next to one, else walk towards the other army."""
    actions = {}
    for agent in environment.agents:
        close = observations[agent][5:8, 5:8, 3].any()
        ahead = (7, 8) if agent.startswith("red") else (4, 5)
        actions[agent] = int(generator.integers(13, 21) if close else generator.choice(ahead))
    return actions


def test_a_battle_of_sixty_agents():
    battle_v4 = pytest.importorskip("magent2.environments.battle_v4", reason=NEEDS)
    environment = battle_v4.parallel_env(map_size=30, max_cycles=500)
    episode = collect(
        environment,
        battle_position,
        fight,
        num_episodes=2,
        num_steps=60,
        seed=0,
        observation=lambda seen: seen.transpose(2, 0, 1),
    )
    views = episode.views
    assert views.positions.shape == (2, 60, 60, 2)
    assert views.value_shape == (5, 13, 13)
    alive = views.mask
    assert alive[:, 0].all()
    assert (alive[:, -1].sum(-1) < 60).all()
    assert not (alive[:, 1:] & ~alive[:, :-1]).any()
    places = views.positions[alive]
    assert ((places >= 0) & (places < 30)).all()
    # No two stand in one cell, and everybody sees itself in the middle.
    cells = torch.where(alive, views.positions[..., 0] * 30 + views.positions[..., 1], -1 - torch.arange(60.0))
    assert (cells.sort(-1).values.diff(dim=-1) > 0).all()
    assert (views.values[:, :, :, 1, 6, 6][alive] == 1).all()
    # What one sees at an offset is where the others are.
    rows, columns = torch.meshgrid(torch.arange(13) - 6, torch.arange(13) - 6, indexing="ij")
    others = {tuple(place) for place in views.positions[0, 9][alive[0, 9]].long().tolist()}
    x, y = views.positions[0, 9, 0].long().tolist()
    crowd = (views.values[0, 9, 0, 1] + views.values[0, 9, 0, 3]) > 0
    for row, column in crowd.nonzero().tolist():
        assert (x + int(columns[row, column]), y + int(rows[row, column])) in others

    torch.manual_seed(0)
    model = S2GRU(value_shape=(5, 13, 13), num_coordinates=2, num_modules=3, hidden_size=16, shortest=30.0,
                  longest=3000.0, likelihood="gaussian", codec="mlp")  # fmt: skip
    before, after = trained(model, Episode(views.rows([1]).steps(30, 34)))
    assert after < before


def mpe_position(environment, agent):
    return next(body.state.p_pos for body in environment.unwrapped.world.agents if body.name == agent)


def test_mpe_with_actions():
    simple_spread_v3 = pytest.importorskip("mpe2.simple_spread_v3", reason=NEEDS)
    environment = simple_spread_v3.parallel_env(N=4, max_cycles=25)
    episode = collect(environment, mpe_position, num_episodes=3, num_steps=11, seed=0, with_actions=True)
    assert episode.targets.positions.shape == (3, 11, 4, 2)
    assert episode.views.mask.all()
    (features,) = episode.targets.value_shape
    assert episode.views.value_shape == (features + 5,)
    # An agent observes its velocity, then its position.
    torch.testing.assert_close(episode.targets.values[..., 2:4], episode.targets.positions)
    again = collect(environment, mpe_position, num_episodes=3, num_steps=11, seed=0, with_actions=True)
    assert torch.equal(episode.views.values, again.views.values)

    torch.manual_seed(0)
    model = GQN(value_shape=(features + 5,), target_shape=(features,), num_coordinates=2, core="lstm", shortest=4.0,
                longest=400.0, likelihood="gaussian")  # fmt: skip
    before, after = trained(model, episode)
    assert after < before


def test_mpe_agents_that_observe_unlike_things():
    simple_tag_v3 = pytest.importorskip("mpe2.simple_tag_v3", reason=NEEDS)
    environment = simple_tag_v3.parallel_env(max_cycles=25)
    with pytest.raises(ValueError, match=r"one shape, \(16,\) as of 'adversary_0', got \(14,\) of 'agent_0'"):
        some(environment, mpe_position)
    views = some(environment, mpe_position, observation=lambda seen: seen[:4], num_steps=40).views
    assert views.mask.all(-1).sum(1).tolist() == [25, 25]
    with pytest.raises(ValueError, match=r"like PettingZoo's ParallelEnv, got .*, whose agents take turns"):
        some(simple_tag_v3.env(max_cycles=25), mpe_position)


def test_environments_of_one_agent_are_refused():
    with pytest.raises(
        ValueError, match="like PettingZoo's ParallelEnv, got SimpleNamespace, without the method action_"
    ):
        some(SimpleNamespace(reset=len, step=len, action_space=Discrete(3)))


class Box(SimpleNamespace):
    """Continuous actions, as Gymnasium's, where it matters here."""

    def seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def sample(self, mask=None):
        return self.generator.random(self.shape).astype(np.float32)


class Rewarded(World):
    """An agent gets its move as a reward, and all end after the third step; actions are continuous."""

    def __init__(self, agents=2):
        assert agents == 2, "expected agents"
        super().__init__(["ab"] * 9, spaces={"a": Box(shape=(1,)), "b": Box(shape=(1,))})

    def step(self, actions):
        moves = {agent: float(action[0]) for agent, action in actions.items()}
        observations, *_, infos = super().step(moves)
        return observations, moves, dict.fromkeys(moves, self.time == 3), {}, infos


def moved(world, agent):
    return world.x[agent], 0.0


def test_rewards_ends_and_continuous_actions_are_kept():
    played = record(Rewarded(), moved, num_episodes=2, num_steps=5, seed=0)
    assert played["mask"].sum(1).tolist() == [[3, 3]] * 2
    assert played["actions"].shape == (2, 5, 2, 1)
    np.testing.assert_array_equal(played["rewards"], played["actions"][..., 0])
    assert (played["rewards"][:, :3] > 0).all()
    assert played["ends"].nonzero()[1].tolist() == [2] * 4
    np.testing.assert_allclose(np.diff(played["points"][:, :3, :, 0], axis=1), played["rewards"][:, :2], rtol=1e-5)
    np.testing.assert_array_equal(played["features"][..., 0], played["points"][..., 0])


def test_a_collected_world_is_trained_on_and_planned_in(tmp_path, capsys):
    out = tmp_path / "walkers.npz"
    command = ["collect", "test_agents:Rewarded", "--position", "test_agents:moved", "--episodes", "6", "--steps", "4"]
    main([*command, "--out", str(out)])
    assert "6 episodes of up to 4 steps and 2 agents" in capsys.readouterr().err
    world = arrays.open_world(out)
    assert (world.kind, world.value_shape, world.target_shape) == ("points", (5,), (4,))
    main(["train", str(out), "--epochs", "1", "--out", str(tmp_path / "run")])
    main(["evaluate", str(tmp_path / "run")])
    assert "S2GRU: " in capsys.readouterr().err
    for changed, message in (
        ({"--out": str(out)}, "exists already; choose another --out"),
        ({"--position": "nowhere"}, "--position must be MODULE:FUNCTION, got 'nowhere'"),
        ({"--position": "nowhere:at"}, "--position 'nowhere:at' is not there"),
        ({"--position": "test_agents:NEEDS"}, "must be a function, got str"),
        ({"--options": '{"speed": 1}'}, "cannot be made with --options"),
        ({"--options": "{"}, "cannot be made with --options"),
        ({"--options": '{"agents": -1}'}, "(AssertionError('expected agents"),
        ({"--position": "builtins:max"}, "to return finite"),
        ({"--out": "other.npy"}, "ends in .npz or .zarr, or a folder's without an ending, got other.npy"),
        ({"--episodes": "2"}, "expected at least 3 episodes, to train, validate and test, got 2"),
        ({"--policy": "test_agents:moved"}, "the environment or the policy failed (TypeError("),
    ):
        options = {"--position": "test_agents:moved", "--out": str(tmp_path / "other.npz"), **changed}
        with pytest.raises(SystemExit) as stopped:
            main([*command[:2], *(part for pair in options.items() for part in pair)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other.npz").exists()
    planner = arrays.Planner(
        Run.open(tmp_path / "run").load_model(), world, lambda expected: expected.positions[..., 0].sum(1), steps=2,
        candidates=8, elites=2, rounds=2,
    )  # fmt: skip
    policy = planner.policy(moved)
    controlled = record(Rewarded(), moved, policy, num_episodes=2, num_steps=4, seed=0)
    assert len(policy.seen) == 3, "each episode begins anew"
    with np.load(out) as recorded:
        actions = recorded["actions"][recorded["mask"]]
    there = controlled["actions"][controlled["mask"]]
    assert actions.min() <= there.min() < there.max() <= actions.max()
    with pytest.raises(ValueError, match="expected one episode of at most 4 steps, as recorded, got more"):
        record(Rewarded(), moved, policy.__call__, num_episodes=2, num_steps=4, seed=0)  # nothing begins it


def test_a_world_without_features_is_planned_in(tmp_path):
    played = record(Rewarded(), moved, num_episodes=6, num_steps=4, seed=0)
    world = arrays.write_world(tmp_path / "world.npz", {key: part for key, part in played.items() if key != "features"})
    model = Settings(core=Core(hidden_size=8, num_modules=2)).build(world).eval()
    planner = arrays.Planner(
        model, world, lambda expected: expected.positions[..., 0].sum(1), steps=2, candidates=6, elites=2
    )
    controlled = record(Rewarded(), moved, planner.policy(moved), num_episodes=1, num_steps=4, seed=0)
    assert controlled["actions"][controlled["mask"]].any()
