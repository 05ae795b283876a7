"""`edgekd bench`: models of others, on engines that are here."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekd.bench import Bench, hold, jobs, measured
from edgekd.cli import main
from edgekd.errors import ConfigError, UnknownPlugin
from edgekd.measure import PROTOCOLS, Job, take
from edgekd.shipped import load_target
from edgekd.specs import Budget, Failure, Measurement
from tests import models
from tests.conftest import data_folder

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    return models.MAKERS["onnx"](tmp_path / "small.onnx")


def measurement(found: Measurement | Failure) -> Measurement:
    assert isinstance(found, Measurement), found
    return found


@needs_onnx
def test_a_model_of_anybodys_is_measured_in_fresh_processes(model: Path) -> None:
    bench = Bench(models=(str(model),), mode="rapid", rounds=2)
    (job,) = jobs(bench)
    assert (job.engine, job.device) == ("onnxruntime", "host")
    found = measurement(next(measured(bench, [job])))
    assert found.provenance == "host" and found.artifact == "small.onnx"
    assert 0 < found.latency_ms.min <= found.latency_ms.p50 <= found.latency_ms.p99
    assert found.noise is not None and found.noise >= 0
    assert found.burst_ms is not None and found.sustained_ms is not None
    assert found.after.at_s - found.before.at_s >= 2 * PROTOCOLS["rapid"].min_s, "two rounds"
    assert found.memory.file_bytes == model.stat().st_size and found.memory.peak_rss_bytes > 0


@needs_onnx
def test_what_the_command_prints_is_json_and_files_are_held_against_a_budget(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(model), "--mode", "rapid", "-t", "raspberry-pi-4", "--profile", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,), (where,) = told["measurements"], told["profiles"]
    assert [verdict["limit"] for verdict in found["verdicts"]] == ["file_bytes"], "this machine is no Raspberry Pi"
    assert found["samples_ms"] and found["machine"]["cpu"]
    assert (where["artifact"], where["engine"], where["profile"]["provenance"]) == (model.name, "onnxruntime", "host")
    assert where["profile"]["times"] and all(one["ms"] >= 0 for one in where["profile"]["times"])


def test_no_operator_is_timed_where_nothing_is(model: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is timed on qemu:cortex-a72"):
        jobs(Bench(models=(str(model),), device="qemu:cortex-a72", by_operator=True))


@needs_onnx
def test_a_model_that_fails_does_not_stop_the_others(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = model.with_name("damaged.onnx")
    onnx = pytest.importorskip("onnx")
    unheard = onnx.load(model)
    unheard.graph.node[0].op_type = "Unheard"
    onnx.save(unheard, damaged)
    assert main(["bench", str(damaged), str(model), "--mode", "rapid"]) == 9
    shown = capsys.readouterr().out
    assert "failed damaged.onnx on onnxruntime" in shown and "Unheard" in shown and "small.onnx" in shown


@needs_onnx
def test_examples_are_ones_own(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((4, 3, 3), np.float32))
    bench = Bench(models=(str(model),), mode="rapid", inputs=str(tmp_path / "wrong.npy"))
    with pytest.raises(ConfigError, match=r"small.onnx takes .* and the inputs are"):
        next(measured(bench, jobs(bench)))


OWN_ENGINE = """
import numpy as np
class Session:
    inputs = outputs = [{"name": "x", "shape": [1, 3], "dtype": "float32"}]
    def feed(self, arrays): self.arrays = list(arrays)
    def invoke(self): pass
    def fetch(self): return self.arrays
class Engine:
    suffixes = (".onnx",)
    runtime = "numpy"
    def version(self): return "1.0"
    def load(self, model, threads): return Session()
    def plan(self, model):
        kinds = (("conv", "NeuralEngine", 0.75), ("softmax", "CPU", 0.25))
        return [{"kind": kind, "outputs": [kind], "device": place, "cost": cost} for kind, place, cost in kinds]
PLUGIN = Engine()
"""


def test_where_a_runtime_plans_to_execute_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Core ML does on a Mac."""
    (tmp_path / "own_engine.py").write_text(OWN_ENGINE, encoding="utf-8")
    command = ["bench", str(model), "--engine", f"{tmp_path}/own_engine.py:PLUGIN", "--mode", "rapid"]
    assert main([*command, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["measurements"]
    assert [(one["kind"], one["device"]) for one in found["planned"]] == [("conv", "NeuralEngine"), ("softmax", "CPU")]
    assert main(command) == 0
    assert "planned on CPU 25%, NeuralEngine 75%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": ("nothing.onnx",)}, ConfigError, "no such file"),
        ({"engines": ("onnxruntim",)}, UnknownPlugin, "no engine named 'onnxruntim'"),
        ({"engines": ("litert",)}, ConfigError, "no engine here executes it"),
    ],
)
def test_what_cannot_be_measured_is_known_before_anything_is(
    change: dict[str, tuple[str, ...]], error: type[Exception], message: str, model: Path
) -> None:
    bench = msgspec.structs.replace(Bench(models=(str(model),)), **change)
    with pytest.raises(error, match=message):
        jobs(bench)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tost", "no device named 'tost'"),
        ("qemu:max", "max"),
        ("qemu:../x", "../x"),
        ("qemu:cortex-a72", "edgekd device prepare qemu:cortex-a72"),
    ],
)
def test_a_device_that_is_none_or_not_ready_is_said(
    device: str,
    message: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    assert main(["bench", str(model), "--engine", "onnxruntime", "--on", device]) in {2, 4}
    assert message in capsys.readouterr().err


def test_under_emulation_nothing_is_timed(model: Path, tmp_path: Path) -> None:
    job = Job("small.onnx", model, "onnxruntime", "qemu:cortex-a72", "rapid", 1)
    with pytest.raises(ConfigError, match="times on qemu:cortex-a72 tell nothing"):
        take(job, lambda _: tmp_path, tmp_path)


@pytest.mark.device
def test_under_emulation_instructions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Needs QEMU; makes the device where it is not ready."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-user is not installed")
    file = data_folder() / "mlperf_tiny" / "kws_ref_model.tflite"
    if not file.is_file():
        pytest.skip("the models of MLPerf Tiny are not here; set EDGEKD_DATA")
    assert main(["device", "prepare", "qemu:cortex-a72", "--engine", "litert"]) == 0
    capsys.readouterr()
    assert main(["bench", str(file), "--on", "qemu:cortex-a72", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (counted,) = found["counts"]
    assert not found["measurements"] and counted["provenance"] == "emulated"
    assert counted["host_max_abs"] == 0 and counted["spread"] < 1e-3
    assert 1e6 < counted["instructions"]["total"] < 4e6


def test_only_what_was_measured_on_a_device_speaks_of_its_time() -> None:
    limits = Budget(latency_ms=10, peak_memory_bytes=1000, file_bytes=100)
    target = msgspec.structs.replace(load_target("raspberry-pi-4"), budget=limits)
    template = {
        "artifact": "a",
        "engine": "e",
        "engine_version": "1",
        "device": "d",
        "mode": "rapid",
        "threads": 1,
        "load_ms": 1,
        "first_ms": 1,
        "latency_ms": dict.fromkeys(
            ("p50", "p90", "p95", "p99", "mean", "min", "max", "sd", "p90_low", "p90_high", "stability"), 11.0
        ),
        "samples_ms": [11.0],
        "memory": {"peak_rss_bytes": 900, "file_bytes": 50},
        "machine": {"system": "s", "cpu": "c", "cores": 1, "memory_bytes": 1, "python": "3"},
        "outputs_sha256": "",
        "valid": True,
    }
    found = {
        provenance: hold(msgspec.convert({**template, "provenance": provenance}, Measurement), target)
        for provenance in ("measured", "host")
    }
    assert {verdict.limit: verdict.ok for verdict in found["measured"]} == {
        "file_bytes": True,
        "latency_ms": False,
        "peak_memory_bytes": True,
    }
    assert [verdict.limit for verdict in found["host"]] == ["file_bytes"]
    unstable = msgspec.convert(
        {**template, "provenance": "measured", "valid": False, "reasons": ["throttled"], "samples_ms": [1.0]},
        Measurement,
    )
    held = {
        verdict.limit: verdict
        for verdict in hold(unstable, msgspec.structs.replace(target, budget=Budget(latency_ms=20)))
    }
    assert not held["latency_ms"].ok and "throttled" in held["latency_ms"].note


def test_measuring_needs_no_library_that_trains_or_converts(model: Path) -> None:
    code = f"""
import sys
import edgekd.cli.bench
from edgekd.bench import Bench, jobs
jobs(Bench(models=({str(model)!r},)))
heavy = {{"torch", "onnx", "onnxruntime", "ai_edge_litert", "tensorflow", "openvino", "coremltools"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
