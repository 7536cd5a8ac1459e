"""s2rm: world models for partially observed worlds."""

import os

import lazy_loader

# At the end of each step PyTorch's threads wait for each other, by default so long without giving up the processor that
# a fit is several times slower where other programs run. Read when PyTorch is imported first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
