"""What decides a limit: the best provenance there is, never two of them, and nothing of another device."""

from typing import Any

import msgspec
import numpy as np
import pytest

from edgekd.bench import hold
from edgekd.measure import statistics
from edgekd.report import guessing
from edgekd.shipped import load_target
from edgekd.specs import Budget, Counted, Failure, Interval, Machine, Measurement, Memory, Target, Verdict
from edgekd.verdicts import latency, memory, mention, require

BOARD = "ssh://pi@board"
CORE = "qemu:cortex-a72"


def target(**limits: float) -> Target:
    return msgspec.structs.replace(load_target("raspberry-pi-4"), budget=Budget(**limits))


def timed(p90: float, device: str = BOARD, **changes: Any) -> Measurement:
    measurement = Measurement(
        artifact="tflite-int8",
        engine="litert",
        engine_version="1",
        device=device,
        provenance="host" if device == "host" else "measured",
        mode="rapid",
        threads=4,
        load_ms=1.0,
        first_ms=1.0,
        latency_ms=statistics(np.full(8, p90)),
        samples_ms=(p90,),
        memory=Memory(peak_rss_bytes=1000, file_bytes=10),
        machine=Machine(system="Linux", cpu="cpu", cores=4, memory_bytes=1, python="3.11"),
        outputs_sha256="",
        valid=True,
    )
    return msgspec.structs.replace(measurement, **changes)


def counted(value: float | None, high: float = 0.0, device: str = CORE, peak: int = 2000) -> Counted:
    interval = None if value is None else Interval(value=value, low=value / 2, high=high or value * 2)
    return Counted(
        artifact="tflite-int8",
        engine="litert",
        engine_version="1",
        device=device,
        provenance="emulated",
        inferences=8,
        instructions={"total": 1e6},
        latency_ms=interval,
        latency_model="fitted on 3 published numbers, within 20%",
        threads=4,
        memory=Memory(peak_rss_bytes=peak, file_bytes=10),
        outputs_sha256="",
    )


def test_what_is_measured_decides_before_what_is_emulated() -> None:
    found = latency([timed(1.0, "host"), counted(5.0), timed(9.0)], target(latency_ms=8))
    assert found is not None
    assert (found.found, found.provenance, found.ok, found.note) == (9.0, "measured", False, f"p90 on {BOARD}")


def test_what_is_emulated_decides_by_the_end_of_its_interval() -> None:
    holds = latency([timed(1.0, "host"), counted(5.0, high=8.0)], target(latency_ms=8))
    breaks = latency([counted(5.0, high=8.1)], target(latency_ms=8))
    assert holds is not None and breaks is not None
    assert (holds.found, holds.low, holds.high, holds.ok) == (5.0, 2.5, 8.0, True)
    assert holds.provenance == "emulated" and holds.note == "fitted on 3 published numbers, within 20%"
    assert not breaks.ok


def test_this_machine_and_counts_without_a_model_decide_no_latency() -> None:
    assert latency([timed(1.0, "host"), counted(None)], target(latency_ms=8)) is None


def test_the_worst_of_several_devices_counts() -> None:
    slow = latency([timed(1.0), timed(3.0, "ssh://pi@other")], target(latency_ms=8))
    assert slow is not None and slow.ok and (slow.found, slow.note) == (3.0, "p90 on ssh://pi@other")
    throttled = timed(1.0, "ssh://pi@hot", valid=False, reasons=("throttled",))
    found = latency([throttled, timed(3.0)], target(latency_ms=8))
    assert found is not None and not found.ok and found.note == "p90 on ssh://pi@hot; not valid: throttled"


def test_memory_of_a_device_is_what_is_resident() -> None:
    limit = target(peak_memory_bytes=1500)
    measured, emulated = memory([timed(1.0), counted(None)], limit), memory([counted(None)], limit)
    assert measured is not None and emulated is not None
    assert (measured.found, measured.provenance, measured.ok) == (1000, "measured", True)
    assert measured.note == f"resident above the imported runtime on {BOARD}"
    assert (emulated.found, emulated.provenance, emulated.ok) == (2000, "emulated", False)
    assert emulated.note.endswith(f"on {CORE}, without the emulator")
    assert memory([timed(1.0, "host")], limit) is None


def test_another_core_or_clock_does_not_speak_for_the_target() -> None:
    """A Cortex-A76 is no Raspberry Pi 4; a Jetson Nano has its core at another clock, which memory does not mind."""
    limits = target(latency_ms=100, peak_memory_bytes=1e9)
    other_core, other_clock = counted(5.0, device="qemu:cortex-a76"), counted(5.0, device="qemu:jetson-nano")
    assert latency([other_core], limits) is None and memory([other_core], limits) is None
    assert latency([other_clock], limits) is None and memory([other_clock], limits) is not None
    assert latency([counted(5.0, device="qemu:raspberry-pi-4")], limits) is not None


# --- what is required


@pytest.mark.parametrize(
    ("provenance", "required", "ok"),
    [
        ("measured", "measured", True),
        ("emulated", "measured", False),
        ("estimated", "measured", False),
        ("measured", "emulated", True),
        ("emulated", "emulated", True),
        ("estimated", "emulated", False),
        ("host", "emulated", False),
        ("estimated", None, True),
    ],
)
@pytest.mark.parametrize("limit", ["latency_ms", "peak_memory_bytes"])
def test_less_than_what_is_required_breaks(limit: str, provenance: Any, required: Any, ok: bool) -> None:
    verdict = Verdict(limit=limit, allowed=2.0, found=1.0, provenance=provenance, ok=True, note="as it was")
    found = require(verdict, required, "edgekd measure RUN --on DEVICE")
    assert found.ok is ok
    assert (
        found == verdict if ok else found.note == f"as it was; `{required}` is required: edgekd measure RUN --on DEVICE"
    )


def test_a_file_and_a_broken_limit_stay_as_they_are() -> None:
    file = Verdict(limit="file_bytes", allowed=2.0, found=1.0, provenance="host", ok=True)
    assert require(file, "measured", "how") == file
    broken = Verdict(limit="latency_ms", allowed=2.0, found=3.0, provenance="measured", ok=False)
    assert require(broken, "measured", "how") == broken


def test_a_verdict_says_what_could_not_be_measured() -> None:
    failures = [
        Failure(artifact="a", engine="e", error="the engine crashed", device=BOARD, provenance="measured"),
        Failure(artifact="a", engine="e", error="not here", device="host", provenance="host"),
    ]
    verdict = Verdict(limit="latency_ms", allowed=2.0, found=1.0, provenance="estimated", ok=True, note="by tables")
    assert mention(verdict, failures).note == f"by tables; not measured on {BOARD}: the engine crashed"
    assert mention(verdict, failures[1:]) == verdict


def test_bench_holds_counts_as_a_run_does() -> None:
    limits = target(latency_ms=8, peak_memory_bytes=1500, file_bytes=100)
    held = {one.limit: one for one in hold(counted(5.0, high=7.0), limits)}
    assert {limit: one.ok for limit, one in held.items()} == {
        "file_bytes": True,
        "latency_ms": True,
        "peak_memory_bytes": False,
    }
    assert held["latency_ms"] == latency([counted(5.0, high=7.0)], limits)


def test_bench_breaks_what_nothing_of_the_required_provenance_tells() -> None:
    limits = target(latency_ms=8, peak_memory_bytes=5000, file_bytes=100)
    here = {one.limit: one for one in hold(timed(1.0, "host"), limits, "measured")}
    assert [one.ok for one in here.values()] == [True, False, False]
    assert "`measured` is required: edgekd bench --on ssh://USER@HOST" in here["latency_ms"].note
    silent = {one.limit: one for one in hold(counted(None), limits, "emulated")}
    assert silent["peak_memory_bytes"].ok and not silent["latency_ms"].ok
    assert "no cycle model is fitted for qemu:cortex-a72" in silent["latency_ms"].note
    other = {one.limit: one for one in hold(counted(1.0, device="qemu:cortex-a76"), limits, "emulated")}
    assert not other["latency_ms"].ok and "imitates cortex-a76" in other["latency_ms"].note
    assert all(one.ok for one in hold(timed(1.0), limits, "measured"))


def test_what_is_executed_once_before_a_text_counts_with_a_step() -> None:
    limited = target(latency_ms=12)
    alone, behind = (latency([timed(10.0, once_ms=once)], limited) for once in (None, 5.0))
    assert alone is not None and alone.ok and alone.found == 10
    assert behind is not None and not behind.ok and behind.found == 15
    assert "executed once before" in behind.note


def test_a_net_that_only_guesses_is_named() -> None:
    """Of the four labels that there are, three are of class b."""
    labels = np.array([1, 1, 0, 1, -1, -1])
    (said,) = guessing({"teacher": 0.75, "student": 0.76}, labels, ("a", "b"))
    assert said.startswith("The teacher is no better than chance: accuracy 0.7500, where 'b' is always worth 0.7500.")
