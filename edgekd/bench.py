"""Measure any model files, ours or anybody's, on the engines of a device."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgekd import benchmark_model, devices, engines, formats, ram
from edgekd.errors import ConfigError, MeasureError
from edgekd.measure import Draw, Job, count, take
from edgekd.plugins import known
from edgekd.profile import Profile, profile
from edgekd.report import how_to
from edgekd.specs import Counted, Failure, Fits, Mode, Required, Spec, Target, Verdict
from edgekd.tensors import Tensors, drawn, first_examples, fitted, given_inputs, specs_of, write_inputs
from edgekd.verdicts import REQUIRABLE, Found, file_size, finite, latency, memory, require, slow_end

EXAMPLES: Final = 32
DRAWN: Final = "examples.npz"


class Bench(Spec, frozen=True, kw_only=True):
    """What is measured, and where."""

    models: tuple[str, ...]
    """Paths of model files."""
    engines: tuple[str, ...] = ()
    """Where none is named, the first that executes a file."""
    device: str = "host"
    mode: Mode = "quick"
    threads: int = 1
    rounds: int = 1
    ram_bytes: int = 0
    """Of a machine that each model is to run on, with nothing measured but whether it does; 0: this is not asked."""
    by_operator: bool = False
    """Say where the time goes too, in a run of its own."""
    benchmark_model: str = ""
    """Path of Google's program of that name: its own times are told, beside those of the engines that are named."""
    inputs: str = ""
    """A .npz or .npy file, or a `module:function`; else seeded random numbers of the declared shapes."""


class Profiled(Spec, frozen=True, kw_only=True):
    """Where the time of a model goes on an engine of a device."""

    artifact: str
    engine: str
    device: str
    profile: Profile


def jobs(bench: Bench) -> list[Job]:
    """Each model on each engine; everything that can be known before the first timing is checked.

    Raises:
        ConfigError: no such file, damaged, or no engine executes it.
        UnknownPlugin: no such engine.
    """
    if bench.ram_bytes:
        ram.check(bench.device)
    if bench.by_operator and (bench.ram_bytes or not devices.timed(bench.device)):
        raise ConfigError(
            f"nothing is timed on {bench.device}, so no operator is", hint="leave out --profile, or name another device"
        )
    if bench.benchmark_model:
        _check_program(bench)
    return [
        Job(path.name, path, engine, bench.device, bench.mode, bench.threads, bench.rounds)
        for path in map(Path, bench.models)
        for engine in _engines(path, bench)
    ]


def _check_program(bench: Bench) -> None:
    if bench.inputs or bench.by_operator or bench.ram_bytes or bench.rounds > 1:
        raise ConfigError(
            "benchmark_model takes inputs of its own, and times once", hint="no --inputs, --profile, --ram or --rounds"
        )
    benchmark_model.check(Path(bench.benchmark_model), bench.models, bench.device)


def _engines(path: Path, bench: Bench) -> Sequence[str]:
    formats.format_of(path)
    for name in bench.engines:
        known(engines, name)
    found = list(engines.fitting(path.name))
    if bench.engines:
        found = [
            name for name in bench.engines if name in found or ":" in name
        ]  # a user's own says itself what it takes
    elif bench.benchmark_model:
        return [benchmark_model.NAME]
    else:
        able = engines.able(path.name)
        found = [name for name in found if bench.device != "host" or name in able][:1]
    if untimed := [name for name in bench.engines if not engines.timed(name)]:
        raise ConfigError(
            f"times of {untimed[0]} tell nothing of a device", hint="it is for `edgekd verify` and `compile`"
        )
    if not found:
        raise ConfigError(f"{path}: no engine here executes it", hint="`edgekd engines` lists them")
    return [*found, *([benchmark_model.NAME] if bench.benchmark_model else [])]


def measured(bench: Bench, found: Sequence[Job]) -> Iterator[Found | Fits | Profiled | Failure]:
    """One measurement after the other, as each is done, and its profile; one that fails does not stop the others.

    Where times tell nothing, under emulation, instructions are counted instead; with a size of RAM, all that is told is
    whether the model fits into it.

    Raises:
        ConfigError: the inputs are not those of a model.
        DeviceUnreachable, PluginUnavailable: the device does not answer, or has no such runtime.
    """
    examples = 1 if bench.ram_bytes else EXAMPLES  # inputs take RAM as well
    given = first_examples(given_inputs(bench.inputs), examples) if bench.inputs else None
    for job in found:
        with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as scratch:
            draw = partial(_draw, given, examples, job.name, Path(scratch))
            try:
                yield _way(bench, job)(job, draw, Path(scratch))
                if bench.by_operator:
                    yield _profiled(job, Path(scratch))
            except MeasureError as error:
                yield Failure(artifact=job.name, engine=job.engine, error=str(error), hint=error.hint)


def _way(bench: Bench, job: Job) -> Callable[[Job, Draw, Path], Found | Fits]:
    if job.engine == benchmark_model.NAME:
        return lambda job, _, scratch: benchmark_model.take(job, Path(bench.benchmark_model), scratch)
    if bench.ram_bytes:
        return lambda job, draw, scratch: ram.prove(job, draw, bench.ram_bytes, scratch)
    return take if devices.timed(bench.device) else count


def _profiled(job: Job, scratch: Path) -> Profiled:
    graph, inputs = formats.read(job.model), scratch / DRAWN
    found = profile(graph, job.model, job.engine, inputs, scratch, device=job.device, threads=job.threads)
    return Profiled(artifact=job.name, engine=job.engine, device=job.device, profile=found)


def _draw(given: Tensors | None, examples: int, who: str, scratch: Path, inputs: Sequence[Mapping[str, Any]]) -> Path:
    path = scratch / DRAWN
    taken = fitted(given, specs_of(inputs), who) if given else drawn(inputs, examples)
    write_inputs(path, *taken.arrays)
    return path


def hold(found: Found, target: Target, required: Required | None = None) -> tuple[Verdict, ...]:
    """What was found against the limits that its provenance lets it speak of: times of this machine are no device's.

    Where a provenance is `required`, a limit that nothing of it speaks of is broken.
    """
    verdicts = [file_size(found.memory.file_bytes, target.budget), latency([found], target), memory([found], target)]
    if required:
        how = how_to(required, target, "edgekd bench")
        verdicts = [
            require(verdict or _silent(found, limit, target), required, how)
            for verdict, limit in zip(verdicts, ("file_bytes", *REQUIRABLE), strict=True)
        ]
    return finite(filter(None, verdicts))


def _silent(found: Found, limit: str, target: Target) -> Verdict:
    """Of a limit that nothing was found to hold against."""
    value = 0.0
    if limit == "peak_memory_bytes":
        value = found.memory.peak_rss_bytes
    elif not isinstance(found, Counted):
        value, _ = slow_end(found)
    elif found.latency_ms:
        value = found.latency_ms.value
    why = f"of {found.device}" if value else f"nothing tells it: no cycle model is fitted for {found.device}"
    return Verdict(
        limit=limit,
        allowed=getattr(target.budget, limit),
        found=value,
        provenance=found.provenance,
        ok=False,
        note=devices.unlike(found.device, target).get(limit, why),
    )
