"""Google's benchmark_model, the program that times .tflite files, which the user gives: no package brings it.

It loads a file, makes random inputs, and executes in a loop of its own that is the protocol's: at least so many
inferences in at least so many seconds, none begun after so many more. It keeps the samples to itself and prints their
statistics, in microseconds: `count`, `min`, `max`, `avg` with six digits, `std` cut to whole ones, and from 2024 on
`p5`, `median` and `p95`. What it takes to begin with, and the first inference, stand in its last line.

Memory is the peak resident set of its process, its own code included.

Options and formats are those of https://github.com/google-ai-edge/LiteRT: tflite/tools/benchmark/benchmark_model.cc
(commit 7d88950) and benchmark_tflite_model.cc (commit 01d971c), of the same files in TensorFlow (commit 08df8c4), which
prints no percentiles, and of tools/command_line_flags.cc there; percentiles are tsl/util/stats_calculator.h's.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from typing import Any

WHEELS = ("numpy==2.3.5",)  # for the guest

MOST_LOG_BYTES = 1 << 20
PAUSE_S = 0.1
"""Between two looks at the process, which is pinned to the same cores."""
BESIDE_S = 60.0
"""That loading may take, and the inference that is going on when the time is over."""


class BenchmarkModel:
    """What the guest asks in the place of an engine: see `Guest.time` in _guest.py."""

    runtime = "subprocess"  # it is a program and no module

    def version(self) -> str:
        """None, for the program does not tell its own."""
        return ""

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """`statistics`, and `peak_rss_bytes` of the process."""
        program = os.path.abspath(request["program"])  # else it is looked for in PATH
        if not os.access(program, os.X_OK):
            os.chmod(program, 0o700)  # it came here as a file of no mode
        options = {
            "graph": os.path.abspath(request["model"]),  # a name that begins with "fd:" would mean a descriptor
            "num_threads": request["threads"],
            "num_runs": request["min_count"],
            "min_secs": request["min_s"],
            "max_secs": request["max_s"],
            "warmup_runs": request["warmup_count"],
            "warmup_min_secs": request["warmup_s"],
        }
        given = ["--%s=%s" % option for option in options.items()]
        log, peak_rss_bytes = _execute([program, *given], 2 * request["max_s"] + BESIDE_S)
        return {"statistics": statistics(log), "peak_rss_bytes": peak_rss_bytes}


def _execute(command: list[str], limit_s: float) -> tuple[str, int]:
    """What it printed, and the most resident memory that it had, in bytes."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_ending_with_parent(),  # noqa: PLW1509 - a guest has one thread
            )
        except OSError as error:
            raise RuntimeError("benchmark_model does not start here: %s" % error.strerror) from error
        try:
            peak = _watch(process, limit_s)
        finally:
            process.kill()
            process.wait()
        log.seek(max(0, log.seek(0, os.SEEK_END) - MOST_LOG_BYTES))
        text = log.read().decode(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(_why(text, process.returncode))
    return text, peak


def _watch(process: subprocess.Popen[bytes], limit_s: float) -> int:
    """Its peak, read while it lives: what wait4 tells later is at least what this process had when it started it."""
    end, peak = time.monotonic() + limit_s, 0
    while process.poll() is None:
        peak = max(peak, _peak_bytes(process.pid))
        if time.monotonic() > end:
            raise RuntimeError("benchmark_model took more than %g s" % limit_s)
        time.sleep(PAUSE_S)
    return peak


def _peak_bytes(pid: int) -> int:
    try:
        with open("/proc/%d/status" % pid) as opened:
            return next((int(line.split()[1]) * 1024 for line in opened if line.startswith("VmHWM:")), 0)
    except OSError:  # it ended just now, or this is no Linux
        return 0


def _ending_with_parent() -> Any:
    """For between fork and exec: Linux ends it with this process."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return (lambda: prctl(1, 9)) if prctl else None  # PR_SET_PDEATHSIG, SIGKILL


def _why(log: str, status: int) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["nothing printed"]
    errors = [line for line in lines if line.startswith("ERROR") and "Benchmarking failed" not in line]
    how = "was ended by signal %d" % -status if status < 0 else "failed"
    return "benchmark_model %s: %s" % (how, (errors or lines)[-1][:400])


_TOTAL = re.compile(r"Inference timings in us: Init: (\S+), First inference: (\S+), .*Inference \(avg\): (\S+)")
_VALUE = re.compile(r"\b(count|curr|min|max|avg|std|p5|median|p95)=([-+.\de]+)")


def statistics(log: str) -> dict[str, Any]:
    """Of the inferences after the warm-up, in milliseconds; None what this build does not print."""
    unknown = re.search(r"Unconsumed cmdline flags: (.+)", log)
    if unknown:
        raise RuntimeError("benchmark_model does not know %s" % unknown.group(1))
    total = _TOTAL.search(log)
    lines = [dict(_VALUE.findall(line)) for line in log.splitlines() if re.search(r"\bcount=\d", line)]
    if not total or len(lines) < 2:
        raise RuntimeError("benchmark_model printed no times that are known here")
    said = {name: float(value) for name, value in lines[-1].items()}
    if said["count"] > 0 and "min" not in said and "curr" in said:  # all are the same
        said.update(dict.fromkeys(("min", "max", "avg"), said["curr"]), std=0.0)
    if not {"min", "max", "avg", "std"} <= set(said) or not 0 < said["min"] <= said["max"]:
        raise RuntimeError("benchmark_model printed times that are none")
    names = {"mean": "avg", "sd": "std", "min": "min", "max": "max", "p5": "p5", "p50": "median", "p95": "p95"}
    told = {"%s_ms" % name: said[own] / 1000 if own in said else None for name, own in names.items()}
    init_us, first_us, _ = (float(number) for number in total.groups())
    return dict(told, inferences=int(said["count"]), load_ms=init_us / 1000, first_ms=first_us / 1000)


PLUGIN = BenchmarkModel()
