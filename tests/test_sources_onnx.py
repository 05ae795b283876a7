"""ONNX files as torch modules: they compute what ONNX Runtime computes, operator by operator and net by net."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.errors import ConfigError, EdgekdError, UnsupportedOperator
from edgekd.sources import open_model
from tests.brought import MAKERS, arrays, assert_same, flat, make, outputs_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnxruntime.set_default_logger_severity(4)


def run_onnx(path: Path, feeds: dict[str, Any]) -> list[Any]:
    """What ONNX Runtime computes."""
    found: list[Any] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    return found


def quietly(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function returns that warns of its own age, or of what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def write_onnx(name: str, opset: int, path: Path, **options: Any) -> Path:
    """A net, as torch exports it."""
    module, examples, inputs, outputs = make(name)
    common = {"opset_version": opset, "input_names": list(inputs), "output_names": list(outputs), **options}
    quietly(torch.onnx.export, module, examples, str(path), **({"dynamo": False} | common))
    return path


EXPORTS = [(name, opset) for name in MAKERS for opset in (13, 17, 20)]


@pytest.mark.parametrize(("name", "opset"), EXPORTS, ids=str)
def test_an_onnx_file_computes_the_same(name: str, opset: int, tmp_path: Path) -> None:
    path = write_onnx(name, opset, tmp_path / "model.onnx")
    module, examples, inputs, outputs = make(name)
    model = open_model(str(path))
    assert [spec.name for spec in model.inputs] == list(inputs)
    assert [spec.name for spec in model.outputs] == list(outputs)
    images = {"mobilenet_v2", "mobilenet_v3", "unet", "heads"}
    assert {spec.layout for spec in model.inputs} == ({"NCHW"} if name in images else {""})
    found = arrays(outputs_of(model, examples))
    assert_same(run_onnx(path, {key: one.numpy() for key, one in zip(inputs, examples, strict=True)}), found)
    with torch.no_grad():
        assert_same(arrays(flat(module(*examples))), found)
        traced = quietly(torch.jit.trace, model.module, examples, check_trace=False)
        assert_same(arrays(flat(traced(*examples))), found)


@pytest.mark.parametrize("name", ["bert"])
def test_what_the_newer_exporter_writes_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    path = write_onnx(name, 20, tmp_path / "model.onnx", dynamo=True, verbose=False, external_data=True)
    _, examples, inputs, _ = make(name)
    model = open_model(str(path))
    feeds = {key: one.numpy() for key, one in zip(inputs, examples, strict=True)}
    assert_same(run_onnx(path, feeds), arrays(outputs_of(model, examples)))
    program = quietly(torch.export.export, model.module, examples)
    assert_same(arrays(outputs_of(model, examples)), arrays(flat(program.module()(*examples))))


def test_open_sizes_are_one_unless_asked_for_and_symbols_are_shared(tmp_path: Path) -> None:
    axes = {"input_ids": {0: "batch", 1: "steps"}, "attention_mask": {0: "batch", 1: "steps"}}
    path = write_onnx("bert", 17, tmp_path / "model.onnx", dynamic_axes=axes)
    assert [spec.shape for spec in open_model(str(path)).inputs] == [(1, 1), (1, 1)]
    model = open_model(str(path), {"input_ids": (3, 7)})
    assert [spec.shape for spec in model.inputs] == [(3, 7), (3, 7)]
    inputs = (torch.randint(0, 50, (3, 7)), torch.ones(3, 7, dtype=torch.int64))
    feeds = {"input_ids": inputs[0].numpy(), "attention_mask": inputs[1].numpy()}
    assert_same(run_onnx(path, feeds), arrays(outputs_of(model, inputs)))


@pytest.mark.parametrize(
    ("shapes", "message", "hint"),
    [
        ({"images": (1, 3, 32, 32)}, "it has no input 'images'", "its inputs: image"),
        ({"image": (1, 3, 33, 32)}, "input 'image' is of shape (1, 3, 32, 32), not (1, 3, 33, 32)", ""),
        ({"image": (1, 3)}, "input 'image' is of shape (1, 3, 32, 32), not (1, 3)", ""),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shapes: dict[str, tuple[int, ...]], message: str, hint: str, tmp_path: Path
) -> None:
    path = write_onnx("mobilenet_v2", 17, tmp_path / "model.onnx")
    with pytest.raises(ConfigError) as error:
        open_model(str(path), shapes)
    assert str(error.value) == f"{path}: {message}" and error.value.hint == hint


def test_weights_keep_their_names_and_can_be_trained(tmp_path: Path) -> None:
    path = write_onnx(
        "mobilenet_v3",
        17,
        tmp_path / "model.onnx",
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    module, examples, _, _ = make("mobilenet_v3")
    model = open_model(str(path))
    mine, theirs = dict(model.module.named_parameters()), dict(module.named_parameters())
    assert {name: tuple(one.shape) for name, one in mine.items()} == {
        name: tuple(one.shape) for name, one in theirs.items()
    }
    buffers = dict(model.module.named_buffers())
    assert "stem.1.running_mean" in buffers, "statistics are not trained"
    model.module(*examples).square().sum().backward()
    module(*examples).square().sum().backward()
    for name, one in theirs.items():
        assert one.grad is not None and mine[name].grad is not None
        torch.testing.assert_close(mine[name].grad, one.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("opset", [14, 17, 20])
def test_an_error_function_that_spells_gelu_is_gelu(opset: int, tmp_path: Path) -> None:
    model = open_model(str(write_onnx("bert", opset, tmp_path / "model.onnx")))
    program = quietly(torch.export.export, model.module, make("bert")[1])
    operators = {str(node.target) for node in program.graph.nodes}
    assert "aten.gelu.default" in operators and "aten.erf.default" not in operators


# --- operators by hand


def hand_written() -> list[Any]:
    from tests.onnx_cases import cases

    return cases()


@pytest.mark.parametrize("part", range(6))
def test_single_operators_compute_the_same(part: int, tmp_path: Path) -> None:
    path, wrong = tmp_path / "model.onnx", []
    for case in hand_written()[part::6]:
        path.write_bytes(case.model().SerializeToString())
        feeds = case.feeds()
        expected = run_onnx(path, feeds)
        try:
            model = open_model(str(path))
            found = outputs_of(model, tuple(torch.from_numpy(np.array(one)) for one in feeds.values()))
            assert_same(expected, arrays(found))
        except (AssertionError, EdgekdError) as error:
            wrong.append(f"{case}: {str(error).splitlines()[0]}")
    assert not wrong


def graph_of(
    made: list[Any], inputs: list[Any], outputs: list[str], stored: dict[str, Any] | None = None, opset: int = 17
) -> Any:
    """A model of these nodes; types of outputs are left open."""
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(made, "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def floats(name: str, *shape: Any) -> Any:
    """An input of that name."""
    return onnx.helper.make_tensor_value_info(name, 1, shape)


def write(model: Any, path: Path) -> Path:
    """To a file."""
    path.write_bytes(model.SerializeToString())
    return path


def node(*args: Any, **attributes: Any) -> Any:
    """A node."""
    return onnx.helper.make_node(*args, **attributes)


def test_a_branch_a_loop_and_a_scan_are_unrolled(tmp_path: Path) -> None:
    from onnx import helper

    small = graph_of([node("Add", ["x", "x"], ["yes"])], [], ["yes"]).graph
    large = graph_of([node("Mul", ["x", "x"], ["no"])], [], ["no"]).graph
    turn = [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, []), floats("carry", 2)]
    body = graph_of(
        [
            node("Cast", ["i"], ["number"], to=1),
            node("Add", ["carry", "number"], ["next"]),
            node("Mul", ["next", "chosen"], ["collected"]),
            node("Less", ["i", "limit"], ["go_on"]),
        ],
        turn,
        ["go_on", "next", "collected"],
    ).graph
    step = graph_of(
        [node("Add", ["sum", "part"], ["total"]), node("Identity", ["total"], ["copy"])],
        [floats("sum", 2), floats("part", 2)],
        ["total", "copy"],
    ).graph
    model = graph_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("Equal", ["shape", "two"], ["is_two"]),
            node("If", ["is_two"], ["chosen"], then_branch=large, else_branch=small),
            node("Loop", ["turns", "", "x"], ["last", "all"], body=body),
            node("Scan", ["x", "all"], ["sum_of_all", "sums"], body=step, num_scan_inputs=1),
        ],
        [floats("x", 2)],
        ["chosen", "last", "all", "sum_of_all", "sums"],
        {"two": np.array([2]), "turns": np.array(7), "limit": np.array(3)},
    )
    path = write(model, tmp_path / "model.onnx")
    x = torch.tensor([1.5, -2.0])
    assert_same(run_onnx(path, {"x": x.numpy()}), arrays(outputs_of(open_model(str(path)), (x,))))


def test_functions_of_the_file_and_of_the_specification_are_put_in_place(tmp_path: Path) -> None:
    from onnx import helper

    shared = helper.make_function(
        "mine",
        "Twice",
        ["a", "b"],
        ["c"],
        [node("Elu", ["a"], ["d"]), node("Add", ["d", "b"], ["c"])],
        [helper.make_opsetid("", 17)],
        ["alpha"],
    )
    shared.node[0].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=1))
    model = graph_of(
        [
            node("Twice", ["x", "x"], ["y"], domain="mine", alpha=0.3),
            node("Softsign", ["y"], ["z"]),
            node("SoftmaxCrossEntropyLoss", ["z", "label"], ["loss"]),
        ],
        [floats("x", 2, 3)],
        ["y", "loss"],
        {"label": np.array([0, 2])},
    )
    model.functions.append(shared)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    path = write(model, tmp_path / "model.onnx")
    x = torch.randn(2, 3, generator=torch.manual_seed(0))
    assert_same(run_onnx(path, {"x": x.numpy()}), arrays(outputs_of(open_model(str(path)), (x,))))


def test_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    made = [node("Neg", ["b"], ["c"]), node("Relu", ["a"], ["b"]), node("Abs", ["x"], ["a"])]
    path = write(graph_of(made, [floats("x", 3)], ["c"]), tmp_path / "model.onnx")
    assert outputs_of(open_model(str(path)), (torch.tensor([1.0, -2.0, 3.0]),))[0].tolist() == [-1, -2, -3]


def quantized(tmp_path: Path) -> Path:
    """A net with an integer between every two layers, as ONNX Runtime's quantizer writes it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Examples(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.left = iter([{"image": random.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(4)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    path, made = write_onnx("mobilenet_v2", 17, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(path), str(made), Examples(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return made


def test_integers_between_layers_become_rounding(tmp_path: Path) -> None:
    path = quantized(tmp_path)
    model = open_model(str(path))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 32, 32, generator=torch.manual_seed(1))
    assert_same(session.run(None, {"image": image.numpy()}), arrays(outputs_of(model, (image,))), 60)
    assert all(one.is_floating_point() for one in model.module.state_dict().values()), "weights are floats again"


def test_properties_are_those_of_the_file(tmp_path: Path) -> None:
    model = graph_of([node("Relu", ["x"], ["y"])], [floats("x", 2)], ["y"])
    onnx.helper.set_model_props(model, {"labels": '["a", "b"]', "licence": "CC0-1.0"})
    found = open_model(str(write(model, tmp_path / "model.onnx")))
    assert found.properties == {"labels": '["a", "b"]', "licence": "CC0-1.0"}


# --- ONNX files that are refused


def refused(model: Any, tmp_path: Path) -> EdgekdError:
    """The error that a model ends in, its message without the file's name."""
    path = write(model, tmp_path / "model.onnx")
    with pytest.raises(EdgekdError) as error:
        open_model(str(path))
    text = str(error.value)
    assert "\n" not in text + error.value.hint
    return type(error.value)(text.removeprefix(f"{path}: "), hint=error.value.hint)


def one(operator: str, inputs: list[str], opset: int = 17, stored: dict[str, Any] | None = None, **more: Any) -> Any:
    """A model of one node of inputs `x` (1, 3, 4, 4) and `n` (2,) integers."""
    numbers = onnx.helper.make_tensor_value_info("n", 7, [2])
    return graph_of(
        [node(operator, inputs, ["y"], name="here", **more)], [floats("x", 1, 3, 4, 4), numbers], ["y"], stored, opset
    )


@pytest.mark.parametrize(
    ("operator", "inputs", "more", "message", "hint"),
    [
        (
            "NonMaxSuppression",
            ["x", "x"],
            {},
            "NonMaxSuppression 'here' (opset 17) is not known",
            "cut the model before it",
        ),
        (
            "Boom",
            ["x"],
            {"domain": "com.acme"},
            "Boom 'here' (opset 0) is not known",
            "operators of 'com.acme' are a runtime's",
        ),
        (
            "Reshape",
            ["x", "n"],
            {},
            "Reshape 'here' (opset 17): its shape depends on the data",
            "export the model with fixed",
        ),
        (
            "NonZero",
            ["x"],
            {},
            "NonZero 'here' (opset 17): its input 0 depends on the data",
            "export the model with fixed",
        ),
        ("RandomNormalLike", ["x"], {}, "RandomNormalLike 'here' (opset 17) is not known", "make the noise an input"),
        (
            "Cast",
            ["x"],
            {"to": 8},
            "Cast 'here' (opset 17): tensors of type STRING cannot be computed with",
            "use float32",
        ),
        ("GridSample", ["x", "x"], {"mode": "x"}, "GridSample 'here' (opset 17):", ""),
    ],
)
def test_what_cannot_be_expressed_is_named_with_what_to_write(
    operator: str, inputs: list[str], more: dict[str, Any], message: str, hint: str, tmp_path: Path
) -> None:
    error = refused(one(operator, inputs, **more), tmp_path)
    assert str(error).startswith(message) and error.hint.startswith(hint)
    assert isinstance(error, UnsupportedOperator | ConfigError)
    assert not hint or (isinstance(error, UnsupportedOperator) and error.exit_code == 8)


def external(location: str, **entries: str) -> Any:
    """A model whose weight is in another file."""
    model = one("Add", ["x", "w"], stored={"w": np.ones(4, np.float32)})
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "", ".", "absent.bin", "link.bin", "a\0b", "x" * 5000]
)
def test_weights_outside_of_the_folder_are_not_read(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    error = refused(external(location), folder)
    assert str(error).startswith("tensor 'w': ")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, ""),
        ({"offset": "8", "length": "16"}, ""),
        ({"offset": "-1"}, "bytes -1 to"),
        ({"offset": "20", "length": "16"}, "bytes 20 to 36 of a file of 24"),
        ({"length": "12"}, "tensor 'w': "),
        ({"offset": "x"}, "cannot be read"),
    ],
)
def test_weights_in_another_file_of_the_folder_are_read(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32)
    (tmp_path / "data.bin").write_bytes(data.tobytes() if entries else data[:4].tobytes())
    model = external("data.bin", **entries)
    if message:
        assert message in str(refused(model, tmp_path))
        return
    found = open_model(str(write(model, tmp_path / "model.onnx"))).module.state_dict()["w"]
    assert found.tolist() == (data[2:6] if entries else data[:4]).tolist()


def test_broken_graphs_are_refused_in_one_line(tmp_path: Path) -> None:
    x, relu = [floats("x", 2)], node("Relu", ["x"], ["y"])
    nested = node("Relu", ["x"], ["y"])
    empty = onnx.helper.make_graph([], "g", [], [])
    for _ in range(28):
        body = onnx.helper.make_graph([nested], "g", [], [onnx.ValueInfoProto(name="y")])
        nested = node("If", ["yes"], ["y"], then_branch=body, else_branch=empty)
    calls_itself = graph_of([node("F", ["x"], ["y"], domain="mine")], x, ["y"])
    calls_itself.functions.append(
        onnx.helper.make_function("mine", "F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="mine")], [])
    )
    laughs = graph_of([node("F0", ["x"], ["y"], domain="mine")], x, ["y"])
    laughs.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    for level in range(22):  # each calls the next twice
        calls = [node(f"F{level + 1}", [a], [b], domain="mine") for a, b in (("a", "m"), ("m", "b"))]
        laughs.functions.append(onnx.helper.make_function("mine", f"F{level}", ["a"], ["b"], calls, []))
    laughs.functions.append(
        onnx.helper.make_function("mine", "F22", ["a"], ["b"], [node("Identity", ["a"], ["b"])], [])
    )
    calls_itself.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    large = graph_of([node("ConstantOfShape", ["shape"], ["y"])], x, ["y"], {"shape": np.array([2**40])})
    wide = graph_of([node("Expand", ["x", "shape"], ["y"])], x, ["y"], {"shape": np.array([2**30, 2])})
    hungry = graph_of(
        [node("Loop", ["turns", ""], [], body=graph_of([], [], ["go"]).graph)], x, ["x"], {"turns": np.array(10**9)}
    )
    for model, message in (
        (graph_of([node("Relu", ["z"], ["y"])], x, ["y"]), "Relu reads 'z', which nothing makes"),
        (
            graph_of([node("Relu", ["z"], ["y"]), node("Relu", ["y"], ["z"])], x, ["y"]),
            "its nodes wait for each other in a circle",
        ),
        (graph_of([relu, relu], x, ["y"]), "value 'y' is made twice"),
        (graph_of([relu], x, ["z"]), "output 'z' is never made"),
        (graph_of([relu], x * 2, ["y"]), "two inputs have the same name"),
        (graph_of([relu], x, ["y"], opset=6), "opset 6 is not known"),
        (graph_of([relu], x, ["y"], opset=99), "opset 99 is not known"),
        (graph_of([nested], x, ["y"], {"yes": np.array(True)}), "its functions or subgraphs are nested too deeply"),
        (calls_itself, "its functions or subgraphs are nested too deeply, or call themselves"),
        (laughs, "the graph has more than"),
        (large, "ConstantOfShape (opset 17): a constant of shape (1099511627776,)"),
        (wide, "y of shape (1073741824, 2) is too large"),
        (hungry, "a subgraph with 0 inputs gets 2"),
    ):
        assert str(refused(model, tmp_path)).startswith(message)


# --- the specification's own examples


SLOW_TO_MAKE = {"averagepool", "lppool", "maxpool"}  # by loops in Python; pools are checked above
NOT_NUMBERS = ("_seq", "sequence", "optional", "string", "image_decoder", "ai_onnx_ml", "adagrad", "adam", "momentum")
KNOWN_DIFFERENCES = {
    "test_resize_downsample_scales_cubic_align_corners",  # as ONNX Runtime: by the size that is made, not by the scale
    "test_resize_downsample_scales_linear_align_corners",
    "test_top_k_same_values",  # which of equals is first is not said by torch
    "test_top_k_same_values_2d",
    "test_top_k_same_values_largest",
}
LEAST_PASSED, MOST_REFUSED = 990, 260


def node_tests() -> Iterator[Any]:
    """The examples of onnx, one operator each, without those that spell an operator out in others."""
    import importlib
    import pkgutil

    from onnx.backend.test.case import node as folder

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # they divide by zero on purpose
        for module in pkgutil.iter_modules(folder.__path__):
            if module.name not in SLOW_TO_MAKE:
                importlib.import_module(f"{folder.__name__}.{module.name}")
    for case in folder._NodeTestCases:
        whole = all(np.size(value) for value in case.data_sets[0][0] if isinstance(value, np.ndarray))
        if whole and "_expanded" not in case.name and not any(word in case.name for word in NOT_NUMBERS):
            yield case


def as_array(value: Any) -> Any:
    """An example's array."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def as_tensor(array: Any) -> Tensor:
    """Its tensor."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def passes(case: Any, fixed: bool, path: Path) -> bool:
    """Whether the example's outputs come out; where `fixed`, all inputs but the first are stored in the file.

    Raises:
        UnsupportedOperator: it cannot be expressed.
    """
    (given, expected), model = case.data_sets[0], onnx.ModelProto()
    model.CopyFrom(case.model)
    fed = [as_array(value) for value in (given[:1] if fixed else given)]
    for info, value in zip(list(model.graph.input)[len(fed) :], given[len(fed) :], strict=True):
        stored = onnx.TensorProto()
        stored.CopyFrom(value if isinstance(value, onnx.TensorProto) else onnx.numpy_helper.from_array(value))
        stored.name = info.name
        model.graph.initializer.append(stored)
        model.graph.input.remove(info)
    loaded = open_model(str(write(model, path)))
    found = outputs_of(loaded, tuple(as_tensor(array) for array in fed))
    half = any(str(tensor.dtype) in {"torch.bfloat16", "torch.float16"} for tensor in found)
    for tensor, truth in zip(found, map(as_array, expected), strict=True):
        mine, theirs = tensor.detach().double().numpy(), truth.astype(np.float64)
        tolerance = {"rtol": 2e-2, "atol": 1e-2} if half else {"rtol": 1e-3, "atol": 1e-6}
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, equal_nan=True, **tolerance):
            return False
    return True


def test_the_specifications_own_examples_pass_or_are_refused(tmp_path: Path) -> None:
    passed, refused_, wrong = 0, [], []
    for case in node_tests():
        verdict = "refused"
        for fixed in (False, True):
            try:
                verdict = "passed" if passes(case, fixed, tmp_path / "model.onnx") else "wrong"
                break
            except UnsupportedOperator:
                if len(case.model.graph.input) < 2:
                    break
            except (ConfigError, TypeError):  # opset 1, types that numpy has not
                break
        passed += verdict == "passed"
        if verdict == "refused":
            refused_.append(case.name)
        if verdict == "wrong":
            wrong.append(case.name)
    print(f"{passed} passed, {len(refused_)} refused, wrong: {wrong}")
    assert set(wrong) <= KNOWN_DIFFERENCES
    assert passed >= LEAST_PASSED and len(refused_) <= MOST_REFUSED


# --- somebody else's


def installed(name: str) -> Path:
    """A file of an installed package."""
    for folder in sys.path:
        path = Path(folder) / "basic_pitch/saved_models/icassp_2022" / name
        if path.exists():
            return path
    pytest.skip("basic-pitch is not installed")


def test_basic_pitch_hears_the_same(tmp_path: Path) -> None:
    path = installed("nmp.onnx")
    model = open_model(str(path))
    (spec,) = model.inputs
    assert spec.shape == (1, 43844, 1)
    sound = torch.randn(spec.shape, generator=torch.manual_seed(0))
    found = arrays(outputs_of(model, (sound,)))
    assert_same(run_onnx(path, {spec.name: sound.numpy()}), found, 80)  # it stretches a logarithm


# --- converters take them


CONVERT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from edgekd.sources import open_model

path, way = sys.argv[1:]
model = open_model(path)
torch.manual_seed(0)
inputs = tuple(torch.randn(i.shape) if i.dtype == "float32" else torch.randint(0, 2, i.shape) for i in model.inputs)
with torch.no_grad():
    made = model.module(*inputs)
expected = made if isinstance(made, tuple) else (made,)
if way == "onnx":
    import onnxruntime
    torch.onnx.export(model.module, inputs, dynamo=True, verbose=False).save(f"{path}.again")
    session = onnxruntime.InferenceSession(f"{path}.again")
    found = session.run(None, {i.name: one.numpy() for i, one in zip(session.get_inputs(), inputs)})
elif way == "litert":
    import litert_torch
    edge = litert_torch.convert(model.module, inputs)
    found = edge(*[one.int() if one.dtype == torch.int64 else one for one in inputs])
    found = found if isinstance(found, tuple | list) else (found,)
else:
    import coremltools
    traced = torch.jit.trace(model.module, inputs, check_trace=False)
    types = [np.float32 if one.is_floating_point() else np.int32 for one in inputs]
    kinds = [coremltools.TensorType(shape=one.shape, dtype=kind) for one, kind in zip(inputs, types)]
    coremltools.convert(traced, inputs=kinds, convert_to="mlprogram", skip_model_load=True)
    found = expected  # nothing executes it here
for truth, other in zip(expected, found):
    truth, other = truth.double().numpy(), np.asarray(other, np.float64)
    noise = ((truth - other) ** 2).sum()
    assert truth.shape == other.shape and 10 * np.log10((truth**2).sum() / max(noise, 1e-30)) > 90
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "package"), [("onnx", "onnxscript"), ("litert", "litert_torch"), ("coreml", "coremltools")]
)
@pytest.mark.parametrize("name", ["mobilenet_v3", "bert", "nmp.onnx"])
def test_a_converter_takes_what_a_source_made(way: str, package: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    path = tmp_path / "model.onnx"
    if name == "nmp.onnx":
        path.write_bytes(installed(name).read_bytes())
    else:
        write_onnx(name, 17, path)
    ended = subprocess.run([sys.executable, "-c", CONVERT, str(path), way], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
