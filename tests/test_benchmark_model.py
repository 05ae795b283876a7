"""Google's benchmark_model, given by the user. None is here: a small program stands in for it.

It takes the flags of benchmark_model.cc, and prints what that prints; it knows no network. What is tested is how the
program is called and what is made of its words, not what it does. On a phone: see test_adb.py.
"""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd import engines
from edgekd.bench import Bench, hold, jobs, measured
from edgekd.cli import main
from edgekd.engines import _benchmark_model
from edgekd.errors import ConfigError
from edgekd.measure import PROTOCOLS
from edgekd.shipped import load_target
from edgekd.specs import Failure, Summary

STAND_IN = r"""#!/bin/sh
echo "INFO: STARTING!"
printf '%s\n' "$@" > "$0.log"
for one in "$@"; do
  case "$one" in
  --graph=*) graph=${one#*=} ;;
  --num_runs=*) runs=${one#*=} ;;
  --num_threads=* | --min_secs=* | --max_secs=* | --warmup_runs=* | --warmup_min_secs=*) ;;
  *) echo "WARN: Unconsumed cmdline flags: $one" ;;
  esac
done
read -r does < "$graph" || true
case "$does" in
refuse) echo "ERROR: Failed to load model $graph"; echo "ERROR: Benchmarking failed."; exit 1 ;;
crash) kill -ABRT $$ ;;
hang) echo $$ > "$0.pid"; exec sleep 60 ;;
silent) exit 0 ;;
unknown) echo "WARN: Unconsumed cmdline flags: --warmup_min_secs=1.0" ;;
esac
echo "INFO: Loaded model $graph"
echo "INFO: Initialized session in 92.318ms."
echo "INFO: Running benchmark for at least 8 iterations and at least 1 seconds but terminate if exceeding 60 seconds."
echo "INFO: count=30 first=3158 curr=2003 min=1994 max=3158 avg=2116.69 std=166 p5=1994 median=2003 p95=2351"
echo
percentiles=" p5=1405 median=1412 p95=1475"
case "$does" in
old) echo "count=$runs first=1875 curr=1409 min=1400 max=1951 avg=1455.28 std=135" ;;
same) echo "count=$runs curr=1409(all same) p5=1409 median=1409 p95=1409" ;;
tail) echo "count=$runs first=1 curr=1 min=1 max=9e+06 avg=9.1e+06 std=3 p5=1000 median=2000 p95=2500" ;;
*) echo "INFO: count=$runs first=1875 curr=1409 min=1400 max=1951 avg=1455.28 std=135$percentiles" ;;
esac
echo
printf '%s' "INFO: Inference timings in us: Init: 92318, First inference: 3158, "
echo "Warmup (avg): 2116.69, Inference (avg): 1455.28"
echo "INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102"
"""
"""Formats of benchmark_model.cc; the numbers are nobody's."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark_model"
    path.write_text(STAND_IN, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def model(folder: Path, does: str = "", name: str = "net.tflite") -> Path:
    path = folder / name
    path.write_text(does + "\n", encoding="utf-8")
    return path


def told(program: Path, net: Path, threads: int = 1) -> Summary | Failure:
    bench = Bench(models=(str(net),), benchmark_model=str(program), mode="rapid", threads=threads)
    (found,) = measured(bench, jobs(bench))
    assert isinstance(found, Summary | Failure)
    return found


def summary(found: Summary | Failure) -> Summary:
    assert isinstance(found, Summary), found
    return found


def test_its_own_statistics_are_told(program: Path, tmp_path: Path) -> None:
    net = model(tmp_path, name="$(touch x) 'net'.tflite")
    found = summary(told(program, net, threads=2))
    assert (found.artifact, found.engine, found.provenance) == (net.name, "benchmark_model", "host")
    assert (found.inferences, found.load_ms, found.first_ms) == (PROTOCOLS["rapid"].min_count, 92.318, 3.158)
    assert (found.mean_ms, found.sd_ms, found.min_ms, found.max_ms) == (1.45528, 0.135, 1.4, 1.951)
    assert (found.p5_ms, found.p50_ms, found.p95_ms) == (1.405, 1.412, 1.475)
    assert found.memory.file_bytes == net.stat().st_size and found.machine.cores
    assert len(found.engine_version) == 12 and not (tmp_path / "x").exists()
    rapid = PROTOCOLS["rapid"]
    assert (tmp_path / "benchmark_model.log").read_text(encoding="utf-8").splitlines() == [
        f"--graph={net}",
        "--num_threads=2",
        f"--num_runs={rapid.min_count}",
        f"--min_secs={rapid.min_s}",
        f"--max_secs={rapid.max_s}",
        f"--warmup_runs={rapid.warmup_count}",
        f"--warmup_min_secs={rapid.warmup_s}",
    ]


def test_what_is_not_printed_is_not_told(program: Path, tmp_path: Path) -> None:
    old = summary(told(program, model(tmp_path, "old")))
    assert (old.p5_ms, old.p50_ms, old.p95_ms, old.max_ms) == (None, None, None, 1.951)
    same = summary(told(program, model(tmp_path, "same")))
    assert (same.min_ms, same.max_ms, same.mean_ms, same.sd_ms, same.p95_ms) == (1.409, 1.409, 1.409, 0, 1.409)


def test_a_long_tail_is_not_valid(program: Path, tmp_path: Path) -> None:
    found = summary(told(program, model(tmp_path, "tail")))
    assert not found.valid and "p95 is 1.25 times p50" in found.reasons[-1]
    assert found.max_ms == 9000


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("refuse", "benchmark_model failed: ERROR: Failed to load model"),
        ("crash", "benchmark_model was ended by signal 6"),
        ("silent", "printed no times that are known here"),
        ("unknown", "does not know --warmup_min_secs=1.0"),
    ],
)
def test_a_failure_says_why(does: str, why: str, program: Path, tmp_path: Path) -> None:
    found = told(program, model(tmp_path, does))
    assert isinstance(found, Failure) and why in found.error


@pytest.mark.parametrize("content", [b"\x7fELF\x02\x01\x01" + bytes(57), b"", b"no program"])
def test_what_cannot_be_executed_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    path.chmod(0o700)
    found = told(path, model(tmp_path))
    assert isinstance(found, Failure) and "benchmark_model" in found.error


def test_a_program_that_hangs_is_ended(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_benchmark_model, "BESIDE_S", 0.5)
    request = {"program": str(program), "model": str(model(tmp_path, "hang")), "threads": 1}
    with pytest.raises(RuntimeError, match="took more than 2.5 s"):
        _benchmark_model.PLUGIN.time({**request, **PROTOCOLS["rapid"]._asdict(), "max_s": 1.0})
    assert not alive(int((tmp_path / "benchmark_model.pid").read_text(encoding="utf-8")))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a child with its parent")
def test_it_ends_with_a_guest_that_is_killed(program: Path, tmp_path: Path) -> None:
    net = model(tmp_path, "hang")
    request = {"do": "time", "program": str(program), "model": str(net), "threads": 1, **PROTOCOLS["rapid"]._asdict()}
    command = [sys.executable, str(engines.GUEST), str(engines.BENCHMARK_MODEL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin
        guest.stdin.write(json.dumps(request).encode() + b"\n")
        guest.stdin.flush()
        said, end = tmp_path / "benchmark_model.pid", time.monotonic() + 20
        while not (said.exists() and said.read_text(encoding="utf-8")):
            assert time.monotonic() < end
            time.sleep(0.02)
        guest.kill()
    while alive(int(said.read_text(encoding="utf-8"))):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_memory_is_that_of_the_program_and_not_of_who_starts_it() -> None:
    """What wait4 tells would be the guest's own, numpy and all, where the program is smaller."""
    pytest.importorskip("numpy")
    with subprocess.Popen(["sleep", "60"]) as process:
        assert 0 < _benchmark_model._peak_bytes(process.pid) < 8 << 20 or sys.platform != "linux"
        process.kill()
    assert _benchmark_model._peak_bytes(process.pid) == 0


def test_a_budget_is_held_against_the_next_higher_statistic(program: Path, tmp_path: Path) -> None:
    import msgspec

    target = load_target("raspberry-pi-4")
    found = msgspec.structs.replace(summary(told(program, model(tmp_path))), provenance="measured", device="ssh://pi")
    by_limit = {one.limit: one for one in hold(found, target)}
    assert by_limit["latency_ms"].found == 1.475 and "tells no p90" in by_limit["latency_ms"].note
    assert by_limit["peak_memory_bytes"].note.startswith("all that the program takes")
    old = msgspec.structs.replace(found, p5_ms=None, p50_ms=None, p95_ms=None)
    (latency,) = (one for one in hold(old, target) if one.limit == "latency_ms")
    assert latency.found == 1.951 and f"the slowest of {found.inferences}" in latency.note
    host = msgspec.structs.replace(found, provenance="host", device="host")
    required = {one.limit: one for one in hold(host, target, "measured")}
    assert not required["latency_ms"].ok and required["latency_ms"].found == 1.475


def test_it_stands_beside_engines(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = model(tmp_path)
    command = ["bench", str(net), "--benchmark-model", str(program), "--mode", "rapid", "-t", "raspberry-pi-4"]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (found,) = said["summaries"]
    assert found["p95_ms"] == 1.475 and found["verdicts"] and said["measurements"] == []
    assert main(command) == 0
    assert "1.412 / 1.475 [host]" in capsys.readouterr().out
    bench = Bench(models=(str(net),), engines=("litert",), benchmark_model=str(program))
    assert [job.engine for job in jobs(bench)] == ["litert", "benchmark_model"]


def test_what_it_cannot_do_is_refused_at_once(program: Path, tmp_path: Path) -> None:
    net = str(model(tmp_path))

    def refused(**changes: object) -> str:
        options = {"models": (net,), "benchmark_model": str(program), **changes}
        with pytest.raises(ConfigError) as error:
            jobs(Bench(**options))  # type: ignore[arg-type]
        return str(error.value)

    assert "no such file" in refused(benchmark_model=str(tmp_path / "none"))
    assert "tell nothing" in refused(device="qemu:cortex-a72")
    assert "executes .tflite files" in refused(models=(str(model(tmp_path, name="net.onnx")),))
    assert "times once" in refused(rounds=2)
    assert "times once" in refused(inputs="x.npy")
    program.chmod(0o600)
    assert "may not be executed" in refused()
