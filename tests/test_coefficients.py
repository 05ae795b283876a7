"""Coefficients from few and from many measurements, and intervals that hold what they promise."""

import numpy as np
from numpy.typing import NDArray

from edgekd.coefficients import Prior, conformal, fit, share

RANDOM = np.random.default_rng(0)
TRUE = np.log([0.5, 2.0, 0.1, 4.0])
FLAT = Prior(np.zeros(4), np.eye(4))


def nets(count: int, random: np.random.Generator = RANDOM) -> NDArray[np.float64]:
    return random.lognormal(0, 1, size=(count, 4))


def test_many_measurements_tell_the_coefficients() -> None:
    totals = nets(300)
    found = fit(totals, totals @ np.exp(TRUE) * RANDOM.lognormal(0, 0.02, 300), FLAT, 0.02)
    assert np.abs(found.log - TRUE).max() < 0.05


def test_a_few_wild_measurements_hardly_matter() -> None:
    totals = nets(200)
    ms = totals @ np.exp(TRUE) * RANDOM.lognormal(0, 0.02, 200)
    ms[:10] *= 20
    found = fit(totals, ms, FLAT, 0.02)
    assert np.abs(found.log - TRUE).max() < 0.15


def test_one_measurement_tells_the_scale_and_the_prior_the_rest() -> None:
    prior, totals = Prior(TRUE, np.eye(4) * 0.1**2), nets(50)
    found = fit(totals[:1], totals[:1] @ np.exp(TRUE) * 7, prior, 0.05)
    assert np.abs(np.log(found.predict(totals) / (totals @ np.exp(TRUE) * 7))).max() < 0.2


def test_without_measurements_the_prior_is_all_there_is() -> None:
    found = fit(np.zeros((0, 4)), np.zeros(0), FLAT, 0.1)
    np.testing.assert_array_equal(found.log, FLAT.mean)


def test_what_nothing_tells_apart_keeps_its_doubt() -> None:
    totals = nets(100)
    totals[:, 3] = 0
    found = fit(totals, totals @ np.exp(TRUE), FLAT, 0.02)
    alone = np.eye(4)
    assert found.spread(alone[3:], 0.02)[0] > 10 * found.spread(alone[:1], 0.02)[0]


def test_devices_share_what_their_scales_leave() -> None:
    devices = []
    for _ in range(12):
        totals, own = nets(40), TRUE + RANDOM.normal(0, 0.05, 4) + RANDOM.normal(0, 1)
        devices.append((totals, totals @ np.exp(own) * RANDOM.lognormal(0, 0.03, 40)))
    prior = share(devices, np.zeros(4), 0.03)
    relative, true = prior.mean - prior.mean.mean(), TRUE - TRUE.mean()
    assert np.abs(relative - true).max() < 0.2
    assert np.linalg.eigvalsh(prior.covariance).min() > 0


def test_a_guess_is_corrected_as_far_as_it_is_doubted() -> None:
    random = np.random.default_rng(0)
    some = [nets(6, random) for _ in range(12)]
    devices = [(totals, totals @ np.exp(TRUE + random.normal(0, 1))) for totals in some]
    guess = TRUE - [2, 0, 0, 0]

    def off(doubt: float) -> float:  # but for a scale, which the devices have
        return float(np.ptp(share(devices, guess, 0.08, doubt).mean - TRUE))

    assert off(0.75) < 0.7 * off(0.25)


def test_conformal_bounds_hold_nine_of_ten() -> None:
    covered = []
    for _ in range(400):
        scores = np.abs(RANDOM.standard_t(3, 60))
        covered.append((np.abs(RANDOM.standard_t(3, 50)) <= conformal(scores)).mean())
    assert 0.88 < np.mean(covered) < 0.93
    assert conformal(np.zeros(0)) == np.inf
