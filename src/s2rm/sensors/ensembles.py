"""Scores of ensembles: whether the members are right one by one, and whether they hang together."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial.distance import pdist


def ensemble_crps(members: Float[NDArray, " N *batch"], truth: Float[NDArray, "*batch"]) -> Float[NDArray, "*batch"]:
    r"""The continuous ranked probability score of the members' empirical distribution.

    $$\frac{1}{N} \sum_i |x_i - y| - \frac{1}{2 N^2} \sum_{i, j} |x_i - x_j|$$

    Source: Gneiting and Raftery, 2007, equation 20.
    """
    number, ordered = len(members), np.sort(members, 0)
    rank = 2 * np.arange(1, number + 1) - number - 1
    spread = np.tensordot(rank, ordered, 1) / number**2
    return np.asarray(np.abs(members - truth).mean(0) - spread)


def energy_score(members: Float[NDArray, "N D"], truth: Float[NDArray, " D"]) -> float:
    r"""The energy score of vectors, the CRPS where D is 1, in the units of the values.

    $$\frac{1}{N} \sum_i \|x_i - y\| - \frac{1}{2 N^2} \sum_{i, j} \|x_i - x_j\|$$

    Source: Gneiting and Raftery, 2007, equation 22.
    """
    return float(np.linalg.norm(members - truth, axis=-1).mean() - pdist(members).sum() / len(members) ** 2)


def variogram_score(members: Float[NDArray, "N D"], truth: Float[NDArray, " D"], power: float = 0.5) -> float:
    r"""The variogram score, more sensitive than the energy score to how components depend on each other.

    $$\frac{2}{D (D - 1)} \sum_{d < e} \Big(|y_d - y_e|^p - \frac{1}{N} \sum_i |x_{id} - x_{ie}|^p\Big)^2$$

    Source: Scheuerer and Hamill, 2015, equation 11, with equal weights.
    """
    one, other = np.triu_indices(len(truth), 1)
    expected = (np.abs(members[:, one] - members[:, other]) ** power).mean(0)
    return float(np.square(np.abs(truth[one] - truth[other]) ** power - expected).mean())
