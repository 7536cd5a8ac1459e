"""Cores as the memory of sb3-contrib's recurrent PPO."""

import doctest
from functools import partial

import pytest
import torch
from torch import nn

from s2rm import RelationalMemory, RIMs

pytest.importorskip("sb3_contrib", reason='needs pip install ".[policies]"')
from sb3_contrib import RecurrentPPO

from s2rm import policies
from s2rm.policies import CorePolicy


def trained(core, **options):
    """A policy on a cart with a pole, after two updates."""
    kwargs = {"core": core, "lstm_hidden_size": 24, **options}
    model = RecurrentPPO(CorePolicy, "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, policy_kwargs=kwargs, seed=0)
    before = [weight.clone() for weight in model.policy.lstm_actor.parameters()]
    return model.learn(32), before


@pytest.mark.parametrize("core", [RIMs, partial(RelationalMemory, num_slots=2, num_heads=3), nn.LSTM])
def test_a_core_learns_in_the_place_of_the_lstm(core, tmp_path):
    model, before = trained(core)
    actor, critic = model.policy.lstm_actor, model.policy.lstm_critic
    assert type(actor) is type(critic) is getattr(core, "func", core)
    assert actor is not critic
    known = {id(weight) for group in model.policy.optimizer.param_groups for weight in group["params"]}
    assert {id(weight) for weight in model.policy.parameters()} == known
    changed = [not torch.equal(*pair) for pair in zip(before, actor.parameters(), strict=True)]
    assert all(changed)
    model.save(tmp_path / "policy.zip")
    again = RecurrentPPO.load(tmp_path / "policy.zip")
    seen = model.get_env().reset()
    for one, other in zip(*(each.predict(seen, deterministic=True)[1] for each in (model, again)), strict=True):
        assert (one == other).all()


def test_an_episode_that_starts_forgets_the_one_before():
    model, _ = trained(RIMs, shared_lstm=True, enable_critic_lstm=False)
    policy = model.policy
    assert policy.lstm_critic is None
    features, states = torch.randn(6, 4), tuple(torch.randn(1, 1, 24) for _ in range(2))
    starts = torch.tensor([0.0, 0, 0, 1, 0, 0])
    outputs, last = policy._process_sequence(features, states, starts, policy.lstm_actor)
    first, _ = policy.lstm_actor(features[:3, None], states)
    second, expected = policy.lstm_actor(features[3:, None])
    torch.testing.assert_close(outputs, torch.cat([first, second])[:, 0])
    torch.testing.assert_close(last, expected)


def test_a_core_without_a_memory_cell_is_refused():
    with pytest.raises(ValueError, match=r"expected a core with a state \(h, c\)"):
        trained(partial(RIMs, cell="gru"))


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (partial(RIMs, batch_first=True), r"got \(\(2, 3, 24\), \(1, 2, 24\)"),
        (partial(RIMs, bidirectional=True), "time first and in one direction"),
        (lambda size, hidden, layers: RIMs(size, 12), "expected a core with outputs and states"),
        (lambda size, hidden, layers: RIMs(size, hidden, 2, dropout=0.5), "expected a core without dropout"),
    ],
)
def test_a_core_that_does_not_fit_is_refused(core, message):
    with pytest.raises(ValueError, match=f"CorePolicy: .*{message}"):
        trained(core, n_lstm_layers=2 if "dropout" in message else 1)


def test_options_of_the_lstm_are_refused_and_a_policy_comes_back(tmp_path):
    with pytest.raises(ValueError, match="expected no lstm_kwargs, got {'dropout': 0.5}; give core=partial"):
        trained(RIMs, lstm_kwargs={"dropout": 0.5})
    policy = trained(partial(RIMs, num_modules=4, num_active=2), enable_critic_lstm=False)[0].policy
    policy.save(tmp_path / "policy.pt")
    again = CorePolicy.load(tmp_path / "policy.pt")
    assert again.lstm_critic is None
    for one, other in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_example_runs():
    (test,) = doctest.DocTestFinder(recurse=False).find(CorePolicy, "CorePolicy", globs=vars(policies))
    assert test.examples
    assert not doctest.DocTestRunner().run(test).failed
