"""`edgekd bench --ram`: whether a model runs on an emulated machine with so much RAM.

`pytest -m device tests/test_ram.py` starts such machines; it needs QEMU, and the network for the first time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd import devices, engines
from edgekd.bench import Bench, jobs, measured
from edgekd.cli import main
from edgekd.emulation import disks, system
from edgekd.errors import ConfigError
from edgekd.plugins import find
from edgekd.ram import MEGABYTE, read_size
from edgekd.specs import Fits

DEVICE = "qemu:cortex-a72"
WEIGHT_BYTES = 64 * MEGABYTE


# --- what needs no machine


@pytest.mark.parametrize(
    ("text", "megabytes"), [("64MB", 64), ("64M", 64), ("64 MiB", 64), ("0.5GB", 512), ("1g", 1024), (" 16mb ", 16)]
)
def test_ram_is_counted_as_it_is_sold(text: str, megabytes: int) -> None:
    assert read_size(text) == megabytes * 2**20


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0MB",
        "",
        "MB",
        "-64MB",
        "64",
        "64KB",
        "1e3MB",
        "nan",
        "15MB",
        "64.3MB",
        "5000TB",
        "9" * 400 + "GB",
        "６４MB",
    ],
)
def test_what_is_no_amount_of_ram_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_size(text)
    assert caught.value.hint and "\n" not in str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Enough of a TFLite file to be taken for one."""
    path = tmp_path / "some.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(32))
    return path


@pytest.mark.parametrize(
    ("device", "size", "said"),
    [
        (DEVICE, "0", "is no size of RAM"),
        (DEVICE, "5000TB", "more than this machine has"),
        ("host", "64MB", "--ram is for emulated devices, and host is none"),
        ("qemu:cortex-a7", "64MB", "32-bit core cortex-a7"),
        ("qemu:no-such-core", "64MB", "no core named"),
    ],
)
def test_the_command_refuses_in_two_lines(
    device: str, size: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(file), "--engine", "litert", "--on", device, "--ram", size]) == ConfigError.exit_code
    printed = capsys.readouterr().err.splitlines()
    assert said in printed[0] and printed[1].startswith("hint: ") and len(printed) == 2


def test_preparing_ram_is_for_devices_that_can_have_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "prepare", "qemu:cortex-a7", "--ram"]) == ConfigError.exit_code
    assert "32-bit" in capsys.readouterr().err


def test_missing_tools_are_named_with_their_packages(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["bench", str(file), "--engine", "litert", "--on", DEVICE, "--ram", "64MB"]) == 4
    assert "apt install qemu-system-arm" in capsys.readouterr().err


@pytest.mark.skipif(not disks.mke2fs(), reason="mke2fs is missing: apt install e2fsprogs")
def test_a_disk_has_room_for_what_is_in_its_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    for index in range(2000):
        (source / "a" / "b" / f"{index}.py").write_text("x")
    (source / "large").write_bytes(bytes(range(256)) * 40_000)
    disk = tmp_path / "disk.img"
    subprocess.run(disks.command(source, disk), check=True, capture_output=True)
    assert 2001 * 4096 + 10_240_000 < disk.stat().st_size < 2 * (2001 * 4096 + 10_240_000)


# --- what does


@pytest.fixture(scope="module")
def _prepared() -> None:
    find(devices, "qemu").prepare("cortex-a72", engines.GUEST, {"onnxruntime": engines.path("onnxruntime")})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with 64 MB of weights, which ONNX Runtime has in memory twice while it loads them."""
    onnx = pytest.importorskip("onnx")
    weights = np.random.default_rng(0).normal(size=(4096, 4096)).astype(np.float32)
    assert weights.nbytes == WEIGHT_BYTES
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4096]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def machine_test(function: Callable[..., None]) -> Callable[..., None]:
    """Marks what starts a machine."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.device,
        pytest.mark.xdist_group("qemu"),
        pytest.mark.timeout(900),
        pytest.mark.usefixtures("_prepared"),
        pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="qemu-aarch64 is missing: apt install qemu-user"),
        pytest.mark.skipif(
            not shutil.which("qemu-system-aarch64"),
            reason="qemu-system-aarch64 is missing: apt install qemu-system-arm",
        ),
    ):
        function = mark(function)
    return function


def fits(model: Path, megabytes: int) -> Fits:
    bench = Bench(models=(str(model),), engines=("onnxruntime",), device=DEVICE, ram_bytes=megabytes * MEGABYTE)
    (found,) = measured(bench, jobs(bench))
    assert isinstance(found, Fits), found
    return found


@machine_test
def test_a_model_runs_in_enough_ram_and_its_parts_are_told(large: Path) -> None:
    found = fits(large, 512)
    assert (found.ran, found.ended_by, found.during, found.why) == (True, "", "", "")
    assert found.provenance == "emulated" and found.inferences > 0 and found.engine_version
    parts = (found.system_bytes, found.runtime_rss_bytes, found.peak_rss_bytes, found.free_bytes)
    linux, runtime, model, free = (part or 0 for part in parts)
    assert 10 * MEGABYTE < linux < 128 * MEGABYTE
    assert 10 * MEGABYTE < runtime < 128 * MEGABYTE
    assert WEIGHT_BYTES < model < 3 * WEIGHT_BYTES
    assert 0 < free < found.ram_bytes - linux


@machine_test
def test_a_model_that_needs_more_is_killed(large: Path) -> None:
    found = fits(large, 160)
    assert (found.ran, found.ended_by, found.during) == (False, "killed", "model")
    assert "Out of memory: Killed process" in found.why and "python3.11" in found.why
    assert found.engine_version and found.system_bytes and found.peak_rss_bytes is None


@machine_test
def test_a_machine_may_be_too_small_for_linux(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(large), "--engine", "onnxruntime", "--on", DEVICE, "--ram", "40MB"]
    assert main([*arguments, "--json"]) == 5
    (found,) = json.loads(capsys.readouterr().out)["fits"]
    assert (found["ran"], found["ended_by"], found["during"]) == (False, "boot", "boot")
    assert "panic" in found["why"]


@machine_test
def test_a_machine_that_says_nothing_is_ended(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "SILENCE_S", 0.5)
    found = fits(large, 512)
    assert (found.ran, found.ended_by, found.during) == (False, "time", "boot")
    assert not machines_of(os.getpid())


@machine_test
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is missing: apt install util-linux")
def test_a_machine_ends_with_whoever_started_it(large: Path) -> None:
    command = [sys.executable, "-m", "edgekd", "bench", str(large), "--engine", "onnxruntime", "--on", DEVICE]
    with subprocess.Popen(
        [*command, "--ram", "512MB"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        machine = wait_for(lambda: machines_of(process.pid))
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: [1] if not alive(machine[0]) else [])


def machines_of(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == parent and row[2].startswith("qemu-system")]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_for(look: Callable[[], list[int]]) -> list[int]:
    deadline = time.monotonic() + 120
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_what_a_machine_says_is_understood_also_where_it_ends_in_the_middle() -> None:
    lines = ["edgekd MemTotal: 1000", "edgekd MemAvailable: 800", '{"ok": true, "engine_version": "1"}', '{"ok": tr']
    console = ["[    9.1] Out of memory: Killed process 90 (python3.11) total-vm:1kB", "[    9.2] reboot: Power down"]
    said = system.understood(lines, False, console)
    assert (said.total_bytes, said.available_bytes, len(said.answers)) == (1_024_000, 819_200, 1)
    assert said.killed.startswith("Out of memory") and said.exit_code is None
