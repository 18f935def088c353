"""Least squares whose coefficients are not negative: no part of a step takes less than no time.

Source: Lawson, Hanson 1974, *Solving Least Squares Problems*, algorithm NNLS (chapter 23).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-12


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """Return x >= 0 (columns,) that minimises |matrix x - target|.

    Columns are scaled to norm 1 inside; a column of zeros gets the coefficient 0.
    """
    norms = np.linalg.norm(matrix, axis=0)
    used = norms > 0
    scaled = np.where(used, matrix / np.where(used, norms, 1.0), 0.0)
    x = np.zeros(matrix.shape[1])
    passive = np.zeros(matrix.shape[1], dtype=bool)
    limit = TOLERANCE * max(1.0, float(np.linalg.norm(target)))
    for _ in range(10 * matrix.shape[1]):
        gradient = scaled.T @ (target - scaled @ x)
        gradient[passive | ~used] = -np.inf
        best = int(np.argmax(gradient))
        if gradient[best] <= limit:
            break
        passive[best] = True
        x = _shrink(scaled, target, x, passive)
    return np.where(used, x / np.where(used, norms, 1.0), 0.0)


def _shrink(matrix: Array, target: Array, x: Array, passive: NDArray[np.bool_]) -> Array:
    """Solve for the passive set; leave out one by one what would become negative."""
    while True:
        wished = np.zeros_like(x)
        if passive.any():
            wished[passive] = np.linalg.lstsq(matrix[:, passive], target, rcond=None)[0]
        wrong = passive & (wished <= 0)
        if not wrong.any():
            return wished
        steps = x[wrong] / np.maximum(x[wrong] - wished[wrong], TOLERANCE)
        x = x + min(1.0, float(steps.min())) * (wished - x)
        passive &= x > TOLERANCE
        x = np.where(passive, x, 0.0)
