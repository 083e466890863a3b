"""The temperature at which a student's probabilities are as sure as they are right."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from finstill.metrics import calibration_error

LEAST_ROWS = 50
"""Labelled rows below which a temperature is not fitted: it would follow chance."""

LOG_TEMPERATURES = (-3.0, 3.0)


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """Return the temperature with the least mean negative log-likelihood, or None where there are too few rows.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2: one number, so that no label changes.

    Args:
        labels: int64, (rows,), positions in the task's labels; of rows that no weight was trained on.
        logits: float32, (rows, classes).
    """
    if len(labels) < LEAST_ROWS:
        return None

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -float(scores[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x))


def calibrated_error(labels: np.ndarray, logits: np.ndarray, temperature: float | None) -> float | None:
    """Return the expected calibration error at a fitted temperature; None where none was fitted, or there is no row.

    Args:
        labels: int64, (rows,), positions in the task's labels.
        logits: float32, (rows, classes).
    """
    return calibration_error(labels, logits / np.float32(temperature)) if len(labels) and temperature else None
