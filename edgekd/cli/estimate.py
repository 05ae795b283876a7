"""`edgekd estimate MODEL --target T`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, shapes_of, size, table

if TYPE_CHECKING:
    from edgekd.cost import Estimate

MOST_KERNELS = 12
SCHEMA = 1


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=".tflite, .onnx, .xml, .mlpackage, `module:function`, `file.py:function`."
        ),
    ],
    target: Annotated[str, typer.Option("--target", "-t", help="The device: a shipped target, or a .toml file.")],
    engine: Annotated[
        str | None, typer.Option("--engine", help="Runtime; else the target's first that executes the model's format.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, fp16, int8 ...; else what the file has.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=256, help="Of the runtime.")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="A profile of yours, which `edgekd calibrate` made.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Shape of an input that the model leaves open: image=1,3,224,224"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Tell what a model costs on a device that is not here: latency with a 90% interval, memory, and where it goes."""
    from edgekd.cost import estimate
    from edgekd.shipped import load_target

    found = estimate(
        model,
        load_target(target),
        inputs=shapes_of(shape),
        engine=engine,
        precision=precision,
        threads=threads,
        profile=profile,
    )
    if json:
        print_json(_plain(found))
    else:
        _print(found)


def _plain(found: "Estimate") -> dict[str, Any]:
    import msgspec

    told = msgspec.to_builtins(found)
    latency = {"value": told.pop("latency_ms"), "low": told.pop("low_ms"), "high": told.pop("high_ms")}
    lists = {"evidence": told.pop("evidence", []), "notes": told.pop("notes", [])}
    return {"schema": SCHEMA, "latency_ms": latency, "provenance": found.provenance, **told, **lists}


def _print(found: "Estimate") -> None:
    out, where = console(), f"\\[{found.provenance}]"
    out.print(
        f"{found.latency_ms:.3g} ms ({found.low_ms:.3g} to {found.high_ms:.3g} in nine of ten cases) {where} on "
        f"{plain(found.target)} with {plain(found.engine)}, {plain(found.precision)}, threads: {found.threads}"
    )
    out.print(
        f"{plain(found.tier)}; arena {size(found.memory.arena_bytes)} {where}, file {size(found.file_bytes)}, "
        f"{found.macs / 1e6:,.1f} M multiply-accumulates"
    )
    shown = table("class", "kernels", "ms", "share", "slowest")
    total = sum(one.ms for one in found.kernels) or 1.0
    by_class: dict[str, list[Any]] = {}
    for one in found.kernels:
        by_class.setdefault(one.kind, []).append(one)
    for kind, some in sorted(by_class.items(), key=lambda item: -sum(one.ms for one in item[1])):
        part, slowest = sum(one.ms for one in some), max(some, key=lambda one: one.ms)
        told = f"{slowest.op} {slowest.name.split(';')[0]}: {slowest.ms:.3g} ms"
        shown.add_row(kind, str(len(some)), f"{part:.3g} {where}", f"{part / total:.0%}", plain(told[-80:]))
    out.print(shown)
    for measured in found.evidence:
        out.print(f"- {plain(measured.what)} \\[{measured.provenance}]; {plain(measured.source)}")
    for note in found.notes:
        out.print(f"- assumed: {plain(note)}")
