"""The models by name."""

from __future__ import annotations

from typing import Literal

ModelName = Literal["s2gru", "s2rmc", "s2lstm", "rims", "rmc", "lstm", "gru", "tto"]
Term = Literal["input_local", "input_nonlocal", "intercell_local", "intercell_nonlocal"]
LABELS = {
    "s2gru": "S2GRU", "s2rmc": "S2RMC", "s2lstm": "S2LSTM", "rims": "RIMs", "rmc": "RMC", "lstm": "LSTM", "gru": "GRU",
    "tto": "TTO",
}  # fmt: skip
