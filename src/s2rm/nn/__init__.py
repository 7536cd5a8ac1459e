"""Layers: recurrent cores called like `torch.nn.LSTM`, and the parts that the models are built from."""

from s2rm.nn.attention import DenseLocal, KernelModulatedAttention, SparseLocal
from s2rm.nn.codecs import CODECS
from s2rm.nn.core import Layer, RecurrentCore
from s2rm.nn.embedding import ModulePlaces, PositionalEmbedding, uniform_positions
from s2rm.nn.memory import GroupedRelationalMemoryCell, RelationalMemory
from s2rm.nn.pairs import Pairs
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell, LSTMState
from s2rm.nn.rims import RIMs, Trace

__all__ = [
    "CODECS", "DenseLocal", "GroupedGRUCell", "GroupedLSTMCell", "GroupedRelationalMemoryCell",
    "KernelModulatedAttention", "LSTMState", "Layer", "ModulePlaces", "Pairs", "PositionalEmbedding", "RIMs",
    "RecurrentCore", "RelationalMemory", "SparseLocal", "Trace", "uniform_positions",
]  # fmt: skip
