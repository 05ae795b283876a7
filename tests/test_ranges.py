"""Ranges hold what they promise, for whatever values."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgekd.ranges import LARGEST, Histogram, Rule

RULES: tuple[Rule, ...] = ("full", "percentile", "mse", "entropy")
VALUES = arrays(np.float32, st.integers(0, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))
Values = NDArray[np.float32]


def filled(*parts: Values) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def error(values: Values, low: float, high: float, levels: int = 256) -> float:
    step = (high - low) / (levels - 1)
    zero = round(-low / step)
    integers = np.clip(np.round(values / step) + zero, 0, levels - 1)
    return float(np.mean(((integers - zero) * step - values) ** 2))


def heavy(count: int = 20000, one_sided: bool = False) -> Values:
    random = np.random.default_rng(0)
    values = random.laplace(size=count).astype(np.float32)
    values[:3] = [60, -70, 55]
    return np.abs(values) if one_sided else values


@given(VALUES, st.sampled_from(RULES), st.booleans(), st.sampled_from([16, 255, 256, 65536]))
def test_a_range_holds_zero_and_lies_within_what_was_seen(
    values: Values, rule: Rule, symmetric: bool, levels: int
) -> None:
    low, high = filled(values).range(rule, levels, symmetric)
    least, most = min(0.0, float(min(values, default=0))), max(0.0, float(max(values, default=0)))
    assert low <= 0 <= high
    if symmetric:
        assert -low == high <= max(-least, most)
    else:
        assert least <= low and high <= most
    if rule == "full" and not symmetric:
        assert (low, high) == (least, most)


@given(VALUES, VALUES, VALUES, st.sampled_from(RULES))
def test_order_and_parts_do_not_matter(one: Values, two: Values, three: Values, rule: Rule) -> None:
    together = filled(np.concatenate([one, two, three])).range(rule)
    assert filled(one, two, three).range(rule) == together
    assert filled(three, one[::-1], two).range(rule) == together


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e3, 1e3, width=32)), st.integers(-20, 20))
@settings(max_examples=60)
def test_a_power_of_two_scales_a_range_with_its_values(values: Values, exponent: int) -> None:
    values[np.abs(values) < 1e-3] = 0
    for rule in RULES:
        low, high = filled(values).range(rule)
        scaled = filled(np.ldexp(values, exponent).astype(np.float32)).range(rule)
        assert scaled == pytest.approx((np.ldexp(low, exponent), np.ldexp(high, exponent)), rel=1e-9)


@given(VALUES)
def test_signs_are_alike(values: Values) -> None:
    for rule in RULES:
        low, high = filled(values).range(rule, symmetric=True)
        assert filled(-values).range(rule, symmetric=True) == pytest.approx((low, high), rel=1e-3)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, LARGEST, -3.4e38])
def test_what_stands_for_infinity_is_left_out(odd: float) -> None:
    assert filled(np.array([1, odd, -2])).range("full") == (-2, 1)
    assert filled(np.array([odd])).range("mse") == (0, 0)


def test_nothing_and_zeros_have_a_range_of_zero() -> None:
    for rule in RULES:
        assert Histogram().range(rule) == (0, 0)
        assert filled(np.zeros(5, np.float32)).range(rule, symmetric=True) == (0, 0)


def test_a_percentile_is_that_of_the_values() -> None:
    values = heavy()
    low, high = filled(values).range("percentile")
    assert (low, high) == pytest.approx(np.percentile(values, [0.005, 99.995]), rel=0.15)
    assert np.mean((values < low) | (values > high)) == pytest.approx(1e-4, rel=0.5)
    _, symmetric = filled(values).range("percentile", symmetric=True)
    assert symmetric == pytest.approx(np.percentile(np.abs(values), 99.99), rel=0.15)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("levels", [16, 256])
def test_least_squares_are_close_to_the_best_that_a_search_finds(one_sided: bool, levels: int) -> None:
    values = heavy(one_sided=one_sided)
    found = error(values, *filled(values).range("mse", levels), levels)
    full = filled(values).range("full")
    shares = np.geomspace(0.05, 1, 60)
    best = min(error(values, full[0] * low, full[1] * high, levels) for low in shares for high in shares)
    assert found <= 1.05 * best
    assert best < error(values, *full, levels)


@given(arrays(np.float32, st.integers(2, 300), elements=st.floats(-100, 100, width=32)))
def test_least_squares_never_cost_more_than_rounding_in_the_full_range(values: Values) -> None:
    histogram = filled(values)
    low, high = histogram.range("full")
    if high - low > 1e-3:
        step = (high - low) / 255
        bin_width = max(-low, high) / 2048
        assert error(values, *histogram.range("mse")) <= step**2 / 4 + bin_width**2


def test_entropy_cuts_far_and_rare_values_and_keeps_even_ones() -> None:
    low, high = filled(heavy()).range("entropy")
    assert -20 < low < -5 and 5 < high < 20
    even = np.random.default_rng(0).uniform(-1, 1, 50000).astype(np.float32)
    assert filled(even).range("entropy") == pytest.approx((-1, 1), abs=0.05)


def test_more_levels_cut_less() -> None:
    histogram = filled(heavy())
    assert histogram.range("mse", 16)[1] < histogram.range("mse", 256)[1] < histogram.range("mse", 65536)[1]
    assert histogram.range("entropy", 65536) == histogram.range("full")
