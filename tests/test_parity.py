"""Numbers of parity, and which tensor is which."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import MeasureError
from edgekd.parity import (
    arranged,
    arranged_axes,
    by_content,
    closeness,
    drop_interval,
    least_db,
    most_drop,
    paired,
    precision_of,
    sqnr_db,
)
from edgekd.specs import Graph, Operator, TensorSpec

RANDOM = np.random.default_rng(0)


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, shape=shape)


def graph(*operators: tuple[str, str], **properties: str) -> Graph:
    listed = tuple(Operator(kind=kind, name=str(i), dtype=dtype) for i, (kind, dtype) in enumerate(operators))
    named = {f"edgekd.{key}": value for key, value in properties.items()}
    return Graph(format="tflite", inputs=(), outputs=(), operators=listed, properties=named)


def test_the_worst_output_counts() -> None:
    good = RANDOM.normal(size=(4, 3))
    close = closeness([good, good], [good, good + 0.1])
    assert close.max_abs == pytest.approx(0.1)
    assert close.sqnr_db == pytest.approx(sqnr_db(good, good + 0.1))
    assert close.top1_agreement == 1


def test_winners_are_counted_along_the_last_axis() -> None:
    expected, found = np.eye(4)[None].repeat(5, 0), np.eye(4)[None].repeat(5, 0)
    found[0, 0] = [0, 9, 0, 0]
    assert closeness([expected], [found]).top1_agreement == pytest.approx(19 / 20)


def test_an_output_of_single_numbers_has_no_winner() -> None:
    assert closeness([np.ones((4, 1))], [np.ones((4, 1))]).top1_agreement is None


def test_outputs_of_other_shapes_are_an_error() -> None:
    with pytest.raises(MeasureError, match=r"^outputs of shapes \(2, 3\) stand against \(2, 4\)$"):
        closeness([np.ones((2, 4))], [np.ones((2, 3))])
    with pytest.raises(MeasureError, match="none stand against"):
        closeness([np.ones((2, 4))], [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_agrees(bad: float) -> None:
    wrong = np.ones((2, 3))
    wrong[0, 0] = bad
    for pair in ((np.ones((2, 3)), wrong), (wrong, np.ones((2, 3))), (wrong, wrong)):
        assert closeness([pair[0]], [pair[1]]).sqnr_db == -200


def test_the_coarser_precision_is_what_counts() -> None:
    assert least_db("fp32", "fp16") == least_db("fp16") == 55
    assert least_db("int8", "fp32", "fp16") == 10
    assert least_db("a user's own") == 10


def test_a_drop_has_an_interval_that_holds_it() -> None:
    right = np.ones((500, 1))
    wrong = right.copy()
    wrong[:50] = 0

    def share(counts: tuple[Any, ...]) -> float:
        return float(np.mean(counts[0]))

    low, high = drop_interval(share, (right,), (wrong,))
    assert 0.06 < low < 0.1 < high < 0.14
    assert drop_interval(share, (right,), (right,)) == (0, 0)


def test_tensors_are_paired_by_name_then_by_shape_and_order() -> None:
    mine = (spec("a", 1, 2), spec("b", 1, 3))
    assert paired(mine, (spec("b", 1, 3), spec("a", 1, 2))) == (1, 0)
    assert paired(mine, (spec("x", 1, 3), spec("y", 1, 2))) == (1, 0)
    assert paired((spec("a", 1, 2), spec("b", 1, 2)), (spec("x", 1, 2), spec("y", 1, 2))) == (0, 1)
    assert paired(mine, mine[:1]) is None
    assert paired(mine, (spec("x", 1, 3), spec("y", 1, 4))) is None


def test_ten_outputs_keep_their_order() -> None:
    mine = tuple(spec(f"output_{i}", 1, i + 1) for i in range(12))
    theirs = tuple(sorted(mine, key=lambda one: one.name))
    order = paired(mine, theirs)
    assert order is not None and [theirs[i] for i in order] == list(mine)


@pytest.mark.parametrize(
    ("given", "wanted", "axes"),
    [
        ((1, 3, 8, 9), (1, 8, 9, 3), (0, 2, 3, 1)),
        ((1, 8, 9, 3), (1, 3, 8, 9), (0, 3, 1, 2)),
        ((1, 16, 50), (1, 50, 16), (0, 2, 1)),
        ((1, 3, 8, 8), (-1, 8, 8, 3), (0, 2, 3, 1)),
        ((1, 3, 8, 8), (1, 3, 8, 8), ()),
        ((3, 8, 8), (1, 3, 8, 8), ()),
        ((1, 1, 10), (1, 10), ()),
        ((1, 10), (10, 1), None),
        ((1, 3), (1, 4), None),
    ],
)
def test_axes_move_between_channels_first_and_last(
    given: tuple[int, ...], wanted: tuple[int, ...], axes: tuple[int, ...] | None
) -> None:
    assert arranged_axes(given, wanted) == axes


@given(st.lists(st.integers(1, 4), min_size=0, max_size=5), st.booleans())
def test_arranging_keeps_every_value(shape: list[int], with_batch: bool) -> None:
    array = RANDOM.normal(size=(2, *shape))
    wanted = [1, *shape] if with_batch else shape
    found = arranged(array, wanted)
    assert found is not None
    assert found.shape == (2, *wanted) and np.array_equal(np.sort(found.ravel()), np.sort(array.ravel()))


def test_channels_first_become_channels_last() -> None:
    array = RANDOM.normal(size=(5, 1, 3, 4, 6))
    found = arranged(array, (1, 4, 6, 3))
    assert found is not None and np.array_equal(found, array.transpose(0, 1, 3, 4, 2))


def test_what_no_name_tells_apart_is_told_apart_by_its_values() -> None:
    a, b, c = (RANDOM.normal(size=(2, 7)) for _ in range(3))
    other = RANDOM.normal(size=(2, 3))
    assert by_content([a, other, b, c], [b + 0.01, other, c, a]) == (3, 1, 0, 2)


@pytest.mark.parametrize(
    ("made", "precision"),
    [
        (graph(("CONV_2D", "float32")), "fp32"),
        (graph(("CONV_2D", "int8")), "int8"),
        (graph(("CONV_2D", "int16")), "int16"),
        (graph(("DEQUANTIZE", "float32"), ("CONV_2D", "float32")), "fp16"),
        (graph(("Conv", "float16")), "fp16"),
        (graph(("QuantizeLinear", "uint8"), ("Conv", "float32")), "int8"),
        (graph(("FakeQuantize", "float32")), "int8"),
        (graph(("constexpr_lut_to_dense", "float16")), "palette6"),
        (graph(("CONV_2D", "float32"), precision="dynamic"), "dynamic"),
    ],
)
def test_a_file_says_its_precision(made: Graph, precision: str) -> None:
    assert precision_of(made) == precision


def test_one_example_of_few_may_be_lost_to_rounding() -> None:
    assert most_drop("int8", 80) == 1 / 80 and most_drop("int8", 5000) == most_drop("int8") == 0.01
    assert most_drop("fp32", 80) == 0.001
