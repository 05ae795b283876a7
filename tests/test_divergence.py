"""Where two executions part: hand-made files against the torch module that they should be, and against each other."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.divergence import explained_db, first, layers, nearest, output_sqnr_db
from edgekd.errors import Disagreement, MeasureError
from edgekd.executions import FileSide, TorchSide, follow_torch, in_order, observed
from edgekd.specs import Graph, Operator, TensorSpec
from tests import models
from tests.conftest import data_folder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="ai_edge_litert, which executes TFLite, is not installed"
)
IMAGES = [np.random.default_rng(1).normal(size=(3, 1, 2, 4, 4)).astype(np.float32)]


def made(folder: Path, name: str = "a.tflite", **changes: Any) -> FileSide:
    return FileSide.of(models.tflite(folder / name, **changes), "litert")


def test_a_faithful_file_parts_nowhere(tmp_path: Path) -> None:
    side = made(tmp_path)
    assert first(side, TorchSide(models.torch_twin()), IMAGES, tmp_path) is None
    (ratio,) = output_sqnr_db(side, TorchSide(models.torch_twin()), IMAGES, tmp_path)
    assert ratio is not None and ratio > 100


@pytest.mark.parametrize(
    ("factors", "name"), [((1.5, 1.0), "blocks.0.conv"), ((1.0, 0.5), "blocks.0.conv:1"), ((1.1, 1.1), "blocks.0.conv")]
)
def test_wrong_weights_are_blamed_on_their_operator(factors: tuple[float, float], name: str, tmp_path: Path) -> None:
    found = first(made(tmp_path, factors=factors), TorchSide(models.torch_twin()), IMAGES, tmp_path)
    assert found is not None and found.name == name and found.kind == "CONV_2D"
    assert found.before_db > 100 > found.sqnr_db and found.least_db == 80


@pytest.mark.parametrize(("ours", "theirs"), [("NONE", "RELU"), ("RELU", "NONE")])
def test_a_wrong_activation_is_blamed_on_its_operator(ours: str, theirs: str, tmp_path: Path) -> None:
    found = first(made(tmp_path, activation=ours), TorchSide(models.torch_twin(theirs)), IMAGES, tmp_path)
    assert found is not None and found.name == "blocks.0.conv"


def test_an_activation_that_is_fused_is_no_difference(tmp_path: Path) -> None:
    assert first(made(tmp_path, activation="RELU"), TorchSide(models.torch_twin("RELU")), IMAGES, tmp_path) is None


class Folded(nn.Module):
    """A batch norm that a file's first convolution has in its weights, and the names that our files have."""

    def __init__(self) -> None:
        super().__init__()
        twin = models.torch_twin()
        norm = nn.BatchNorm2d(2, eps=0.0)
        norm.weight.data.fill_(2.0)
        twin.first.bias.data /= 2
        self.blocks = nn.ModuleDict(
            {"0": nn.ModuleDict({"conv": nn.Sequential(twin.first, twin.second), "norm": norm})}
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        convs, norm = self.blocks["0"]["conv"], self.blocks["0"]["norm"]  # type: ignore[index]  # torch
        found = norm(convs[0](image)).relu()
        return found + convs[1](found)


def test_a_layer_is_named_after_what_others_fold_into(tmp_path: Path) -> None:
    ours = {"metadata": {"edgekd.classes": b"[]"}, "activation": "RELU"}
    assert first(made(tmp_path, factors=(2.0, 1.0), **ours), TorchSide(Folded().eval()), IMAGES, tmp_path) is None
    found = first(made(tmp_path, factors=(1.0, 1.0), **ours), TorchSide(Folded().eval()), IMAGES, tmp_path)
    assert found is not None and found.name == "blocks.0.conv" and found.layer == "blocks.0.conv"


def test_what_an_operator_does_alone_and_what_it_costs(tmp_path: Path) -> None:
    side = made(tmp_path, factors=(1.01, 1.1))
    one, two, three = layers(side, TorchSide(models.torch_twin()), IMAGES, tmp_path)
    assert one.counterpart.startswith("norm") and two.counterpart == "second" and three.counterpart == "add"
    assert one.sqnr_db == pytest.approx(40, abs=3) and one.local_db == pytest.approx(one.sqnr_db, abs=0.1)
    assert two.before_db == one.sqnr_db
    assert two.local_db == pytest.approx(20, abs=3) and two.local_db != two.sqnr_db
    assert three.local_db is not None and three.local_db > 100, "the addition does nothing wrong"
    assert two.output_db is not None and one.output_db is not None and two.output_db < one.output_db


def test_the_order_of_axes_is_found(tmp_path: Path) -> None:
    side = made(tmp_path)
    turned = [np.ascontiguousarray(IMAGES[0].transpose(0, 1, 3, 4, 2))]
    assert first(side, made(tmp_path, "b.tflite"), turned, tmp_path) is None
    assert first(side, made(tmp_path, "b.tflite"), IMAGES, tmp_path) is None


def test_two_files_of_one_format(tmp_path: Path) -> None:
    found = first(made(tmp_path, factors=(1.0, 1.2)), made(tmp_path, "b.tflite"), IMAGES, tmp_path)
    assert found is not None and found.name == "blocks.0.conv:1"
    table = layers(made(tmp_path), made(tmp_path, "b.tflite"), IMAGES, tmp_path)
    assert [one.counterpart for one in table] == [one.operator for one in table]
    assert all(one.sqnr_db == 200 and one.local_db is None for one in table), (
        "a file cannot be computed from the middle"
    )


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_two_files_of_two_formats(kind: str, tmp_path: Path) -> None:
    """The hand-made ONNX file turns a sign where the TFLite file does not; the OpenVINO file has no bias."""
    from edgekd import engines
    from edgekd.plugins import find, names

    engine = {"onnx": "onnxruntime", "openvino": "openvino"}[kind]
    if engine not in names(engines) or importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not here")
    find(engines, engine)
    other = FileSide.of(models.MAKERS[kind](tmp_path / f"b{models.SUFFIXES[kind]}"), engine)
    assert first(other, other, IMAGES, tmp_path) is None
    found = first(made(tmp_path), other, IMAGES, tmp_path)
    assert found is not None and found.name == "blocks.0.conv"


def test_the_models_of_mlperf_tiny(tmp_path: Path) -> None:
    folder = data_folder() / "mlperf_tiny"
    if not folder.is_dir():
        pytest.skip("the models of MLPerf Tiny are not here; set EDGEKD_DATA")
    ours = FileSide.of(folder / "pretrainedResnet_quant.tflite")
    twin = FileSide.of(folder / "pretrainedResnet.tflite")
    images = [np.random.default_rng(0).random((2, 1, 32, 32, 3)).astype(np.float32) * 255]
    table = layers(ours, twin, images, tmp_path)
    assert len(table) == 16 and all(one.sqnr_db is not None and one.sqnr_db > 5 for one in table)
    assert explained_db(ours.graph) == 10 and explained_db(twin.graph) == 80
    assert first(ours, twin, images, tmp_path, least_db=0) is None
    found = first(ours, twin, images, tmp_path, least_db=60)
    assert found is not None and found.name == ours.graph.operators[0].name


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    side, twin = made(tmp_path), TorchSide(models.torch_twin())
    with pytest.raises(Disagreement, match="takes 1 inputs, 2 are given"):
        first(side, twin, IMAGES * 2, tmp_path)
    with pytest.raises(Disagreement, match="is of shape"):
        first(side, twin, [np.zeros((1, 1, 7, 4, 4), np.float32)], tmp_path)
    with pytest.raises(Disagreement, match="does not take inputs of shape"):
        first(side, TorchSide(nn.Conv2d(7, 1, 1)), IMAGES, tmp_path)


def test_a_net_of_other_sizes_cannot_be_compared(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(32, 7))
    with pytest.raises(Disagreement, match="has the size"):
        first(made(tmp_path), TorchSide(other), IMAGES, tmp_path)


def test_a_file_that_no_engine_loads(tmp_path: Path) -> None:
    side = made(tmp_path)
    side.path.write_bytes(side.path.read_bytes()[:-100])
    with pytest.raises(MeasureError):
        output_sqnr_db(side, TorchSide(models.torch_twin()), IMAGES, tmp_path)


# --- torch


def test_everything_that_a_module_computes_is_seen() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)).eval()
    followed = follow_torch(TorchSide(module), IMAGES)
    layers_seen = {one.layer for one in followed.computed}
    assert layers_seen == {"0", "1", "2", "3"}
    conv, relu = followed.computed[0], followed.computed[1]
    assert conv.kind == "convolution" and conv.values.min() < 0, "kept as it was before it was changed in place"
    assert relu.parents == (0,) and relu.values.min() >= 0
    with torch.no_grad():
        expected = np.stack([module(torch.from_numpy(image)).numpy() for image in IMAGES[0]])
    np.testing.assert_allclose(followed.outputs[0], expected, atol=1e-6)


def test_a_module_is_computed_again_from_the_middle() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)).eval()
    followed = follow_torch(TorchSide(module), IMAGES)
    changed = np.zeros_like(followed.computed[0].values)
    (output,) = followed.output_of({0: changed})
    bias = module[3].bias.detach().numpy()
    np.testing.assert_allclose(output, np.broadcast_to(bias, output.shape), atol=1e-6)
    (same,) = followed.output_of({0: followed.computed[0].values})
    np.testing.assert_allclose(same, followed.outputs[0], atol=1e-6)
    assert followed.computed[0].values.min() < 0, "what was computed first is still there"


class Fickle(nn.Module):
    """Does one thing to some images and another to others."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.relu() if image.sum() > 0 else image.abs().sqrt()


def test_a_module_that_does_different_things_is_refused() -> None:
    with pytest.raises(Disagreement, match="different things for different examples"):
        follow_torch(TorchSide(Fickle()), [np.stack([IMAGES[0][0], -abs(IMAGES[0][0]), abs(IMAGES[0][0])])])


def test_following_loads_no_compiler() -> None:
    import subprocess
    import sys

    code = """
import sys, numpy as np, torch
from edgekd.executions import TorchSide, follow_torch
follow_torch(TorchSide(torch.nn.Conv2d(2, 2, 1)), [np.ones((1, 1, 2, 4, 4), np.float32)])
assert "torch._dynamo.symbolic_convert" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- small parts


def test_nearest_takes_axes_of_one_anywhere() -> None:
    values = np.random.default_rng(0).normal(size=(2, 1, 3, 5)).astype(np.float32)
    found = nearest(values, values.transpose(0, 3, 1, 2)[..., None])
    assert found is not None and found[0] == 200 and found[1].shape == values.shape
    assert nearest(values, values[..., :4]) is None


def test_inputs_are_turned_to_what_a_model_wants() -> None:
    array = np.zeros((2, 1, 3, 8, 9))
    assert in_order(array, TensorSpec(name="x", shape=(1, 8, 9, 3))).shape == (2, 1, 8, 9, 3)
    assert in_order(array, TensorSpec(name="x", shape=(-1, 3, -1, -1))).shape == array.shape
    with pytest.raises(Disagreement, match="is of shape"):
        in_order(array, TensorSpec(name="x", shape=(1, 8, 3, 3)))


def test_a_layer_is_observed_behind_its_quantization() -> None:
    def one(kind: str, name: str, *inputs: str) -> Operator:
        return Operator(kind=kind, name=name, inputs=inputs, outputs=(name,))

    graph = Graph(
        format="onnx",
        inputs=(TensorSpec(name="x", shape=(1, 2)),),
        outputs=(TensorSpec(name="add", shape=(1, 2)),),
        operators=(
            one("QuantizeLinear", "xq", "x"),
            one("DequantizeLinear", "xd", "xq"),
            one("DequantizeLinear", "w"),
            one("Conv", "conv", "xd", "w"),
            one("QuantizeLinear", "cq", "conv"),
            one("DequantizeLinear", "cd", "cq"),
            one("Relu", "relu", "cd"),
            one("Add", "add", "relu", "cd"),
        ),
        properties={},
    )
    assert observed(graph) == [(3, "cd"), (6, "relu"), (7, "add")]
