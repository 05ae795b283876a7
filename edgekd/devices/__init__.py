"""Ways to reach hardware.

To add one, write `edgekd/devices/<name>.py` that ends in `PLUGIN: Device = ...`. tests/contracts/test_devices.py finds
it. What follows the first colon of a device's name is its address: "ssh://pi@kitchen".
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

from edgekd.errors import ConfigError, MeasureError, PluginUnavailable
from edgekd.plugins import find, names
from edgekd.specs import Interval, Provenance, Target

EXTRAS = {"ssh": "devices"}


class Connection(Protocol):
    """An engine, started on a device in a fresh process."""

    def put(self, file: Path) -> str:
        """Bring a file, or a model of several files, to the device; what it is called there."""

    def get(self, name: str, file: Path) -> None:
        """Fetch a file from the device: one that was put, or the "outputs" of a request, by the name asked for."""

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The guest's answer.

        Raises:
            MeasureError: the engine could not do it, crashed, or took longer than `timeout_s` seconds.
        """


class Device(Protocol):
    """Hardware, or what stands for it."""

    provenance: Provenance

    def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> AbstractContextManager[Connection]:
        """Start the guest with an engine file there; `scratch` is a folder here for logs.

        Raises:
            DeviceUnreachable: it does not answer.
            PluginUnavailable: the engine needs an environment there that is not made.
        """

    # A device whose times tell nothing says `timed = False`; it counts instead: see `Guest.count` in engines/_guest.py.
    # One that is made ready once also has
    #     def prepare(self, address: str, guest: Path, engines: Mapping[str, Path]) -> None
    # which makes it so for engine files by their names, with an EdgekdError where that fails,
    #     def takes(self, address: str, engine: Path) -> bool
    # which tells the engine files that it can be made ready for, and
    #     def states(self, engines: Mapping[str, Path]) -> list[dict[str, Any]]
    # with what can be prepared: of each its device, whether it is ready, whether it counts, the engines that it is
    # ready for, what is missing, and a hint,
    #     def lacking(self, address: str, engines: Mapping[str, Path]) -> dict[str, EdgekdError]
    # with the engines that it is not ready for, and why; of other devices `places.ask` finds out by starting them,
    #     def usual(self, target: Target) -> str
    # the address that stands for a target, "" where none does: `standing_in`, and
    #     def unlike(self, address: str, target: Target) -> dict[str, str]
    # limits of a target that its numbers say nothing of, and why.
    # One that brings the runtimes to the device, so that where one engine starts the others do, has
    #     def bring(self, engine: Path) -> None
    # which makes ready here what it would bring, with ConfigError or PluginUnavailable where that cannot be.
    # One that can be had with any amount of RAM has
    #     def check_ram(self, address: str) -> None
    # which raises ConfigError or PluginUnavailable where that cannot be,
    #     def prepare_ram(self, address: str, engines: Mapping[str, Path]) -> None
    # which makes ready what that needs beyond `prepare`, and
    #     def confine(self, address, ram_bytes, files, requests, threads, scratch) -> emulation.system.Said
    # which starts such a machine, and tells what it said: see `run` in emulation/system.py. One that knows how long it
    # takes on the hardware what it counts has
    #     def latency(self, address: str, instructions: Mapping[str, float], misses: Mapping[str, float], threads: int)
    #         -> tuple[Interval, str] | None
    # the latency of one inference and what that rests on, None where nothing is known.


def located(device: str) -> tuple[Device, str]:
    """What reaches a device, and its address there: "ssh://pi@kitchen" is at "//pi@kitchen" by ssh."""
    name, _, address = device.partition(":")
    return find(sys.modules[__name__], name), address


def start(device: str, guest: Path, engine: Path, scratch: Path) -> AbstractContextManager[Connection]:
    """The guest with an engine file, started on a device: see `Device.start`."""
    plugin, address = located(device)
    return plugin.start(address, guest, engine, scratch)


def timed(device: str) -> bool:
    """False for a device whose times tell nothing of the hardware that it stands for."""
    return getattr(located(device)[0], "timed", True)


def provenance(device: str) -> Provenance:
    """Of the numbers of a device."""
    return located(device)[0].provenance


def check_real(device: str, facts: Mapping[str, Any]) -> None:
    """Raise MeasureError where the guest's facts say that what should be hardware is emulated."""
    if facts["emulated"]:
        raise MeasureError(
            f"{device} imitates its processor: times there tell nothing of a device",
            hint="`edgekd verify --on` compares what it computes; `edgekd bench --on qemu:CORE` counts",
        )


def standing_in(target: Target) -> tuple[str, ...]:
    """The devices that imitate a target, prepared or not."""
    family, found = sys.modules[__name__], list[str]()
    for name in names(family):
        with suppress(PluginUnavailable):  # what needs a package is no emulator of ours
            plugin = find(family, name)
            address = plugin.usual(target) if hasattr(plugin, "usual") else ""
            found += [f"{name}:{address}"] if address else []
    return tuple(found)


def unlike(device: str, target: Target) -> dict[str, str]:
    """Limits of a target that the numbers of a device say nothing of, for it imitates another one; and why."""
    plugin, address = located(device)
    told: dict[str, str] = plugin.unlike(address, target) if hasattr(plugin, "unlike") else {}
    return told


def latency(
    device: str, instructions: Mapping[str, float], misses: Mapping[str, float], threads: int
) -> tuple[Interval, str] | None:
    """How long a device takes for what was counted on it, and what that rests on; None where nobody knows."""
    plugin, address = located(device)
    if not hasattr(plugin, "latency"):
        return None
    told: tuple[Interval, str] | None = plugin.latency(address, instructions, misses, threads)
    return told


def wrap(own: Any) -> Device:
    """A user's own device."""
    if not hasattr(own, "start"):
        raise ConfigError(f"{own!r} is not a device", hint="see edgekd/devices/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
