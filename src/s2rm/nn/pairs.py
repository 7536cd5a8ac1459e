"""Attention over the pairs that interact: time and memory grow with their number, not with rows times columns."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from s2rm.nn.over_time import Context, once

R = TypeVar("R")


def without_autocast(function: Callable[..., R]) -> Callable[..., R]:
    """Disable autocast in a forward or backward pass, since sparse products have no bfloat16."""

    @functools.wraps(function)
    def exact(ctx: Context, first: Tensor, *rest: object) -> R:
        with torch.autocast(first.device.type, enabled=False):
            return function(ctx, first, *rest)

    return exact


with warnings.catch_warnings():
    # PyTorch warns once per process, at the first sparse matrix, that they are in beta.
    warnings.filterwarnings("ignore", ".*beta state.*")
    torch.eye(1).to_sparse_csr()


class Pairs(NamedTuple):
    """The pairs of R rows and C columns that interact, as a sparse pattern in both directions; see `Pairs.of`."""

    row: Tensor
    """`(P,)`, sorted by row, then by column"""
    column: Tensor
    by_column: Tensor
    """`(P,)`, the order that sorts by column, then by row"""
    row_starts: Tensor
    """`(R + 1,)`, where the pairs of each row start, and where the last end"""
    column_starts: Tensor
    """`(C + 1,)`, the same in the order of the columns"""

    @classmethod
    def of(cls, row: Tensor, column: Tensor, num_rows: int, num_columns: int) -> Pairs:
        """From `(P,)` indices of rows and columns, in any order, each pair once."""
        order = (row * num_columns + column).argsort()
        row, column = row[order], column[order]
        by_column = (column * num_rows + row).argsort()
        return cls(row, column, by_column, _starts(row, num_rows), _starts(column, num_columns))

    def split(self, num_steps: int) -> list[Pairs]:
        """The pairs of each of T steps, where rows and columns are `(T, ...)` and interact only within a step."""
        rows, columns = ((len(starts) - 1) // num_steps for starts in (self.row_starts, self.column_starts))
        ends, parts = self.row_starts[[rows * step for step in range(num_steps + 1)]].tolist(), []
        for step, (start, end) in enumerate(pairwise(ends)):
            span = slice(start, end)
            starts = (
                part[step * size : (step + 1) * size + 1] - start
                for part, size in ((self.row_starts, rows), (self.column_starts, columns))
            )
            row, column = self.row[span] - step * rows, self.column[span] - step * columns
            parts.append(Pairs(row, column, self.by_column[span] - start, *starts))
        return parts

    def repeat(self, times: int) -> Pairs:
        """The same pairs in each of several blocks of rows and columns; blocks do not interact."""
        block = torch.arange(times, device=self.row.device)[:, None]
        rows, columns = len(self.row_starts) - 1, len(self.column_starts) - 1
        row, column = (block * rows + self.row).flatten(), (block * columns + self.column).flatten()
        return Pairs.of(row, column, times * rows, times * columns)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """`a_i · b_j` of every pair and head: `(R, K, D), (C, K, D)` to `(K, P)`."""
        return _Dot.apply(a, b, self)

    def softmax(self, scores: Tensor) -> Tensor:
        """Over the pairs of each row, `(K, P)`."""
        return _Softmax.apply(scores, self)

    def sum(self, weights: Tensor, values: Tensor) -> Tensor:
        """`Σ_j w_ij z_j` over the pairs of each row: `(K, P), (C, H)` to `(R, K, H)`."""
        return _Sum.apply(weights, values, self)

    def matrix(self, values: Tensor) -> Tensor:
        """The sparse matrix `(R, C)` with these values, `(P,)`, at the pairs."""
        return _csr(self.row_starts, self.column, values, len(self.column_starts) - 1)

    def transposed(self, values: Tensor) -> Tensor:
        """The sparse matrix `(C, R)` with these values, `(P,)`, at the pairs."""
        order = self.by_column
        return _csr(self.column_starts, self.row[order], values[order], len(self.row_starts) - 1)

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """`a_i · b_j` of every pair, `(R, D), (C, D)` to `(P,)`."""
        return torch.sparse.sampled_addmm(self.matrix(a.new_zeros(len(self.row))), a, b.T, beta=0).values()

    def row_sums(self, values: Tensor) -> Tensor:
        """The sum over the pairs of each row, repeated for each of them: `(K, P)` to `(K, P)`."""
        sums = torch.segment_reduce(values.T.contiguous(), "sum", offsets=self.row_starts, axis=0)
        return sums[self.row].T


def near(points: Tensor, places: Tensor, present: Tensor, truncation: float) -> tuple[Tensor, Tensor]:
    """The pairs of points and places, unit vectors `(N, d)` and `(M, d)`, with `point · place >= truncation`.

    Absent points, by `present`, bool `(N,)`, are near nothing. Returns indices of points and of places, `(P,)` each.
    The search runs on the CPU, in a k-d tree.
    """
    kept = present.nonzero().flatten()
    # |a - b|² = 2 - 2 a·b on the sphere. A little wider, lest rounding lose a pair; those too far are dropped below.
    radius = math.sqrt(max(0.0, 2 - 2 * truncation) + 1e-5)
    trees = [KDTree(part.detach().cpu().double().numpy()) for part in (points[kept], places)]
    found = trees[0].sparse_distance_matrix(trees[1], radius, output_type="ndarray")
    point, place = (torch.from_numpy(found[name].astype("int64")).to(points.device) for name in ("i", "j"))
    point = kept[point]
    with torch.no_grad():
        close = (points[point] * places[place]).sum(-1) >= truncation
    return point[close], place[close]


def _csr(starts: Tensor, index: Tensor, values: Tensor, width: int) -> Tensor:
    return torch.sparse_csr_tensor(starts, index, values, (len(starts) - 1, width), check_invariants=False)


def _starts(sorted_index: Tensor, num: int) -> Tensor:
    """Where each of `num` groups starts, and where the last ends."""
    return pad(torch.bincount(sorted_index, minlength=num).cumsum(0), (1, 0))


class _Dot(Function):
    r"""$s_{ij} = a_i \cdot b_j$; $da_i = \sum_j ds_{ij} b_j$, $db_j = \sum_i ds_{ij} a_i$, head by head."""

    @staticmethod
    @without_autocast
    def forward(ctx: Context, a: Tensor, b: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(a, b, *pairs)
        return torch.stack([pairs.products(x, y) for x, y in zip(a.unbind(1), b.unbind(1), strict=True)])

    @staticmethod
    @once
    @without_autocast
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b, *pattern = ctx.saved_tensors
        pairs = Pairs(*pattern)
        to_a = to_b = None
        if ctx.needs_input_grad[0]:
            to_a = torch.stack([pairs.matrix(g) @ y for g, y in zip(gradient, b.unbind(1), strict=True)], 1)
        if ctx.needs_input_grad[1]:
            to_b = torch.stack([pairs.transposed(g) @ x for g, x in zip(gradient, a.unbind(1), strict=True)], 1)
        return to_a, to_b, None


class _Softmax(Function):
    r"""$p = \mathrm{softmax}(s)$ over each row; $ds_{ij} = p_{ij} (dp_{ij} - \sum_l p_{il} dp_{il})$."""

    @staticmethod
    @without_autocast
    def forward(ctx: Context, scores: Tensor, pairs: Pairs) -> Tensor:
        largest = torch.segment_reduce(scores.T.contiguous(), "max", offsets=pairs.row_starts, axis=0)
        shares = (scores - largest[pairs.row].T).exp_()
        shares /= pairs.row_sums(shares)
        ctx.save_for_backward(shares, *pairs)
        return shares

    @staticmethod
    @once
    @without_autocast
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None]:
        shares, *pattern = ctx.saved_tensors
        weighted = shares * gradient
        return weighted - shares * Pairs(*pattern).row_sums(weighted), None


class _Sum(Function):
    r"""$y_i = \sum_j w_{ij} z_j$; $dw_{ij} = dy_i \cdot z_j$, $dz_j = \sum_i w_{ij} dy_i$, summed over the heads."""

    @staticmethod
    @without_autocast
    def forward(ctx: Context, weights: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(weights, values, *pairs)
        return torch.stack([pairs.matrix(w) @ values for w in weights], 1)

    @staticmethod
    @once
    @without_autocast
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, values, *pattern = ctx.saved_tensors
        pairs = Pairs(*pattern)
        parts = [part.contiguous() for part in gradient.unbind(1)]
        to_weights = to_values = None
        if ctx.needs_input_grad[0]:
            to_weights = torch.stack([pairs.products(part, values) for part in parts])
        if ctx.needs_input_grad[1]:
            to_values = torch.zeros_like(values)
            for w, part in zip(weights, parts, strict=True):
                to_values += pairs.transposed(w) @ part
        return to_weights, to_values, None
