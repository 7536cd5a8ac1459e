"""RIMs or a relational memory as the memory of sb3-contrib's recurrent PPO, with the extra "policies"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from s2rm.extras import require
from s2rm.nn.rims import RIMs

require("policies")

from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy  # noqa: E402


class CorePolicy(RecurrentActorCriticPolicy):
    """A policy for `sb3_contrib.RecurrentPPO` with another core in place of the LSTMs of actor and critic.

    Args:
        arguments, options: those of sb3-contrib's policy, without `lstm_kwargs`.
        core: makes the memory from the size of its input, the hidden size and the number of layers: a class such as
            `RIMs`, or `functools.partial(RIMs, num_modules=4)`. It is called like `torch.nn.LSTM`, time first.

    Raises:
        ImportError: the extra "policies" is not installed.
        ValueError: `lstm_kwargs`; a core whose state is not `(h, c)`, such as a gated recurrent unit, of other sizes
            than those it was given, or with dropout.

    Examples:
        >>> from sb3_contrib import RecurrentPPO
        >>> options = {"core": RIMs, "lstm_hidden_size": 24}
        >>> model = RecurrentPPO(CorePolicy, "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=options)
        >>> type(model.learn(8).policy.lstm_actor).__name__
        'RIMs'

    Source:
        Goyal et al. 2019, sections 4.3 and 4.4, give RIMs to a PPO in the place of its LSTM.
    """

    def __init__(self, *arguments: Any, core: Callable[[int, int, int], Any] = RIMs, **options: Any):
        if options.get("lstm_kwargs"):
            raise ValueError(
                f"CorePolicy: expected no lstm_kwargs, got {options['lstm_kwargs']}; give core=partial(RIMs, ...) them"
            )
        super().__init__(*arguments, **options)
        layers, _, hidden_size = self.lstm_hidden_state_shape
        self.core, self.lstm_actor = core, core(self.features_dim, hidden_size, layers)
        _check(self.lstm_actor, self.features_dim, hidden_size, layers)
        if self.lstm_critic is not None:
            self.lstm_critic = core(self.features_dim, hidden_size, layers)
        # The one of sb3-contrib has the weights of its LSTMs.
        kind: Any = self.optimizer_class
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = kind(self.parameters(), lr=rate, **self.optimizer_kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `load` makes the policy from."""
        layers, _, hidden_size = self.lstm_hidden_state_shape
        return super()._get_constructor_parameters() | {
            "core": self.core, "lstm_hidden_size": hidden_size, "n_lstm_layers": layers,
            "shared_lstm": self.shared_lstm, "enable_critic_lstm": self.enable_critic_lstm,
        }  # fmt: skip


def _check(core: Any, input_size: int, hidden_size: int, layers: int) -> None:
    """Refuse a core that cannot take the place of the LSTM."""
    time, batch = 2, 3
    given = torch.linspace(-1, 1, time * batch * input_size).view(time, batch, input_size)
    with torch.no_grad():
        (outputs, state), (again, _) = core(given), core(given)
    if not isinstance(state, tuple) or len(state) != 2:
        raise ValueError('CorePolicy: expected a core with a state (h, c), as an LSTM has; take cell="lstm"')
    expected = ((time, batch, hidden_size), *[(layers, batch, hidden_size)] * 2)
    if (got := tuple(tuple(part.shape) for part in (outputs, *state))) != expected:
        raise ValueError(
            f"CorePolicy: expected a core with outputs and states {expected} for {time} steps of {batch} environments, "
            f"got {got}; make it from the sizes that it is given, time first and in one direction"
        )
    if not torch.equal(outputs, again):
        raise ValueError(
            "CorePolicy: expected a core without dropout, since PPO compares the probabilities of an update with those "
            "of the rollout, got other outputs each time; leave dropout out"
        )
