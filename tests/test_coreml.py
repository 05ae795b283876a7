"""Packages are opened and executed: operators against numpy and torch, nets against torch, and files of others."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekd import coreml
from edgekd.coreml import Block, Constant, Feature, Named, Operation, Program, Type
from edgekd.errors import ConfigError, ConvertError, EdgekdError, MeasureError, UnsupportedOperator
from edgekd.parity import sqnr_db
from edgekd.specs import TensorSpec
from tests.coreml_cases import CASES, Case

Array = NDArray[Any]
HERE = Path(__file__).parent
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
LEAST_SQNR_DB = {"fp32": 80, "fp16": 55, "int8": 35, "lut6": 25, "lut4": 25, "int4": 20, "w8a8": 40}
"""int8 means weights; w8a8 also activations, held against torch's, which are rounded too."""
NETS = [
    "mobile-fp32",
    "mobile-fp16",
    "mobile-int8",
    "mobile-lut6",
    "encoder-fp32",
    "encoder-fp16",
    "decoder-fp16",
    "heads-fp32",
    "quantized-w8a8",
]
SLOW_NETS = [
    "encoder-int8", "encoder-lut6", "decoder-fp32", "decoder-int8", "decoder-lut6", "heads-fp16", "heads-int8",
    "heads-lut6", "mobile-fp16-exported", "mobile-lut4-exported", "mobile-int4-exported",
]  # fmt: skip

pytestmark = pytest.mark.xdist_group("coreml")  # so that one process writes the packages, once


def write_packages(folder: Path, *which: str) -> Path:
    """Let coremltools write the packages, in a process of its own."""
    pytest.importorskip("torch")
    if find_spec("coremltools") is None:
        pytest.skip("coremltools, which writes the packages, is not installed")
    ended = subprocess.run(
        [sys.executable, str(HERE / "coreml_packages.py"), str(folder), *which],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def slow_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packages(tmp_path_factory.mktemp("packages"), "slow")


@pytest.fixture
def tiny(packages: Path, tmp_path: Path) -> Path:
    """A small package to damage."""
    return Path(shutil.copytree(packages / "tiny.mlpackage", tmp_path / "tiny.mlpackage"))


X = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)


# --- operators


@pytest.fixture(scope="module")
def answers(packages: Path) -> dict[str, dict[str, Array]]:
    """Outputs of all cases, by op set."""
    found = {}
    for opset in {case.opset for case in CASES}:
        program = coreml.open_package(packages / f"operators-{opset}.mlpackage")
        assert program.opset == f"CoreML{opset}"
        found[f"{opset}"] = coreml.execute(program, [array for case in _of(opset) for array in case.arrays])
    return found


def _of(opset: int) -> list[Case]:
    return [case for case in CASES if case.opset == opset]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_operator_does_what_the_specification_says(case: Case, answers: dict[str, dict[str, Array]]) -> None:
    number = next(at for at, one in enumerate(_of(case.opset)) if one is case)
    expected = case.expected(*case.arrays)
    for at, wanted in enumerate(expected if isinstance(expected, tuple) else (expected,)):
        found = answers[f"{case.opset}"][f"case{number}_{at}"]
        assert found.shape == wanted.shape
        assert found.dtype == (np.float32 if wanted.dtype.kind == "f" else np.int32)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=case.tolerance * max(1.0, np.abs(wanted).max(initial=0)))


def test_every_operator_that_coremltools_knows_is_executed_or_refused(packages: Path) -> None:
    from edgekd.coreml.operators import REFUSED, operators

    known = set((packages / "known.txt").read_text(encoding="utf-8").split())
    assert known - operators().keys() - REFUSED.keys() == {"const", "_const_symbolic"}
    assert operators().keys() - known == {"write_state"}  # what coremltools makes of coreml_update_state


def test_every_operator_is_in_a_case(packages: Path) -> None:
    from edgekd.coreml.operators import operators

    names = [f"operators-{opset}" for opset in (5, 6, 7, 8)] + ["classifier", "counter"]
    programs = [coreml.open_package(packages / f"{name}.mlpackage") for name in names]
    assert {operation.kind for program in programs for operation in program.operations} >= operators().keys()


# --- nets


def _agree(folder: Path, name: str) -> None:
    with np.load(folder / f"{name.partition('-')[0]}.npz") as arrays:
        inputs = [arrays[key] for key in arrays if key.startswith("in ")]
        expected = {key.removeprefix("out "): arrays[key] for key in arrays if key.startswith("out ")}
    program = coreml.open_package(folder / f"{name}.mlpackage")
    outputs = coreml.execute(program, inputs)
    assert [spec.name for spec in program.outputs] == list(outputs) == list(expected)
    least = LEAST_SQNR_DB[name.split("-")[1]]
    assert {key: sqnr for key in expected if (sqnr := sqnr_db(expected[key], outputs[key])) < least} == {}
    again = coreml.execute(program, inputs)
    assert all(np.array_equal(outputs[key], again[key]) for key in outputs)


@pytest.mark.parametrize("name", NETS)
def test_a_net_answers_as_torch_does(name: str, packages: Path) -> None:
    _agree(packages, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_NETS)
def test_a_net_answers_as_torch_does_in_other_forms(name: str, slow_packages: Path) -> None:
    _agree(slow_packages, name)


@pytest.mark.parametrize("net", ["mobile", "encoder", "decoder"])
def test_rounding_to_fp16_is_what_fp16_costs(net: str, packages: Path) -> None:
    program = coreml.open_package(packages / f"{net}-fp16.mlpackage")
    with np.load(packages / f"{net}.npz") as arrays:
        inputs = [arrays[key] for key in arrays if key.startswith("in ")]
        expected = next(arrays[key] for key in arrays if key.startswith("out "))
    name = program.outputs[0].name
    rounded, plain = (coreml.execute(program, inputs, round_fp16=both)[name] for both in (True, False))
    assert sqnr_db(expected, plain) > sqnr_db(expected, rounded) + 2
    halves = {value.name for one in program.operations for value in one.outputs if value.type.dtype == "float16"}
    tapped = coreml.execute(program, inputs, sorted(halves))
    assert {tapped[name].dtype for name in halves} == {np.dtype(np.float16)}
    wide = coreml.execute(program, inputs, sorted(halves), round_fp16=False)
    assert {wide[name].dtype for name in halves} == {np.dtype(np.float32)}


def test_values_can_be_tapped(packages: Path) -> None:
    program = coreml.open_package(packages / "tiny.mlpackage")
    assert isinstance(program.operations[-1], Operation)
    names = [value.name for one in program.operations for value in one.outputs if value.type.dtype == "float32"]
    outputs = coreml.execute(program, [X], names)
    assert outputs.keys() == {*names, "answer"}
    relu = next(one for one in program.operations if one.kind == "relu")
    (before,) = relu.inputs["x"]
    assert isinstance(before, str) and (outputs[before] < 0).any()
    assert np.array_equal(outputs[relu.outputs[0].name], np.maximum(outputs[before], 0))
    loop = next(one for one in program.operations if one.kind == "while_loop")
    (inner,) = (one.outputs[0].name for one in loop.blocks[1].operations if one.kind == "mul")
    found = coreml.execute(program, [X], [inner])[inner]
    assert np.array_equal(found, outputs[loop.outputs[1].name])  # the last time that the body was executed


# --- whole packages


def test_what_a_package_says_of_itself_is_read(packages: Path) -> None:
    program = coreml.open_package(packages / "classifier.mlpackage")
    wanted = {"author": "A. Author", "license": "CC0-1.0", "version": "3.1", "short_description": "Ten classes"}
    assert {key: program.metadata[key] for key in wanted} == wanted
    assert program.metadata["com.github.apple.coremltools.source_dialect"] == "TorchScript"
    assert json.loads(program.metadata["classes"]) == [f"class {at} é" for at in range(10)]
    assert (program.specification_version, program.opset, program.states) == (6, "CoreML5", ())
    assert program.inputs == (TensorSpec(name="image", shape=(1, 3, 32, 32)),)
    assert program.features["image"].colours == "RGB"
    assert [(spec.name, spec.dtype) for spec in program.outputs] == [("label", "str"), ("label_probs", "float32")]
    folder = packages / "classifier.mlpackage"
    assert program.size_bytes == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_classifier_of_images_answers_a_class_and_probabilities(packages: Path) -> None:
    program = coreml.open_package(packages / "classifier.mlpackage")
    image = np.random.default_rng(1).uniform(0, 255, (1, 3, 32, 32)).astype(np.float32)
    outputs = coreml.execute(program, {"image": image})
    with np.load(packages / "classifier.npz") as arrays:
        assert np.array_equal(arrays["image"], image)
        assert sqnr_db(arrays["probabilities"][0], outputs["label_probs"]) > 80
    assert outputs["label"].item() == json.loads(program.metadata["classes"])[outputs["label_probs"].argmax()]


def test_layers_are_told_where_the_package_tells_them(packages: Path) -> None:
    program = coreml.open_package(packages / "classifier.mlpackage")
    layers = coreml.layers(program)
    assert layers.keys() == {value.name for one in program.operations for value in one.outputs}
    assert {name: path for name, path in layers.items() if path} == {program.operations[-1].outputs[0].name: "0.head"}
    for told in ("{", "[]", '{"label": 3}', "[" * 100_000):
        assert not any(coreml.layers(dataclasses.replace(program, metadata={"edgekd.layers": told})).values())


def test_a_state_lasts_where_it_is_passed_on(packages: Path) -> None:
    program = coreml.open_package(packages / "counter.mlpackage")
    assert program.states == (TensorSpec(name="total", shape=(3,), dtype="float16"),)
    x = np.float16([1, 2, 3])
    outputs = coreml.execute(program, [x], ["total"])
    assert outputs["twice"].tolist() == [2, 4, 6] and outputs["twice"].dtype == np.float16
    outputs = coreml.execute(program, {"x": x, "total": outputs["total"]}, ["total"])
    assert outputs["twice"].tolist() == [4, 8, 12] and outputs["total"].tolist() == [2, 4, 6]
    assert coreml.execute(program, [x])["twice"].tolist() == [2, 4, 6]


def test_a_size_is_free_where_the_package_allows_it(packages: Path) -> None:
    program = coreml.open_package(packages / "wide.mlpackage")
    assert program.inputs[0].shape == (1, 1, 8, -1) and program.outputs[0].shape == (1, 2, -1)
    with np.load(packages / "wide.npz") as arrays:
        assert sqnr_db(arrays["y"], coreml.execute(program, [arrays["image"]])["y"]) > 80
    with pytest.raises(MeasureError, match=r"'image' has shape \(1, 1, 8, 21\)") as caught:
        coreml.execute(program, [np.ones((1, 1, 8, 21), np.float32)])
    assert caught.value.hint == "allowed are [(1, 1), (1, 1), (8, 8), (4, 20)]"


def test_the_default_of_several_functions_is_executed(packages: Path) -> None:
    program = coreml.open_package(packages / "several.mlpackage")
    assert program.outputs == (TensorSpec(name="logits", shape=(1, 10)),)
    with np.load(packages / "mobile.npz") as arrays:
        assert sqnr_db(arrays["out logits"], coreml.execute(program, [arrays["in image"]])["logits"]) > 80


def test_a_package_of_somebody_else_agrees_with_its_other_forms() -> None:
    """basic-pitch ships one net as Core ML, ONNX and TFLite; it was made by coremltools 7 from TensorFlow."""
    package = find_spec("basic_pitch")
    if package is None or not package.submodule_search_locations:
        pytest.skip("basic-pitch is not installed")
    folder = Path(package.submodule_search_locations[0]) / "saved_models/icassp_2022"
    runtime = pytest.importorskip("onnxruntime")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    program = coreml.open_package(folder / "nmp.mlpackage")
    session = runtime.InferenceSession(str(folder / "nmp.onnx"))
    runner = interpreter.Interpreter(str(folder / "nmp.tflite"), num_threads=1).get_signature_runner()
    (name,) = (given.name for given in session.get_inputs())
    onnx_names = ["StatefulPartitionedCall:0", "StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
    for seed in range(3):
        sound = np.random.default_rng(seed).normal(0, 0.2, (1, 43844, 1)).astype(np.float32)
        ours = coreml.execute(program, [sound])
        by_onnx = session.run(onnx_names, {name: sound})
        by_lite = runner(input_2=sound)
        lite = [by_lite[key] for key in ("contour", "note", "onset")]
        for value, *others in zip(ours.values(), by_onnx, lite, strict=True):
            assert min(sqnr_db(other, value) for other in others) > 60


def test_nothing_heavy_is_imported_to_read_a_package(packages: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from edgekd import coreml
coreml.open_package(Path({str(packages / "tiny.mlpackage")!r}))
assert not {{"torch", "coremltools", "google.protobuf"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    ours = Path(coreml.__file__).parent.rglob("*.py")
    assert not any("import coremltools" in file.read_text(encoding="utf-8") for file in ours)


def test_without_torch_it_says_what_to_install(packages: Path) -> None:
    script = f"""
import sys
from pathlib import Path
sys.modules["torch"] = None
from edgekd import coreml
from edgekd.errors import PluginUnavailable
program = coreml.open_package(Path({str(packages / "tiny.mlpackage")!r}))
try:
    coreml.execute(program, [])
except PluginUnavailable as error:
    assert str(error) == "executing a Core ML package needs torch" and error.hint == "pip install 'edgekd[train]'"
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# --- inputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "the program takes 1 inputs, not 0"),
        ([X, X], "the program takes 1 inputs, not 2"),
        ({}, "input 'x0' is missing"),
        ({"x0": X, "y": X}, "the program has no input 'y'"),
        ([X[:, :1]], r"input 'x0' has shape \(1, 1, 6, 6\), the program takes \(1, 2, 6, 6\)"),
        ([X[0]], r"input 'x0' has shape \(2, 6, 6\)"),
        ([X.astype(complex)], "input 'x0' is complex128, the program takes float32"),
        ([np.full(X.shape, "a")], "input 'x0' is <U1, the program takes float32"),
        ([np.full(X.shape, None)], "input 'x0' is object, the program takes float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Any, message: str, packages: Path) -> None:
    program = coreml.open_package(packages / "tiny.mlpackage")
    with pytest.raises(MeasureError, match=message):
        coreml.execute(program, inputs)


def test_integers_are_taken_as_they_are_or_refused(packages: Path) -> None:
    program = coreml.open_package(packages / "encoder-fp32.mlpackage")
    ids, mask = np.arange(12)[None], np.ones((1, 12))
    outputs = coreml.execute(program, {"ids": ids, "mask": mask})
    assert np.array_equal(coreml.execute(program, [ids.astype(np.int8), mask])["logits"], outputs["logits"])
    for wrong, message in ((ids * 1.0, "'ids' is float64"), (ids + 2**31, "'ids' has values beyond int32")):
        with pytest.raises(MeasureError, match=message):
            coreml.execute(program, {"ids": wrong, "mask": mask})
    with pytest.raises(
        MeasureError, match="operator 'gather' of value .* fails: indices go from 0 to 99, where there are 50"
    ):
        coreml.execute(program, {"ids": np.minimum(ids * 50, 99), "mask": mask})


def test_a_tap_that_is_no_value_is_refused_with_the_nearest(packages: Path) -> None:
    program = coreml.open_package(packages / "tiny.mlpackage")
    with pytest.raises(MeasureError, match="the program has no value 'anwser'") as caught:
        coreml.execute(program, [X], ["anwser"])
    assert caught.value.hint == "did you mean 'answer'?"


def test_neither_inputs_nor_weights_are_changed(packages: Path) -> None:
    program = coreml.open_package(packages / "tiny.mlpackage")
    given = X.copy()
    first = coreml.execute(program, [given], [value.name for one in program.operations for value in one.outputs])
    for array in first.values():
        array[...] = np.zeros((), array.dtype)
    assert np.array_equal(given, X)
    second = coreml.execute(program, [given])["answer"]
    assert np.array_equal(second, coreml.execute(coreml.open_package(packages / "tiny.mlpackage"), [X])["answer"])


# --- operators that are not there


def replaced(package: Path, file: str, old: bytes, new: bytes) -> None:
    """Change a file of a package in place, without a change of its length."""
    content = (package / file).read_bytes()
    assert len(old) == len(new) and old in content
    (package / file).write_bytes(content.replace(old, new))


def test_an_unknown_operator_is_named(tiny: Path) -> None:
    replaced(tiny, MODEL, b"softmax", b"softmix")
    program = coreml.open_package(tiny)
    with pytest.raises(UnsupportedOperator) as caught:
        coreml.execute(program, [X])
    assert str(caught.value) == "operator 'softmix' of value 'answer': edgekd has no such operator of op set CoreML6"
    assert caught.value.hint.startswith("did you mean 'softmax'?") and caught.value.exit_code == 8


def test_an_operator_of_a_later_op_set_is_refused_as_the_device_would(tiny: Path) -> None:
    replaced(tiny, MODEL, b"CoreML6", b"CoreML5")
    with pytest.raises(
        UnsupportedOperator, match="'constexpr_affine_dequantize' .* op set CoreML5 has no such"
    ) as caught:
        coreml.execute(coreml.open_package(tiny), [X])
    assert caught.value.hint == "it came with iOS 16; make the package for minimum_deployment_target iOS16"


def test_what_cannot_be_executed_here_says_why() -> None:
    program = _program(_operation("random_normal", shape=[2, 3]))
    with pytest.raises(
        UnsupportedOperator, match="operator 'random_normal' of value 'y' cannot be executed here"
    ) as caught:
        coreml.execute(program, [])
    assert "random numbers" in caught.value.hint


def test_an_input_that_no_operator_has_is_refused() -> None:
    program = _program(_operation("fill", shape=[2], value=1.0, colour=3))
    with pytest.raises(MeasureError, match="operator 'fill' of value 'y' fails: 'colour' is not an input that it has"):
        coreml.execute(program, [])


def test_variants_that_nobody_documented_are_refused() -> None:
    image = np.zeros((1, 1, 4, 4), np.float32)
    options = {
        "shape": [2, 2],
        "resized_dims": 2,
        "interpolation_mode": "NEAREST_NEIGHBOR",
        "sampling_mode": "OFFSET_CORNERS",
    }
    program = _program(_operation("resize", x=image, **options), opset="CoreML7")
    with pytest.raises(UnsupportedOperator, match="operator 'resize' of value 'y': which pixel is the nearest"):
        coreml.execute(program, [])


# --- programs made by hand


def _constant(value: Any) -> Constant:
    if isinstance(value, str):
        return Constant(Type(dtype="str"), np.array(value, object))
    array = np.asarray(value)
    array = array.astype({"f": np.float32, "i": np.int32, "b": np.bool_}[array.dtype.kind])
    return Constant(Type(dtype=array.dtype.name, shape=array.shape), array)


def _operation(
    kind: str, *, rank: int = 1, dtype: str = "float32", name: str = "y", blocks: tuple[Block, ...] = (), **inputs: Any
) -> Operation:
    bound = {key: (value,) if isinstance(value, Named) else (_constant(value),) for key, value in inputs.items()}
    named = {key: tuple(one.name if isinstance(one, Named) else one for one in value) for key, value in bound.items()}
    return Operation(kind, name, named, (Named(name, Type(dtype=dtype, shape=(-1,) * rank)),), blocks)


def _program(*operations: Operation, opset: str = "CoreML5", size_bytes: int = 1000) -> Program:
    name = operations[-1].outputs[0].name
    return Program(
        inputs=(), outputs=(TensorSpec(name=name, shape=()),), states=(), block=Block((), operations, (name,)),
        opset=opset, specification_version=6, metadata={}, features={}, sha256="", size_bytes=size_bytes,
    )  # fmt: skip


HUGE = 2**31 - 1
GREEDY: dict[str, Callable[[], Program]] = {
    "fill": lambda: _program(_operation("fill", shape=[HUGE, HUGE])),
    "range": lambda: _program(_operation("range_1d", start=0, end=HUGE, step=1)),
    "tile": lambda: _program(_operation("tile", x=[1.0], reps=[HUGE])),
    "one_hot": lambda: _program(_operation("one_hot", indices=[1], one_hot_vector_size=HUGE)),
    "pad": lambda: _program(_operation("pad", x=[1.0], pad=[HUGE, HUGE])),
    "make_list": lambda: _program(_operation("make_list", init_length=HUGE, elem_shape=[1])),
    "upsample": lambda: _program(
        _operation("upsample_nearest_neighbor", x=np.ones((1, 1, 1)), scale_factor_height=HUGE, scale_factor_width=HUGE)
    ),
    "resize": lambda: _program(
        _operation("resize_bilinear", x=np.ones((1, 1, 1)), target_size_height=HUGE, target_size_width=9)
    ),
    "conv": lambda: _program(
        _operation("conv", x=np.ones((1, 1, 1)), weight=np.ones((1, 1, 1)), pad_type="custom", pad=[HUGE, HUGE])
    ),
    "conv_transpose": lambda: _program(
        _operation("conv_transpose", x=np.ones((1, 1, 9)), weight=np.ones((1, 1, 1)), strides=[HUGE])
    ),
    "max_pool": lambda: _program(
        _operation("max_pool", x=np.ones((1, 1, 1)), kernel_sizes=[1], pad_type="custom", pad=[HUGE, HUGE])
    ),
    "broadcast": lambda: _program(_operation("add", x=np.ones((30_000, 1)), y=np.ones((1, 30_000)))),
    "matmul": lambda: _program(_operation("matmul", x=np.ones((30_000, 1)), y=np.ones((1, 30_000)))),
    "gather": lambda: _program(_operation("gather", x=np.ones((1, 30_000)), indices=np.zeros(30_000, int))),
    "doubling": lambda: _program(*_doublings(40)),
    "many": lambda: _program(
        *(_operation("fill", shape=[2**24], name=name) for name in _MANY),
        Operation("concat", "y", {"values": _MANY, "axis": (_constant(0),)}, (_float("y"),)),
    ),
    "endless": lambda: _program(_loop(_operation("const", name="go", dtype="bool", rank=0, val=True))),
    "hoarding": lambda: _program(*_hoarding()),
    "long work": lambda: _program(
        _operation("fill", shape=[4096, 4096], rank=2, name="v0"),
        Operation("matmul", "y", {"x": ("v0",), "y": ("v0",)}, (_float("y", 2),)),
    ),
}  # fmt: skip
_MANY = tuple(f"v{at}" for at in range(90))


def _float(name: str, rank: int = 1) -> Named:
    return Named(name, Type(dtype="float32", shape=(-1,) * rank))


def _doublings(count: int) -> Iterator[Operation]:
    yield _operation("const", name="v0", val=[1.0])
    for at in range(1, count):
        inputs = {"values": (f"v{at - 1}", f"v{at - 1}"), "axis": (_constant(0),)}
        yield Operation("concat", f"v{at}", inputs, (_float(f"v{at}"),))


def _hoarding() -> Iterator[Operation]:
    """A list that a loop writes 64 MiB to each time."""
    kind = Type("list", items=(_float("").type,))
    yield Operation("make_list", "ls", {"init_length": (_constant(0),)}, (Named("ls", kind),))
    written = Operation("list_write", "new", {"ls": ("in",), "index": ("n",), "value": ("v",)}, (Named("new", kind),))
    length = Operation("list_length", "n", {"ls": ("in",)}, (Named("n", Type(dtype="int32")),))
    blocks = (
        Block((Named("in", kind),), (_operation("const", name="go", dtype="bool", rank=0, val=True),), ("go",)),
        Block((Named("in", kind),), (_operation("fill", name="v", shape=[2**24]), length, written), ("new",)),
    )
    yield Operation("while_loop", "y", {"loop_vars": ("ls",)}, (Named("y", kind),), blocks)


def _loop(condition: Operation) -> Operation:
    inner = Named("inner", Type(dtype="float32", shape=(-1,)))
    blocks = (Block((inner,), (condition,), ("go",)), Block((inner,), (), ("inner",)))
    return _operation("while_loop", loop_vars=[1.0], blocks=blocks)


@pytest.mark.parametrize("name", GREEDY)
def test_a_small_program_cannot_take_the_machine(name: str) -> None:
    with pytest.raises(
        MeasureError, match="fails: needs more than the [0-9]+ (bytes|steps) that a package of this size may take"
    ):
        coreml.execute(GREEDY[name](), [])


def _taking(shape: tuple[int, ...], dtype: str, default: float | None) -> Program:
    """A program of one input, which it gives back."""
    x = Named("x", Type(dtype=dtype, shape=shape))
    same = Operation("identity", "y", {"x": ("x",)}, (Named("y", x.type),))
    return dataclasses.replace(
        _program(same),
        inputs=(TensorSpec(name="x", shape=shape, dtype=dtype),),
        block=Block((x,), (same,), ("y",)),
        features={"x": Feature(default=default)},
    )


def test_an_optional_input_has_its_default() -> None:
    for dtype, default, wanted in (("float32", 2.5, 2.5), ("int32", -3.0, -3), ("float16", 1e9, float("inf"))):
        assert coreml.execute(_taking((2,), dtype, default), {})["y"].tolist() == [wanted, wanted]
    assert coreml.execute(_taking((2,), "float32", 2.5), {"x": np.zeros(2)})["y"].tolist() == [0, 0]
    with pytest.raises(MeasureError, match="input 'x' is missing"):
        coreml.execute(_taking((2,), "float32", None), {})
    for shape, dtype, default in (((2**40,), "float16", 0.0), ((2,), "int32", 1e300), ((2,), "int32", float("nan"))):
        with pytest.raises(MeasureError, match="input 'x' fails"):
            coreml.execute(_taking(shape, dtype, default), {})


def test_a_copy_of_a_program_is_executed_afresh(packages: Path) -> None:
    program = coreml.open_package(packages / "tiny.mlpackage")
    assert coreml.execute(program, [X])["answer"].shape == (2, 4)
    shorter = dataclasses.replace(program.block, operations=program.operations[:-1], outputs=("relu_0",))
    other = dataclasses.replace(program, block=shorter, outputs=(TensorSpec(name="relu_0", shape=()),))
    assert coreml.execute(other, [X])["relu_0"].shape == (1, 4, 3, 3)


def test_a_result_of_another_shape_than_declared_is_an_error() -> None:
    wrong = Operation("fill", "y", {"shape": (_constant([3]),)}, (Named("y", Type(dtype="float32", shape=(4,))),))
    with pytest.raises(
        MeasureError, match=r"operator 'fill' of value 'y' fails: 'y' has shape \(3,\), the program says \(4,\)"
    ):
        coreml.execute(_program(wrong), [])


def test_what_happens_to_be_undefined_is_an_error() -> None:
    for opset, works in (("CoreML6", True), ("CoreML7", False)):
        program = _program(_operation("gather", x=[1.0, 2.0], indices=[-1]), opset=opset)
        if works:
            assert coreml.execute(program, [])["y"].tolist() == [2]
        else:
            with pytest.raises(MeasureError, match="indices go from -1 to -1, where there are 2"):
                coreml.execute(program, [])
    least = _program(_operation("floor_div", x=[-(2**31)], y=[-1], dtype="int32"))
    assert coreml.execute(least, [])["y"].tolist() == [-(2**31)]  # wraps, and does not stop the processor
    with pytest.raises(MeasureError, match="operator 'floor_div' of value 'y' fails"):
        coreml.execute(_program(_operation("floor_div", x=[1], y=[0], dtype="int32")), [])


def test_top_k_of_minus_one_is_all_from_ios_17_on() -> None:
    """coremltools cannot write it."""
    inputs = {"x": [1.0, 3.0, 2.0], "k": -1, "return_indices": False}
    assert coreml.execute(_program(_operation("topk", **inputs), opset="CoreML7"), [])["y"].tolist() == [3, 2, 1]
    with pytest.raises(MeasureError, match="-1 of 3"):
        coreml.execute(_program(_operation("topk", **inputs), opset="CoreML6"), [])


# --- operators with odd inputs

ODD_INTS = (0, 1, -1, 2, 7, -9, 255, 256, 65536, HUGE, -HUGE - 1)
ODD_FLOATS = (0.0, -1.0, 1e-45, 1e38, float("nan"), float("inf"), float("-inf"), 0.5)


def odd(constant: Constant, chance: random.Random) -> Constant:
    """Another value or shape of the same type."""
    array = constant.data
    if constant.type.kind != "tensor" or array.dtype == object or not array.size:
        return constant
    array = array.copy()
    choices: Any = {"f": ODD_FLOATS, "b": (True, False)}.get(array.dtype.kind, ODD_INTS)
    with np.errstate(all="ignore"):
        value = np.array(chance.choice(choices)).astype(array.dtype)
    how = chance.randrange(3)
    if how == 0:
        array.reshape(-1)[chance.randrange(array.size)] = value
    elif how == 1:
        array[...] = value
    else:
        shape = list(array.shape) or [1]
        shape[chance.randrange(len(shape))] = chance.choice((0, 1, 2, 5))
        array = np.resize(array.reshape(-1), shape)
    return Constant(Type(dtype=constant.type.dtype, shape=array.shape), array)


@pytest.mark.parametrize("opset", [5, 6, 7, 8])
def test_operators_with_odd_inputs_answer_or_refuse(opset: int, packages: Path) -> None:
    program, chance = coreml.open_package(packages / f"operators-{opset}.mlpackage"), random.Random(opset)
    constants = {one.outputs[0].name: one.inputs["val"][0] for one in program.operations if one.kind == "const"}
    types = {value.name: value.type for one in program.operations for value in one.outputs}
    types |= {value.name: value.type for value in program.block.inputs}
    plain = [name for name, kind in types.items() if kind.kind == "tensor" and kind.dtype != "str"]
    values = coreml.execute(program, [array for case in _of(opset) for array in case.arrays], plain)
    answered = 0
    for operation in program.operations:
        if operation.kind in ("const", "identity", "make_list") or operation.blocks or "ls" in operation.inputs:
            continue
        for _ in range(3):
            inputs = {}
            for parameter, arguments in operation.inputs.items():
                found = [
                    one
                    if isinstance(one, Constant)
                    else constants.get(one) or Constant(_loose(types[one]), values[one])  # type: ignore[call-overload]
                    for one in arguments
                ]
                inputs[parameter] = tuple(odd(one, chance) if chance.random() < 0.4 else one for one in found)
            loose = tuple(Named(value.name, _loose(value.type)) for value in operation.outputs)
            outputs = tuple(value.name for value in loose)
            block = Block((), (Operation(operation.kind, operation.name, inputs, loose),), outputs)
            specs = tuple(TensorSpec(name=name, shape=()) for name in outputs)
            alone = dataclasses.replace(program, inputs=(), features={}, block=block, outputs=specs, size_bytes=100)
            try:
                answered += len(coreml.execute(alone, [])) > 0
            except EdgekdError as error:
                assert str(error).startswith("operator ") and "\n" not in str(error)
    assert answered > 20


def _loose(kind: Type) -> Type:
    return dataclasses.replace(kind, shape=(-1,) * len(kind.shape)) if kind.kind == "tensor" else kind


# --- damaged and hostile packages


def test_each_flipped_bit_of_a_weight_shows(packages: Path, tiny: Path) -> None:
    whole, chance = coreml.open_package(tiny), random.Random(0)
    answer = coreml.execute(whole, [X], round_fp16=False)["answer"]
    content, different = (tiny / WEIGHTS).read_bytes(), 0
    for _ in range(40):
        at = chance.randrange(128, 128 + 4 * 2 * 9 * 4, 4) + 2  # the highest bits of a mantissa in the first blob
        (tiny / WEIGHTS).write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        changed = coreml.open_package(tiny)
        assert changed.sha256 != whole.sha256
        different += not np.array_equal(coreml.execute(changed, [X])["answer"], answer)
    assert different == 40
    (tiny / WEIGHTS).write_bytes(content)
    assert coreml.open_package(tiny).sha256 == whole.sha256
    (tiny / "Manifest.json").write_text((tiny / "Manifest.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert coreml.open_package(tiny).sha256 != whole.sha256


ACCIDENTS: tuple[Callable[[bytearray, int, random.Random], Any], ...] = (
    lambda content, at, chance: content.__setitem__(at, content[at] ^ 1 << chance.randrange(8)),
    lambda content, at, chance: content.__setitem__(at, chance.choice((0, 1, 127, 128, 255))),
    lambda content, at, chance: content.__delitem__(slice(at, at + chance.randint(1, 20))),
    lambda content, at, chance: content.__setitem__(slice(at, at), chance.randbytes(chance.randint(1, 9))),
    lambda content, at, chance: content.__delitem__(slice(at, None)),
)


@pytest.mark.parametrize(("file", "tries"), [(MODEL, 300), (WEIGHTS, 80), ("Manifest.json", 60)])
def test_a_damaged_file_is_refused_or_makes_finite_work(file: str, tries: int, tiny: Path) -> None:
    whole, chance = (tiny / file).read_bytes(), random.Random(file)
    sound, refused = coreml.open_package(tiny), 0
    for _ in range(tries):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 2)):
            if content:
                chance.choice(ACCIDENTS)(content, chance.randrange(len(content)), chance)
        (tiny / file).write_bytes(content)
        try:
            program = coreml.open_package(tiny)
            assert program.sha256 != sound.sha256 or bytes(content) == whole
            with np.errstate(all="ignore"):
                coreml.execute(program, [X] * len(program.inputs))
        except EdgekdError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > tries / 4


def test_a_file_that_ends_early_is_refused(tiny: Path) -> None:
    for file in (MODEL, WEIGHTS):
        whole = (tiny / file).read_bytes()
        for size in {*range(0, len(whole), max(len(whole) // 60, 1)), len(whole) - 1}:
            (tiny / file).write_bytes(whole[:size])
            with pytest.raises(ConvertError):
                coreml.open_package(tiny)
        (tiny / file).write_bytes(whole)


def _manifest(**changes: Any) -> str:
    items = {"A": {"author": "", "description": "", "name": "m", "path": "com.apple.CoreML/model.mlmodel"},
             "B": {"author": "", "description": "", "name": "w", "path": "com.apple.CoreML/weights"}}  # fmt: skip
    return json.dumps({"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "A"} | changes)


def _item(path: str) -> str:
    return _manifest(itemInfoEntries={"A": {"path": path}})


BAD_MANIFESTS = {
    "nothing": ("", "not JSON"),
    "no object": ("[]", "expected 'object'"),
    "deep": ("[" * 100_000, "not JSON"),
    "an unknown key": (_manifest(more=1), "unknown key 'more'"),
    "another version": (_manifest(fileFormatVersion="2.0.0"), "manifest of version '2.0.0', not 1"),
    "no root": (_manifest(rootModelIdentifier="C"), "does not list its root model"),
    "no path": (_item(""), "itemInfoEntries"),
    "a number": (_manifest(itemInfoEntries={"A": {"path": 3}}), "expected 'str', got 'int'"),
    "a path that leaves": (_item("../../secret"), "'../../secret' leaves the package"),
    "a path that is absolute": (_item("/etc/passwd"), "'/etc/passwd' leaves the package"),
    "the package itself": (_item(".."), "'..' leaves the package"),
    "a folder": (_item("com.apple.CoreML"), "is not a file"),
    "a link": (_item("link"), "'link' leaves the package"),
    "a circle": (_item("circle"), "'circle' is missing"),
    "a missing file": (_item("nowhere"), "'nowhere' is missing"),
    "no path at all": (_item("a\0b"), "is missing"),
    "a long path": (_item("a" * 4000), "is missing"),
    "unlisted weights": (
        _item("com.apple.CoreML/model.mlmodel"),
        "does not list Data/com.apple.CoreML/weights/weight.bin",
    ),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_manifest_that_is_wrong_is_refused(name: str, tiny: Path) -> None:
    text, message = BAD_MANIFESTS[name]
    (tiny.parent / "secret").write_text("secret", encoding="utf-8")
    (tiny / "Data/link").symlink_to(tiny.parent / "secret")
    (tiny / "Data/circle").symlink_to(tiny / "Data/circle")
    (tiny / "Manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConvertError) as caught:
        coreml.open_package(tiny)
    assert message in str(caught.value) and caught.value.hint


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such package"):
        coreml.open_package(tmp_path / "nowhere.mlpackage")
    with pytest.raises(ConvertError, match="Manifest.json: no such file"):
        coreml.open_package(tmp_path)


def test_weights_outside_of_the_package_are_refused(tiny: Path) -> None:
    for elsewhere in (b"@model_path/../../../../w.b", b"/tmp/weights/in/a/place.bin", b"@model_path/weights/../no.b"):
        old = b"@model_path/weights/weight.bin"[: len(elsewhere)]
        copied = Path(shutil.copytree(tiny, tiny.with_name(hashlib.sha256(elsewhere).hexdigest())))
        replaced(copied, MODEL, old, elsewhere)
        with pytest.raises(ConvertError, match="is missing|leaves the package|which is not in the package"):
            coreml.open_package(copied)


# --- the wire format


def varint(number: int) -> bytes:
    """Seven bits to a byte."""
    parts = []
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, content: bytes) -> bytes:
    """A message or a text."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def _nested(depth: int) -> bytes:
    """A tuple of a tuple of a tuple ..."""
    value = b""
    for _ in range(depth):
        value = field(3, field(2, field(1, value)))
    return field(5, field(1, b"val") + field(2, value))


def _value(kind: int, numbers: bytes) -> bytes:
    """A constant operation's value."""
    return field(5, field(1, b"val") + field(2, field(3, field(1, field(kind, field(1, numbers))))))


def _model(operation: bytes) -> bytes:
    block = field(3, operation)
    function = field(2, b"CoreML5") + field(3, field(1, b"CoreML5") + field(2, block))
    return b"\x08\x06" + field(502, b"\x08\x01" + field(2, field(1, b"main") + field(2, function)))


BAD_MODELS = {
    "empty": (b"", "a empty model, not an ML program"),
    "a neural network": (b"\x08\x04" + field(500, b""), "a neuralNetwork, not an ML program"),
    "two models": (b"\x08\x04" + field(500, b"") + field(502, b""), "not an ML program"),
    "deep": (_model(_nested(60)), "nested too deeply"),
    "a group": (b"\x0b\x0c", "field 1 of type 3, which is not known"),
    "an unknown field": (varint(77 << 3), "field 77 of type 0, which is not known"),
    "a text for a number": (field(1, b"a"), "field 1 of type 2, which is not known"),
    "a number that does not end": (b"\x08" + b"\xff" * 20, "a number is cut off or too long"),
    "a size beyond the end": (varint(502 << 3 | 2) + varint(2**62), "mlProgram is cut off"),
    "twice": (b"\x08\x06\x08\x06", "specificationVersion is there twice"),
    "no UTF-8": (_model(field(1, b"\xff\xfe")), "a name is not UTF-8 text"),
    "no type": (_model(b""), "type is empty"),
    "an endless vector": (_model(_value(2, b"\xff" * 30)), "a number of values is cut off or too long"),
    "half a float": (_model(_value(1, b"abc")), "values is cut off"),
    "another program": (b"\x08\x06" + field(502, b"\x08\x02"), "ML program of version 2, not 1"),
    "no function": (b"\x08\x06" + field(502, b"\x08\x01"), "there is no function 'main'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_is_wrong_is_refused(name: str, tiny: Path) -> None:
    content, message = BAD_MODELS[name]
    (tiny / MODEL).write_bytes(content)
    with pytest.raises(ConvertError) as caught:
        coreml.open_package(tiny)
    assert message in str(caught.value) and caught.value.hint


def test_more_fields_than_anybody_needs_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.coreml import wire

    monkeypatch.setattr(wire, "MOST_FIELDS", 1000)  # a file with as many as are allowed takes seconds to read
    (tiny / MODEL).write_bytes(_model(field(3, b"") * 1001))
    with pytest.raises(ConvertError, match="more than 1000 fields"):
        coreml.open_package(tiny)


def test_a_model_that_is_too_large_is_not_read(tiny: Path) -> None:
    with (tiny / MODEL).open("r+b") as opened:
        opened.truncate(2**25 + 1)
    with pytest.raises(ConvertError, match="the model is larger than 33554432 bytes"):
        coreml.open_package(tiny)


def test_numbers_are_read_as_protocol_buffers_write_them() -> None:
    from edgekd.coreml.wire import decode

    numbers = [0, 1, -1, 127, 128, 300, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
    packed = b"".join(varint(number % 2**64) for number in numbers)
    one_by_one = b"".join(varint(1 << 3) + varint(number % 2**64) for number in numbers)
    for content in (field(1, packed), one_by_one, field(1, packed[:1]) + one_by_one[2:]):
        array = field(2, field(1, field(3, field(5, content))))
        found = decode(array, "")["description"]["input"][0]["type"]["multiArrayType"]["shape"]
        assert found.tolist() == numbers


# --- weight files


def _blob(
    code: int,
    data: bytes,
    *,
    padding_bits: int = 0,
    at: int = 64,
    sentinel: int = 0xDEADBEEF,
    offset: int | None = None,
) -> bytes:
    start = at + 64 if offset is None else offset
    record = b"".join(number.to_bytes(width, "little") for number, width in (
        (sentinel, 4), (code, 4), (len(data), 8), (start, 8), (padding_bits, 8), (0, 32)
    ))  # fmt: skip
    return record + data


def _file(*blobs: bytes, count: int = 1, version: int = 2) -> NDArray[np.uint8]:
    header = count.to_bytes(4, "little") + version.to_bytes(4, "little") + bytes(56)
    return np.frombuffer(header + b"".join(blobs), np.uint8).copy()


@pytest.mark.parametrize(
    ("dtype", "code", "bits", "numbers"),
    [("uint1", 9, 1, [1, 0, 0, 1, 1]), ("uint2", 10, 2, [3, 0, 2, 1, 1]), ("uint3", 12, 3, [7, 0, 5, 2, 1]),
     ("uint4", 11, 4, [15, 0, 9]), ("int4", 8, 4, [-8, 7, -1]), ("uint6", 13, 6, [63, 0, 33])],
)  # fmt: skip
def test_small_numbers_are_unpacked(dtype: str, code: int, bits: int, numbers: list[int]) -> None:
    from edgekd.coreml.blobs import Weights

    value = sum((number % 2**bits) << (at * bits) for at, number in enumerate(numbers))
    size = -(-len(numbers) * bits // 8)
    padding = size * 8 - len(numbers) * bits
    weights = Weights(_file(_blob(code, value.to_bytes(size, "little"), padding_bits=padding)), "")
    assert weights.read(64, dtype, len(numbers)).tolist() == numbers
    with pytest.raises(ConvertError, match="the program says"):
        weights.read(64, dtype, len(numbers) + 1)
    dirty = value | 1 << (size * 8 - 1)
    if padding:
        with pytest.raises(ConvertError, match="bits that belong to no number"):
            Weights(_file(_blob(code, dirty.to_bytes(size, "little"), padding_bits=padding)), "").read(
                64, dtype, len(numbers)
            )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(9, np.uint8), "shorter than its header"),
        (_file(count=0, version=1), "not a weight file of version 2"),
        (_file(count=1), "shorter than its header says"),
        (_file(count=2**32 - 1), "shorter than its header says"),
        (_file(_blob(3, b"abc", sentinel=0xDEADBEE0)), "no record of a blob at 64"),
        (_file(_blob(3, b"abc", offset=0)), "no record of a blob at 64"),
        (_file(_blob(99, b"abc")), "unknown type, 99"),
        (_file(_blob(3, b"abc")[:-1]), "is cut off"),
        (_file(_blob(3, b"abc"), b"\0" * 60, b"\1"), "is not zero|behind the last blob"),
        (_file(_blob(3, b"abc"), bytes(61), bytes(64)), "64 bytes behind the last blob"),
    ],
)
def test_a_weight_file_that_is_wrong_is_refused(content: NDArray[np.uint8], message: str) -> None:
    from edgekd.coreml.blobs import Weights

    with pytest.raises(ConvertError, match=message):
        Weights(content, "weights")


def test_a_blob_is_read_as_what_it_is() -> None:
    from edgekd.coreml.blobs import Weights

    weights = Weights(_file(_blob(2, np.float32([1, 2]).tobytes())), "")
    assert weights.read(64, "float32", 2).tolist() == [1, 2]
    for offset, dtype, count in ((64, "float16", 4), (64, "float32", 1), (0, "float32", 2), (2**63, "float32", 2)):
        with pytest.raises(ConvertError):
            weights.read(offset, dtype, count)
