"""Time an artifact and weigh its memory, in runs of their own, and say whether the numbers can be trusted."""

import math
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import devices, engines
from edgekd.plugins import find
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Artifact, Latency, Machine, Measurement, Memory, Mode

VERSION = 1


class Protocol(NamedTuple):
    """How long a run is; after MLPerf Mobile's single stream."""

    warmup_count: int
    warmup_s: float
    min_count: int
    min_s: float
    max_s: float


PROTOCOLS: Final[dict[Mode, Protocol]] = {
    "gate": Protocol(warmup_count=64, warmup_s=5, min_count=1024, min_s=60, max_s=600),
    "quick": Protocol(warmup_count=16, warmup_s=2, min_count=128, min_s=10, max_s=120),
    "rapid": Protocol(warmup_count=8, warmup_s=1, min_count=64, min_s=6, max_s=60),
}
LEAST_STABILITY: Final = 80.0
LARGEST_TAIL: Final = 1.1
"""p99 / p50 above which a run is flagged."""
LARGEST_STOLEN_SHARE: Final = 0.01
TICKS_PER_S: Final = 100
KEPT_SAMPLES: Final = 4096


def measure(work: Work, artifact: Artifact, engine: str, device: str, mode: Mode, threads: int) -> Measurement:
    """Latency in one fresh process, memory in another.

    Raises:
        MeasureError: the engine cannot load or execute the artifact.
        DeviceUnreachable: the device does not answer.
    """
    name, _, address = device.partition(":")
    plugin: devices.Device = find(devices, name)
    protocol = PROTOCOLS[mode]
    load = {"do": "load", "threads": threads}
    tell(f"measuring {artifact.export}", 0, 2)
    with plugin.start(address, engines.GUEST, engines.path(engine), work.out) as connection:
        model, inputs = connection.put(work.path(artifact.model)), connection.put(work.path(artifact.samples))
        facts = connection.ask({"do": "facts"}, 60)
        loaded = connection.ask({**load, "model": model}, 600)
        timed = connection.ask({"do": "time", "inputs": inputs, **protocol._asdict()}, protocol.max_s * 2 + 120)
    tell(f"measuring {artifact.export}", 1, 2)
    with plugin.start(address, engines.GUEST, engines.path(engine), work.out) as connection:
        model, inputs = connection.put(work.path(artifact.model)), connection.put(work.path(artifact.samples))
        weighed = connection.ask({**load, "do": "memory", "model": model, "inputs": inputs}, 600)
    tell(f"measuring {artifact.export}", 2, 2)
    samples = np.array(timed["samples_ms"])
    latency = statistics(samples)
    reasons = _doubts(latency, samples, timed)
    return Measurement(
        artifact=artifact.export,
        engine=engine,
        engine_version=facts["engine_version"],
        device=device,
        provenance=plugin.provenance,
        mode=mode,
        threads=threads,
        load_ms=loaded["load_ms"],
        first_ms=timed["first_ms"],
        latency_ms=latency,
        samples_ms=tuple(round(float(sample), 5) for sample in _thinned(samples)),
        memory=Memory(peak_rss_bytes=weighed["peak_rss_bytes"], file_bytes=artifact.model.size_bytes),
        machine=msgspec.convert(facts["machine"], Machine),
        outputs_sha256=timed["outputs_sha256"],
        valid=not reasons,
        reasons=reasons,
    )


def statistics(samples_ms: NDArray[np.float64]) -> Latency:
    """Percentiles, a bootstrap interval of p90, and ExecuTorch's stability score, of one sample or more."""
    p50, p90, p95, p99 = np.percentile(samples_ms, [50, 90, 95, 99])
    random = np.random.default_rng(0)
    some = _thinned(samples_ms)
    resampled = np.percentile(random.choice(some, size=(400, len(some))), 90, axis=1)
    mean, low, high, sd = samples_ms.mean(), samples_ms.min(), samples_ms.max(), samples_ms.std()
    terms = (
        0.5 * max(0.0, 100 - 10 * (100 * sd / mean)),
        0.25 * max(0.0, 100 - 50 * (high / low - 1)),
        0.25 * max(0.0, 100 - 100 * (p99 / p50 - 1)),
    )
    return Latency(
        p50=float(p50),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        mean=float(mean),
        min=float(low),
        max=float(high),
        sd=float(sd),
        p90_low=float(np.percentile(resampled, 2.5)),
        p90_high=float(np.percentile(resampled, 97.5)),
        stability=float(sum(terms)),
    )


def _thinned(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most 4,096 samples, evenly spread over the run."""
    return samples[:: math.ceil(len(samples) / KEPT_SAMPLES)]


def _doubts(latency: Latency, samples: NDArray[np.float64], timed: dict[str, Any]) -> tuple[str, ...]:
    """Why the numbers should not be trusted."""
    reasons = []
    if latency.stability < LEAST_STABILITY:
        reasons.append(f"stability {latency.stability:.0f} of 100, below {LEAST_STABILITY:.0f}")
    if latency.p99 / latency.p50 > LARGEST_TAIL:
        reasons.append(f"p99 is {latency.p99 / latency.p50:.2f} times p50, above {LARGEST_TAIL}")
    third = max(1, len(samples) // 3)
    drift = float(np.median(samples[-third:]) / np.median(samples[:third]))
    if drift > LARGEST_TAIL:
        reasons.append(f"the last third is {drift:.2f} times as slow as the first: throttled, or disturbed")
    before, after = timed["before"], timed["after"]
    seconds = max(1e-3, after["at_s"] - before["at_s"])
    stolen = (after["stolen_ticks"] - before["stolen_ticks"]) / TICKS_PER_S / seconds
    if stolen > LARGEST_STOLEN_SHARE:
        reasons.append(f"the hypervisor took {stolen:.0%} of a core")
    return tuple(reasons)
