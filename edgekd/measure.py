"""Time an artifact and weigh its memory, in runs of their own, and say whether the numbers can be trusted."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import devices, engines
from edgekd.errors import ConfigError, MeasureError
from edgekd.files import content
from edgekd.parity import closeness
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import (
    Arena,
    Artifact,
    Conditions,
    Counted,
    Latency,
    Machine,
    Measurement,
    Memory,
    Mode,
    Planned,
    Writing,
)
from edgekd.tensors import first_inputs, read_arrays

VERSION = 2


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
BURST: Final = 0.1
"""Of the time that a run takes; a device that was idle is still cool then."""
WRITING_TIMEOUT_S: Final = 1800.0
INFERENCES: Final = 8
"""Inferences; counts repeat, so a few are enough."""
THROTTLED_NOW: Final = 0b1111
"""Of a Raspberry Pi's flags: what holds at this moment; higher bits say what was since it started."""


Draw = Callable[[Sequence[Mapping[str, Any]]], Path]
"""From a model's inputs, as an engine describes them, to a .npz of examples of them."""


class Job(NamedTuple):
    """What is measured, and how."""

    name: str
    model: Path
    engine: str
    device: str
    """"host", or the name of a device and its address: "ssh://pi@kitchen"."""
    mode: Mode
    threads: int
    rounds: int = 1
    """Fresh processes that the latency is taken in; from two on they tell how much two runs of the same differ."""
    texts: Path | None = None
    """Of an artifact that is one step of a net that writes: what it is to go on with."""
    end: int = 0
    """The token that ends such a text."""
    once: tuple[Path, Path] | None = None
    """What is executed once before the steps of a text, and a .npz of its inputs."""

    @property
    def models(self) -> tuple[Path, ...]:
        """All that it takes."""
        return (self.model, self.once[0]) if self.once else (self.model,)


def measure(work: Work, artifact: Artifact, engine: str, device: str, mode: Mode, threads: int) -> Measurement:
    """Latency in one fresh process, memory in another.

    Raises:
        MeasureError: the engine cannot load or execute the artifact.
        DeviceUnreachable: the device does not answer.
    """
    texts = work.path(artifact.texts) if artifact.texts else None
    model = work.path(artifact.model)
    once = once_of(work, artifact)
    job = Job(artifact.export, model, engine, device, mode, threads, texts=texts, end=artifact.end, once=once)
    return take(job, lambda _: work.path(artifact.samples), work.out)


def once_of(work: Work, artifact: Artifact) -> tuple[Path, Path] | None:
    """As of the Job."""
    context = artifact.context
    return (work.path(context.model), work.path(context.samples)) if context else None


def take(job: Job, draw: Draw, scratch: Path) -> Measurement:
    """As `measure`, of any model file; `scratch` is a folder for logs.

    Raises:
        ConfigError: the device is none whose times tell anything.
        MeasureError, DeviceUnreachable: as `measure`.
    """
    if not devices.timed(job.device):
        raise ConfigError(f"times on {job.device} tell nothing of the device", hint="`edgekd bench --on` counts there")
    rounds = []
    for number in range(job.rounds):
        tell(f"measuring {job.name}", number, job.rounds + 1)
        rounds.append(_time(job, draw, scratch))
    tell(f"measuring {job.name}", job.rounds, job.rounds + 1)
    weighed = _weigh(job, rounds[0].inputs, scratch)
    tell(f"measuring {job.name}", job.rounds + 1, job.rounds + 1)
    medians = [float(np.median(one.samples)) for one in rounds]
    reasons = tuple(dict.fromkeys(reason for one in rounds for reason in one.doubts()))
    samples = np.concatenate([one.samples for one in rounds])
    first = rounds[0]
    return Measurement(
        artifact=job.name,
        engine=job.engine,
        engine_version=first.facts["engine_version"],
        device=job.device,
        provenance=devices.provenance(job.device),
        mode=job.mode,
        threads=job.threads,
        load_ms=first.loaded["load_ms"],
        first_ms=first.timed["first_ms"],
        latency_ms=statistics(samples),
        burst_ms=first.burst_ms,
        sustained_ms=first.sustained_ms,
        noise=max(medians) / min(medians) - 1 if len(medians) > 1 else None,
        samples_ms=tuple(round(float(sample), 5) for sample in _thinned(samples)),
        memory=Memory(
            peak_rss_bytes=weighed["peak_rss_bytes"],
            file_bytes=sum(content(model)[0] for model in job.models),
            arena_bytes=weighed.get("arena_bytes"),
        ),
        machine=msgspec.convert(first.facts["machine"], Machine),
        planned=msgspec.convert(first.planned, tuple[Planned, ...]),
        before=msgspec.convert(first.timed["before"], Conditions),
        after=msgspec.convert(rounds[-1].timed["after"], Conditions),
        outputs_sha256=first.timed["outputs_sha256"],
        writing=_writing(first.written) if first.written else None,
        once_ms=float(np.percentile(first.once_ms, 90)) if first.once_ms else None,
        valid=not reasons,
        reasons=reasons,
    )


def count(job: Job, draw: Draw, scratch: Path) -> Counted:
    """What one inference executes on a device that counts, and how its outputs differ from those on this machine.

    Raises:
        MeasureError: the engine cannot load or execute the model there.
    """
    if job.once:
        raise MeasureError(f"{job.name} is two models, and what both execute is not added up", hint="time it there")
    tell(f"counting {job.name}", 0, 2)
    with _started(job, scratch) as connection:
        facts = connection.ask({"do": "facts"}, 600)
        loaded = connection.ask({"do": "load", "model": connection.put(job.model), "threads": 1}, 600)
        inputs = draw(loaded["inputs"])
        given = connection.put(inputs)
        counted = connection.ask({"do": "count", "inputs": given, "count": INFERENCES}, 1800)
        outputs = _outputs(connection, given, scratch / "there.npz")
    tell(f"counting {job.name}", 1, 2)
    weighed = _weigh(job._replace(threads=1), inputs, scratch)
    close = None
    if engines.installed(job.engine):
        with _started(job._replace(device="host"), scratch) as connection:
            connection.ask({"do": "load", "model": connection.put(job.model), "threads": 1}, 600)
            close = closeness(_outputs(connection, connection.put(inputs), scratch / "here.npz"), outputs)
    tell(f"counting {job.name}", 2, 2)
    executed = means(counted["inferences"] or [], counted["empty"])
    found = Counted(
        artifact=job.name,
        engine=job.engine,
        engine_version=facts["engine_version"],
        device=job.device,
        provenance=devices.provenance(job.device),
        **executed,
        threads=job.threads,
        memory=Memory(
            peak_rss_bytes=weighed["peak_rss_bytes"],
            file_bytes=sum(content(model)[0] for model in job.models),
            arena_bytes=weighed.get("arena_bytes"),
        ),
        host_sqnr_db=close.sqnr_db if close else None,
        host_max_abs=close.max_abs if close else None,
        outputs_sha256=counted["outputs_sha256"] if counted["inferences"] else "",
    )
    return modelled(found)


def plan_memory(job: Job, draw: Draw, scratch: Path) -> Arena:
    """What a model takes of a microcontroller's memory, as the runtime of it plans that.

    Raises:
        MeasureError: the engine cannot load or execute the model, or plans no memory.
    """
    with _started(job, scratch) as connection:
        facts = connection.ask({"do": "facts"}, 60)
        loaded = connection.ask({"do": "load", "model": connection.put(job.model), "threads": 1}, 600)
    weighed = _weigh(job, draw(loaded["inputs"]), scratch)
    if weighed["arena_bytes"] is None or weighed["persistent_bytes"] is None:
        raise MeasureError(f"{job.engine} does not tell how it plans memory", hint="tflite_micro does")
    return Arena(
        artifact=job.name,
        engine=job.engine,
        engine_version=facts["engine_version"],
        provenance=devices.provenance(job.device),
        file_bytes=content(job.model)[0],
        arena_bytes=weighed["arena_bytes"],
        persistent_bytes=weighed["persistent_bytes"],
    )


def modelled(found: Counted) -> Counted:
    """The same, with the latency that the device's model makes of the counts: counts stay, models get better."""
    told = devices.latency(found.device, found.instructions, found.cache_misses, found.threads)
    return msgspec.structs.replace(found, latency_ms=told[0] if told else None, latency_model=told[1] if told else "")


def _outputs(connection: devices.Connection, inputs: str, out: Path) -> list[NDArray[Any]]:
    connection.ask({"do": "run", "inputs": inputs, "outputs": str(out)}, 1800)
    connection.get(str(out), out)
    return list(read_arrays(out))


def means(inferences: Sequence[dict[str, Any]], empty: dict[str, Any] | None) -> dict[str, Any]:
    """What an inference executes in the mean of several, as fields of a Counted; without what counting itself adds."""
    if not inferences or empty is None:
        return {"inferences": 0, "instructions": {}}

    def mean(*path: str) -> float:
        def value(one: Any) -> float:
            for key in path:
                one = one[key]
            return float(one)

        return max(0.0, float(np.mean([value(one) for one in inferences])) - value(empty))

    totals = [one["instructions"]["total"] for one in inferences]
    misses = {
        f"L{cache['level']}": float(np.mean([one["caches"][index]["misses"] for one in inferences]))
        for index, cache in enumerate(inferences[0]["caches"])
    }
    return {
        "inferences": len(inferences),
        "instructions": {name: mean("instructions", name) for name in inferences[0]["instructions"]},
        "spread": (max(totals) - min(totals)) / float(np.mean(totals)),
        "cache_misses": misses,
        **{name: mean("memory", name) for name in ("touched_bytes", "load_bytes", "store_bytes")},
    }


@dataclass(frozen=True)
class _Round:
    """What one process said."""

    facts: dict[str, Any]
    loaded: dict[str, Any]
    planned: list[dict[str, Any]]
    timed: dict[str, Any]
    written: list[dict[str, Any]]
    """Of each text that a step of a net went on with."""
    once_ms: list[float]
    """Of what is executed once a text."""
    inputs: Path

    @property
    def samples(self) -> NDArray[np.float64]:
        return np.array(self.timed["samples_ms"])

    @property
    def burst_ms(self) -> float:
        """Median of what came in the first tenth of the time."""
        passed = np.cumsum(self.samples)
        return float(np.median(self.samples[passed <= max(passed[0], passed[-1] * BURST)]))

    @property
    def sustained_ms(self) -> float:
        """Median of the last third of the samples."""
        return float(np.median(_last_third(self.samples)))

    def doubts(self) -> tuple[str, ...]:
        return _doubts(statistics(self.samples), self.samples, self.timed)


def _time(job: Job, draw: Draw, scratch: Path) -> _Round:
    protocol = PROTOCOLS[job.mode]
    with _started(job, scratch) as connection:
        facts = connection.ask({"do": "facts"}, 60)
        devices.check_real(job.device, facts)
        load = {"do": "load", "model": connection.put(job.model), "threads": job.threads}
        loaded = connection.ask(load, 600)
        planned = connection.ask({"do": "plan", "model": load["model"]}, 600)["plan"]
        inputs = draw(loaded["inputs"])
        request = {"do": "time", "inputs": connection.put(inputs), **protocol._asdict()}
        timed = connection.ask(request, protocol.max_s * 2 + 120)
        written, once_ms = [], []
        if job.texts:
            asked = {"do": "write", "inputs": connection.put(job.texts), "end": job.end}
            written = connection.ask(asked, WRITING_TIMEOUT_S)["written"]
        if job.once:
            connection.ask({**load, "model": connection.put(job.once[0])}, 600)
            asked = {**request, "inputs": connection.put(job.once[1])}
            once_ms = connection.ask(asked, protocol.max_s * 2 + 120)["samples_ms"]
        return _Round(facts, loaded, planned, timed, written, once_ms, inputs)


def _writing(texts: Sequence[Mapping[str, Any]]) -> Writing:
    """How fast texts were written; what is written with a single token tells no speed."""
    speeds = [1000 * (one["tokens"] - 1) / (one["text_ms"] - one["first_ms"]) for one in texts if one["tokens"] > 1]
    return Writing(
        texts=len(texts),
        tokens=sum(one["tokens"] for one in texts),
        tokens_s=float(np.median(speeds)) if speeds else 0.0,
        first_token_ms=float(np.median([one["first_ms"] for one in texts])),
        text_ms=tuple(round(one["text_ms"], 5) for one in texts),
        question=tuple(texts[0]["given"]),
        answer=tuple(texts[0]["text"]),
    )


def _weigh(job: Job, inputs: Path, scratch: Path) -> dict[str, Any]:
    """Of all models, each in a process of its own."""
    weighed = _weigh_one(job, inputs, scratch)
    if job.once:
        other = _weigh_one(job._replace(model=job.once[0]), job.once[1], scratch)
        return {name: value + other[name] for name, value in weighed.items() if value is not None}
    return weighed


def _weigh_one(job: Job, inputs: Path, scratch: Path) -> dict[str, Any]:
    with _started(job, scratch) as connection:
        model = connection.put(job.model)
        given = [{**one, "file": connection.put(one["file"])} for one in first_inputs(inputs, scratch)]
        return connection.ask({"do": "memory", "model": model, "inputs": given, "threads": job.threads}, 600)


def _started(job: Job, scratch: Path) -> AbstractContextManager[devices.Connection]:
    return devices.start(job.device, engines.GUEST, engines.path(job.engine), scratch)


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
    drift = float(np.median(_last_third(samples)) / np.median(_last_third(samples[::-1])))
    if drift > LARGEST_TAIL:
        reasons.append(f"the last third is {drift:.2f} times as slow as the first: throttled, or disturbed")
    return (*reasons, *disturbances(timed["before"], timed["after"]))


def disturbances(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """What a device says that came between two looks at its conditions."""
    reasons = []
    seconds = max(1e-3, after["at_s"] - before["at_s"])
    stolen = (after["stolen_ticks"] - before["stolen_ticks"]) / TICKS_PER_S / seconds
    if stolen > LARGEST_STOLEN_SHARE:
        reasons.append(f"the hypervisor took {stolen:.0%} of a core")
    if after.get("throttled", 0) & THROTTLED_NOW or before.get("throttled", 0) & THROTTLED_NOW:
        reasons.append("the board says that it is throttled, or short of voltage")
    return tuple(reasons)


def _last_third(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return samples[-max(1, len(samples) // 3) :]
