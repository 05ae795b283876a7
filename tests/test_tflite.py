"""What stands in .tflite files that are written here: names, metadata, integers where they are wanted."""

import importlib
import io
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from edgekd import formats
from edgekd.converters import _tflite_model
from edgekd.converters._tflite_metadata import append_labels
from edgekd.specs import Graph, Quantization, TensorSpec
from edgekd.workers import call
from tests.models import transposed_mean

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
conversions: Any = importlib.import_module("conversions")

pytestmark = [pytest.mark.xdist_group("tflite"), pytest.mark.timeout(900)]
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

WAYS = (
    Quantization(),
    Quantization(ranges="mse"),
    Quantization(in_float=("blocks.1.squeeze", "classifier")),
    Quantization(in_float=("blocks.1.squeez",)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("tflite")
    return call(conversions.quantize, "mobile_v3", "tflite", "int8", WAYS, str(folder), threads=1, log=folder / "log")


class Table:
    """A table of a FlatBuffer, read by nothing but the format's own description (flatbuffers.dev, "Internals")."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at
        self.fields = at - struct.unpack_from("<i", data, at)[0]

    @classmethod
    def root(cls, data: bytes) -> Self:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def where(self, field: int) -> int:
        """Position of a field; 0 where it is left out."""
        size = struct.unpack_from("<H", self.data, self.fields)[0]
        offset = struct.unpack_from("<H", self.data, self.fields + 4 + 2 * field)[0] if 4 + 2 * field < size else 0
        return self.at + offset if offset else 0

    def number(self, field: int, kind: str) -> int:
        where = self.where(field)
        return int(struct.unpack_from(f"<{kind}", self.data, where)[0]) if where else 0

    def follow(self, field: int) -> int:
        where = self.where(field)
        return where + int(struct.unpack_from("<I", self.data, where)[0]) if where else 0

    def vector(self, field: int) -> tuple[int, int]:
        """Position of the first element, and how many there are."""
        where = self.follow(field)
        return (where + 4, int(struct.unpack_from("<I", self.data, where)[0])) if where else (0, 0)

    def content(self, field: int) -> bytes:
        start, count = self.vector(field)
        return self.data[start : start + count]

    def text(self, field: int) -> str:
        return self.content(field).decode()

    def floats(self, field: int) -> tuple[float, ...]:
        start, count = self.vector(field)
        return struct.unpack_from(f"<{count}f", self.data, start)

    def table(self, field: int) -> "Table":
        return Table(self.data, self.follow(field))

    def tables(self, field: int) -> list["Table"]:
        start, count = self.vector(field)
        places = [start + 4 * index for index in range(count)]
        return [Table(self.data, at + struct.unpack_from("<I", self.data, at)[0]) for at in places]


def metadata(data: bytes) -> dict[str, bytes]:
    model = Table.root(data)
    buffers = model.tables(4)
    return {entry.text(0): buffers[entry.number(1, "I")].content(0) for entry in model.tables(6)}


def test_apps_read_what_the_model_is_and_how_images_are_given(made: tuple[Any, ...]) -> None:
    data = Path(made[0].file).read_bytes()
    held = metadata(data)["TFLITE_METADATA"]
    assert held[4:8] == b"M001"
    model = Table.root(held)
    assert (model.text(0), model.text(1), model.text(5)) == ("zoo", "A net of the zoo", "Apache-2.0")
    assert model.text(7) == "1.0.0"
    (graph,) = model.tables(3)
    (image,), (logits,) = graph.tables(2), graph.tables(3)
    assert (image.text(0), logits.text(0)) == ("image", "logits")
    content = image.table(3)
    assert content.number(0, "B") == 2  # ImageProperties
    assert content.table(1).number(0, "b") == 1  # RGB
    (unit,) = image.tables(4)
    assert unit.number(0, "B") == 1  # NormalizationOptions
    assert unit.table(1).floats(0) == (127.5, 120.0, 110.0)
    assert unit.table(1).floats(1) == (58.0, 57.0, 56.5)
    assert logits.table(3).number(0, "B") == 1  # FeatureProperties
    (labels,) = logits.tables(6)
    assert (labels.text(0), labels.number(2, "b")) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_labels_lie_behind_the_model_and_everything_of_ours_in_an_entry_of_its_own(made: tuple[Any, ...]) -> None:
    data = Path(made[0].file).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == list("abcdefghij")
    assert json.loads(metadata(data)["edgekd"]) == conversions.PROPERTIES


def test_a_model_of_no_classes_has_nothing_behind_it() -> None:
    assert append_labels(b"model", {}) == append_labels(b"model", {"edgekd.classes": "[]"}) == b"model"
    assert append_labels(b"model", {"edgekd.classes": "not JSON"}) == b"model"


def test_constants_are_aligned_as_kernels_want_them(made: tuple[Any, ...]) -> None:
    starts = [buffer.vector(0)[0] for buffer in Table.root(Path(made[0].file).read_bytes()).tables(4)]
    assert len(starts) > 50 and not any(start % 16 for start in starts)


def graph_of(one: Any) -> Graph:
    return formats.read(Path(one.file))


def test_operators_are_named_by_torch_modules(made: tuple[Any, ...]) -> None:
    zoo: Any = importlib.import_module("zoo")
    modules = {path for path, _ in zoo.ZOO["mobile_v3"]().module.named_modules()}
    operators = graph_of(made[0]).operators
    assert {operator.layer for operator in operators} <= modules | {"model", "logits"}
    named = {operator.name: operator.kind for operator in operators}
    assert named["stem.0"] == named["blocks.1.squeeze.reduce"] == named["blocks.3.project.0"] == "CONV_2D"
    assert named["blocks.2.depth_wise.0"] == "DEPTHWISE_CONV_2D"
    assert named["blocks.2"] == "ADD"


def test_inputs_and_outputs_are_integers_of_the_specs_names(made: tuple[Any, ...]) -> None:
    assert made[0].inputs == (TensorSpec(name="image", shape=(1, 32, 32, 3), dtype="int8", layout="NHWC"),)
    assert made[0].outputs == (TensorSpec(name="logits", shape=(1, 10), dtype="int8"),)


def test_a_module_stays_in_float_with_all_that_is_inside(made: tuple[Any, ...]) -> None:
    operators = graph_of(made[2]).operators
    working = [operator for operator in operators if operator.kind not in {"QUANTIZE", "DEQUANTIZE"}]
    dtypes = {True: set[str](), False: set[str]()}
    for operator in working:
        dtypes[operator.layer.startswith("blocks.1.squeeze") or operator.layer == "logits"].add(operator.dtype)
    assert dtypes == {True: {"float32"}, False: {"int8"}}
    assert made[2].outputs[0].dtype == "float32"


def test_a_module_that_is_not_there_is_named_with_the_nearest(made: tuple[Any, ...]) -> None:
    assert made[3].error == (
        "ConvertError: in_float names 'blocks.1.squeez', and the model has no such module "
        "(did you mean 'blocks.1.squeeze'?)"
    )


def quantizations(one: Any) -> dict[str, Any]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(Path(one.file).read_bytes(), 0))
    return {tensor.name.decode(): tensor.quantization for tensor in model.subgraphs[0].tensors}


def test_weights_have_a_scale_for_each_channel(made: tuple[Any, ...]) -> None:
    found = [quantization for quantization in quantizations(made[0]).values() if quantization is not None]
    by_channel = [len(one.scale) for one in found if one.scale is not None and len(one.scale) > 1]
    assert sum(by_channel) > 500


def test_a_rule_narrows_ranges_but_not_those_of_outputs(made: tuple[Any, ...]) -> None:
    full, cut = quantizations(made[0]), quantizations(made[1])
    operators = [operator.outputs[0] for operator in graph_of(made[0]).operators]
    scales = np.array([[full[name].scale[0], cut[name].scale[0]] for name in operators])
    assert np.all(scales[:, 1] <= scales[:, 0] * 1.0001) and np.mean(scales[:, 1] < 0.99 * scales[:, 0]) > 0.2
    assert full["logits"].scale == cut["logits"].scale


def test_an_output_keeps_its_own_range_where_something_coarser_reads_it(tmp_path: Path) -> None:
    """The keys of a step go out, and into a cache of a wider range."""
    (one,) = call(
        conversions.quantize, "decoder_step", "tflite", "int8", WAYS[:1], str(tmp_path), threads=1, log=tmp_path / "log"
    )
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(Path(one.file).read_bytes(), 0))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    assert [entry.tensorIndex for entry in signature.outputs] == list(graph.outputs)
    assert [graph.tensors[index].name.decode() for index in graph.outputs] == [spec.name for spec in one.outputs]
    key, cache = (graph.tensors[index].quantization.scale[0] for index in (graph.outputs[1], graph.inputs[3]))
    assert key < 0.7 * cache


def test_a_product_with_a_constant_of_three_axes_has_one_scale(tmp_path: Path) -> None:
    """With a scale for each channel every runtime multiplies it wrongly."""
    (one,) = call(conversions.products, str(tmp_path), threads=1, log=tmp_path / "log")
    assert not one.error
    (product,) = [operator for operator in formats.read(Path(one.file)).operators if operator.kind == "BATCH_MATMUL"]
    assert product.dtype == "int8" and not product.by_channel


@pytest.mark.parametrize(
    ("order", "axes", "keep", "left"),
    [
        ([0, 3, 1, 2], [2, 3], False, ["MEAN"]),
        ([0, 3, 1, 2], [-1, -2], False, ["MEAN"]),
        ([0, 3, 1, 2], [1], False, ["MEAN"]),
        ([0, 3, 1, 2], [2], False, ["TRANSPOSE", "MEAN"]),
        ([0, 3, 1, 2], [2, 3], True, ["TRANSPOSE", "MEAN"]),
    ],
)
def test_an_average_needs_no_transposition_where_what_it_leaves_has_the_same_order(
    order: list[int], axes: list[int], keep: bool, left: list[str]
) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    model = _tflite_model.read(transposed_mean(order, axes, keep))
    _tflite_model.take_means_in_place(model)
    assert [_tflite_model.kind(model, one) for one in model.subgraphs[0].operators] == left
    runtime = interpreter.Interpreter(model_content=_tflite_model.write(model))
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], image)
    runtime.invoke()
    found = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    expected = image.transpose(order).mean(tuple(axes), keepdims=keep)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
