"""How far an artifact may be from its student, and what is said when it is farther."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgekd.errors import MeasureError, UnknownPlugin
from edgekd.parity import HIGHEST_SQNR_DB, sqnr_db
from edgekd.specs import Agreement, Artifact, File, TensorSpec
from edgekd.verify import compare, engine_for
from tests.subjects import subject

LABELS = np.arange(100) % 4
Outputs = NDArray[np.float32]

SUBJECT = subject((4,), tuple("abcd"), "numbers")


def outputs() -> Outputs:
    """Of a student that is right everywhere, by a margin of 1."""
    noise = np.random.default_rng(0).normal(0, 0.05, (100, 4))
    return np.asarray(noise + 2 * np.eye(4)[LABELS], np.float32)


def artifact(precision: str = "int8", suffix: str = "tflite") -> Artifact:
    file = File(path=f"a/model.{suffix}", size_bytes=1, sha256="0" * 64)
    tensor = TensorSpec(name="x", shape=(1, 4))
    return Artifact(
        export=f"tflite-{precision}",
        format="tflite",
        precision=precision,
        model=file,
        inputs=(tensor,),
        outputs=(tensor,),
        samples=file,
        tools={},
    )


def held(found: Outputs, precision: str = "int8", expected: Outputs | None = None) -> Agreement:
    student = outputs() if expected is None else expected
    return compare(artifact(precision), "litert", [student], [found], [LABELS], SUBJECT)


def with_noise(decibels: float) -> Outputs:
    """The student's outputs, with noise of that SQNR and no change of the winner."""
    clean = outputs()
    noise = np.random.default_rng(1).normal(size=clean.shape)
    noise *= math.sqrt(np.sum(np.square(clean)) / np.sum(np.square(noise)) / 10 ** (decibels / 10))
    return (clean + noise).astype(np.float32)


def wrong_in(count: int) -> Outputs:
    """The student's outputs, with the winner of some examples moved by hardly anything but past the second."""
    found = outputs()
    for row in range(count):
        found[row] = np.roll(found[row], 1)
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_is_equal_agrees(precision: str) -> None:
    agreement = held(outputs(), precision)
    assert agreement.ok and agreement.reason == ""
    assert agreement.sqnr_db == HIGHEST_SQNR_DB and agreement.max_abs == 0
    assert agreement.top1_agreement == 1 and agreement.metric_drop == 0
    assert agreement.metrics == {"accuracy": 1.0}
    assert agreement.provenance == "host" and agreement.engine == "litert"


@pytest.mark.parametrize(("precision", "least"), [("fp32", 80), ("fp16", 55), ("int8", 10), ("int4", 10)])
def test_noise_beyond_what_a_precision_explains_is_said(precision: str, least: float) -> None:
    assert held(with_noise(least + 2), precision).ok
    agreement = held(with_noise(least - 2), precision)
    assert not agreement.ok
    assert agreement.sqnr_db == pytest.approx(least - 2, abs=0.1)
    assert f"SQNR {least - 2:.1f} dB is below the {least} dB that {precision} explains" in agreement.reason


@pytest.mark.parametrize(("wrong", "ok"), [(0, True), (1, True), (2, False), (50, False)])
def test_a_drop_of_more_than_a_hundredth_is_too_much_for_int8(wrong: int, ok: bool) -> None:
    agreement = held(wrong_in(wrong))
    assert agreement.metric_drop == pytest.approx(wrong / 100)
    assert agreement.top1_agreement == pytest.approx(1 - wrong / 100)
    assert agreement.ok is (ok and agreement.sqnr_db >= 10)
    assert (f"accuracy drops by {wrong / 100:.4f}, more than 0.01" in agreement.reason) is not ok


def test_a_drop_of_a_hundredth_is_too_much_for_floats() -> None:
    for precision, most in (("fp32", 0.001), ("fp16", 0.005)):
        assert f"accuracy drops by 0.0100, more than {most}" in held(wrong_in(1), precision).reason


def test_an_artifact_that_is_right_where_its_student_is_wrong_is_no_drop() -> None:
    agreement = held(outputs(), expected=wrong_in(1))
    assert agreement.metric_drop == pytest.approx(-0.01) and agreement.ok


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_outputs_that_are_no_numbers_never_agree(bad: float, everywhere: bool) -> None:
    found = outputs()
    found[slice(None) if everywhere else 3, :] = bad
    agreement = held(found)
    assert not agreement.ok and "SQNR -200.0 dB" in agreement.reason
    assert math.isfinite(agreement.max_abs) and agreement.max_abs > 1e30


def test_two_reasons_are_both_said() -> None:
    agreement = held(outputs()[:, ::-1].copy())
    assert agreement.reason.count("; ") == 1 and "SQNR" in agreement.reason and "drops" in agreement.reason


@pytest.mark.parametrize("shape", [(100, 5), (99, 4), (100,), (100, 4, 1)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    message = f"tflite-int8 answers {shape}, the student (100, 4)"
    with pytest.raises(MeasureError, match=f"^{re.escape(message)}$"):
        held(np.zeros(shape, np.float32))


def test_an_unknown_task_is_said() -> None:
    with pytest.raises(UnknownPlugin, match="no task named 'classificaton'"):
        unknown = subject((4,), tuple("abcd"), "numbers", task="classificaton")
        compare(artifact(), "litert", [outputs()], [outputs()], [LABELS], unknown)


def test_the_first_engine_that_executes_the_file_is_taken() -> None:
    assert engine_for(artifact(), ("litert", "onnxruntime")) == "litert"
    assert engine_for(artifact(suffix="onnx"), ("litert", "onnxruntime")) == "onnxruntime"
    assert engine_for(artifact(suffix="mlpackage"), ("litert", "onnxruntime")) is None
    assert engine_for(artifact(), ("not_yet_written", "litert")) == "litert"
    assert engine_for(artifact(), ()) is None


# --- the ratio itself

VALUES = st.floats(-1e6, 1e6, width=32)
ARRAYS = arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=6), elements=VALUES)


@given(ARRAYS)
def test_a_signal_has_no_noise_against_itself(signal: Outputs) -> None:
    assert sqnr_db(signal, signal.copy()) == HIGHEST_SQNR_DB


@given(ARRAYS, st.floats(2**-10, 1, width=32), st.floats(2**-10, 2**10, width=32))
def test_the_ratio_does_not_depend_on_the_scale_and_falls_with_the_noise(
    signal: Outputs, share: float, scale: float
) -> None:
    signal = np.abs(signal) + np.float32(1)
    ratio = sqnr_db(signal, signal * np.float32(1 + share))
    assert ratio == pytest.approx(-20 * math.log10(share), abs=0.1)
    assert sqnr_db(signal * np.float32(scale), signal * np.float32(1 + share) * np.float32(scale)) == pytest.approx(
        ratio, abs=0.1
    )
    assert sqnr_db(signal, signal * np.float32(1 + 2 * share)) < ratio


@given(ARRAYS, ARRAYS)
def test_the_ratio_is_always_a_number_in_its_range(signal: Outputs, found: Outputs) -> None:
    found = np.resize(found, signal.shape)
    assert -HIGHEST_SQNR_DB <= sqnr_db(signal, found) <= HIGHEST_SQNR_DB


def test_no_signal_and_no_number_are_the_worst() -> None:
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert sqnr_db(zeros, ones) == -HIGHEST_SQNR_DB
    assert sqnr_db(ones, np.array([1, math.nan, 1], np.float32)) == -HIGHEST_SQNR_DB
    assert sqnr_db(ones, zeros) == 0
