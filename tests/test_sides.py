"""Models of any format, executed on the same inputs and held against each other."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekd
from edgekd.errors import ConfigError, CorruptStep, MeasureError
from edgekd.matrix import Answer, matrix, pairs
from edgekd.shipped import load_target
from edgekd.sides import is_artifact, same_order, sides_of
from edgekd.specs import TensorSpec
from edgekd.tensors import Tensors, drawn, first_examples, fitted, given_inputs
from tests.subjects import subject

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RANDOM = np.random.default_rng(0)


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype)


def tensors(**arrays: Any) -> Tensors:
    return Tensors(tuple(spec(name, *array.shape[1:]) for name, array in arrays.items()), tuple(arrays.values()))


def linear(path: Path, weight: Any, outputs: tuple[str, ...] = ("y",), given: str = "x") -> Path:
    """x @ weight, and for every further output the same plus its number."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", [given, "weight"], [outputs[0]], name="first.linear")]
    constants = [numpy_helper.from_array(np.asarray(weight, np.float32), "weight")]
    for index, name in enumerate(outputs[1:], start=1):
        constants.append(numpy_helper.from_array(np.float32(index), f"c{index}"))
        nodes.append(helper.make_node("Add", [outputs[0], f"c{index}"], [name], name=f"add.{index}"))
    rows, columns = np.shape(weight)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, columns]) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


WEIGHT = RANDOM.normal(size=(6, 3)).astype(np.float32)


def test_equal_models_agree_and_a_changed_weight_does_not(tmp_path: Path) -> None:
    flipped = WEIGHT.copy()
    flipped[2, 1] *= -1
    files = [
        linear(tmp_path / f"{name}.onnx", weight) for name, weight in (("a", WEIGHT), ("b", WEIGHT), ("c", flipped))
    ]
    found = edgekd.verify_models(files)
    verdicts = {(pair.a.partition(".")[0], pair.b.partition(".")[0]): pair.ok for pair in found.pairs}
    assert verdicts == {("a", "b"): True, ("a", "c"): False, ("b", "c"): False}
    assert not found.ok and found.examples == 8
    assert "below the 80 dB that fp32 explains" in next(pair.reason for pair in found.pairs if not pair.ok)


def test_outputs_without_common_names_are_matched_by_their_values(tmp_path: Path) -> None:
    a = linear(tmp_path / "a.onnx", WEIGHT, ("p", "q", "r"))
    b = linear(tmp_path / "b.onnx", WEIGHT, ("p", "q", "r"))
    model = onnx.load(b)
    order = [model.graph.output[index] for index in (2, 0, 1)]
    names = {"p": "u", "q": "v", "r": "w"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in order:
        value.name = names[value.name]
    kept = [value.SerializeToString() for value in order]
    del model.graph.output[:]
    for one in kept:
        model.graph.output.add().ParseFromString(one)
    b.write_bytes(model.SerializeToString())
    (pair,) = edgekd.verify_models([a, b]).pairs
    assert pair.ok and pair.note == "outputs matched by their values"


def test_a_file_that_cannot_be_executed_is_said_and_does_not_stop_the_others(tmp_path: Path) -> None:
    a, b = linear(tmp_path / "a.onnx", WEIGHT), linear(tmp_path / "b.onnx", WEIGHT[:4])
    found = matrix([*sides_of(str(a)), *sides_of(str(a), title="again"), *sides_of(str(b))])
    (odd,) = [side for side in found.sides if side.error]
    assert odd.name.startswith("b.onnx") and "takes x (1, 4), and the inputs are x (1, 6)" in odd.error
    assert len(found.pairs) == 1 and found.pairs[0].ok and not found.ok


def test_one_alone_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^one execution alone agrees with everything$"):
        edgekd.verify_models([linear(tmp_path / "a.onnx", WEIGHT)], engines=["onnxruntime"])


@pytest.mark.parametrize("content", [b"", b"no model", bytes(300)])
def test_damaged_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    for name in ("a.onnx", "a.tflite", "a.xml"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            edgekd.verify_models([tmp_path / name, tmp_path / name])


def test_given_inputs_are_what_is_executed(tmp_path: Path) -> None:
    a = linear(tmp_path / "a.onnx", WEIGHT)
    np.savez(tmp_path / "x.npz", x=RANDOM.normal(size=(5, 1, 6)).astype(np.float32))
    found = edgekd.verify_models([a, linear(tmp_path / "b.onnx", WEIGHT)], inputs=str(tmp_path / "x.npz"))
    assert found.examples == 5 and found.ok


def test_inputs_may_leave_out_the_batch_and_the_names(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.normal(size=(5, 6)).astype(np.float32))
    given = given_inputs(str(tmp_path / "x.npy"))
    taken = fitted(given, (spec("image", 1, 6),), "m")
    assert taken.specs[0].name == "image" and taken.arrays[0].shape == (5, 1, 6)
    assert first_examples(given, 2).arrays[0].shape == (2, 6)


@pytest.mark.parametrize("written", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\xff\xff"])
def test_inputs_that_are_no_arrays_are_one_line(written: bytes, tmp_path: Path) -> None:
    for name in ("x.npz", "x.npy"):
        (tmp_path / name).write_bytes(written)
        with pytest.raises(ConfigError, match="not arrays of numpy"):
            given_inputs(str(tmp_path / name))


def test_pickled_inputs_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="not arrays of numpy"):
        given_inputs(str(tmp_path / "x.npy"))


def test_images_are_turned_to_the_order_of_axes_that_a_model_wants() -> None:
    first = tensors(image=RANDOM.normal(size=(4, 1, 3, 8, 9)).astype(np.float32))
    taken = fitted(first, (spec("x", 1, 8, 9, 3),), "m")
    assert np.array_equal(taken.arrays[0], first.arrays[0].transpose(0, 1, 3, 4, 2))


def test_random_inputs_are_seeded_and_of_their_kind() -> None:
    wanted = [
        {"name": "a", "shape": [-1, 3], "dtype": "float32"},
        {"name": "b", "shape": [1, 4], "dtype": "int64"},
        {"name": "c", "shape": [2], "dtype": "bool"},
        {"name": "d", "shape": [1, 2], "dtype": "int8", "low": 0.0, "high": 255.0},
    ]
    one, two = drawn(wanted, 50), drawn(wanted, 50)
    assert all(np.array_equal(a, b) for a, b in zip(one.arrays, two.arrays, strict=True))
    assert [array.shape for array in one.arrays] == [(50, 1, 3), (50, 1, 4), (50, 2), (50, 1, 2)]
    assert one.arrays[1].min() == 0 and one.arrays[1].max() == 3
    assert one.arrays[3].dtype == np.float32 and one.arrays[3].max() > 200


def test_outputs_that_have_nothing_in_common_are_an_error() -> None:
    with pytest.raises(MeasureError, match=r"^b answers y \(1, 4\), not y \(1, 3\)$"):
        same_order(tensors(y=np.ones((2, 1, 3))), tensors(y=np.ones((2, 1, 4))), "b")


def test_labels_tell_by_how_much_the_metric_differs() -> None:
    labels = np.arange(200) % 4
    right = np.eye(4)[labels] + RANDOM.normal(0, 0.01, (200, 4))
    wrong = right.copy()
    wrong[:20] = np.roll(wrong[:20], 1, axis=1)
    told = subject((4,), tuple("abcd"), "numbers")
    (pair,) = pairs([Answer("a", "int8", (right,)), Answer("b", "int8", (wrong,))], told, [labels])
    assert pair.metric_drop == pytest.approx(0.1) and not pair.ok
    assert pair.metric_drop_low is not None and pair.metric_drop_high is not None
    assert pair.metric_drop_low < 0.1 < pair.metric_drop_high
    assert "the metric differs by 0.1000, more than 0.01" in pair.reason


def test_what_is_an_artifact_and_what_becomes_a_torch_module(tmp_path: Path) -> None:
    assert is_artifact(str(linear(tmp_path / "a.onnx", WEIGHT)))
    assert not is_artifact("tests.toys:student")
    with pytest.raises(ConfigError, match="no such file"):
        is_artifact(str(tmp_path / "b.onnx"))


# --- exports of a model that somebody has


def test_a_model_leaves_with_a_manifest_and_its_parity(tmp_path: Path) -> None:
    model = linear(tmp_path / "small.onnx", WEIGHT)
    made = edgekd.export_model(
        str(model), ["onnx-fp32"], out=tmp_path / "out", licence="CC0-1.0", labels=["a", "b", "c"]
    )
    assert made.ok and not made.failed
    (one,) = made.artifacts
    assert one.file == "small-onnx-fp32.onnx" and (tmp_path / "out" / one.file).stat().st_size == one.file_bytes
    assert made.parity["onnx-fp32"].sqnr_db > 100
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["edgekd.json", one.file]
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / one.file).metadata_props}
    assert said["edgekd.licence"] == "CC0-1.0" and json.loads(said["edgekd.classes"]) == ["a", "b", "c"]
    assert edgekd.verify_models([tmp_path / "out"]).ok


def test_a_changed_export_is_not_taken_for_what_was_exported(tmp_path: Path) -> None:
    model = linear(tmp_path / "small.onnx", WEIGHT)
    made = edgekd.export_model(str(model), ["onnx-fp32"], out=tmp_path / "out")
    file = tmp_path / "out" / made.artifacts[0].file
    content = bytearray(file.read_bytes())
    content[content.index(WEIGHT[0, 0].tobytes())] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptStep, match="was changed since it was exported"):
        edgekd.verify_models([tmp_path / "out"])


def test_int8_without_examples_is_an_error_of_that_export_alone(tmp_path: Path) -> None:
    model = linear(tmp_path / "small.onnx", WEIGHT)
    made = edgekd.export_model(str(model), ["onnx-int8,onnx-fp32"], out=tmp_path / "out")
    assert made.failed == ("onnx-int8",) and not made.ok and "onnx-fp32" in made.parity
    assert made.artifacts[0].error == "onnx-int8 needs examples to calibrate with"
    assert "--calibration" in made.artifacts[0].hint


def test_files_are_held_against_the_runtimes_of_a_target(tmp_path: Path) -> None:
    """An ONNX Runtime of 2021 reads operator sets up to 15."""
    model = linear(tmp_path / "small.onnx", WEIGHT)
    old = msgspec.structs.replace(load_target("jetson-nano"), runtimes={"onnxruntime": "1.10.0"})
    made = edgekd.export_model(str(model), ["onnx-fp32"], out=tmp_path / "old", target=old)
    assert made.failed == ("onnx-fp32",) and "up to 15" in made.artifacts[0].error
    made = edgekd.export_model(str(model), ["onnx-fp32"], out=tmp_path / "out", target="jetson-nano")
    assert made.ok and not made.artifacts[0].unfit
    (domain,) = onnx.load(tmp_path / "out" / made.artifacts[0].file).opset_import
    assert domain.version == 18, "which its ONNX Runtime reads"


def test_openvino_goes_by_way_of_an_onnx_that_no_device_reads(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    model = linear(tmp_path / "small.onnx", WEIGHT)
    made = edgekd.export_model(str(model), ["openvino-fp32"], out=tmp_path / "out", target="intel-n100")
    assert made.ok and not made.artifacts[0].unfit and made.parity["openvino-fp32"].sqnr_db > 80


def test_a_stand_in_is_written_where_the_target_names_one(tmp_path: Path) -> None:
    """The last tflite-runtime answers dynamic int8 wrongly, without an error."""
    model = linear(tmp_path / "small.onnx", WEIGHT)
    old = msgspec.structs.replace(load_target("raspberry-pi-4"), runtimes={"tflite_runtime": "2.14.0"})
    made = edgekd.export_model(str(model), ["tflite-dynamic"], out=tmp_path / "out", target=old)
    assert "tflite_runtime 2.14.0 is silently wrong" in made.artifacts[0].unfit[0]
    mended = msgspec.structs.replace(old, fallbacks={"tflite-dynamic": "tflite-fp32"})
    made = edgekd.export_model(str(model), ["tflite-dynamic"], out=tmp_path / "mended", target=mended)
    (one,) = made.artifacts
    assert (one.export, one.instead_of, one.unfit) == ("tflite-fp32", "tflite-dynamic", ())
    assert edgekd.verify_models([tmp_path / "mended"]).ok


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    model = linear(tmp_path / "small.onnx", WEIGHT)
    edgekd.export_model(str(model), ["onnx-fp32"], out=tmp_path / "out")
    path = tmp_path / "out" / "edgekd.json"
    path.write_text(path.read_text().replace("small-onnx-fp32.onnx", "../small.onnx"))
    with pytest.raises(ConfigError, match="points out of the folder"):
        edgekd.verify_models([tmp_path / "out"])


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["nothing.onnx", "--to", "onnx-fp32"], "no such file", 2),
        (["MODEL", "--to", "onnx"], "has no precision", 2),
        (["MODEL", "--to", "onnx-fp33"], "has no precision 'fp33'", 2),
        (["MODEL", "--to", "onx-fp32"], "no converter named 'onx'", 4),
        (["MODEL"], "nothing to export to", 2),
        (["MODEL", "--to", "onnx-int8", "--calibration", "no.npz"], "no.npz: not arrays of numpy", 2),
        (["MODEL", "--to", "onnx-fp32", "--shape", "x=a,b"], "is not like image=1,3,224,224", 2),
        (["MODEL", "--to", "onnx-fp32", "--ranges", "best"], "no rule for ranges named 'best'", 2),
    ],
)
def test_what_cannot_be_exported_is_one_line(arguments: list[str], message: str, code: int, tmp_path: Path) -> None:
    linear(tmp_path / "MODEL.onnx", WEIGHT)
    words = [word.replace("MODEL", "MODEL.onnx") for word in arguments]
    ended = subprocess.run(
        [sys.executable, "-m", "edgekd", "export", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code and message in ended.stderr, ended.stderr
    assert len(ended.stderr.splitlines()) <= 2 and "Traceback" not in ended.stderr


def test_the_command_line_prints_json_alone(tmp_path: Path) -> None:
    linear(tmp_path / "a.onnx", WEIGHT)
    flipped = WEIGHT.copy()
    flipped[0, 0] += 1
    linear(tmp_path / "b.onnx", flipped)

    def edgekd_says(*words: str) -> tuple[int, Any]:
        ended = subprocess.run(
            [sys.executable, "-m", "edgekd", *words, "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, json.loads(ended.stdout)

    code, said = edgekd_says("export", "a.onnx", "--to", "onnx-fp32", "-o", "out")
    assert code == 0 and said["ok"] and said["artifacts"][0]["export"] == "onnx-fp32"
    assert {"file", "file_bytes", "sha256", "parity"} <= set(said["artifacts"][0])
    code, said = edgekd_says("verify", "a.onnx", "b.onnx")
    assert code == 5 and not said["ok"] and not said["pairs"][0]["ok"]
    assert {"a", "b", "max_abs", "sqnr_db", "top1_agreement", "ok"} <= set(said["pairs"][0])
