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
        ValueError: a core whose state is not `(h, c)`, such as a gated recurrent unit.

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
        super().__init__(*arguments, **options)
        layers, _, hidden_size = self.lstm_hidden_state_shape
        made = core(self.features_dim, hidden_size, layers)
        with torch.no_grad():
            _, state = made(torch.zeros(1, 1, self.features_dim))
        if not isinstance(state, tuple) or len(state) != 2:
            raise ValueError('CorePolicy: expected a core with a state (h, c), as an LSTM has; take cell="lstm"')
        self.lstm_actor = made
        if self.lstm_critic is not None:
            self.lstm_critic = core(self.features_dim, hidden_size, layers)
        # The one of sb3-contrib has the weights of its LSTMs.
        kind: Any = self.optimizer_class
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = kind(self.parameters(), lr=rate, **self.optimizer_kwargs)
