"""Statistics of a run, and when they are not to be trusted."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekd.measure import KEPT_SAMPLES, PROTOCOLS, _doubts, _thinned, statistics
from edgekd.specs import Latency

Samples = NDArray[np.float64]
USUAL = dict(PROTOCOLS)
"""Before tests make them short: see conftest.py."""


def test_a_constant_is_stable_to_the_last_point() -> None:
    latency = statistics(np.full(100, 2.5))
    numbers = (latency.p50, latency.p90, latency.p95, latency.p99, latency.mean, latency.min, latency.max)
    assert numbers == (2.5,) * 7
    assert (latency.p90_low, latency.p90_high) == (2.5, 2.5)
    assert latency.sd == 0 and latency.stability == 100


def test_a_single_sample_is_all_there_is() -> None:
    latency = statistics(np.array([3.0]))
    assert latency.p50 == latency.p99 == latency.p90_low == latency.p90_high == 3.0
    assert latency.sd == 0 and latency.stability == 100


def test_percentiles_of_a_known_array() -> None:
    latency = statistics(np.arange(1, 102, dtype=np.float64))
    assert (latency.p50, latency.p90, latency.p95, latency.p99) == (51, 91, 96, 100)
    assert (latency.mean, latency.min, latency.max) == (51, 1, 101)
    assert latency.sd == pytest.approx(math.sqrt((101**2 - 1) / 12))
    assert 80 < latency.p90_low < 91 < latency.p90_high < 100


def test_stability_is_half_spread_a_quarter_range_and_a_quarter_tail() -> None:
    samples = np.array([1.0] * 98 + [1.5, 1.5])
    latency = statistics(samples)
    spread = 100 - 10 * (100 * samples.std() / samples.mean())
    tail = 100 - 100 * (latency.p99 - 1)
    assert latency.stability == pytest.approx(0.5 * spread + 0.25 * (100 - 50 * 0.5) + 0.25 * tail)
    assert statistics(np.array([1.0] * 97 + [1000.0] * 3)).stability == 0


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=60))
def test_statistics_are_in_order(samples: list[float]) -> None:
    found = statistics(np.array(samples))
    ordered = (found.min, found.p50, found.p90, found.p95, found.p99, found.max)
    assert all(a <= b * (1 + 1e-12) for a, b in zip(ordered, ordered[1:], strict=False))
    assert found.min <= found.p90_low * (1 + 1e-12) and found.p90_low <= found.p90_high <= found.max * (1 + 1e-12)
    assert 0 <= found.stability <= 100
    assert statistics(np.array(samples)) == found  # though it is a bootstrap


def test_the_order_of_samples_changes_no_percentile() -> None:
    samples = np.random.default_rng(0).lognormal(size=1000)
    one, other = statistics(samples), statistics(np.sort(samples))
    assert (one.p50, one.p90, one.p99, one.max) == (other.p50, other.p90, other.p99, other.max)


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 8192, 8193, 100_000])
def test_what_is_kept_is_spread_over_the_run(count: int) -> None:
    kept = _thinned(np.arange(count, dtype=np.float64))
    assert len(kept) <= KEPT_SAMPLES and len(kept) > min(count, KEPT_SAMPLES) // 2
    assert kept[0] == 0 and kept[-1] >= count - math.ceil(count / KEPT_SAMPLES)
    assert len(set(np.diff(kept))) <= 1


# --- doubts


def ticks(stolen: float = 0.0, seconds: float = 10.0) -> dict[str, Any]:
    """What a guest tells of the machine's clock before and after."""
    return {
        "before": {"at_s": 100.0, "stolen_ticks": 40},
        "after": {"at_s": 100.0 + seconds, "stolen_ticks": 40 + stolen},
    }


def doubts(samples: Samples, timed: dict[str, Any] | None = None, latency: Latency | None = None) -> tuple[str, ...]:
    return _doubts(latency or statistics(samples), samples, timed or ticks())


STEADY = np.full(90, 2.0)


def test_a_steady_run_is_not_doubted() -> None:
    assert doubts(STEADY) == ()
    assert doubts(np.array([2.0])) == ()
    assert doubts(STEADY + np.random.default_rng(0).normal(0, 0.01, 90)) == ()


def test_a_run_that_slows_down_is_doubted() -> None:
    throttled = np.concatenate([np.full(40, 2.0), np.full(50, 2.3)])
    assert "the last third is 1.15 times as slow as the first: throttled, or disturbed" in doubts(throttled)
    assert not any("last third" in reason for reason in doubts(throttled[::-1]))  # warming up is no throttling


def test_a_long_tail_is_doubted() -> None:
    samples = STEADY.copy()
    samples[::30] = 2.6
    assert "p99 is 1.30 times p50, above 1.1" in doubts(samples)


def test_an_unstable_run_is_doubted() -> None:
    samples = np.tile([2.0, 3.0], 45)
    (reason,) = [reason for reason in doubts(samples) if reason.startswith("stability")]
    assert reason == f"stability {statistics(samples).stability:.0f} of 100, below 80"


@pytest.mark.parametrize(("stolen", "doubted"), [(0, False), (9, False), (11, True), (500, True)])
def test_a_machine_that_others_use_is_doubted(stolen: int, doubted: bool) -> None:
    """A hundredth of a core may be taken: 10 of the 1000 ticks of 10 seconds."""
    assert (f"the hypervisor took {stolen / 1000:.0%} of a core" in doubts(STEADY, ticks(stolen))) is doubted


def test_a_run_of_no_time_divides_by_nothing() -> None:
    assert doubts(STEADY, ticks(0, 0.0)) == ()


def test_a_longer_mode_asks_for_more() -> None:
    gate, quick, rapid = (USUAL[mode] for mode in ("gate", "quick", "rapid"))
    assert gate.min_count == 1024 and gate.min_s == 60  # MLPerf Mobile's single stream
    for longer, shorter in ((gate, quick), (quick, rapid)):
        assert all(a > b for a, b in zip(longer, shorter, strict=True))


def test_the_page_on_measuring_says_what_the_modes_are() -> None:
    page = Path(__file__).parents[1] / "docs" / "measuring.md"
    rows = [line.strip("| ").split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    told = {row[0].strip("`"): row[1:] for row in rows if len(row) == 4}
    for mode, protocol in USUAL.items():
        numbers = [float(number) for cell in told[mode] for number in re.findall(r"\d+", cell)]
        assert numbers == [protocol.warmup_count, protocol.warmup_s, protocol.min_count, protocol.min_s, protocol.max_s]
