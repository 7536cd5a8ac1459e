"""Training of any model: `fit` trains it on batches from `batches`, with the settings in `Training`.

The names are imported at first use, so that settings can be shown without importing PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
