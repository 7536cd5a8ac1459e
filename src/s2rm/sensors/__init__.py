"""Forecasts from one's own table of sensors: read it, fit a forecaster, forecast for any place, judge the forecasts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
