"""Emulated Arm for real: `pytest -m device tests/test_qemu.py`; needs QEMU, and the network for the first time.

EDGEKD_CACHE names the folder where what is prepared stays from one run to the next.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekd
from edgekd import caches, devices, engines
from edgekd.cli import main
from edgekd.devices import Connection
from edgekd.emulation import root
from edgekd.plugins import find
from edgekd.sides import read_arrays
from edgekd.specs import Budget
from edgekd.tensors import first_inputs, write_inputs
from tests.conftest import data_folder
from tests.test_api import own

KEYWORDS = data_folder() / "mlperf_tiny" / "kws_ref_model.tflite"
IMAGES = data_folder() / "mlperf_tiny" / "pretrainedResnet_quant.tflite"
EXAMPLES = 16

pytestmark = [
    pytest.mark.device,
    pytest.mark.xdist_group("qemu"),
    pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="qemu-aarch64 is missing: apt install qemu-user"),
    pytest.mark.skipif(not KEYWORDS.exists(), reason="no mlperf_tiny in EDGEKD_DATA"),
    pytest.mark.timeout(600),
]


def prepared(core: str, *wanted: str) -> None:
    find(devices, "qemu").prepare(core, engines.GUEST, {name: engines.path(name) for name in wanted})


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    prepared("cortex-a72", "litert", "tflite_runtime")


def pictures(shape: list[int]) -> np.ndarray[Any, Any]:
    """Seeded int8 examples of shape (EXAMPLES, *shape), from even to rough: noise alone saturates the answers."""
    random = np.random.default_rng(0)
    roughness = np.linspace(0, 100, EXAMPLES).reshape(-1, *(1 for _ in shape))
    level = random.uniform(-100, 100, roughness.shape)
    return np.clip(level + roughness * random.normal(size=(EXAMPLES, *shape)), -128, 127).astype(np.int8)


@contextmanager
def loaded(device: str, engine: str, model: Path, scratch: Path) -> Iterator[tuple[Connection, Path]]:
    """A connection with a model loaded, and a file of seeded inputs."""
    scratch.mkdir(parents=True, exist_ok=True)
    name, _, address = device.partition(":")
    with find(devices, name).start(address, engines.GUEST, engines.path(engine), scratch) as connection:
        answer = connection.ask({"do": "load", "model": connection.put(model), "threads": 1}, 120)
        inputs = scratch / "inputs.npz"
        write_inputs(inputs, *(pictures(one["shape"]) for one in answer["inputs"]))
        yield connection, inputs


def outputs_on(device: str, model: Path, scratch: Path) -> list[np.ndarray[Any, Any]]:
    with loaded(device, "litert", model, scratch) as (connection, inputs):
        there, here = scratch / "there.npz", scratch / "here.npz"
        connection.ask({"do": "run", "inputs": connection.put(inputs), "outputs": str(there)}, 300)
        connection.get(str(there), here)
    return list(read_arrays(here))


def counts_on(device: str, engine: str, scratch: Path) -> dict[str, Any]:
    with loaded(device, engine, KEYWORDS, scratch) as (connection, inputs):
        return connection.ask({"do": "count", "inputs": connection.put(inputs), "count": 3}, 300)


@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a76", "cortex-a53"])
@pytest.mark.parametrize("model", [KEYWORDS, IMAGES], ids=lambda path: path.stem)
def test_int8_answers_equal_those_of_x86_to_the_bit(core: str, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    here = outputs_on("host", model, tmp_path / "host")
    there = outputs_on(f"qemu:{core}", model, tmp_path / core)
    assert len(here) == len(there)
    for expected, found in zip(here, there, strict=True):
        assert len(np.unique(expected)) > EXAMPLES
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("engine", ["litert", "tflite_runtime"])
def test_counts_repeat_between_processes(engine: str, tmp_path: Path) -> None:
    """Also where the folder's name is longer, which moves the stack."""
    totals, misses = [], []
    for turn in range(4):
        counted = counts_on("qemu:cortex-a72", engine, tmp_path / ("x" * 40 * turn or "y"))
        totals += [one["instructions"]["total"] for one in counted["inferences"]]
        misses += [one["caches"][0]["misses"] for one in counted["inferences"]]
    assert max(totals) / min(totals) - 1 < 0.001
    assert max(misses) / min(misses) - 1 < 0.02


@pytest.mark.parametrize("core", ["cortex-a7", "cortex-a15"])
def test_32_bit_cores_answer_as_64_bit_ones(core: str, tmp_path: Path) -> None:
    prepared(core, "tflite_runtime")
    sums = {}
    for one in ("cortex-a72", core):
        with loaded(f"qemu:{one}", "tflite_runtime", KEYWORDS, tmp_path / one) as (connection, inputs):
            answer = connection.ask({"do": "run", "inputs": str(inputs), "outputs": str(tmp_path / "o.npz")}, 120)
            counted = connection.ask({"do": "count", "inputs": str(inputs), "count": 1}, 300)
            sums[one] = answer["outputs_sha256"]
    assert sums[core] == sums["cortex-a72"]
    total = counted["inferences"][0]["instructions"]
    assert total == {"other": total["total"], "total": total["total"]}
    assert total["total"] > 1e6


def test_what_is_counted_adds_up(tmp_path: Path) -> None:
    counted = counts_on("qemu:cortex-a72", "litert", tmp_path)
    one, empty = counted["inferences"][0], counted["empty"]
    kinds = {name: count for name, count in one["instructions"].items() if name != "total"}
    assert sum(kinds.values()) == one["instructions"]["total"] > 100 * empty["instructions"]["total"]
    assert kinds["dot"] == kinds["matrix_multiply"] == 0  # what a Cortex-A72 does not have
    assert kinds["widening_multiply"] > 1e5
    nearest, farther = one["caches"]
    assert one["memory"]["accesses"] <= nearest["accesses"] < 1.2 * one["memory"]["accesses"]
    assert farther["accesses"] == nearest["misses"] > 0
    assert one["memory"]["touched_bytes"] % 4096 == 0
    assert KEYWORDS.stat().st_size / 2 < one["memory"]["touched_bytes"] < one["memory"]["load_bytes"]


def test_kernels_follow_the_core(tmp_path: Path) -> None:
    older = counts_on("qemu:cortex-a72", "litert", tmp_path / "older")["inferences"][0]["instructions"]
    newer = counts_on("qemu:cortex-a76", "litert", tmp_path / "newer")["inferences"][0]["instructions"]
    assert newer["dot"] > 1e5 > older["dot"]
    assert newer["total"] < older["total"] / 2


def test_a_guest_believes_in_its_machine(tmp_path: Path) -> None:
    with loaded("qemu:raspberry-pi-4", "litert", KEYWORDS, tmp_path) as (connection, _):
        facts = connection.ask({"do": "facts"}, 60)
    machine = facts["machine"]
    assert facts["emulated"]
    assert (machine["cpu"], machine["cores"], machine["governor"]) == ("cortex-a72, emulated by QEMU", 4, "emulated")


def test_memory_is_that_of_the_guest_alone(tmp_path: Path) -> None:
    """The emulator itself takes tens of megabytes while it translates."""
    request = {"do": "memory", "model": str(IMAGES), "threads": 1}
    prepared("cortex-a7", "tflite_runtime")
    for device in ("qemu:cortex-a72", "qemu:cortex-a7"):
        with loaded(device, "tflite_runtime", IMAGES, tmp_path) as (connection, inputs):
            given = [{**one, "file": connection.put(one["file"])} for one in first_inputs(inputs, tmp_path)]
            answer = connection.ask({**request, "inputs": given}, 120)
        assert IMAGES.stat().st_size / 4 < answer["peak_rss_bytes"] < 8e6


def test_a_suite_counts_and_two_of_it_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "own.toml"
    entry = '[[models]]\nname = "keywords"\nfile = "mlperf_tiny/kws_ref_model.tflite"\nengines = ["litert"]\n'
    suite.write_text(f'schema = 1\nname = "own"\ntitle = "Own"\nthreads = [1, 2]\n{entry}', encoding="utf-8")
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        assert main(["suite", str(suite), "--on", "qemu:cortex-a72", "-o", str(path), "--json"]) == 0
        for row in json.loads(capsys.readouterr().out)["rows"]:
            assert row["counted"]["instructions"]["total"] > 1e6 and row["counted"]["provenance"] == "emulated"
            assert row["counted"]["latency_ms"]["value"] > 0 and row["counted"]["host_max_abs"] == 0
    assert main(["suite", "--compare", *map(str, paths), "--json"]) == 0
    assert [one["verdict"] for one in json.loads(capsys.readouterr().out)["changes"]] == ["same", "same"]


def test_the_host_counts_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    assert counts_on("host", "litert", tmp_path)["inferences"] is None


def test_nothing_is_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so nothing is fetched: there is no way out, and no apt or gcc."""
    tools = {name: shutil.which(name) for name in ("qemu-aarch64", "setarch", "true")}
    start = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "which", tools.get)
        patched.setenv("http_proxy", "http://127.0.0.1:9")
        patched.setenv("https_proxy", "http://127.0.0.1:9")
        prepared("cortex-a72", "litert")
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_that_looks_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "edgekd", "device", "prepare", "qemu:cortex-a72", "-e", "tflite_runtime"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as process:
        while not list((tmp_path / "cache").glob("emulation/root-*/download/archives/*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not caches.is_ready(root.folder("aarch64"))
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    listed = subprocess.run(
        [sys.executable, "-m", "edgekd", "device", "list", "--json"], check=True, capture_output=True
    )
    states = {one["device"]: one for one in json.loads(listed.stdout)["devices"]}
    assert states["qemu:cortex-a72"]["ready"]
    assert states["qemu:cortex-a72"]["engines"] == ["tflite_runtime"]


def test_a_run_goes_to_the_emulator_that_is_prepared(tmp_path: Path) -> None:
    """Named or not, it is counted there, and what is counted decides the memory."""
    pytest.importorskip("ai_edge_litert")
    budget = Budget(latency_ms=1000, peak_memory_bytes=1e8, file_bytes=1e6, accuracy_floor=0.1)
    board = msgspec.structs.replace(
        edgekd.load_target("raspberry-pi-4"), budget=budget, exports=("tflite-int8",), engines=("litert",)
    )
    recipe = own(space={"width": [4]}, teacher_epochs=2, epochs=2)
    usual = edgekd.run(recipe, board, out=tmp_path / "run")
    (counted,), (timed,) = usual.made.counted, usual.made.measurements
    assert (counted.device, counted.provenance, counted.threads) == ("qemu:cortex-a72", "emulated", 4)
    assert counted.instructions["total"] > 1e4 and counted.host_max_abs == 0
    assert (timed.device, timed.threads) == ("host", 1)
    memory = next(one for one in usual.verdicts if one.limit == "peak_memory_bytes")
    assert (memory.provenance, memory.found) == ("emulated", counted.memory.peak_rss_bytes)
    assert usual.summary()["counts"][0]["device"] == "qemu:cortex-a72"
    named = edgekd.run(recipe, board, out=tmp_path / "run", on=["raspberry-pi-4=qemu:cortex-a72"])
    assert named.made.counted == usual.made.counted and named.made.measurements == ()
    (again,) = edgekd.resume(tmp_path / "run", require="measured")
    assert again.made.measurements == (), "the device is remembered"
    assert {one.limit for one in again.verdicts if not one.ok} == {"latency_ms", "peak_memory_bytes"}
