"""Time per operator: nodes of runtimes brought back to the operators of a file, and prefixes where none profiles."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import formats
from edgekd.errors import ConfigError, MeasureError
from edgekd.profile import (
    OperatorTime,
    Place,
    Profile,
    assign,
    by_layer,
    by_prefixes,
    profile,
    rising,
    slower_operators,
)
from edgekd.specs import Graph, Operator, TensorSpec
from tests import models
from tests.conftest import data_folder


def operator(kind: str, name: str, *inputs: str, layer: str = "") -> Operator:
    return Operator(kind=kind, name=name, layer=layer, inputs=inputs, outputs=(name,))


def graph(*operators: Operator, format: str = "tflite") -> Graph:
    ends = (TensorSpec(name="x", shape=(1, 4)),), (TensorSpec(name=operators[-1].name, shape=(1, 4)),)
    return Graph(format=format, inputs=ends[0], outputs=ends[1], operators=operators, properties={})


def node(kind: str, ms: float, name: str = "", index: int = -1) -> dict[str, Any]:
    return {"kind": kind, "ms": ms, "name": name, "index": index}


CHAIN = graph(
    operator("CONV_2D", "a", "x", layer="blocks.0"),
    operator("CONV_2D", "b", "a", layer="blocks.1"),
    operator("ADD", "c", "a", "b", layer="blocks"),
    operator("AVERAGE_POOL_2D", "d", "c", layer="pool"),
    operator("RESHAPE", "e", "d"),
    operator("FULLY_CONNECTED", "f", "e", layer="head"),
    operator("SOFTMAX", "g", "f"),
)


def test_nodes_without_names_are_paired_in_order() -> None:
    nodes = [
        node("Convert (NC, F32, QD8)", 1),
        node("Convolution (NHWC, QC8) IGEMM", 2),
        node("Fully Connected (NC, QS8, QC8W) GEMM", 4),  # what XNNPACK makes of a 1x1 convolution
        node("Add (ND)", 8),
        node("Clamp (NC)", 16),
        node("AVERAGE_POOL_2D", 32, index=3),
        node("Static Reshape (NC)", 64),
        node("Static Reshape (NC)", 128),
        node("Fully Connected (NC, F32) GEMM", 256),
        node("SOFTMAX", 512, index=6),
    ]
    times = assign(nodes, CHAIN)
    assert times is not None
    found = {one.operators[-1]: one.ms for one in times}
    assert found["a"] == 3 and found["b"] == 4 and found["c"] == 24 and found["d"] == 32 and found["g"] == 512
    assert found["e"] + found["f"] == 64 + 128 + 256 and found["f"] >= 256
    assert [one.layer for one in times][:4] == ["blocks.0", "blocks.1", "blocks", "pool"]


def test_a_node_that_computes_much_and_is_nothing_known() -> None:
    nodes = [node("Convolution (NHWC)", 1), node("Convolution (NHWC)", 1), node("Convolution (NHWC)", 1)]
    assert assign(nodes, graph(operator("CONV_2D", "a", "x"), operator("CONV_2D", "b", "a"))) is None


def test_nodes_with_names_take_what_was_fused_into_them() -> None:
    found = graph(
        operator("QuantizeLinear", "xq", "x"),
        operator("Conv", "conv", "xq", layer="blocks.0"),
        operator("Relu", "relu", "conv", layer="blocks.1"),
        operator("Conv", "more", "relu", layer="blocks.2"),
    )
    nodes = [
        node("QuantizeLinear", 1, "xq"),
        node("Conv", 2, "relu_nchwc"),
        node("ReorderOutput", 4, "ReorderOutput_token_3"),
        node("QLinearConv", 8, "more_token_7"),
    ]
    times = assign(nodes, found)
    assert times is not None
    assert [(one.operators, one.layer, one.ms) for one in times] == [
        (("xq",), "", 1),
        (("conv", "relu"), "blocks.0", 2),
        ((), "", 4),
        (("more",), "blocks.2", 8),
    ]


def test_a_fused_node_without_a_name_is_found_by_its_kind() -> None:
    found = graph(
        operator("Gemm", "first", "x", layer="0"),
        operator("Relu", "relu", "first", layer="1"),
        operator("Gemm", "last", "relu", layer="2"),
    )
    times = assign([node("FusedGemm", 2), node("Gemm", 1, "last")], found)
    assert times is not None and [(one.operators, one.layer) for one in times] == [
        (("first",), "0"),
        (("relu", "last"), "2"),
    ]


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_rising_rises_and_keeps_the_mean(values: list[float]) -> None:
    found = rising(np.array(values))
    assert len(found) == len(values)
    assert (np.diff(found) >= -1e-6).all()
    assert found.sum() == pytest.approx(sum(values), rel=1e-6, abs=1e-6)


def of(engine: str, *times: tuple[str, str, str, float], provenance: Any = "host") -> Profile:
    made = tuple(OperatorTime(operators=(name,), layer=layer, kind=kind, ms=ms) for name, layer, kind, ms in times)
    how: Any = "profiled by the runtime"
    return Profile(engine=engine, provenance=provenance, how=how, total_ms=sum(one.ms for one in made), times=made)


def test_what_is_slower_quantized_is_named_by_layer() -> None:
    quantized = of(
        "litert", ("a", "conv", "Convolution", 1.0), ("b", "act", "HardSwish", 3.0), ("c", "act", "Mul", 1.0)
    )
    twin = of("litert", ("q", "conv", "Convolution", 2.0), ("r", "act", "HardSwish", 0.5))
    (found,) = slower_operators(quantized, twin)
    assert found.what == "act" and found.quantized_ms == 4.0 and found.float_ms == 0.5
    assert found.kinds == ("HardSwish", "Mul")
    assert by_layer(quantized) == {"conv": 1.0, "act": 4.0}


def test_without_layers_it_is_named_by_operator_or_by_kind() -> None:
    quantized = of("litert", ("a", "", "CONV_2D", 5.0), ("xq", "", "QUANTIZE", 1.0), ("tiny", "", "ADD", 0.001))
    twin = of("litert", ("a", "", "CONV_2D", 1.0), ("tiny", "", "ADD", 0.0))
    assert [(one.what, one.float_ms) for one in slower_operators(quantized, twin)] == [("a", 1.0), ("quantize", 0.0)]


def test_nothing_is_slower_than_itself() -> None:
    one = of("litert", ("a", "x", "CONV_2D", 5.0), ("b", "", "ADD", 1.0))
    assert slower_operators(one, one) == ()


def test_times_of_two_kinds_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="provenance"):
        slower_operators(of("a", ("a", "", "ADD", 1.0)), of("a", ("a", "", "ADD", 1.0), provenance="measured"))


def inputs_of(found: Graph, folder: Path) -> Path:
    random = np.random.default_rng(0)
    shapes = [(2, *(size if size > 0 else 1 for size in spec.shape)) for spec in found.inputs]
    path = folder / "inputs.npz"
    np.savez(path, **{str(index): random.random(shape).astype(np.float32) for index, shape in enumerate(shapes)})
    return path


@pytest.mark.parametrize(
    ("name", "engine", "package"),
    [
        ("tflite", "litert", "ai_edge_litert"),
        ("onnx", "onnxruntime", "onnxruntime"),
        ("openvino", "openvino", "openvino"),
        ("openvino", "openvino_default", "openvino"),
    ],
)
def test_runtimes_that_profile_themselves(name: str, engine: str, package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    path = models.MAKERS[name](tmp_path / f"small{models.SUFFIXES[name]}")
    found = formats.read(path)
    made = profile(found, path, engine, inputs_of(found, tmp_path), tmp_path, count=5)
    assert made.how == "profiled by the runtime" and made.provenance == "host"
    assert made.total_ms > 0 and made.sum_ms >= 0
    named = {name for one in made.times for name in one.operators}
    assert {one.name for one in formats.live(found)} <= named


def test_prefixes_where_no_profiler_is(tmp_path: Path) -> None:
    path = data_folder() / "mlperf_tiny" / "pretrainedResnet.tflite"
    if not path.is_file():
        pytest.skip("the models of MLPerf Tiny are not here; set EDGEKD_DATA")
    found = formats.read(path)
    times = by_prefixes(found, path, inputs_of(found, tmp_path), Place("host", "litert", tmp_path, threads=1))
    assert [name for one in times for name in one.operators] == [one.name for one in found.operators]
    assert sum(one.ms for one in times) > 0 and len(times) == 10
    assert not list(tmp_path.glob("prefix-*"))


def test_a_format_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    found = graph(operator("Conv", "a", "x"), format="onnx")
    with pytest.raises(MeasureError, match="does not say how long operators take"):
        by_prefixes(found, tmp_path, tmp_path, Place("host", "own", tmp_path, threads=1))
