"""The largest logits of many classes: what they keep exactly, and how far off the rest is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekd.topk import TOP_K_ABOVE, applies, pack, record_bytes, unpack


def drawn(seed: int, *shape: int, spread: float = 3.0) -> NDArray[np.float32]:
    """Logits that float16 holds exactly."""
    values = np.random.default_rng(seed).normal(0, spread, shape)
    return values.astype(np.float16).astype(np.float32)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    peak = wide.max(axis=1, keepdims=True)
    return wide - peak - np.log(np.exp(wide - peak).sum(axis=1, keepdims=True))


SHAPES = st.sampled_from([(3, 40), (2, 40, 3), (2, 70, 2, 2)])


@given(st.integers(0, 2**32 - 1), SHAPES, st.integers(1, 39))
def test_the_largest_and_their_probabilities_are_what_they_were(seed: int, shape: tuple[int, ...], k: int) -> None:
    logits = drawn(seed, *shape)
    dense = unpack(pack(logits, k), shape[1])
    assert dense.dtype == np.float32 and dense.shape == shape
    largest = logits >= np.sort(logits, axis=1)[:, -k : shape[1] - k + 1 if k > 1 else None].min(axis=1, keepdims=True)
    exact = dense == logits
    assert (exact.sum(axis=1) >= k).all()
    assert np.abs((log_softmax(dense) - log_softmax(logits))[exact & largest]).max() < 1e-5


@given(st.integers(0, 2**32 - 1), st.integers(1, 39), st.floats(0.1, 10))
def test_the_error_is_that_of_an_even_rest(seed: int, k: int, spread: float) -> None:
    """KL(p || q) = r (log(C - k) - H), for a rest of mass r whose own distribution has the entropy H."""
    logits = drawn(seed, 5, 40, spread=spread)
    before, after = log_softmax(logits), log_softmax(unpack(pack(logits, k), 40))
    found = (np.exp(before) * (before - after)).sum(axis=1)
    rest = np.sort(before, axis=1)[:, : 40 - k]
    mass = np.exp(rest).sum(axis=1)
    own = rest - np.log(mass)[:, None]
    entropy = -(np.exp(own) * own).sum(axis=1)
    assert found == pytest.approx(mass * (np.log(40 - k) - entropy), abs=2e-5)
    assert (found <= mass * np.log(40 - k) + 2e-5).all()


def test_a_vocabulary_takes_less_room_and_hardly_another_shape() -> None:
    """Of a language model's size, peaked as its answers are: 64 of 49,152 logits."""
    logits = drawn(0, 4, 49_152, spread=1.0)
    random = np.random.default_rng(1)
    for row in logits:
        row[random.choice(49_152, 200, replace=False)] += np.linspace(16, 4, 200).astype(np.float16)
    packed = pack(logits, 64)
    assert packed.dtype.itemsize == record_bytes(64, (49_152,)) == 64 * 4 + 4
    before, after = log_softmax(logits), log_softmax(unpack(packed, 49_152))
    assert (np.exp(before) * (before - after)).sum(axis=1).max() < 0.15
    assert np.array_equal(before.argmax(1), after.argmax(1))


def test_infinities_are_the_largest_that_float16_holds() -> None:
    logits = np.full((1, 5), -np.inf, np.float32)
    logits[0, 3] = np.inf
    dense = unpack(pack(logits, 2), 5)
    assert np.isfinite(dense).all() and dense[0].argmax() == 3


def test_indices_beyond_two_bytes_are_kept() -> None:
    logits = np.zeros((1, 70_000), np.float32)
    logits[0, 69_999] = 5
    assert unpack(pack(logits, 1), 70_000)[0].argmax() == 69_999


def test_few_classes_are_kept_whole() -> None:
    assert applies(8, TOP_K_ABOVE + 1)
    assert not applies(8, TOP_K_ABOVE) and not applies(0, 10**6) and not applies(5000, 4000)
