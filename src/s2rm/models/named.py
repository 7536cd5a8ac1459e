"""The models by the short names used on the command line and in settings. Does not import the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import s2rm.models.sequence_model
    import s2rm.models.world_model

ModelName = Literal["s2gru", "s2rmc", "s2lstm", "rims", "rmc", "lstm", "gru", "tto"]
"""the models of the papers' benchmarks"""
Term = Literal["input_local", "input_nonlocal", "intercell_local", "intercell_nonlocal"]
"""the terms of an S2RM's attentions (Figure 6)"""
LABELS = {
    "s2gru": "S2GRU", "s2rmc": "S2RMC", "s2lstm": "S2LSTM", "rims": "RIMs", "rmc": "RMC", "lstm": "LSTM", "gru": "GRU",
    "tto": "TTO", "msa": "MSA",
}  # fmt: skip
"""each model's name in tables and figures"""
SPATIAL = {"s2gru": "gru", "s2rmc": "rmc", "s2lstm": "lstm"}
"""the cell of each S2RM; these take its arguments, such as `inject_positions` and `ablate`"""
SEQUENTIAL = ("rims", "rmc", "lstm", "gru")
"""the recurrent cores, of which there are models of sequences too"""


def build(name: str, **arguments: Any) -> s2rm.models.world_model.WorldModel:
    """Build the model with a short name, with new weights.

    Args:
        name: one of `LABELS`.
        arguments: those of [`S2RM`][s2rm.models.s2rm.S2RM] (names in `SPATIAL`), [`MSA`][s2rm.models.msa.MSA] or
            [`GQN`][s2rm.models.gqn.GQN] (others), except the cell or core, which the name gives.

    Raises:
        ValueError: an unknown name, or an argument out of its range.
    """
    from s2rm.models.gqn import GQN
    from s2rm.models.msa import MSA
    from s2rm.models.s2rm import S2RM

    if name not in LABELS:
        raise ValueError(f"model: expected one of {', '.join(LABELS)}, got {name!r}")
    if name == "msa":
        return MSA(**arguments)
    return S2RM(cell=SPATIAL[name], **arguments) if name in SPATIAL else GQN(core=name, **arguments)


def build_sequential(name: str, **arguments: Any) -> s2rm.models.sequence_model.SequenceModel:
    """Build the sequence model with this core, with new weights; arguments and errors as for
    [`SequenceModel`][s2rm.models.sequence_model.SequenceModel]."""
    from s2rm.models.sequence_model import SequenceModel

    return SequenceModel(core=name, **arguments)
