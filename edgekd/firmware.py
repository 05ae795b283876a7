"""What a microcontroller needs of an artifact: its arena, its compilation for a neural processor, and it as C."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekd import compilers, cost, engines
from edgekd.c_source import reserved, write_c
from edgekd.errors import ConfigError, ConvertError, MeasureError
from edgekd.files import content, storage_errors
from edgekd.measure import Job, plan_memory
from edgekd.runs import Run, Work
from edgekd.specs import Arena, Artifact, Choice, Compiled, CSource, File, Firmware, Interval, Target, Verdict
from edgekd.tensors import drawn, write_inputs
from edgekd.verdicts import compiled_latency, file_size, finite, shipped_file, sram_bytes, static_memory, upper_end
from edgekd.verify import engine_for

VERSION = 1


def firmware_of(run: Run, at: str, target: Target, artifact: Artifact) -> Firmware:
    """Everything of a run's artifact that can be had with the engines and compilers that are installed here.

    Its steps are kept beside the artifact's, which is called `at`.
    """
    made = Firmware(artifact=artifact.export)
    engine = engine_for(artifact, target.engines)
    try:
        if engine is None:
            wanted = target.engines[0]
            why = f"neither verified nor its arena known: {wanted} is not installed here"
            made = _without(made, why, engines.how_to_install(wanted))
        else:
            made = msgspec.structs.replace(made, arena=run.step(f"{at}.arena", plan_arena, artifact, engine))
        if target.npu and not compilers.installed(target.npu.name):
            name = target.npu.name
            made = _without(made, f"not compiled: {name} is not installed here", compilers.how_to_install(name))
        elif target.npu:
            compiled = run.step(f"{at}.{target.npu.name}", compile_artifact, artifact, target.npu)
            made = msgspec.structs.replace(made, compiled=compiled)
        if made.arena and (made.compiled or not target.npu):
            made = msgspec.structs.replace(made, c=run.step(f"{at}.c", as_c, artifact, made))
    except (ConvertError, MeasureError) as error:
        run.log(step=at, event="failed", error=str(error), hint=error.hint)
        made = _without(made, str(error), error.hint)
    return made


def _without(made: Firmware, why: str, hint: str) -> Firmware:
    line = f"{made.artifact}: {why}" + (f"; {hint}" if hint else "")
    return msgspec.structs.replace(made, lacking=(*made.lacking, line))


def firmware_of_file(model: Path, target: Target, folder: Path) -> tuple[Firmware, tuple[Verdict, ...]]:
    """The same of any .tflite, written into a folder, and what the target's budget says of it.

    Raises:
        ConfigError: the target is no microcontroller, or the file is no .tflite.
        PluginUnavailable: its runtime or its compiler is not installed here; the hint has the command.
        MeasureError, ConvertError: one of them refuses the model.
    """
    if not target.device.flash_bytes:
        raise ConfigError(
            f"{target.name} is no microcontroller", hint="its file has no `flash_bytes`; see `edgekd export`"
        )
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    work = Work(run_folder=str(folder.resolve().parent), name=folder.resolve().name, out_folder=str(folder.resolve()))
    with tempfile.TemporaryDirectory(prefix="edgekd-firmware-") as scratch:

        def draw(inputs: Sequence[Mapping[str, Any]]) -> Path:
            path = Path(scratch) / "examples.npz"
            write_inputs(path, *drawn(inputs, 1).arrays)
            return path

        job = Job(model.name, model, target.engines[0], "host", "rapid", 1)
        made = Firmware(artifact=model.name, arena=plan_memory(job, draw, Path(scratch)))
    size_bytes, sha256 = content(model)
    given = File(path=str(model.resolve()), size_bytes=size_bytes, sha256=sha256)
    if target.npu:
        made = msgspec.structs.replace(made, compiled=_compiled(work, model.name, model.resolve(), target.npu))
    shipped = made.compiled.model if made.compiled else given
    made = msgspec.structs.replace(made, c=_as_c(work, made, shipped, f"of {model.name}"))
    verdicts = (
        _latency(made, model, target),
        static_memory(made, target.budget),
        file_size(shipped.size_bytes, target.budget),
    )
    return made, finite(filter(None, verdicts))


def _latency(made: Firmware, model: Path, target: Target) -> Verdict:
    on_cpu = cost.estimate(model, target)
    if made.compiled and made.compiled.npu_operators:
        return compiled_latency(made.compiled, target.budget, on_cpu.high_ms)
    told = Interval(value=on_cpu.latency_ms, low=on_cpu.low_ms, high=on_cpu.high_ms)
    return upper_end(told, on_cpu.provenance, target.budget, f"{on_cpu.tier}; not measured on the device")


def plan_arena(work: Work, artifact: Artifact, engine: str) -> Arena:
    """What an artifact takes of a microcontroller's memory, as its runtime plans it here.

    Raises:
        MeasureError: the engine cannot load or execute the artifact.
    """
    job = Job(artifact.export, work.path(artifact.model), engine, "host", "rapid", 1)
    return plan_memory(job, lambda _: work.path(artifact.samples), work.out)


def compile_artifact(work: Work, artifact: Artifact, npu: Choice) -> Compiled:
    """An artifact, compiled for a neural processor.

    Raises:
        ConvertError: the compiler gave up.
        PluginUnavailable: it is not installed.
    """
    return _compiled(work, artifact.export, work.path(artifact.model), npu)


def _compiled(work: Work, name: str, model: Path, npu: Choice) -> Compiled:
    made = compilers.compile_model(npu, model, work.out)
    return Compiled(
        artifact=name,
        compiler=compilers.title(npu.name),
        compiler_version=made.version,
        processor=made.processor,
        provenance="estimated",
        model=work.keep(made.file),
        npu_operators=made.npu_operators,
        cpu_operators=made.cpu_operators,
        macs=made.macs,
        cycles=made.cycles,
        latency_ms=made.latency_ms,
        sram_bytes=made.sram_bytes,
        flash_bytes=made.flash_bytes,
    )


def as_c(work: Work, artifact: Artifact, made: Firmware) -> CSource:
    """What is shipped of an artifact as model.h and model.cc, with the arena to reserve.

    Raises:
        ConvertError: the runtime of microcontrollers cannot be told of an operator.
    """
    tools = ", ".join(f"{tool} {version}" for tool, version in artifact.tools.items())
    return _as_c(work, made, shipped_file(artifact, made), f"of {artifact.export}, by {tools}")


def _as_c(work: Work, made: Firmware, shipped: File, origin: str) -> CSource:
    found = sram_bytes(made)
    assert found is not None
    arena_bytes = reserved(found)
    header, source = work.out / "model.h", work.out / "model.cc"
    compiled = f"; compiled by {made.compiled.source}" if made.compiled else ""
    about = f"Made by edgekd {origin}{compiled}; SHA-256 of the file: {shipped.sha256}"
    with storage_errors(work.out):
        write_c(work.path(shipped), arena_bytes, about, header, source)
    return CSource(artifact=made.artifact, header=work.keep(header), source=work.keep(source), arena_bytes=arena_bytes)
