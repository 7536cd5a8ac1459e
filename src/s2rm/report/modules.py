"""What modules do: where they answer, who interacts with whom, and what masking one of them changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from s2rm.models.gqn import GQN
from s2rm.models.s2rm import S2RM
from s2rm.nn.rims import RIMs
from s2rm.report.figures import figure, tiles
from s2rm.report.page import Entry, Picture, drawn
from s2rm.views import Views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@torch.no_grad()
def masking_effects(model: S2RM | RIMs, seen: Views | Tensor) -> Float[Tensor, "M M"]:
    r"""How much masking one module changes each of the others.

    Entry $(m, l)$ is $\lVert h_l^{\setminus m} - h_l \rVert / \lVert h_l \rVert$, numerator and denominator averaged
    over sequences and steps, where $h_l^{\setminus m}$ is the state of module $l$ without module $m$; NaN on the
    diagonal. The model is an S2RM, which has `seen` views, or the RIMs of a model, which have its inputs.

    Source:
        Figures 22 to 25 of the RIMs paper, which mask a module and show the states of the others; the measure is
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
    """The states of all modules after each step; the slot of a masked module may hold anything."""
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


def module_pictures(entries: Iterable[Entry], grid: Float[Tensor, "H W 2"], views: Views) -> list[Picture]:
    """The pictures of the modules of runs; none for models without modules.

    `grid` has positions all over the world, as a picture has them; the effects of masking are measured on `views`.
    """
    return [picture for entry in entries for picture in _pictures(entry, grid, views)]


def _pictures(entry: Entry, grid: Tensor, views: Views) -> Iterator[Picture]:
    model = entry.model
    if isinstance(model, GQN) and isinstance(model.core, RIMs):
        yield from rims_pictures(entry.label, model.core, model.summed(views).detach())
    elif isinstance(model, S2RM):
        with torch.no_grad():
            weights, kernel = model.enclaves(grid), model.interaction_graph()
        blind = int((weights.flatten(1).amax(1) == 0).sum())
        seen = float((weights.amax(0) > 0).float().mean())
        sentence = (
            "Where in the world each module reads views and answers queries, from 0 (black) to 1. "
            f"{blind} of {len(weights)} modules cover no part of it; {seen:.0%} of it is covered by at least one."
        )
        yield drawn(f"Enclaves of {entry.label}", enclaves(weights), sentence)
        edges, pairs = int((kernel.triu(1) > 0).sum()), len(kernel) * (len(kernel) - 1) // 2
        joins = "Each module as its enclave; a line joins two that attend to each other."
        title, made = f"Interactions between the modules of {entry.label}", interaction_graph(kernel, weights)
        yield drawn(title, made, f"{joins} {edges} of {pairs} pairs do.")
        yield _effects(entry.label, masking_effects(model, views))


def rims_pictures(label: str, core: RIMs, inputs: Float[Tensor, "B T D"]) -> Iterator[Picture]:
    """When the modules of RIMs are active, with all of them and without each, and what masking one changes."""
    active = core.trace(inputs[:1])[1][0].active[0]
    sentence = "One sequence; black is active. A module that is always or never active has not specialised in time."
    yield drawn(f"When each module of {label} is active", activity(active), sentence)
    sentence = (
        "The same sequence; in each panel one module, in grey, is masked: it is never active and never read from."
    )
    yield drawn(f"When the modules of {label} are active without one of them", masked_activity(core, inputs), sentence)
    yield _effects(label, masking_effects(core, inputs))


def enclaves(weights: Float[Tensor, "M H W"]) -> Figure:
    """Where each module answers: `Z(P(x), p_m)` over the arena, a panel for each module (S2RM, Figure 5)."""
    made, panels = tiles(len(weights), 1.6, 1.75)
    for index, axes in enumerate(panels):
        image = axes.imshow(weights[index].numpy(), vmin=0, vmax=1, cmap="magma")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"module {index + 1}", fontsize=8)
    made.colorbar(image, ax=made.axes, shrink=0.8)
    return made


def interaction_graph(kernel: Float[Tensor, "M M"], weights: Float[Tensor, "M H W"]) -> Figure:
    """The modules as their enclaves, with an edge where their kernel is above 0, darker where larger (Figure 9)."""
    made, ((axes,),) = figure(1, 1, 6.4, 6.4)
    modules = len(kernel)
    angles = torch.arange(modules) * (2 * torch.pi / modules)
    places = torch.stack([angles.cos(), angles.sin()], 1).tolist()
    for m, (x, y) in enumerate(places):
        for n, (other_x, other_y) in enumerate(places[:m]):
            if kernel[m, n] > 0:
                axes.plot([x, other_x], [y, other_y], color="black", alpha=0.15 + 0.7 * float(kernel[m, n]), zorder=0)
        node = axes.inset_axes((x - 0.17, y - 0.17, 0.34, 0.34), transform=axes.transData)
        node.imshow(weights[m].numpy(), vmin=0, vmax=1, cmap="magma")
        node.set(xticks=[], yticks=[])
        axes.text(x, y + 0.18, str(m + 1), ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    axes.axis("off")
    return made


def _effects(label: str, effects: Float[Tensor, "M M"]) -> Picture:
    """`masking_effects` as an image: masked modules in rows, changed ones in columns."""
    made, ((axes,),) = figure(1, 1, 4.6, 3.9)
    numbers = [str(module + 1) for module in range(len(effects))]
    image = axes.imshow(effects.numpy(), cmap="viridis", vmin=0)
    axes.set_xticks(range(len(numbers)), numbers)
    axes.set_yticks(range(len(numbers)), numbers)
    axes.set(xlabel="changed module", ylabel="masked module")
    made.colorbar(image, ax=axes, label="relative change of its state")
    sentence = "A bright row is a module on which many others depend; a dark matrix means independence."
    return drawn(f"Effect of masking one module of {label} on the others", made, sentence)


def activity(active: Bool[Tensor, "T M"]) -> Figure:
    """Which modules are active at each step (RIMs, Figure 2): black is active."""
    made, ((axes,),) = figure(1, 1, 7.5, 2.4)
    _stripes(axes, active)
    axes.set(xlabel="step", ylabel="module")
    return made


def masked_activity(core: RIMs, inputs: Float[Tensor, "B T D"]) -> Figure:
    """Which modules are active at each step of the first sequence when one of them is masked, a panel for each (RIMs,
    Figures 22 to 25)."""
    modules = core.num_modules
    made, panels = figure(modules, 1, 7.5, 1.35 * modules)
    for masked, axes in enumerate(panels[:, 0]):
        active = core.trace(inputs[:1], masked_modules=(masked,))[1][0].active[0]
        _stripes(axes, active)
        axes.axhspan(masked - 0.5, masked + 0.5, color="#9b9a97")
        axes.set_ylabel(f"without {masked + 1}", fontsize=8)
    axes.set_xlabel("step")
    return made


def _stripes(axes: Axes, active: Bool[Tensor, "T M"]) -> None:
    axes.imshow(~active.T.numpy(), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(active.shape[1]), [str(module + 1) for module in range(active.shape[1])], fontsize=7)
