"""Training any model: `fit` trains it on the batches of `batches`, by the settings of `Training`.

The names are imported at first use, so that settings can be shown without importing PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
