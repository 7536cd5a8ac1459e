"""Square views of frames of pixels or cells: cut out, put together again, and remembered."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def crops(
    frames: Shaped[Tensor, "B T H W"], positions: Float[Tensor, "B T A 2"], size: int
) -> Float[Tensor, "B T A size size"]:
    """The `size` x `size` pixels around each position, (row, column); outside the frame is 0."""
    half = size // 2
    padded = torch.nn.functional.pad(frames, (half, half, half, half)).flatten(2)
    index = windows(positions, size, frames.shape[-1] + 2 * half)
    return padded.gather(-1, index.flatten(2)).to(positions.dtype).unflatten(-1, (-1, size, size))


def cells(side: int) -> Float[Tensor, "side side 2"]:
    """The (row, column) of each pixel of a frame."""
    line = torch.arange(side, dtype=torch.float32)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)


def windows(positions: Float[Tensor, "*batch 2"], size: int, width: int) -> Int[Tensor, "*batch pixels"]:
    """The numbers of the pixels of crops in frames of a width that are padded by half a crop."""
    corner, offsets = positions.long(), torch.arange(size, device=positions.device)
    inside = (offsets[:, None] * width + offsets).flatten()
    return (corner[..., 0] * width + corner[..., 1])[..., None] + inside


def stitch(
    patches: Float[Tensor, "*batch Q size size"], positions: Float[Tensor, "Q 2"], side: int
) -> Float[Tensor, "*batch side side"]:
    """Frames from crops at the same positions in each: the mean where crops overlap, NaN where there is none."""
    size = patches.shape[-1]
    half = size // 2
    total = patches.new_zeros(*patches.shape[:-3], side + 2 * half, side + 2 * half)
    count = total.new_zeros(total.shape[-2:])
    for query, (row, column) in enumerate(positions.long().tolist()):
        window = (..., slice(row, row + size), slice(column, column + size))
        total[window] += patches[..., query, :, :]
        count[window] += 1
    inner = slice(half, half + side)
    return (total / count)[..., inner, inner]


def last_seen(
    values: Int[Tensor, "B T A size size"], positions: Float[Tensor, "B T A 2"], mask: Bool[Tensor, "B T A"], side: int
) -> Int[Tensor, "B T side side"]:
    """What was last seen at each pixel of frames after each step, -1 where nothing was.

    `values` are crops of whole numbers, at least 0, around `positions`, (row, column).
    """
    batch, steps, views, size, _ = values.shape
    half = size // 2
    width = side + 2 * half
    pixels, seen = windows(positions, size, width), values.flatten(3).to(torch.int16)
    canvas = torch.full((batch, width * width), -1, dtype=torch.int16)
    frames = torch.empty(batch, steps, side, side, dtype=torch.int16)
    for step in range(steps):
        for view in range(views):
            at, there = pixels[:, step, view], mask[:, step, view, None]
            canvas.scatter_(1, at, torch.where(there, seen[:, step, view], canvas.gather(1, at)))
        frames[:, step] = canvas.unflatten(1, (width, width))[:, half : half + side, half : half + side]
    return frames
