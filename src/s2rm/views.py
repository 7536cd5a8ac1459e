"""Sets of local views over time, which every model takes as input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Views:
    """Partial observations of a world: at each time step, a set of values at known positions.

    The sets are unordered and may differ in size; `mask` marks the slots that hold a view. The content of other slots
    has no effect. NaN within a view marks a channel that was not measured.

    Examples:
        Two sequences of three steps with up to four sensors in the plane, two channels each. One sensor does not report
        at the first step, and one channel of another is missing:

        >>> import torch
        >>> from s2rm import Views
        >>> positions, values = torch.rand(2, 3, 4, 2), torch.randn(2, 3, 4, 2)
        >>> mask = torch.ones(2, 3, 4, dtype=torch.bool)
        >>> mask[:, 0, 3], values[0, 1, 2, 1] = False, torch.nan
        >>> views = Views(positions, values, mask)
        >>> views.batch_size, views.num_steps, views.value_shape
        (2, 3, (2,))
        >>> views.steps(1, None).num_steps
        2

    Args:
        positions: float `(B, T, A, n)`, in the world's own units.
        values: float `(B, T, A, *shape)`, same dtype and device as `positions`.
        mask: bool `(B, T, A)`, True where a slot holds a view. Default: all do.

    Raises:
        ValueError: a shape, dtype or device that does not fit; a view with a position that is not finite, with an
            infinite value, or without any measured channel.
    """

    positions: Tensor
    values: Tensor
    mask: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name, tensor in (("positions", self.positions), ("values", self.values)):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                got = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(f"Views: {name} must be a float tensor, got {got}; convert it with .float()")
        if self.positions.ndim != 4:
            raise ValueError(
                f"Views: positions must be (batch, time, views, coordinates), got shape {tuple(self.positions.shape)}; "
                "add the missing axes with unsqueeze"
            )
        slots = self.positions.shape[:3]
        if self.values.shape[:3] != slots:
            raise ValueError(
                f"Views: values must begin with the (batch, time, views) of positions, {tuple(slots)}, "
                f"got shape {tuple(self.values.shape)}; give one value to each position"
            )
        if self.mask is None:
            object.__setattr__(self, "mask", torch.ones(slots, dtype=torch.bool, device=self.positions.device))
        if not isinstance(self.mask, Tensor) or self.mask.dtype != torch.bool or self.mask.shape != slots:
            got = f"{self.mask.dtype} {tuple(self.mask.shape)}" if isinstance(self.mask, Tensor) else type(self.mask)
            raise ValueError(f"Views: mask must be a bool tensor of shape {tuple(slots)}, got {got}; one flag a view")
        devices = {self.positions.device, self.values.device, self.mask.device}
        if len(devices) > 1 or self.positions.dtype != self.values.dtype:
            raise ValueError(
                "Views: positions, values and mask must share one device, positions and values one dtype; got "
                f"{self.positions.dtype} on {self.positions.device}, {self.values.dtype} on {self.values.device}, "
                f"mask on {self.mask.device}; move them with .to(...)"
            )
        if not self.values.is_meta:  # a meta tensor has no content
            self._check_content()

    def _check_content(self) -> None:
        values = self.values.flatten(3) if self.values.ndim > 3 else self.values[..., None]
        unmeasured = values.isnan().all(-1) & (values.shape[-1] > 0)
        for wrong, message in (
            (~self.positions.isfinite().all(-1), "positions of views must be finite, got NaN or infinity"),
            (values.isinf().any(-1), "values of views must be finite or NaN (not measured), got infinity"),
            (unmeasured, "a view must have at least one measured channel, got only NaN"),
        ):
            if (wrong & self.mask).any():
                raise ValueError(f"Views: {message}; set mask to False where there is no view")

    @property
    def batch_size(self) -> int:
        return self.positions.shape[0]

    @property
    def num_steps(self) -> int:
        return self.positions.shape[1]

    @property
    def value_shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[3:])

    def steps(self, start: int | None, stop: int | None) -> Views:
        """The views of time steps `start` to `stop - 1`, indexed as by a Python slice."""
        return self._unchecked(*(part[:, start:stop] for part in (self.positions, self.values, self.mask)))

    def at(self, step: int) -> Views:
        """The views of one time step, still with a time axis (of length 1)."""
        step = range(self.num_steps)[step]
        return self.steps(step, step + 1)

    def rows(self, rows: list[int]) -> Views:
        """The views of some rows of the batch."""
        return self._unchecked(self.positions[rows], self.values[rows], self.mask[rows])

    def then(self, later: Views) -> Views:
        """These views followed in time by `later`, of the same batch and number of slots."""
        pairs = ((self.positions, later.positions), (self.values, later.values), (self.mask, later.mask))
        return self._unchecked(*(torch.cat(pair, 1) for pair in pairs))

    def keep(self, mask: Tensor) -> Views:
        """Only the views for which `mask` (bool, broadcastable to `(B, T, A)`) is True as well.

        Raises:
            ValueError: a mask of another dtype or shape.
        """
        if mask.dtype != torch.bool:
            raise ValueError(f"keep: expected a mask of bool, got {mask.dtype}; compare it, or convert it with .bool()")
        try:
            mask = mask.expand_as(self.mask)
        except RuntimeError as error:
            raise ValueError(
                f"keep: expected a mask that broadcasts to (batch, time, views), {tuple(self.mask.shape)}, got shape "
                f"{tuple(mask.shape)}; give one flag to each view, or axes of length 1"
            ) from error
        return self._unchecked(self.positions, self.values, self.mask & mask)

    def to(self, *args, **kwargs) -> Views:
        """The same views on another device or with another float dtype, as `Tensor.to`."""
        positions = self.positions.to(*args, **kwargs)
        return self._unchecked(positions, self.values.to(*args, **kwargs), self.mask.to(positions.device))

    def filled(self) -> tuple[Tensor, Tensor, Tensor]:
        """`(positions, values, missing)`: zeros replace whatever is missing, and `missing` is 1 where a value is."""
        there = self.mask.reshape(self.mask.shape + (1,) * (self.values.ndim - 3))
        measured = there & ~self.values.isnan()
        positions = torch.where(self.mask[..., None], self.positions, 0.0)
        return positions, torch.where(measured, self.values, 0.0), (~measured).to(self.values.dtype)

    @classmethod
    def none(cls, batch_size: int, num_coordinates: int, value_shape: tuple[int, ...], like: Tensor) -> Views:
        """One time step without views, with the dtype and device of `like`."""
        slots = (batch_size, 1, 0)
        positions, values = like.new_empty(*slots, num_coordinates), like.new_empty(*slots, *value_shape)
        return cls._unchecked(positions, values, like.new_empty(slots, dtype=torch.bool))

    @classmethod
    def _unchecked(cls, positions: Tensor, values: Tensor, mask: Tensor) -> Views:
        """Views from parts of views that were checked before, since the checks wait for the device."""
        views = object.__new__(cls)
        for name, tensor in (("positions", positions), ("values", values), ("mask", mask)):
            object.__setattr__(views, name, tensor)
        return views


@dataclass(frozen=True, eq=False)
class Episode:
    """Views over T+1 time steps, and the targets at them.

    One-step-forward training: from the views up to t, predict the targets at t+1.

    Args:
        views: input of the model, `(B, T+1, A, ...)`.
        targets: views to predict, `(B, T+1, Q, ...)`. Default: `views`.
        context: context features of each target, `(B, T+1, Q, F)`, known before its step, with the dtype and device of
            the targets; for models that take context. What stands where there is no target, and at step 0, has no
            effect.

    Raises:
        ValueError: targets of another batch or length; context of other targets, of another dtype or device, or, on the
            CPU, not finite where there is a target; fewer than two time steps.
    """

    views: Views
    targets: Views = None  # type: ignore[assignment]
    context: Tensor | None = None

    def __post_init__(self) -> None:
        if self.targets is None:
            object.__setattr__(self, "targets", self.views)
        expected = self.views.positions.shape[:2]
        if self.targets.positions.shape[:2] != expected:
            raise ValueError(
                f"Episode: targets must have the (batch, time) of the views, {tuple(expected)}, "
                f"got {tuple(self.targets.positions.shape[:2])}; cut both to the same steps"
            )
        if self.context is not None:
            self._check_context(self.context)
        if self.views.num_steps < 2:
            raise ValueError(
                f"Episode: one-step prediction needs at least 2 time steps, got {self.views.num_steps}; "
                "give a longer sequence"
            )

    def _check_context(self, context: Tensor) -> None:
        values, mask = self.targets.values, self.targets.mask
        kinds = [(part.dtype, part.device) if isinstance(part, Tensor) else type(part) for part in (context, values)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"Episode: context must be a tensor like the targets, {values.dtype} on {values.device}, got "
                f"{kinds[0]}; convert it with torch.as_tensor and .to(...)"
            )
        if context.shape[:-1] != mask.shape:
            raise ValueError(
                f"Episode: context must begin with the (batch, time, targets) of the targets, {tuple(mask.shape)}, got "
                f"shape {tuple(context.shape)}; give one row to each target"
            )
        # Another device would have to be waited for, and a meta tensor has no content.
        if context.device.type == "cpu" and not context[:, 1:][mask[:, 1:]].isfinite().all():
            raise ValueError(
                "Episode: context must be finite where there is a target, got NaN or infinity; fill it, and add a "
                "feature that says so"
            )

    @property
    def batch_size(self) -> int:
        return self.views.batch_size

    def unseen(self) -> Episode:
        """The same episodes with all views masked."""
        return replace(self, views=self.views.keep(torch.zeros_like(self.views.mask)))

    def to_predict(self, start: int | None, stop: int | None) -> tuple[Views, Tensor | None]:
        """The targets of time steps `start` to `stop - 1`, and their context."""
        return self.targets.steps(start, stop), None if self.context is None else self.context[:, start:stop]

    def rows(self, rows: list[int]) -> Episode:
        """The episodes of some rows of the batch."""
        views = self.views.rows(rows)
        targets = views if self.targets is self.views else self.targets.rows(rows)
        return Episode(views, targets, None if self.context is None else self.context[rows])

    def to(self, *args, **kwargs) -> Episode:
        """The same episode on another device or with another float dtype, as `Tensor.to`."""
        views = self.views.to(*args, **kwargs)
        targets = views if self.targets is self.views else self.targets.to(*args, **kwargs)
        return Episode(views, targets, None if self.context is None else self.context.to(*args, **kwargs))


def for_each_step(positions: Tensor, steps: int) -> Tensor:
    """Positions as `(B, steps, Q, n)`; those of `(B, Q, n)` are the same at every step."""
    if positions.ndim not in (3, 4) or (positions.ndim == 4 and positions.shape[1] < steps):
        raise ValueError(
            f"rollout: positions must be (batch, queries, coordinates) or (batch, {steps} steps, queries, "
            f"coordinates), got shape {tuple(positions.shape)}; give one set for each step, or one for all"
        )
    return positions if positions.ndim == 4 else positions[:, None].expand(-1, steps, -1, -1)
