"""Google's benchmark_model, a program that the user gives, executed on a device: its own times, as statistics."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgekd import devices, engines
from edgekd.errors import ConfigError
from edgekd.files import content, file_digest
from edgekd.measure import LARGEST_TAIL, PROTOCOLS, Job, disturbances
from edgekd.progress import tell
from edgekd.specs import Conditions, Machine, Memory, Summary

NAME: Final = "benchmark_model"
SUFFIX: Final = ".tflite"
_BUILDS: Final = "ai.google.dev/edge/litert/models/measurement has builds for Android and Linux"


def check(program: Path, models: Sequence[str], device: str) -> None:
    """Raise ConfigError for what is no program, or has nothing to time."""
    if not program.is_file():
        raise ConfigError(f"{program}: no such file", hint=_BUILDS)
    if not devices.timed(device):
        raise ConfigError(f"times on {device} tell nothing of the device", hint="leave out --benchmark-model")
    if devices.provenance(device) == "host" and not os.access(program, os.X_OK):
        raise ConfigError(f"{program} may not be executed", hint=f"chmod +x {program}")
    for model in models:
        if not model.endswith(SUFFIX):
            raise ConfigError(f"{model}: benchmark_model executes {SUFFIX} files", hint="leave out --benchmark-model")


def take(job: Job, program: Path, scratch: Path) -> Summary:
    """What the program says of a model on a device; it is copied to the run's own folder there, and gone afterwards.

    Raises:
        MeasureError: it does not start there, refuses the model, or prints what is not known.
        DeviceUnreachable: the device does not answer.
    """
    protocol = PROTOCOLS[job.mode]
    tell(f"measuring {job.name} by {NAME}", 0, 1)
    with devices.start(job.device, engines.GUEST, engines.BENCHMARK_MODEL, scratch) as connection:
        facts = connection.ask({"do": "facts"}, 60)
        devices.check_real(job.device, facts)
        request = {"program": connection.put(program), "model": connection.put(job.model), "threads": job.threads}
        timed = connection.ask({"do": "time", **request, **protocol._asdict()}, protocol.max_s * 2 + 120)
    tell(f"measuring {job.name} by {NAME}", 1, 1)
    told = timed["statistics"]
    reasons = [*disturbances(timed["before"], timed["after"]), *_tail(told["p50_ms"], told["p95_ms"])]
    size_bytes, _ = content(job.model)
    return Summary(
        artifact=job.name,
        engine=job.engine,
        engine_version=file_digest(program)[:12],
        device=job.device,
        provenance=devices.provenance(job.device),
        mode=job.mode,
        threads=job.threads,
        memory=Memory(peak_rss_bytes=timed["peak_rss_bytes"], file_bytes=size_bytes),
        machine=msgspec.convert(facts["machine"], Machine),
        before=msgspec.convert(timed["before"], Conditions),
        after=msgspec.convert(timed["after"], Conditions),
        valid=not reasons,
        reasons=tuple(reasons),
        **told,
    )


def _tail(p50_ms: float | None, p95_ms: float | None) -> list[str]:
    """What holds of the 99th percentile too, which is not told."""
    if p50_ms is None or p95_ms is None or p95_ms <= LARGEST_TAIL * p50_ms:
        return []
    return [f"p95 is {p95_ms / p50_ms:.2f} times p50, above {LARGEST_TAIL}"]
