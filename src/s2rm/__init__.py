"""s2rm: models of worlds that are seen only in pieces."""

from s2rm.models.gqn import GQN
from s2rm.models.msa import MSA
from s2rm.models.s2rm import S2GRU, S2LSTM, S2RM, S2RMC
from s2rm.models.saved import load
from s2rm.models.world_model import WorldModel
from s2rm.nn.memory import RelationalMemory
from s2rm.nn.rims import RIMs
from s2rm.views import Episode, Views

__all__ = [
    "GQN",
    "MSA",
    "S2GRU",
    "S2LSTM",
    "S2RM",
    "S2RMC",
    "Episode",
    "RIMs",
    "RelationalMemory",
    "Views",
    "WorldModel",
    "load",
]
