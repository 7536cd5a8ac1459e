"""Encoders and decoders of views, by the name that `codec=` takes."""

from __future__ import annotations

from torch import nn

from s2rm.nn.codecs.cnn import ResidualDecoder, ResidualEncoder
from s2rm.nn.codecs.mlp import MLPDecoder, MLPEncoder
from s2rm.nn.codecs.polar import PolarDecoder, PolarEncoder

CODECS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mlp": (MLPEncoder, MLPDecoder),
    "cnn": (ResidualEncoder, ResidualDecoder),
    "polar": (PolarEncoder, PolarDecoder),
}

__all__ = ["CODECS", "MLPDecoder", "MLPEncoder", "PolarDecoder", "PolarEncoder", "ResidualDecoder", "ResidualEncoder"]
