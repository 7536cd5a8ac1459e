"""Square views of frames of pixels or cells: cut out, put together again, and remembered."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def crops(
    frames: Shaped[Tensor, "B T *C H W"], positions: Float[Tensor, "B T A 2"], size: int
) -> Float[Tensor, "B T A *C size size"]:
    """The `size` x `size` pixels around each position, (row, column); outside the frame is 0.

    Frames may have a channel axis, which the crops then have too.
    """
    half = size // 2
    padded = torch.nn.functional.pad(frames, (half, half, half, half)).flatten(-2)
    index = windows(positions, size, frames.shape[-1] + 2 * half)
    if frames.ndim == 4:
        return padded.gather(-1, index.flatten(2)).to(positions.dtype).unflatten(-1, (-1, size, size))
    every = index.flatten(2).unsqueeze(2).expand(-1, -1, frames.shape[2], -1)
    return padded.gather(-1, every).to(positions.dtype).unflatten(-1, (-1, size, size)).movedim(2, 3)


def cells(height: int, width: int | None = None) -> Float[Tensor, "H W 2"]:
    """The (row, column) of each pixel of a frame; a square one, where there is no width."""
    lines = (torch.arange(side, dtype=torch.float32) for side in (height, width or height))
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)


def windows(positions: Float[Tensor, "*batch 2"], size: int, width: int) -> Int[Tensor, "*batch pixels"]:
    """The numbers of the pixels of crops in frames of a width that are padded by half a crop."""
    corner, offsets = positions.long(), torch.arange(size, device=positions.device)
    inside = (offsets[:, None] * width + offsets).flatten()
    return (corner[..., 0] * width + corner[..., 1])[..., None] + inside


def stitch(
    patches: Float[Tensor, "*batch Q size size"], positions: Float[Tensor, "Q 2"], height: int, width: int | None = None
) -> Float[Tensor, "*batch H W"]:
    """Frames from crops at the same positions in each: the mean where crops overlap, NaN where there is none.

    Frames are square, where there is no width.
    """
    size, width = patches.shape[-1], width or height
    half = size // 2
    total = patches.new_zeros(*patches.shape[:-3], height + 2 * half, width + 2 * half)
    count = total.new_zeros(total.shape[-2:])
    for query, (row, column) in enumerate(positions.long().tolist()):
        window = (..., slice(row, row + size), slice(column, column + size))
        total[window] += patches[..., query, :, :]
        count[window] += 1
    return (total / count)[..., half : half + height, half : half + width]


class Canvas:
    """What was last seen at each pixel of B frames of C channels, in crops of one size.

    Args:
        nothing: `(B, C, H, W)`, what stands at pixels that were not seen yet.
        size: of a crop.
    """

    def __init__(self, nothing: Shaped[Tensor, "B C H W"], size: int):
        self.half, (self.height, self.width) = size // 2, nothing.shape[-2:]
        self.size = size
        self.pixels = torch.nn.functional.pad(nothing, (self.half,) * 4).flatten(2).clone()

    def see(
        self, values: Shaped[Tensor, "B A C size size"], positions: Float[Tensor, "B A 2"], mask: Bool[Tensor, "B A"]
    ) -> None:
        """Draw crops around positions, where the mask is True; the last one counts where they overlap."""
        index, content = windows(positions, self.size, self.width + 2 * self.half), values.flatten(3)
        for view in range(mask.shape[1]):
            at = index[:, view, None].expand_as(content[:, view])
            drawn = torch.where(mask[:, view, None, None], content[:, view], self.pixels.gather(2, at))
            self.pixels.scatter_(2, at, drawn)

    @property
    def frames(self) -> Shaped[Tensor, "B C H W"]:
        """The whole frames."""
        whole = self.pixels.unflatten(2, (-1, self.width + 2 * self.half))
        return whole[..., self.half : self.half + self.height, self.half : self.half + self.width]

    def crops(self, positions: Float[Tensor, "B Q 2"]) -> Shaped[Tensor, "B Q C size size"]:
        """Crops of them; outside the frame is what was drawn there, or 0."""
        index = windows(positions, self.size, self.width + 2 * self.half).flatten(1)
        cut = self.pixels.gather(2, index.unsqueeze(1).expand(-1, self.pixels.shape[1], -1))
        return cut.unflatten(2, (-1, self.size, self.size)).movedim(1, 2)


def last_seen(
    values: Int[Tensor, "B T A size size"], positions: Float[Tensor, "B T A 2"], mask: Bool[Tensor, "B T A"], side: int
) -> Int[Tensor, "B T side side"]:
    """What was last seen at each pixel of frames after each step, -1 where nothing was.

    `values` are crops of whole numbers, at least 0, around `positions`, (row, column).
    """
    batch, steps, _, size, _ = values.shape
    seen = values.unsqueeze(3).to(torch.int16)
    canvas = Canvas(torch.full((batch, 1, side, side), -1, dtype=torch.int16), size)
    frames = torch.empty(batch, steps, side, side, dtype=torch.int16)
    for step in range(steps):
        canvas.see(seen[:, step], positions[:, step], mask[:, step])
        frames[:, step] = canvas.frames[:, 0]
    return frames
