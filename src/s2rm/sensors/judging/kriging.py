"""Kriging of the last observations, with scikit-learn."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s2rm.extras import require
from s2rm.sensors.judging.predictors import FromLastReports, Mapped, coordinates
from s2rm.sensors.mapped import SUMMED, parts
from s2rm.sensors.reports import Reports, to_components

if TYPE_CHECKING:
    from sklearn.gaussian_process.kernels import Kernel

_STEPS, _LEAST_POINTS, _MOST_POINTS = 6, 8, 150
"""steps to which the covariance is fitted, observations that each of them needs, and those taken from it at most"""


class Kriging(FromLastReports):
    r"""Simple kriging of the last observations about their mean, each channel on its own.

    A Gaussian process in space with a Matern covariance of smoothness 3/2,
    $k(r) = s \, (1 + \sqrt 3 r / l) \, e^{-\sqrt 3 r / l}$, and white noise. Its parameters are fitted to some
    steps of the training part, and their median is kept. Needs scikit-learn.
    """

    def fit(self, train: Reports) -> Kriging:
        require("tables")
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor

        super().fit(train)
        generator = np.random.default_rng(0)
        self.kernels: list[Kernel] = []
        self.units: list[float] = []  # the spread of each channel, since scikit-learn adds 1e-10 to its variance
        for channel in range(len(self.mean)):
            middle = to_components(self.mean[channel], bool(self.circular[channel]))
            squares, number, counts = 0.0, 0, np.zeros(train.num_steps, np.int64)
            for part in parts(len(train), train.values.shape[1], SUMMED):
                centred = self._channel(train, channel, part) - middle
                squares, number = squares + (centred**2).sum(), number + centred.size
                known = part.start + np.flatnonzero(~np.isnan(train.values[part, channel]))
                counts += np.bincount(train.step[known], minlength=len(counts))
            unit = float(np.sqrt(squares / number)) or 1.0
            enough = np.flatnonzero(counts >= _LEAST_POINTS)
            found = []
            for step in generator.permutation(enough)[:_STEPS]:
                since, until = np.searchsorted(train.step, [step, step + 1])
                known = since + np.flatnonzero(~np.isnan(train.values[since:until, channel]))
                rows = generator.permutation(known)[:_MOST_POINTS]
                places, values = coordinates(self.columns, train.positions[rows]), self._channel(train, channel, rows)
                process = GaussianProcessRegressor(_start(places))
                with warnings.catch_warnings():
                    # A parameter at its bound on some step does not matter: the median is taken.
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    found.append(process.fit(places, (values - values.mean(0)) / unit).kernel_.theta)
            kernel = _start(coordinates(self.columns, train.places))
            self.kernels.append(kernel.clone_with_theta(np.median(found, 0)) if found else kernel)
            self.units.append(unit)
        return self

    def _map(self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray) -> Mapped:
        from sklearn.gaussian_process import GaussianProcessRegressor

        centre, unit = values.mean(0), self.units[channel]
        process = GaussianProcessRegressor(self.kernels[channel], optimizer=None)
        process.fit(coordinates(self.columns, places), (values - centre) / unit)
        mean, deviation = (
            unit * part.reshape(len(positions), -1)
            for part in process.predict(coordinates(self.columns, positions), return_std=True)
        )
        mapped, deviation = mean + centre, deviation[:, 0]
        if self.circular[channel]:
            # The angle's deviation is that across the mean vector over its length; at most that of a uniform direction.
            deviation = deviation / np.maximum(np.linalg.norm(mapped, axis=-1), 1e-9)
            deviation = np.degrees(np.minimum(deviation, np.pi / np.sqrt(3)))
        return mapped, deviation**2


def _start(places: NDArray) -> Kernel:
    """The covariance before the fit, of values of variance 1: lengths from the extent of the places."""
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    extent = float(np.linalg.norm(np.ptp(places, 0))) or 1.0
    matern = Matern(extent / 5, (1e-3 * extent, 10 * extent), nu=1.5)
    return ConstantKernel(1.0, (1e-4, 1e2)) * matern + WhiteKernel(0.1, (1e-4, 10))
