"""A whole run that is measured on devices: through a real OpenSSH server, stopped, gone on with, and required."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgekd
from edgekd import calibrate, cost, fitted, measure
from edgekd.cli import main
from edgekd.errors import ConfigError, DeviceUnreachable, MeasureError, PluginUnavailable
from edgekd.specs import Budget
from tests.test_api import own, target

pytest.importorskip("asyncssh", reason="pip install 'edgekd[devices]'")
pytest.importorskip("ai_edge_litert", reason="pip install 'edgekd[tflite]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgekd[onnx]'")

from tests.test_ssh import Server, know, serving

EXPORTS = ("onnx-fp32", "tflite-fp32")
EASY = Budget(latency_ms=1000, peak_memory_bytes=1e9, file_bytes=1e6, accuracy_floor=0.1)
BROKEN = '''
"""A runtime that is there, and executes nothing."""
__version__ = "0.1"
class SessionOptions: pass
class GraphOptimizationLevel: ORT_ENABLE_ALL = 99
class InferenceSession:
    def __init__(self, *args, **options): raise RuntimeError("illegal instruction")
def set_default_logger_severity(level): pass
'''


def aim(**changes: Any) -> edgekd.Target:
    return target(**{"budget": EASY, "exports": EXPORTS, "threads": 2, **changes})


def quick(**changes: Any) -> edgekd.Recipe:
    return own(space={"width": [4]}, teacher_epochs=2, epochs=2, views=edgekd.Views(count=1), **changes)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as one:
        yield one


@pytest.fixture(scope="module")
def board(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a board whose onnxruntime loads no model."""
    folder = tmp_path_factory.mktemp("board")
    venv.create(folder / "venv")
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "here.pth").write_text(sysconfig.get_path("purelib"))  # everything else is the one of this machine
    (site / "onnxruntime").mkdir()
    (site / "onnxruntime" / "__init__.py").write_text(BROKEN)
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    know(home, server)
    shutil.copy(server.folder / "id_ed25519", home / ".ssh" / "id_ed25519")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        patched.delenv("SSH_AUTH_SOCK", raising=False)
        yield f"ssh:{server.address}?python={folder}/venv/bin/python"


SCRIPT = """
import sys
import edgekd
from tests.test_on import aim, quick
if __name__ == "__main__":
    edgekd.run(quick(), aim(), out=sys.argv[1], on=[sys.argv[2]])
"""


def finished(place: Path, export: str) -> list[Path]:
    """Results of measurements that are done: a folder gets its name when all of it is there."""
    return [path for path in place.glob(f"{export}@*/result.json") if ".partial-" not in path.parent.name]


@pytest.fixture(scope="module")
def measured(board: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[edgekd.Result, dict[str, int]]:
    """A run that was killed after a measurement, and gone on with; and when what was done then was written."""
    folder = tmp_path_factory.mktemp("on") / "run"
    place = folder / "raspberry-pi-4" / "5-measure"
    top = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", SCRIPT, str(folder), board]
    with subprocess.Popen(command, cwd=top, start_new_session=True) as process:
        while not finished(place, "tflite-fp32"):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    before = {str(path): path.stat().st_mtime_ns for path in finished(place, "*")}
    return edgekd.run(quick(), aim(), out=folder, on=[board]), before


Measured = tuple[edgekd.Result, dict[str, int]]


def test_a_run_that_was_killed_measures_only_what_is_missing(measured: Measured) -> None:
    result, before = measured
    kept = [path for path in before if "tflite-fp32" in path]
    assert len(kept) == 1 and all(Path(path).stat().st_mtime_ns == before[path] for path in kept)
    assert len(result.made.measurements) == 1


def test_numbers_of_a_device_are_measured_with_the_targets_threads(measured: Measured, board: str) -> None:
    result, _ = measured
    (one,) = result.made.measurements
    assert (one.artifact, one.device, one.provenance) == ("tflite-fp32", board, "measured")
    assert (one.threads, one.engine) == (2, "litert") and result.made.counted == ()
    latency = next(verdict for verdict in result.verdicts if verdict.limit == "latency_ms")
    memory = next(verdict for verdict in result.verdicts if verdict.limit == "peak_memory_bytes")
    assert latency.provenance == memory.provenance == "measured"
    assert "resident above the imported runtime" in memory.note
    (row,) = result.summary()["estimates_against_measurements"]
    assert row["provenance"] == "measured" and row["found_ms"] == one.latency_ms.p50 and row["threads"] == 2
    assert (
        row["ratio"] == row["found_ms"] / row["estimated_ms"] and row["low_ms"] < row["estimated_ms"] < row["high_ms"]
    )
    assert row["tier"] and result.report and "Estimated, and found" in result.report.read_text(encoding="utf-8")
    assert latency.found == one.latency_ms.p90 and memory.found == one.memory.peak_rss_bytes


def test_an_artifact_that_a_device_does_not_execute_is_a_finding(measured: Measured, board: str) -> None:
    result, _ = measured
    (failure,) = result.made.failures
    assert (failure.artifact, failure.engine, failure.device) == ("onnx-fp32", "onnxruntime", board)
    assert result.made.report is not None
    assert any(one.startswith(f"onnx-fp32 was not measured on {board}") for one in result.made.report.findings)
    assert result.made.report.artifact != "onnx-fp32", "it is the first, and the device does not execute it"
    plain = result.summary()
    assert plain["failures"][0]["error"] == failure.error and "illegal instruction" in failure.error
    assert plain["counts"] == [] and {one["device"] for one in plain["measurements"]} == {board}
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert "Not measured" in page and "illegal instruction" in page


def test_a_report_needs_no_device_that_has_answered(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device cannot be reached here, for nobody knows its key."""
    result, _ = measured
    copy = tmp_path / "run"
    shutil.copytree(result.folder, copy)
    monkeypatch.setenv("HOME", str(tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("5-measure/*/result.json")}
    again = edgekd.resume(copy)[0]
    assert again.made.failures == result.made.failures and again.verdicts == result.verdicts
    code = main(["report", str(copy), "--require", "measured", "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert plain["required"] == "measured"
    costs = [one for one in plain["verdicts"] if one["limit"] in {"latency_ms", "peak_memory_bytes"}]
    assert [one["provenance"] for one in costs] == ["measured", "measured"]
    assert code == (0 if plain["ok"] else 5)
    assert stamps == {path: path.stat().st_mtime_ns for path in copy.rglob("5-measure/*/result.json")}
    with pytest.raises(DeviceUnreachable):
        edgekd.resume(copy, on=[result.made.failures[0].device], mode="quick")


def test_a_failure_is_tried_again_where_the_device_is_named(measured: Measured, board: str, tmp_path: Path) -> None:
    result, _ = measured
    copy = tmp_path / "run"
    shutil.copytree(result.folder, copy)
    home = Path(board.partition("?python=")[2]).parents[1]
    (broken,) = home.glob("lib/python*/site-packages/onnxruntime")
    broken.rename(home / "aside")  # the board was mended
    try:
        assert edgekd.resume(copy)[0].made.failures, "nobody asked for another try"
        again = edgekd.resume(copy, on=[board])[0]
    finally:
        (home / "aside").rename(broken)
    assert not again.made.failures
    assert [one.artifact for one in again.made.measurements] == list(EXPORTS)


def test_a_run_teaches_the_profile_that_its_target_names(
    measured: Measured, board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not made again because the profile knows more."""
    from tests.test_estimate import net

    monkeypatch.setenv("EDGEKD_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(measure, "_doubts", lambda *_: ())  # however busy this machine is
    copy, target = tmp_path / "run", aim(cost_profile="kitchen")
    shutil.copytree(measured[0].folder, copy)
    shutil.rmtree(copy / "raspberry-pi-4" / "5-measure")
    (before,) = measured[0].made.compared.rows
    nets = [net(tmp_path / f"{width}.onnx", (width, 2 * width), 20) for width in (4, 8, 16)]
    told = [cost.estimate(one, aim(), engine="litert", threads=2).latency_ms for one in nets]
    rows = [
        calibrate.Row(model=str(one), latency_ms=before.ratio * ms, engine="litert", threads=2)
        for one, ms in zip(nets, told, strict=True)
    ]
    calibrate.calibrate("kitchen", rows)
    first = edgekd.run(quick(), target, out=copy, on=[board])
    assert [one.tier for one in first.made.compared.rows] == ["anchored on 3 measurements"]
    (note,) = first.made.compared.notes
    assert note.startswith("Profile kitchen has learnt from tflite-fp32") and first.made.report is not None
    assert note in first.made.report.findings
    assert fitted.own("kitchen")[0].tier == "anchored on 4 measurements"
    kept = [*copy.rglob("result.json"), fitted.folder() / "kitchen.json"]
    stamps = [path.stat().st_mtime_ns for path in kept]
    (again,) = edgekd.resume(copy)
    assert again.made == first.made and again.summary() == first.summary()
    assert [path.stat().st_mtime_ns for path in kept] == stamps and len([*copy.rglob("result.json")]) == len(kept) - 1


# --- before any long work


def nothing(folder: Path) -> bool:
    """Whether no step was done."""
    return not list(folder.rglob("result.json"))


def test_a_device_that_does_not_answer_is_known_before_any_work(board: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(DeviceUnreachable):
        edgekd.run(quick(), aim(), out=folder, on=["ssh://nobody@127.0.0.1:1"])
    with pytest.raises(PluginUnavailable, match="has no /nowhere/python"):
        edgekd.run(quick(), aim(), out=folder, on=[board.partition("?")[0] + "?python=/nowhere/python"])
    with pytest.raises(ConfigError, match="'raspbery-pi-4', which is no target of this run"):
        edgekd.run(quick(), aim(), out=folder, on=[f"raspbery-pi-4={board}"])
    assert nothing(folder) and not (folder / "inputs").exists()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an Arm machine imitates no Arm")
def test_what_imitates_its_processor_is_known_before_any_work(board: str, tmp_path: Path) -> None:
    """As an Arm container on a PC does: what it says of a time would be taken for a device's."""
    (site,) = Path(board.partition("?python=")[2]).parents[1].glob("lib/python*/site-packages")
    claims = site / "claims.pth"
    claims.write_text("import platform; platform.machine = lambda: 'aarch64'\n")
    try:
        with pytest.raises(MeasureError, match="imitates its processor"):
            edgekd.run(quick(), aim(), out=tmp_path / "run", on=[board])
    finally:
        claims.unlink()
    assert nothing(tmp_path / "run")


def test_no_device_is_asked_where_nothing_is_measured(measured: Measured, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(measured[0].folder, copy)
    (made,) = edgekd.resume(copy, until="climb", on=["ssh://nobody@127.0.0.1:1"])
    assert [one.export for one in made.made.artifacts] == list(EXPORTS)
    with pytest.raises(DeviceUnreachable):
        edgekd.resume(copy, until="measure")  # it is remembered


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--on", "hst"], 4, "no device named 'hst'"),
        (["--on", "phone=host"], 2, "'phone', which is no target of this run"),
        (["--on", "qemu:cortex-a73"], 2, "no core named 'cortex-a73'"),
        (["--on", "ssh://nobody@127.0.0.1:1"], 9, "does not answer"),
        (["--require", "measured", "--until", "plan"], 2, "only a report has verdicts"),
        (["--require", "estimated"], 2, "Invalid value for '--require'"),
    ],
)
def test_what_cannot_be_is_said_at_once_with_its_exit_code(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["run", "digits", "-t", "raspberry-pi-4", "-o", str(folder), *arguments]) == code
    assert message in capsys.readouterr().err
    assert nothing(folder)
