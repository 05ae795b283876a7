"""Artifacts that take longer than their float twins, and what says where their time goes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import DeviceUnreachable
from edgekd.files import content
from edgekd.measure import statistics
from edgekd.runs import Work
from edgekd.slowness import Timed, explain, slow_pairs
from edgekd.specs import Artifact, File, Machine, Measurement, Memory

NO_FILE = File(path="none", size_bytes=0, sha256="")
MACHINE = Machine(system="Linux", cpu="cpu", cores=2, memory_bytes=1, python="3.11")


def artifact(precision: str, fmt: str = "onnx", model: File = NO_FILE, samples: File = NO_FILE) -> Artifact:
    return Artifact(
        export=f"{fmt}-{precision}",
        format=fmt,
        precision=precision,
        model=model,
        inputs=(),
        outputs=(),
        samples=samples,
        tools={},
    )


def measured(export: str, ms: float, engine: str = "onnxruntime", device: str = "host") -> Measurement:
    return Measurement(
        artifact=export,
        engine=engine,
        engine_version="1",
        device=device,
        provenance="host",
        mode="rapid",
        threads=1,
        load_ms=1.0,
        first_ms=1.0,
        latency_ms=statistics(np.full(8, ms)),
        samples_ms=(ms,),
        memory=Memory(peak_rss_bytes=1, file_bytes=1),
        machine=MACHINE,
        outputs_sha256="",
        valid=True,
    )


def test_only_what_is_slower_than_its_own_twin_is_looked_at() -> None:
    artifacts = [artifact("int8"), artifact("fp32"), artifact("fp16"), artifact("int8", "tflite")]
    measurements = [
        measured("onnx-int8", 1.2),
        measured("onnx-fp16", 1.04),
        measured("onnx-fp32", 1.0),
        measured("onnx-fp32", 5.0, device="ssh:pi@board"),
        measured("onnx-int8", 2.0, device="ssh:pi@board"),
        measured("tflite-int8", 9.0, engine="litert"),
        measured("thrown-away", 9.0),
    ]
    ((slow, twin),) = slow_pairs(artifacts, measurements)
    assert (slow.artifact.export, slow.measurement.latency_ms.p50) == ("onnx-int8", 1.2)
    assert (twin.artifact.export, twin.measurement.latency_ms.p50) == ("onnx-fp32", 1.0)


def test_two_boards_are_never_held_against_each_other() -> None:
    artifacts = [artifact("int8"), artifact("fp32")]
    boards = ("ssh://pi@a", "ssh://pi@b")
    times = {"onnx-int8": (2.0, 9.0), "onnx-fp32": (3.0, 8.0)}
    measurements = [
        measured(export, ms, device=board)
        for export, both in times.items()
        for board, ms in zip(boards, both, strict=True)
    ]
    ((slow, twin),) = slow_pairs(artifacts, measurements)
    assert slow.measurement.device == twin.measurement.device == "ssh://pi@b"


def test_a_device_that_is_gone_leaves_no_answer_behind(tmp_path: Path) -> None:
    """Else the step would be done, and nobody would ask again."""
    pytest.importorskip("asyncssh")
    inputs, model = tmp_path / "samples.npz", chain(tmp_path / "int8.onnx", [64, 64])
    np.savez(inputs, **{"0": np.ones((4, 1, 64), np.float32)})
    one = artifact("int8", model=kept(model), samples=kept(inputs))
    gone = Timed(one, measured(one.export, 2.0, device="ssh://nobody@127.0.0.1:1"))
    (tmp_path / "step").mkdir()
    with pytest.raises(DeviceUnreachable):
        explain(Work(str(tmp_path), "step", str(tmp_path / "step")), gone, gone)


def chain(path: Path, sizes: list[int], kind: str = "MatMul") -> Path:
    """A file of matrix products, "product.0" and so on, of these widths."""
    onnx = pytest.importorskip("onnx")
    helper, names = onnx.helper, [f"x{index}" for index in range(len(sizes))]
    weights = [
        onnx.numpy_helper.from_array(np.ones((before, after), np.float32) / before, f"w{index}")
        for index, (before, after) in enumerate(pairwise(sizes))
    ]
    nodes = [
        helper.make_node(kind, [names[index], f"w{index}"], [names[index + 1]], f"product.{index}")
        for index in range(len(weights))
    ]
    ends = [helper.make_tensor_value_info(names[index], onnx.TensorProto.FLOAT, [1, sizes[index]]) for index in (0, -1)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def kept(path: Path) -> File:
    size_bytes, sha256 = content(path)
    return File(path=path.name, size_bytes=size_bytes, sha256=sha256)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Timed, Timed]:
    pytest.importorskip("onnxruntime")
    inputs = tmp_path / "samples.npz"
    np.savez(inputs, **{"0": np.ones((4, 1, 64), np.float32)})
    made = [
        artifact(precision, model=kept(chain(tmp_path / f"{precision}.onnx", sizes)), samples=kept(inputs))
        for precision, sizes in (("int8", [64, 64, 2048, 64]), ("fp32", [64, 64, 64, 64]))
    ]
    times = (2.0, 1.0)
    return tuple(Timed(one, measured(one.export, ms)) for one, ms in zip(made, times, strict=True))  # type: ignore[return-value]


def test_what_takes_longer_is_named(pair: tuple[Timed, Timed], tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    found = explain(Work(str(tmp_path), "step", str(tmp_path / "step")), *pair)
    assert (found.artifact, found.twin, found.device, found.provenance) == ("onnx-int8", "onnx-fp32", "host", "host")
    assert (found.quantized_ms, found.float_ms, found.how) == (2.0, 1.0, "profiled by the runtime")
    assert {one.what for one in found.operators} >= {"product.1", "product.2"}
    assert all(one.quantized_ms > one.float_ms for one in found.operators)


def test_what_cannot_be_profiled_says_why(pair: tuple[Timed, Timed], tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    chain(tmp_path / "fp32.onnx", [64, 64], kind="Unheard")
    found = explain(Work(str(tmp_path), "step", str(tmp_path / "step")), *pair)
    assert found.operators == () and found.how == ""
    assert "Unheard" in found.note
