"""`edgekd device list` and `edgekd device prepare qemu:CORE`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, progress_bars, table
from edgekd.errors import ConfigError


def command(
    action: Annotated[
        Literal["list", "prepare"],
        typer.Argument(help="list: show what can be prepared, and what of it is; prepare: make a device ready."),
    ] = "list",
    device: Annotated[
        str | None, typer.Argument(help="The device to prepare: qemu:cortex-a72, or of a target qemu:raspberry-pi-4.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="An engine to prepare it for; may be repeated. Without it, all that can."),
    ] = None,
    ram: Annotated[bool, typer.Option("--ram", help="Prepare what `edgekd bench --ram` needs, too.")] = False,
    json: AsJson = False,
) -> None:
    """Make emulated devices ready, once and without root rights, or show which are."""
    if action == "prepare":
        _prepare(device or "", engine or [], ram)
    elif device or engine or ram:
        raise ConfigError("list takes no device", hint="`edgekd device list`")
    found = _states()
    if json:
        print_json({"schema": 1, "devices": found})
        return
    shown = table("device", "ready", "counts", "for the engines", "missing", "what to do")
    for one in found:
        flags = ("yes" if one["ready"] else "no", "yes" if one["counts"] else "no")
        shown.add_row(*map(plain, (one["device"], *flags, " ".join(one["engines"]), one["missing"], one["hint"])))
    console().print(shown)


def _prepare(device: str, wanted: list[str], ram: bool) -> None:
    from edgekd import devices, engines
    from edgekd.plugins import find, known, names

    if not device:
        raise ConfigError("prepare which device?", hint="`edgekd device list` lists them")
    name, _, address = device.partition(":")
    plugin = find(devices, name)
    if not hasattr(plugin, "prepare"):
        raise ConfigError(f"{name} needs no preparation", hint="`edgekd device list` lists the devices that do")
    if ram and not hasattr(plugin, "prepare_ram"):
        raise ConfigError(f"{name} cannot be had with a RAM budget", hint="`edgekd device list` lists what can")
    if ram:
        plugin.check_ram(address)
    for one in wanted:
        known(engines, one)
    with progress_bars():
        files = _files(wanted or names(engines))
        chosen = files if wanted else {one: file for one, file in files.items() if plugin.takes(address, file)}
        plugin.prepare(address, engines.GUEST, chosen)
        if ram:
            plugin.prepare_ram(address, chosen)


def _states() -> list[dict[str, Any]]:
    from edgekd import devices, engines
    from edgekd.plugins import find, names

    plugins = (find(devices, name) for name in names(devices))
    files = _files(names(engines))
    return [state for plugin in plugins if hasattr(plugin, "states") for state in plugin.states(files)]


def _files(wanted: list[str] | tuple[str, ...]) -> dict[str, Path]:
    from edgekd import engines

    return {name: engines.path(name) for name in wanted}
