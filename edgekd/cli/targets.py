"""`edgekd targets [NAME]`."""

from typing import Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, size, table
from edgekd.shipped import load_target, target_names
from edgekd.specs import Cluster, Target


def command(
    name: Annotated[str | None, typer.Argument(help="Name of a shipped target, or path of a .toml file.")] = None,
    json: AsJson = False,
) -> None:
    """Show the devices that edgekd knows, or one of them whole."""
    import msgspec

    wanted = [load_target(name)] if name else [load_target(one) for one in target_names()]
    if json:
        whole: dict[str, Any] = {"schema": 1, "targets": [msgspec.to_builtins(target) for target in wanted]}
        print_json(whole)
    elif name:
        _print_whole(wanted[0])
    else:
        _print_list(wanted)


def _print_list(targets: list[Target]) -> None:
    listed = table("target", "device", "p90 ms", "memory", "file", "exports")
    for target in targets:
        budget = target.budget
        listed.add_row(
            target.name,
            plain(target.title),
            f"{budget.latency_ms:g}",
            size(budget.peak_memory_bytes),
            size(budget.file_bytes),
            " ".join(target.exports),
        )
    console().print(listed)


def _print_whole(target: Target) -> None:
    device, budget = target.device, target.budget
    facts = [
        ("soc", device.soc),
        ("isa", device.isa),
        *[
            ("clusters", ", ".join([f"{one.count} x {one.core}", f"{one.clock_mhz:g} MHz", *_caches(one)]))
            for one in device.clusters
        ],
        ("ram_bytes", size(device.ram_bytes)),
        *([("flash_bytes", size(device.flash_bytes))] if device.flash_bytes else []),
        ("memory_bandwidth_bytes_s", f"{size(device.memory_bandwidth_bytes_s)}/s"),
    ]
    shown = table("fact", "value", "source")
    for fact, value in facts:
        shown.add_row(fact, plain(value), plain(device.sources.get(fact, "")))
    out = console()
    out.print(f"[bold]{plain(target.name)}[/bold]: {plain(target.title)}")
    out.print(shown)
    out.print(
        f"budget: p90 {budget.latency_ms:g} ms, memory {size(budget.peak_memory_bytes)}, "
        f"file {size(budget.file_bytes)}, accuracy at least {budget.accuracy_floor:g}"
    )
    out.print(f"exports: {' '.join(target.exports)}; engines: {' '.join(target.engines)}; threads: {target.threads}")


def _caches(cluster: Cluster) -> list[str]:
    sizes = (("L1d", cluster.l1d_bytes), ("L2", cluster.l2_bytes))
    return [f"{name} {size(count)}" for name, count in sizes if count]
