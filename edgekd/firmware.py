"""What a microcontroller needs of an artifact: its arena, its compilation for a neural processor, and it as C."""

import msgspec

from edgekd import compilers, engines
from edgekd.c_source import reserved, write_c
from edgekd.errors import ConvertError, MeasureError
from edgekd.measure import Job, plan_memory
from edgekd.runs import Run, Work
from edgekd.specs import Arena, Artifact, Choice, Compiled, CSource, Firmware, Target
from edgekd.verdicts import shipped_file, sram_bytes
from edgekd.verify import engine_for

VERSION = 1


def firmware_of(run: Run, target: Target, artifact: Artifact) -> Firmware:
    """Everything of an artifact that can be had with the engines and compilers that are installed here."""
    at = f"{target.name}/3-export/{artifact.export}"
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
    made = compilers.compile_model(npu, work.path(artifact.model), work.out)
    return Compiled(
        artifact=artifact.export,
        compiler=compilers.title(npu.name),
        compiler_version=made.version,
        processor=made.processor,
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
    found = sram_bytes(made)
    assert found is not None
    shipped, arena_bytes = shipped_file(artifact, made), reserved(found)
    header, source = work.out / "model.h", work.out / "model.cc"
    tools = ", ".join(f"{tool} {version}" for tool, version in artifact.tools.items())
    about = f"Made by edgekd of {artifact.export}, by {tools}; SHA-256 of the file {shipped.sha256}"
    if made.compiled:
        about += f"; compiled by {made.compiled.source}"
    write_c(work.path(shipped), arena_bytes, about, header, source)
    return CSource(
        artifact=artifact.export, header=work.keep(header), source=work.keep(source), arena_bytes=arena_bytes
    )
