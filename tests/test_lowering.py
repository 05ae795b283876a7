"""Models lowered to what a runtime executes: what is fused, folded, dropped, and how much memory is planned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd import formats
from edgekd.errors import ConfigError
from edgekd.kernels import CLASSES
from edgekd.lowering import Lowered, lower
from edgekd.lowering._memory import Life, plan
from edgekd.lowering._torch import kernels_of
from edgekd.nets import anatomy
from edgekd.programs import Node, Program, Value
from tests.conftest import data_folder


def program(format_: str, values: dict[str, Any], nodes: Sequence[Node], outputs: Sequence[str]) -> Program:
    """A Program; the shapes of constants are lists, those of other tensors tuples."""
    made = {
        name: Value(name, tuple(shape), constant=isinstance(shape, list), zero=name.startswith("zero"))
        for name, shape in values.items()
    }
    return Program(format_, made, tuple(nodes), ("in",), tuple(outputs))


def kinds(found: Lowered) -> list[str]:
    return [CLASSES[kind] for kind in found.kernels.kinds]


IMAGE = {"in": (1, 8, 4, 4), "w": [16, 8, 3, 3], "b": [16], "a": (1, 16, 4, 4), "c": (1, 16, 4, 4), "d": (1, 16, 4, 4)}


def test_batch_norms_clamps_and_biases_are_fused_into_their_convolution() -> None:
    nodes = [
        Node("Conv", "a", ("in", "w"), ("a",)),
        Node("BatchNormalization", "c", ("a", "b", "b", "b", "b"), ("c",)),
        Node("Relu", "d", ("c",), ("d",)),
    ]
    found = lower(program("onnx", IMAGE, nodes, ["d"]))
    assert kinds(found) == ["conv"] and found.macs == 16 * 8 * 9 * 16
    assert found.kernels.column("window")[0] == 9 and found.kernels.column("inside")[0] == 8
    nodes[1] = Node("Add", "c", ("a", "b"), ("c",))
    assert kinds(lower(program("onnx", IMAGE, nodes, ["d"]))) == ["conv"]


def test_what_two_read_is_not_fused() -> None:
    nodes = [
        Node("Conv", "a", ("in", "w"), ("a",)),
        Node("Relu", "c", ("a",), ("c",)),
        Node("Add", "d", ("a", "c"), ("d",)),
    ]
    assert kinds(lower(program("onnx", IMAGE, nodes, ["d"]))) == ["conv", "elementwise", "elementwise"]


def test_branches_that_reach_no_output_and_what_is_multiplied_by_zero_are_dropped() -> None:
    values = IMAGE | {"zero": [1], "e": (1, 16, 4, 4), "f": (1, 16, 4, 4)}
    nodes = [
        Node("Conv", "a", ("in", "w"), ("a",)),
        Node("Conv", "c", ("in", "w"), ("c",)),  # read by nothing but a multiplication by 0
        Node("Mul", "d", ("c", "zero"), ("d",)),
        Node("Add", "e", ("a", "d"), ("e",)),
        Node("Conv", "f", ("in", "w"), ("f",)),  # reaches no output
    ]
    found = lower(program("onnx", values, nodes, ["e"]))
    assert found.macs == 16 * 8 * 9 * 16


def test_groups_and_depthwise_convolutions_are_told_apart_by_their_filters() -> None:
    for weights, kind, inside in (([16, 1, 3, 3], "depthwise", 1), ([16, 4, 3, 3], "grouped", 4)):
        values = {"in": (1, 16, 4, 4), "w": weights, "a": (1, 16, 4, 4)}
        found = lower(program("onnx", values, [Node("Conv", "a", ("in", "w"), ("a",))], ["a"]))
        assert kinds(found) == [kind] and found.kernels.column("inside")[0] == inside
    tflite = {"in": (1, 4, 4, 16), "w": [1, 3, 3, 16], "a": (1, 4, 4, 16)}
    found = lower(program("tflite", tflite, [Node("DEPTHWISE_CONV_2D", "a", ("in", "w"), ("a",))], ["a"]))
    assert kinds(found) == ["depthwise"] and found.macs == 16 * 9 * 16


def test_products_of_matrices() -> None:
    values = {"in": (1, 10, 32), "w": [32, 64], "a": (1, 10, 64), "t": (1, 64, 10), "s": (1, 10, 10)}
    nodes = [
        Node("MatMul", "a", ("in", "w"), ("a",)),
        Node("Transpose", "t", ("a",), ("t",)),
        Node("MatMul", "s", ("a", "t"), ("s",)),
    ]
    found = lower(program("onnx", values, nodes, ["s"]))
    assert kinds(found) == ["pointwise", "move", "matmul"]
    assert found.kernels.column("macs").tolist() == [10 * 32 * 64, 0, 10 * 64 * 10]


def test_an_operator_that_nobody_knows_is_costed_by_its_traffic_and_said() -> None:
    nodes = [Node("my.domain:Magic", "a", ("in",), ("a",))]
    found = lower(program("onnx", IMAGE, nodes, ["a"]))
    assert kinds(found) == ["other"] and found.kernels.column("reads")[0] == 128
    assert found.notes == (
        "operator my.domain:Magic (1x) is not known: costed by the numbers that it reads and writes",
    )


def test_a_model_that_ignores_its_input_is_refused() -> None:
    values = IMAGE | {"zero": [1]}
    nodes = [Node("Mul", "a", ("in", "zero"), ("a",))]
    with pytest.raises(ConfigError, match="nothing of the model depends on its inputs"):
        lower(program("onnx", values, nodes, ["a"]))


def test_a_tensor_of_unknown_or_impossible_size_is_refused() -> None:
    nodes = [Node("Relu", "x", ("in",), ("x",))]
    with pytest.raises(ConfigError, match="the size of tensor 'x' is not known"):
        lower(program("onnx", IMAGE, nodes, ["x"]))
    with pytest.raises(ConfigError, match="more than"):
        lower(program("onnx", {**IMAGE, "x": (2**31, 2**31)}, nodes, ["x"]))


def test_memory_is_shared_by_tensors_that_are_not_alive_together() -> None:
    assert plan([Life(1000, 0, 1), Life(1000, 2, 3)]) == 1000
    assert plan([Life(1000, 0, 2), Life(1000, 2, 3)]) == 1024 + 1000
    assert plan([Life(64, 0, 9), *(Life(640, at, at + 1) for at in range(8))]) == 64 + 2 * 640
    assert plan([]) == 0
    chain = [Life(640, at, at + 1) for at in range(5000)]
    assert plan(chain) == 2 * 640, "of very many tensors too"


KNOWN = {
    "kws_ref_model.tflite": ("int8", 2_656_768, 16_512),
    "pretrainedResnet.tflite": ("fp32", 12_501_632, 208_896),
    "pretrainedResnet_quant.tflite": ("int8", 12_501_632, 52_224),
}


@pytest.mark.parametrize("name", KNOWN)
def test_arenas_of_known_files_are_those_that_litert_plans(name: str) -> None:
    path = data_folder() / "mlperf_tiny" / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set EDGEKD_DATA")
    found = lower(formats.program(path))
    assert (found.precision, found.macs, found.arena_bytes) == KNOWN[name]
    assert found.builtin_arena_bytes == pytest.approx(planned_by_litert(path), rel=0.05)


def planned_by_litert(path: Path) -> int:
    """From the first byte of an activation to the last, where no delegate takes the graph."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    session = interpreter.Interpreter(str(path), experimental_op_resolver_type=plain, num_threads=1)
    session.allocate_tensors()
    constants = {name for name, value in formats.program(path).values.items() if value.constant}
    spans = []
    for detail in session.get_tensor_details():
        if detail["name"] not in constants and np.prod(detail["shape"]):
            array = session.tensor(detail["index"])()
            spans.append((array.__array_interface__["data"][0], array.nbytes))
    return max(at + size for at, size in spans) - min(at for at, _ in spans)


class Cell(nn.Module):
    """A branch is zeroed, as in NAS-Bench-201, and another leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)

    def forward(self, given: Tensor) -> Tensor:
        self.three(given)
        return torch.sigmoid(self.depthwise(self.one(given)) + self.two(given).mul(0.0))


def test_a_module_is_lowered_like_its_exports() -> None:
    found = kernels_of(anatomy(Cell(), (8, 4, 4)))
    names = [CLASSES[kind] for kind in found.kinds]
    assert names[:2] == ["conv", "depthwise"] and names[-1] == "activation" and names.count("conv") == 1
    assert found.column("inside")[0] == 8 and found.column("window")[1] == 9
