"""`edgekd blame`: rows by layer, files from anywhere, artifacts of runs, and what it refuses."""

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgekd.blame import Blame, LayerBlame, examine, rows
from edgekd.cases import Request
from edgekd.cli import main
from edgekd.data import load as load_data
from edgekd.divergence import LayerError
from edgekd.errors import ConfigError
from edgekd.files import dumps, write_text
from edgekd.nets import save
from edgekd.profile import OperatorTime, Profile
from edgekd.runs import Run, Work
from edgekd.shipped import load_recipe
from edgekd.specs import Artifact, Choice, Graph, Operator, Student, TensorSpec
from edgekd.tensors import write_inputs
from tests import models, toys
from tests.subjects import HEADS, subject

TOYS = Path(__file__).with_name("toys.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="ai_edge_litert, which executes TFLite, is not installed"
)


def blame(request: Request) -> Blame:
    """In this process, for another takes seconds to import torch; the verb is what starts one."""
    with tempfile.TemporaryDirectory() as scratch:
        return examine(request, scratch)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a faithful file, a wrong one, and one of its own format."""
    monkeypatch.chdir(tmp_path)
    models.tflite(tmp_path / "right.tflite")
    models.tflite(tmp_path / "wrong.tflite", factors=(1.0, 1.3))
    return tmp_path


# --- rows


def graph() -> Graph:
    def one(kind: str, name: str, *inputs: str, layer: str = "", dtype: str = "float32") -> Operator:
        return Operator(kind=kind, name=name, layer=layer, inputs=inputs, outputs=(name,), dtype=dtype)

    return Graph(
        format="onnx",
        inputs=(TensorSpec(name="x", shape=(1, 2)),),
        outputs=(TensorSpec(name="add", shape=(1, 2)),),
        operators=(
            one("Conv", "conv", "x", layer="blocks.0"),
            one("QuantizeLinear", "cq", "conv", dtype="uint8"),
            one("DequantizeLinear", "cd", "cq"),
            one("Relu", "relu", "cd", layer="blocks.0"),
            one("Dead", "dead", "relu"),
            one("Add", "add", "relu", "cd"),
        ),
        properties={},
    )


def error(operator: str, **changes: Any) -> LayerError:
    made = LayerError(
        operator=operator, kind="", layer="", dtype="", counterpart="y", before_db=50.0, sqnr_db=40.0, local_db=43.0
    )
    return msgspec.structs.replace(made, **changes)


def test_rows_are_layers_in_the_order_of_execution() -> None:
    times = (
        OperatorTime(operators=("conv",), layer="blocks.0", kind="QLinearConv", ms=3.0),
        OperatorTime(operators=(), layer="", kind="Transpose", ms=1.0),
        OperatorTime(operators=("add",), layer="", kind="Add", ms=1.0),
    )
    timed = Profile(engine="e", provenance="host", how="profiled by the runtime", total_ms=5.0, times=times)
    errors = [error("conv", output_db=20.0, metric_drop=0.1), error("relu", sqnr_db=30.0, output_db=20.0), error("add")]
    block, add, rest = rows(graph(), errors, timed)
    assert block.layer == "blocks.0" and block.operators == ("conv", "cq", "cd", "relu")
    assert block.kinds == ("Conv", "QuantizeLinear", "DequantizeLinear", "Relu") and block.dtype == "float32"
    assert (
        block.sqnr_db == 30
        and block.local_db == pytest.approx(40, abs=0.1)
        and block.output_db == pytest.approx(17, abs=0.1)
    )
    assert block.metric_drop == 0.1 and block.latency_ms == 3.0 and block.share == pytest.approx(0.6)
    assert add.layer == "add" and add.share == pytest.approx(0.2) and add.output_db is None
    assert rest == LayerBlame(layer="", operators=(), kinds=("Transpose",), dtype="", latency_ms=1.0, share=0.2)


def test_rows_are_called_as_the_modules_of_the_reference_where_the_file_names_none() -> None:
    plain = msgspec.structs.replace(
        graph(), operators=tuple(msgspec.structs.replace(one, layer="") for one in graph().operators)
    )
    errors = [error("conv", module="stem"), error("relu", module="stem"), error("add")]
    assert [(row.layer, len(row.operators)) for row in rows(plain, errors, None)] == [("stem", 4), ("add", 1)]


# --- files from anywhere


def test_a_file_alone_is_timed(files: Path) -> None:
    found = blame(Request(artifact="right.tflite"))
    assert found.total_ms is not None and found.how == "profiled by the runtime" and found.divergence is None
    assert [row.kinds for row in found.layers] == [("CONV_2D",), ("CONV_2D",), ("ADD",)]
    assert all(row.latency_ms is not None and row.sqnr_db is None for row in found.layers)
    assert sum(row.share or 0 for row in found.layers) in (pytest.approx(1), 0)
    assert found.notes == ("there is no float model to compare with: --against FILE",)


def test_a_file_against_another(files: Path) -> None:
    found = blame(Request(artifact="wrong.tflite", against="right.tflite", timed=False, examples=3))
    assert found.examples == 3 and found.inputs == "random numbers, seed 0" and found.total_ms is None
    assert found.divergence is not None and found.divergence.name == "blocks.0.conv:1"
    assert [row.sqnr_db is not None and row.sqnr_db > 100 for row in found.layers] == [True, False, False]
    assert found.outputs_db[0] is not None and found.outputs_db[0] < 30


def test_a_file_against_a_torch_module(files: Path) -> None:
    (files / "twin.py").write_text(
        "import sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from tests import models\n"
        "def net():\n"
        "    made = models.torch_twin()\n"
        "    made.example_inputs = (torch.zeros(1, 2, 4, 4),)\n"
        "    return made\n",
        encoding="utf-8",
    )
    found = blame(Request(artifact="wrong.tflite", against="twin.py:net", timed=False, examples=3))
    assert [row.layer for row in found.layers] == ["norm", "second", "blocks.1"]
    first, second, last = found.layers
    assert first.local_db is not None and first.local_db > 100
    assert second.local_db is not None and second.local_db < 20 and second.output_db is not None
    assert last.local_db is not None and last.local_db > 100


def test_inputs_of_ones_own(files: Path) -> None:
    np.savez(files / "given.npz", image=np.ones((2, 4, 4, 2), np.float32))
    found = blame(Request(artifact="wrong.tflite", against="right.tflite", inputs="given.npz", timed=False))
    assert found.examples == 2 and found.inputs == "given.npz"
    np.savez(files / "other.npz", image=np.ones((2, 5, 5, 2), np.float32))
    with pytest.raises(ConfigError, match="takes"):
        blame(Request(artifact="wrong.tflite", against="right.tflite", inputs="other.npz", timed=False))


# --- the command line


def test_the_verb_prints_a_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blame", "wrong.tflite", "--against", "right.tflite", "--examples", "2"]) == 0
    out, _ = capsys.readouterr()
    assert "wrong.tflite" in out and "they part at blocks.0.conv:1 (CONV_2D)" in out and "SQNR up to here" in out
    assert main(["blame", "right.tflite", "--against", "right.tflite", "--no-time", "--least-db", "50"]) == 0
    assert "they part nowhere: every operator is above 50 dB" in capsys.readouterr()[0]


def test_the_verb_prints_json_and_draws(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("altair") is None or importlib.util.find_spec("vl_convert") is None:
        pytest.skip("altair or vl-convert, which draw, are not installed")
    arguments = ["blame", "wrong.tflite", "--against", "right.tflite", "--no-time", "--examples", "2", "--json"]
    assert main([*arguments, "--picture", "blame.png"]) == 0
    plain = json.loads(capsys.readouterr()[0])
    assert plain["schema"] == 1 and len(plain["layers"]) == 3 and plain["divergence"]["kind"] == "CONV_2D"
    assert (files / "blame.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--picture", "blame.svg"]) == 0
    drawn = (files / "blame.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<svg") and "blocks.0.conv" in drawn and "SQNR" in drawn


def test_a_picture_of_hostile_names_is_only_text(tmp_path: Path) -> None:
    if importlib.util.find_spec("altair") is None or importlib.util.find_spec("vl_convert") is None:
        pytest.skip("altair or vl-convert, which draw, are not installed")
    from edgekd.page._pictures import svg
    from edgekd.page.blame import picture, save

    names = ["</svg><script>alert(1)</script>", "a\tb\nc", "\x1b[31m\u202e", "x" * 500, "", "datum.value", "&amp;"]
    layers = [{"layer": name, "sqnr_db": float(index), "latency_ms": 0.0} for index, name in enumerate(names)]
    drawn = svg(picture({"layers": layers}))
    assert "<script" not in drawn and "\x1b" not in drawn
    odd = [{"layer": None}, {"sqnr_db": "x"}, {"sqnr_db": 1e308, "latency_ms": -1.0}, {"sqnr_db": -200.0}, "no layer"]
    save({"layers": [*layers, *odd]}, tmp_path / "odd.png")
    save({}, tmp_path / "empty.svg")
    assert (tmp_path / "odd.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.tflite"], "no such file"),
        (["right.tflite", "--against", "nothing.onnx"], "no such file"),
        (["right.tflite", "--picture", "a.gif"], "neither a .png nor a .svg"),
        (["right.tflite", "--inputs", "nothing:f"], "no module named"),
        (["right.tflite", "--inputs", "nothing.npz"], "nothing.npz"),
        (["right.tflite", "--against", "broken.tflite"], "not TFLite, or damaged"),
        (["."], "not a model that a device reads"),
        (["right.tflite", "--engine", "onnxruntime"], "does not execute"),
    ],
)
def test_what_cannot_be_blamed(
    arguments: list[str], says: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "broken.tflite").write_bytes((files / "right.tflite").read_bytes()[:300])
    assert main(["blame", *arguments]) == 2
    assert says in capsys.readouterr()[1]


# --- runs


def onnx_of(module: torch.nn.Module, path: Path, factor: float = 1.0) -> None:
    """The perceptron of tests/toys.py as an ONNX file; `factor` spoils its last layer."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    weights["2.weight"] = (weights["2.weight"] * factor).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["h"], name="0", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="1"),
        helper.make_node("Gemm", ["r", "2.weight", "2.bias"], ["logits"], name="2", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 12])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])]
    graph = helper.make_graph(
        nodes, "net", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"edgekd.classes": "[]"})
    path.write_bytes(model.SerializeToString())


def distilled(work: Work) -> Student:
    """An untrained perceptron, as if it had been."""
    torch.manual_seed(0)
    save(toys.perceptron(), work.out / "student.safetensors")
    file = work.keep(work.out / "student.safetensors")
    return Student(
        weights=file,
        twin_weights=file,
        choice=Choice(name=f"{TOYS}:perceptron"),
        preprocessing=None,
        inputs=(TensorSpec(name="x", shape=(1, 12)),),
        outputs=(TensorSpec(name="logits", shape=(1, 3)),),
        subject=subject((12,), toys.CLASSES, "numbers"),
        parameters=1,
        macs=1,
        metrics={},
        twin_metrics={},
    )


def exported(work: Work, precision: str, factor: float) -> Artifact:
    """An ONNX file of it."""
    torch.manual_seed(0)
    onnx_of(toys.perceptron(), work.out / "model.onnx", factor)
    write_inputs(work.out / "samples.npz", np.zeros((1, 1, 12), np.float32))
    return Artifact(
        export=f"onnx-{precision}",
        format="onnx",
        precision=precision,
        model=work.keep(work.out / "model.onnx"),
        inputs=(TensorSpec(name="x", shape=(1, 12)),),
        outputs=(TensorSpec(name="logits", shape=(1, 3)),),
        samples=work.keep(work.out / "samples.npz"),
        tools={},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a student, a faithful export and a wrong one."""
    if importlib.util.find_spec("onnx") is None:
        pytest.skip("onnx, which makes the files, is not installed")
    made = Run(tmp_path / "run")
    (made.folder / "inputs").mkdir()
    recipe = msgspec.structs.replace(load_recipe("digits"), dataset=Choice(name=f"{TOYS}:numbers"))
    write_text(made.folder / "inputs" / "recipe.json", dumps(recipe))
    made.step("data", load_data, recipe.dataset, HEADS, "")
    made.step("pi/2-distil", distilled)
    made.step("pi/3-export/onnx-fp32", exported, "fp32", 1.0)
    made.step("pi/3-export/onnx-int8", exported, "int8", -1.0)
    return made.folder


def test_an_artifact_of_a_run_is_held_against_its_student(run: Path) -> None:
    found = blame(Request(artifact=str(run / "onnx-int8")))
    assert found.artifact == "onnx-int8" and found.against == "student" and found.inputs == "test data of the run"
    assert found.metric == "accuracy" and found.examples == 64 and found.least_db == 10
    assert [row.layer for row in found.layers] == ["0", "1", "2"]
    last = found.layers[2]
    assert last.metric_drop is not None and last.metric_drop != 0 and last.local_db is not None and last.local_db < 0
    assert (
        found.layers[0].metric_drop == 0 and found.layers[0].output_db is not None and found.layers[0].output_db > 100
    )
    assert found.divergence is not None and found.divergence.layer == "2"


def test_an_export_is_found_by_its_folder_its_file_and_its_name(run: Path) -> None:
    places = ("onnx-fp32", "pi/onnx-fp32", "pi/3-export/onnx-fp32", "pi/3-export/onnx-fp32/model.onnx")
    for place in places:
        found = blame(Request(artifact=str(run / place), examples=4, timed=False))
        assert found.artifact == "onnx-fp32" and found.least_db == 80 and found.divergence is None, place


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("onnx-fp16", "has no export 'onnx-fp16'"),
        ("", "is a run folder"),
        ("pi/2-distil/student.safetensors", "not a model that a device reads"),
        ("data", "is no model file"),
    ],
)
def test_places_of_a_run_that_are_no_artifact(place: str, says: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        blame(Request(artifact=str(run / place)))


def test_a_changed_artifact_of_a_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "pi" / "3-export" / "onnx-fp32" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    assert main(["blame", str(run / "onnx-fp32")]) == 6
    assert "was changed" in capsys.readouterr()[1]
