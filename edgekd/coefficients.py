"""Time as a sum of features: coefficients from measurements and from what is known of other devices.

A coefficient is positive, so its logarithm is what is estimated. That of device d and feature j is s_d + m_j + e_dj:
a scale of the device, a mean shared by all devices, and a deviation of known covariance. The mode of their posterior
is found by Gauss-Newton steps on the relative error, whose large values count less (Huber 1964).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FREE: Final = 3.0
"""Standard deviation of a device's scale, in log units: nearly nothing is known of it."""
HUBER: Final = 2.5
"""Errors beyond so many times the noise count by their size, not its square."""
COVERED: Final = 0.9


@dataclass(frozen=True)
class Prior:
    """What is known before a device is measured."""

    mean: Floats
    """Of the log coefficients, but for the device's scale."""
    covariance: Floats
    """Of a device's deviation from it."""


@dataclass(frozen=True)
class Fit:
    """Coefficients of a device."""

    log: Floats
    covariance: Floats
    """Of `log`, after the measurements."""

    def predict(self, totals: Floats) -> Floats:
        """Milliseconds of nets by their features (nets, features)."""
        # BLAS would sum one net alone in another order than the same net among others.
        return np.asarray(np.einsum("nf,f->n", totals, np.exp(self.log)))

    def spread(self, totals: Floats, noise: float) -> Floats:
        """Standard deviation of the logarithm of `predict`."""
        shares = totals * np.exp(self.log)
        shares = shares / shares.sum(axis=1, keepdims=True)
        return np.asarray(np.sqrt(noise**2 + np.einsum("ni,ij,nj->n", shares, self.covariance, shares)))


def fit(totals: Floats, milliseconds: Floats, prior: Prior, noise: float) -> Fit:
    """The posterior mode of log coefficients, and its covariance.

    Args:
        totals: features of the measured nets, (nets, features).
        milliseconds: of each, above 0.
        prior: of devices like this one.
        noise: standard deviation of a measurement's logarithm, with what the features do not tell.
    """
    if not len(milliseconds):
        return Fit(prior.mean, prior.covariance + FREE**2)
    logs = np.log(milliseconds)
    precision = _inverse(prior.covariance + FREE**2)
    centre = prior.mean + float(np.median(logs - np.log(totals @ np.exp(prior.mean))))
    at, damping = centre.copy(), 1e-3
    lost = _loss(at, totals, logs, centre, precision, noise)
    for _ in range(40):
        gradient, curvature = _slope(at, totals, logs, centre, precision, noise)
        while True:
            damped = curvature + damping * np.diag(np.diag(curvature))
            step = np.clip(np.linalg.solve(damped, -gradient), -2, 2)
            loss = _loss(at + step, totals, logs, centre, precision, noise)
            if loss <= lost or damping > 1e9:
                break
            damping *= 8
        damping = max(damping / 5, 1e-9)
        if loss > lost:
            break
        at, lost = at + step, loss
        if np.abs(step).max() < 1e-6:
            break
    _, curvature = _slope(at, totals, logs, centre, precision, noise)
    return Fit(at, _inverse(curvature))


def _inverse(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _loss(at: Floats, totals: Floats, logs: Floats, centre: Floats, precision: Floats, noise: float) -> float:
    errors = np.abs(np.log(totals @ np.exp(at)) - logs) / noise
    each = np.where(errors < HUBER, errors**2 / 2, HUBER * errors - HUBER**2 / 2)
    return float(each.sum() + (at - centre) @ precision @ (at - centre) / 2)


def _slope(
    at: Floats, totals: Floats, logs: Floats, centre: Floats, precision: Floats, noise: float
) -> tuple[Floats, Floats]:
    parts = totals * np.exp(at)
    whole = parts.sum(axis=1)
    shares, errors = parts / whole[:, None], np.log(whole) - logs
    weights = np.minimum(1.0, HUBER * noise / np.maximum(np.abs(errors), 1e-12)) / noise**2
    gradient = shares.T @ (weights * errors) + precision @ (at - centre)
    return gradient, (shares * weights[:, None]).T @ shares + precision


def share(
    devices: Sequence[tuple[Floats, Floats]], guess: Floats, noise: float, deviation: float = 0.5, rounds: int = 3
) -> Prior:
    """The prior that devices share, by empirical Bayes (a few rounds of expectation and maximisation).

    Args:
        devices: for each its (features, milliseconds).
        guess: log coefficients by what kernels do, for features that no device tells apart.
        noise: as in `fit`.
        deviation: of a device's log coefficients, to begin with. A guess that is several of it off is hardly corrected.
        rounds: of the iteration.
    """
    size = len(guess)
    prior = Prior(guess.copy(), np.eye(size) * deviation**2)
    for _ in range(rounds):
        fits = [fit(totals, milliseconds, prior, noise) for totals, milliseconds in devices]
        logs, inner = np.array([one.log for one in fits]), np.array([one.covariance for one in fits])
        weights = np.diag(np.linalg.inv(prior.covariance))
        relative = logs - ((logs - prior.mean) @ weights / weights.sum())[:, None]
        known = 1 / (np.maximum(np.diagonal(inner, axis1=1, axis2=2), 1e-4) + deviation**2)
        mean = (guess + (known * relative).sum(axis=0)) / (1 + known.sum(axis=0))
        left = relative - mean
        # Four devices' worth of belief in a quarter of a log unit, and less in what seems to go together.
        found = (left.T @ left + inner.sum(axis=0) / 2 + 4 * np.eye(size) * 0.25**2) / (len(devices) + 4)
        prior = Prior(mean, 0.9 * found + 0.1 * np.diag(np.diag(found)))
    return prior


def conformal(scores: Floats, covered: float = COVERED) -> float:
    """The bound that holds a new score with this probability, where it is as those are (Vovk et al. 2005)."""
    if not len(scores):
        return float("inf")
    rank = min(len(scores) - 1, int(np.ceil(covered * (len(scores) + 1))) - 1)
    return float(np.sort(scores)[rank])
