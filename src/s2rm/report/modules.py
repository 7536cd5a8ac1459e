"""What the modules do to each other. Enclaves, interaction graph and traces are methods of S2RM and RIMs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.models.s2rm import S2RM
from s2rm.nn.rims import RIMs
from s2rm.views import Views


@torch.no_grad()
def masking_effects(model: S2RM | RIMs, seen: Views | Tensor) -> Float[Tensor, "M M"]:
    """How much masking one module changes each of the others.

    Entry (m, l) is the mean over sequences and steps of `‖h_l without m - h_l‖`, divided by that of `‖h_l‖`.

    Args:
        model: an S2RM, or the RIMs of a model.
        seen: views for an S2RM; inputs, as for its call, for RIMs.

    Returns:
        `(M, M)`, NaN on the diagonal.

    Source:
        Figures 22 to 25 of the RIMs paper, which mask a module and show what becomes of the others; the measure is
        ours. In an S2RM a masked module is removed; in RIMs it is never active and never read from.
    """
    modules = model.num_modules
    everyone = _states(model, seen)
    size = everyone.norm(dim=-1).mean((0, 1))
    effects = torch.full((modules, modules), torch.nan, dtype=everyone.dtype, device=everyone.device)
    for masked in range(modules):
        others = [module for module in range(modules) if module != masked]
        if others:
            change = (_states(model, seen, masked)[:, :, others] - everyone[:, :, others]).norm(dim=-1).mean((0, 1))
            effects[masked, others] = change / size[others]
    return effects


def _states(model: S2RM | RIMs, seen: Views | Tensor, masked: int | None = None) -> Float[Tensor, "B T M H"]:
    """The modules' states after each step, with one module masked or none; the masked one's slot may hold anything."""
    if isinstance(model, RIMs):
        assert isinstance(seen, Tensor)
        outputs, _ = model.trace(seen, masked_modules=() if masked is None else (masked,))
        return outputs.unflatten(-1, (model.num_modules, -1))
    assert isinstance(seen, Views)
    if masked is None:
        return model.cell.message(model.observe(seen))
    smaller = model.without_modules(masked)
    states = smaller.cell.message(smaller.observe(seen))
    return torch.cat([states[:, :, :masked], torch.zeros_like(states[:, :, :1]), states[:, :, masked:]], 2)
