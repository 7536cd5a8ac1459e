"""s2rm forecasts observations at known positions with Spatially Structured Recurrent Modules."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
