"""What stands in .onnx files that are written here: names, metadata, types where they are wanted."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.specs import Quantization
from edgekd.workers import call

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
conversions: Any = importlib.import_module("conversions")
onnx = pytest.importorskip("onnx")

pytestmark = [pytest.mark.xdist_group("onnx"), pytest.mark.timeout(900)]

WAYS = (Quantization(), Quantization(ranges="mse"), Quantization(in_float=("layers.1", "classifier")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    ways = call(conversions.quantize, "encoder", "onnx", "int8", WAYS, str(folder), threads=1, log=folder / "log")
    return tuple(onnx.load(one.file) for one in ways)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("half")
    (one,) = call(
        conversions.quantize, "heads", "onnx", "fp16", (Quantization(),), str(folder), threads=1, log=folder / "log"
    )
    return onnx.load(one.file)


def test_properties_are_kept_and_nothing_else(made: tuple[Any, ...]) -> None:
    assert {entry.key: entry.value for entry in made[0].metadata_props} == conversions.PROPERTIES
    assert not made[0].graph.doc_string
    assert not any(node.metadata_props or node.doc_string for node in made[0].graph.node)


def test_nodes_are_named_by_torch_modules_and_once(made: tuple[Any, ...]) -> None:
    zoo: Any = importlib.import_module("zoo")
    modules = {path for path, _ in zoo.ZOO["encoder"]().module.named_modules()}
    named = {node.name: node.op_type for node in made[0].graph.node}
    assert len(named) == len(made[0].graph.node)
    assert {name.partition(":")[0] for name in named} <= modules | {"model"}
    assert {named[name] for name in ("layers.3.feed.2", "layers.0.attention.query", "classifier")} <= {"MatMul", "Gemm"}
    assert named["tokens"] == "Gather" and named["layers.0.norm"] == "LayerNormalization"


def test_older_runtimes_get_an_older_operator_set(tmp_path: Path) -> None:
    newest = (None, 21, 19, 15)
    found = call(conversions.for_sets, "encoder", newest, str(tmp_path), threads=1, log=tmp_path / "log")
    models = [onnx.load(one.file) for one in found[:3]]
    assert [[(one.domain, one.version) for one in model.opset_import] for model in models] == [
        [("", 20)],
        [("", 20)],
        [("", 18)],
    ]
    assert models[2].ir_version <= 8, "and the file format that came with it"
    assert found[3].error.startswith("ConvertError: the device's runtime reads operator sets up to 15")


def quantized(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Layer, scale and zero point of each tensor that is dequantized."""
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            yield node.name.partition(":")[0], constants[node.input[1]], constants[node.input[2]]


def test_activations_and_weights_are_unsigned_and_weights_by_channel(made: tuple[Any, ...]) -> None:
    found = list(quantized(made[0]))
    assert {zero.dtype for _, _, zero in found} == {np.dtype(np.uint8), np.dtype(np.int32)}  # and biases
    assert sum(scale.size > 100 for _, scale, _ in found) > 20


def test_modules_stay_in_float_with_all_that_is_inside(made: tuple[Any, ...]) -> None:
    makers = {name: node for node in made[2].graph.node for name in node.output}
    quantized_weights = {True: 0, False: 0}
    for node in made[2].graph.node:
        if node.op_type in {"MatMul", "Gemm", "Gather"}:
            layer = node.name.partition(":")[0]
            maker = makers.get(node.input[1 if node.op_type != "Gather" else 0])
            in_float = layer.startswith("layers.1.") or layer == "classifier"
            quantized_weights[in_float] += maker is not None and maker.op_type == "DequantizeLinear"
    assert quantized_weights[True] == 0 and quantized_weights[False] > 20


def test_a_rule_narrows_ranges_but_not_those_of_outputs(made: tuple[Any, ...]) -> None:
    full, cut = ({one.name: one for one in model.graph.initializer} for model in made[:2])
    scales = np.array(
        [
            [onnx.numpy_helper.to_array(full[name]), onnx.numpy_helper.to_array(cut[name])]
            for name in full
            if name.endswith("_scale") and not full[name].dims
        ]
    )
    assert np.all(scales[:, 1] <= scales[:, 0] * 1.0001) and np.mean(scales[:, 1] < 0.99 * scales[:, 0]) > 0.2
    logits = (onnx.numpy_helper.to_array(constants["logits_scale"]) for constants in (full, cut))
    assert len(set(map(float, logits))) == 1


def test_half_precision_has_inputs_and_outputs_as_before(halved: Any) -> None:
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*halved.graph.input, *halved.graph.output)}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64} and kinds["best"] == 7
    weights = [one for one in halved.graph.initializer if len(one.dims) > 1]
    assert weights and {one.data_type for one in weights} == {onnx.TensorProto.FLOAT16}
    assert {node.name.partition(":")[0] for node in halved.graph.node} >= {"left.0", "body.0", "more.7", "plane"}
