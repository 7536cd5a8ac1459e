"""Forecasts from your own table of sensors: read it, fit a forecaster, forecast at any place, score the forecasts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
