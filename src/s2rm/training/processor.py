"""What PyTorch, the processor and the C library are told, so that training is fast."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

_PAUSE_SOFTLY = 1


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory for the next update (Linux with the GNU C library only).

    By default it returns large blocks to the system and requests them again each time, which is slow.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for trim_threshold_and_mmap_threshold in (-1, -3):
            mallopt(trim_threshold_and_mmap_threshold, 2**31 - 1)


def flush_denormals(flush: bool = True) -> bool:
    """Flush numbers below about 1e-38 (denormals) to zero, or stop doing so, in all threads of PyTorch.

    Gradients that vanish over a long sequence end in such numbers, with which most processors compute many times more
    slowly. PyTorch sets this for the calling thread only. The other OpenMP threads are therefore ended, and new ones
    inherit the setting.

    Returns:
        Whether they were taken for zero before.
    """
    before = not (torch.tensor(2e-38, dtype=torch.float32) * 0.25).item()
    torch.set_flush_denormal(flush)
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).omp_pause_resource_all(_PAUSE_SOFTLY)
    return before


@contextmanager
def one_thread() -> Iterator[None]:
    """A context, or a decorator, in which PyTorch computes in one thread.

    Many small steps gain next to nothing by more. Where other programs keep the processor busy they lose much: at the
    end of each step all threads wait for the one that had to wait.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
