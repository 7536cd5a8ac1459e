"""Battles read from SMAC's messages of units: hand-made ones, and a small stand-in with SMAC's attributes."""

from math import hypot
from types import SimpleNamespace

import pytest
import torch

from s2rm.tasks.battles.starcraft2 import GAME_IDS, capability_config, collect, episode_config, heuristic
from s2rm.tasks.battles.trajectories import ACTIONS, UNIT_TYPES, team

OWN_IDS = {"colossus": 1970, "stalker": 1971, "zealot": 1972}
SCENARIOS = ("1c3s5z", "3s5z", "2s5z", "1s2z", "5s3z")


def message(unit_type, east, north, health=100.0, shield=30.0, cooldown=0.0, energy=0.0):
    """The game's message of a unit."""
    return SimpleNamespace(
        unit_type=unit_type,
        pos=SimpleNamespace(x=east, y=north),
        health=health,
        health_max=100.0,
        shield=shield,
        energy=energy,
        weapon_cooldown=cooldown,
    )


class CannotResetException(Exception):
    """As SMACv2 names it."""


class Game:
    """SMAC's `StarCraft2Env` with a game of its own: who attacks takes 50 points off its target, enemies fight back."""

    n_actions_no_attack, episode_limit = 6, 60

    def __init__(self, own="3s5z", other=None, own_ids=OWN_IDS, enemies_hit=50.0):
        self.teams, self.own_ids, self.enemies_hit = (team(own), team(other or own)), own_ids, enemies_hit
        self.n_agents, self.n_enemies = map(len, self.teams)
        self.agents, self.enemies, self.terrain_height = {}, {}, None
        self.stalker_id = self.zealot_id = self.colossus_id = self.marine_id = self.medivac_id = 0
        self.played, self.launched, self.ended = [], 0, 0

    def reset(self):
        self.launched += not self.ended
        self.steps = 0
        self.terrain_height = (torch.arange(11)[:, None] + 20 * torch.arange(7)).div(255).numpy()
        for name, number in self.own_ids.items():
            setattr(self, f"{name}_id", number)
        self.agents = {
            i: message(self.own_ids.get(name, GAME_IDS[name]), 4.0, 3.0 + i) for i, name in enumerate(self.teams[0])
        }
        self.enemies = {i: message(GAME_IDS[name], 15.0, 3.5 + i) for i, name in enumerate(self.teams[1])}
        return [None] * self.n_agents, None

    def get_avail_agent_actions(self, agent):
        unit = self.agents[agent]
        if unit.health <= 0:
            return [1] + [0] * (5 + self.n_enemies)
        near = [
            int(other.health > 0 and hypot(other.pos.x - unit.pos.x, other.pos.y - unit.pos.y) <= 6)
            for other in self.enemies.values()
        ]
        return [0, 1, 1, 1, 1, 1, *near]

    def step(self, actions):
        self.played.append(list(actions))
        assert all(self.get_avail_agent_actions(agent)[action] for agent, action in enumerate(actions))
        for agent, action in enumerate(actions):
            unit = self.agents[agent]
            if action >= 6:
                self.enemies[action - 6].health = max(0.0, self.enemies[action - 6].health - 50)
                unit.weapon_cooldown = 11.2
            elif action >= 2:
                east, north = ((0, 2), (0, -2), (2, 0), (-2, 0))[action - 2]
                # As the game does: a new message for the living, while SMAC writes into that of the dead.
                self.agents[agent] = message(unit.unit_type, unit.pos.x + east, unit.pos.y + north, unit.health)
        hurt = next((unit for unit in self.agents.values() if unit.health > 0), None)
        if hurt is not None:
            hurt.health = max(0.0, hurt.health - self.enemies_hit)
        alive = [any(unit.health > 0 for unit in side.values()) for side in (self.agents, self.enemies)]
        self.steps += 1
        ended = not all(alive) or self.steps >= self.episode_limit
        self.ended += ended
        return 0.0, ended, {"battle_won": alive[0]}


class Game2(Game):
    """SMACv2's, which takes teams."""

    failures = 0

    def reset(self, episode_config={}):  # noqa: B006, as SMACv2 has it
        if self.failures:
            self.failures -= 1
            raise CannotResetException
        super().reset()
        for side, key in ((self.agents, "ally"), (self.enemies, "enemy")):
            if "team_gen" in episode_config:
                names = episode_config["team_gen"][f"{key}_team"]
                starts = episode_config[f"{key}_start_positions"]["item"]
                for i, name in enumerate(names):
                    ids = self.own_ids if key == "ally" else GAME_IDS
                    side[i] = message(ids[name], *starts[i].tolist())


def test_messages_become_trajectories_in_the_units_of_the_game():
    game = Game("1c1s", "2z", enemies_hit=0.0)

    def wait(environment, generator):
        environment.agents[1].energy, environment.agents[1].weapon_cooldown = 7.0, 22.4
        environment.enemies[0].pos.x += 0.25
        return [1, 3]

    battles = collect(game, 1, 3, seed=0, policy=wait)
    assert battles.names == ("1c1s_vs_2z",)
    assert battles.positions[0, :, 0].tolist() == [[4.0, 3.0]] * 3
    assert battles.positions[0, :, 1].tolist() == [[4.0, 4.0], [4.0, 2.0], [4.0, 0.0]]
    assert battles.positions[0, :, 2].tolist() == [[15.0, 3.5], [15.25, 3.5], [15.5, 3.5]]
    assert battles.stats[0, 0].tolist() == [[100.0, 0.0, 0.0, 30.0]] * 4
    assert [UNIT_TYPES[i] for i in battles.types[0]] == ["colossus", "stalker", "zealot", "zealot"]
    assert battles.friendly.tolist() == [[True, True, False, False]]
    assert [ACTIONS[i] for i in battles.actions[0, 1]] == ["stop", "south", "unknown", "unknown"]
    assert battles.alive.all()
    assert battles.terrain.shape == (1, 7, 11)
    assert battles.terrain[0, 2, 5].item() == pytest.approx(45 / 255)


def test_cooldown_is_in_seconds():
    game = Game("1s", "1z", enemies_hit=0.0)
    assert collect(game, 1, 8, seed=0).stats[0, :, 0, 2].max().item() == pytest.approx(0.5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_battle_is_fought_to_its_end_and_then_nobody_is_there(scenario):
    battles = collect(Game(scenario), 2, 40, seed=3)
    units = 2 * len(team(scenario))
    assert battles.names == (scenario,)
    assert battles.alive.shape == (2, 40, units)
    alive = battles.alive
    assert alive[:, 0].all()
    assert not alive[:, -1].any()
    # Nobody comes back.
    assert not (alive[:, 1:] & ~alive[:, :-1]).any()
    assert (alive.any(2).sum(1) > 5).all()
    assert ((battles.actions == ACTIONS.index("no-op")) == ~alive).all()
    assert ((battles.actions == ACTIONS.index("unknown")) == (alive & ~battles.friendly[:, None])).all()
    for name in ("attack", "east"):
        assert (battles.actions == ACTIONS.index(name)).any()
    # The dead of a battle that goes on stay where they fell, and have no stats.
    assert not battles.stats[~alive].any()


def test_a_seed_gives_the_same_battles_and_another_one_others():
    first, again, other = (collect(Game("5s3z"), 2, 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.positions, other.positions)


def test_long_battles_are_cut_and_progress_is_shown():
    seen = []
    game = Game("2s5z")
    battles = collect(game, 3, 2, seed=0, progress=lambda numbers: (seen.append(n) or n for n in numbers))
    assert battles.alive.shape == (3, 2, 14)
    assert seen == [0, 1, 2]
    assert game.ended == 3
    # SMAC would launch another game at each reset before a first battle has ended.
    assert game.launched == 1


def test_the_heuristic_attacks_the_nearest_in_reach_and_walks_to_the_nearest_alive():
    game = Game("2s1z", "2z")
    game.reset()
    game.agents = {0: message(1971, 5, 5), 1: message(1971, 20, 5), 2: message(1972, 5, 5, health=0)}
    game.enemies = {0: message(73, 5, 10.5), 1: message(73, 7, 9)}
    generator = torch.Generator().manual_seed(0)
    assert heuristic(game, generator)[0] == 7  # 4.5 away, the other 5.5
    assert heuristic(game, generator)[2] == 0
    ways = {heuristic(game, generator)[1] for _ in range(50)}
    assert ways == {2, 5}  # north or west
    game.enemies[1].health = 0
    assert heuristic(game, generator)[0] == 6
    game.enemies[0].health = 0
    assert heuristic(game, generator) == [1, 1, 0]


def test_medivacs_heal_the_nearest_of_the_hurt():
    game = Game("2marine1medivac", "1z", own_ids={"marine": 1940, "medivac": 1941})
    game.reset()
    game.agents = {0: message(1940, 5, 5), 1: message(1940, 9, 5, health=30.0), 2: message(1941, 5, 6)}
    game.get_avail_agent_actions = lambda agent: [0, 1, 1, 1, 1, 1, 1, 1, 0]
    assert heuristic(game, torch.Generator())[2] == 7
    game.get_avail_agent_actions = lambda agent: [0, 1, 0, 0, 1, 1, 0, 0, 0]
    assert heuristic(game, torch.Generator())[2] == 4
    game.agents[1].health = 100.0
    assert heuristic(game, torch.Generator())[2] == 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_teams_for_smacv2(scenario):
    config = episode_config(scenario, torch.Generator().manual_seed(4))
    size = len(team(scenario))
    assert config["team_gen"]["ally_team"] == config["team_gen"]["enemy_team"] == team(scenario)
    own, other = (config[f"{side}_start_positions"]["item"] for side in ("ally", "enemy"))
    assert own.shape == other.shape == (size, 2)
    assert own.min() >= 2
    assert own.max() <= 30
    assert own[:, 0].max() <= 15
    assert other[:, 0].min() >= 17
    capability = capability_config(scenario)
    assert capability["team_gen"] == {"n_units": size, "n_enemies": size, "observe": True}
    assert "start_positions" in capability


@pytest.mark.parametrize("wrapped", [False, True])
def test_smacv2_plays_the_scenario_that_is_asked_for(wrapped):
    game = Game2("5s3z")
    game.failures = 2  # it does not always spawn the units at once
    environment = game
    if wrapped:

        class Wrapper:
            env = game

            def __getattr__(self, name):
                return getattr(game, name)

        environment = Wrapper()
    battles = collect(environment, 2, 30, seed=0, scenario="5s3z")
    assert battles.names == ("5s3z",)
    assert not torch.equal(battles.positions[0, 0], battles.positions[1, 0])
    game.failures = 3
    with pytest.raises(CannotResetException):
        collect(environment, 1, 3, seed=0, scenario="5s3z")


def test_scenarios_that_the_environment_cannot_play_are_refused():
    with pytest.raises(
        ValueError, match=r"8 agents and enemies for 5s3z, got 9 and 9; create it with capability_config"
    ):
        collect(Game2("1c3s5z"), 1, 5, seed=0, scenario="5s3z")
    with pytest.raises(ValueError, match=r"expected SMACv2, whose reset takes teams, for scenario 5s3z, got Game "):
        collect(Game("3s5z"), 1, 5, seed=0, scenario="5s3z")


@pytest.mark.parametrize("back", ["agents", "enemies"])
def test_units_that_come_back_from_the_dead_are_refused(back):
    game = Game("2s5z", enemies_hit=0.0)

    def revive(environment, generator):
        unit = getattr(environment, back)[3]
        unit.health = 0.0 if unit.health > 0 else 60.0
        return [int(unit.health > 0) for unit in environment.agents.values()]

    with pytest.raises(ValueError, match=r"expected dead units to stay dead, got 14 of 14 units alive at step 2 of"):
        collect(game, 1, 5, seed=0, policy=revive)


def test_a_game_that_stops_is_played_again_and_in_the_end_given_up():
    game, stops = Game("1s2z"), [2]
    step = game.step

    def stopping(actions):
        if stops[0]:
            stops[0] -= 1
            return 0, True, {}  # SMAC's answer when it has to start the game again
        return step(actions)

    game.step = stopping
    assert collect(game, 1, 10, seed=0).alive[0, 4].any()
    stops[0] = 100
    with pytest.raises(ValueError, match="battle 0 to be played to its end, got a game that stopped 3 times"):
        collect(game, 1, 10, seed=0)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: Game("3s5z"), {"num_steps": 1}, "num_steps of at least 2, got 1"),
        (lambda: Game("3s5z"), {"num_battles": 0}, "num_battles of at least 1, got 0"),
        (
            lambda: Game("3s5z"),
            {"policy": lambda environment, generator: [1]},
            "expected 8 actions of the policy, got 1; return one",
        ),
        (
            lambda: SimpleNamespace(reset=None, step=None, agents=["a"]),
            {},
            "an SMAC or SMACv2 environment, got SimpleNamespace without get_avail_agent_actions, enemies, ",
        ),
        (
            lambda: Game("3s5z", enemies_hit=0.0),
            {"policy": lambda game, _: [setattr(unit, "unit_type", 98) or 1 for unit in game.agents.values()]},
            "expected units among colossus, .* got unit type 98",
        ),
        (
            lambda: Game("3s5z"),
            {"policy": lambda game, _: [vars(unit).pop("shield") and 1 for unit in game.agents.values()]},
            "messages of units, got one that is incomplete .*shield",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        collect(make(), **{"num_battles": 1, "num_steps": 4, "seed": 0, **arguments})
