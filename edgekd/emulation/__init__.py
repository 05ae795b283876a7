"""Emulated Arm: a root file system, runtimes built for Arm, a machine's description, and a QEMU that counts.

`prepare` brings all of it below the user's cache folder, once and without root rights; `launch` is the command of a
guest there. Debian's qemu-user of bookworm executes it, one process a guest, with no kernel between.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgekd import caches
from edgekd.caches import Site
from edgekd.emulation import plugin, root, wheels
from edgekd.emulation.cores import CORES, Cache, Core, Machine, check_known, machine_at
from edgekd.emulation.description import describe
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import digest, storage_errors
from edgekd.progress import tell
from edgekd.specs import Spec

__all__ = ["CORES", "Cache", "Core", "Launch", "Machine", "State", "able", "launch", "machine_at", "prepare", "state"]

_EMULATORS: Final = {"aarch64": "qemu-aarch64", "arm": "qemu-arm"}
_GUEST_BASES: Final = {"aarch64": "0x0", "arm": "0x100000000000"}
"""Where QEMU puts address 0 of a guest, so that the guest can tell its memory from QEMU's."""
_PACKAGES: Final = {
    "qemu-aarch64": "qemu-user",
    "qemu-arm": "qemu-user",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "gcc": "gcc libc6-dev",
}
"""Debian's package of each tool."""


class Launch(NamedTuple):
    """How a guest is started."""

    command: tuple[str, ...]
    """To be followed by the arguments of Python."""
    environment: dict[str, str]
    """All of it."""


class State(Spec, frozen=True, kw_only=True):
    """What there is of an emulated core."""

    core: str
    ready: bool
    """Guests can be started."""
    engines: tuple[str, ...]
    """Those whose runtimes are there."""
    counts: bool
    """Instructions can be counted."""
    missing: str
    """What stands in the way, and "" where nothing does."""
    hint: str


def prepare(address: str, engines: Mapping[str, Path]) -> Machine:
    """Make all that a core or a target needs for engine files, unless it is there; needs the network only then.

    Raises:
        ConfigError: no such core, or an engine that lists no packages for Arm.
        PluginUnavailable: a tool is missing, with its Debian package as the hint, or a download failed.
        StorageError: the disk is full.
    """
    machine = machine_at(address)
    architecture = machine.core.architecture
    packages = {name: wheels.packages_of(engine, architecture) for name, engine in engines.items()}
    for name, wanted in packages.items():
        if not wanted:
            raise _no_packages(name, machine.core.name)
    _check_tools(architecture, address)
    emulator = _emulator(architecture)
    check_known(emulator, machine.core)
    root.make(architecture)
    for name, wanted in packages.items():
        wheels.make(architecture, wanted, name)
    view = _view(machine)
    plugin.make(emulator, architecture, _guest(machine, view, ["-c", ""]))
    return machine


def able(engine: Path, core: Core) -> bool:
    """True for an engine that lists the packages which it needs on a core."""
    return bool(wheels.packages_of(engine, core.architecture))


def launch(machine: Machine, engine: Path, output: int) -> Launch:
    """How Python is started with an engine's packages; what is counted goes to the descriptor `output`.

    Raises:
        ConfigError: the engine lists no packages for Arm.
        PluginUnavailable: the core is not prepared, or not for this engine; the hint has the command.
    """
    core = machine.core
    packages = wheels.packages_of(engine, core.architecture)
    if not packages:
        raise _no_packages(engine.stem, core.name)
    emulator = _emulator(core.architecture)
    check_known(emulator, core)
    site = wheels.folder(core.architecture, packages)
    if not all(
        map(caches.is_ready, (root.folder(core.architecture), site, plugin.folder(emulator, core.architecture)))
    ):
        raise PluginUnavailable(
            f"qemu:{core.name} is not prepared for the engine {engine.stem}",
            hint=f"edgekd device prepare qemu:{core.name}",
        )
    library = plugin.counter(emulator, core.architecture).library
    sizes = [f"{one.size_bytes}:{one.ways}" for one in machine.caches]
    counting = ["-plugin", plugin.options(Path(library), output, sizes)] if library else []
    return Launch(
        command=(*_fixed_addresses(), str(emulator), *counting, *_guest(machine, _view(machine), ["-s"])),
        environment={
            "PATH": "/usr/bin:/bin",
            "HOME": "/",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(site),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "EDGEKD_EMULATED": _GUEST_BASES[core.architecture],
            **({"EDGEKD_COUNTER": str(output)} if library else {}),
        },
    )


def state(core: Core, engines: Mapping[str, Path]) -> State:
    """What there is of a core, and of the engines that are asked for."""
    missing, hint, counts = "", "", False
    try:
        emulator = _emulator(core.architecture)
        check_known(emulator, core)
    except PluginUnavailable as error:
        missing, hint = str(error), error.hint
    else:
        found = plugin.counter(emulator, core.architecture)
        counts, missing = bool(found.library), found.problem
        if not (
            caches.is_ready(root.folder(core.architecture))
            and caches.is_ready(plugin.folder(emulator, core.architecture))
        ):
            hint = f"edgekd device prepare qemu:{core.name}"
    packages = {name: wheels.packages_of(engine, core.architecture) for name, engine in engines.items()}
    there = [
        name for name, some in packages.items() if some and caches.is_ready(wheels.folder(core.architecture, some))
    ]
    return State(
        core=core.name, ready=not hint and bool(there), engines=tuple(there), counts=counts, missing=missing, hint=hint
    )


def _no_packages(engine: str, core: str) -> ConfigError:
    return ConfigError(
        f"the engine {engine} does not run on an emulated {core}", hint="edgekd/emulation/wheels.py says what it lists"
    )


def _emulator(architecture: str) -> Path:
    name = _EMULATORS[architecture]
    found = shutil.which(name)
    if not found:
        raise PluginUnavailable(f"{name} is not installed", hint=f"apt install {_PACKAGES[name]}")
    return Path(found)


def _check_tools(architecture: str, address: str) -> None:
    """Raise PluginUnavailable where a tool is missing that something which is still to be made needs."""
    emulator = _EMULATORS[architecture]
    found = shutil.which(emulator)
    wanted = [emulator]
    wanted += [] if caches.is_ready(root.folder(architecture)) else ["apt-get", "dpkg-deb"]
    wanted += [] if found and caches.is_ready(plugin.folder(Path(found), architecture)) else ["gcc"]
    missing = [tool for tool in wanted if not shutil.which(tool)]
    if missing:
        names = " ".join(_PACKAGES[tool] for tool in missing)
        raise PluginUnavailable(f"qemu:{address} needs {', '.join(missing)}", hint=f"apt install {names}")


def _guest(machine: Machine, view: Path, arguments: Sequence[str]) -> list[str]:
    base = _GUEST_BASES[machine.core.architecture]
    return ["-cpu", machine.core.name, "-seed", "1", "-B", base, "-L", str(view), str(view / root.PYTHON), *arguments]


def _view(machine: Machine) -> Path:
    """The root as a machine's guest sees it: links to what all share, and files that describe this machine."""
    shared = root.folder(machine.core.architecture)
    made = caches.cache() / "emulation" / f"machine-{machine.core.name}-{digest([machine, shared.name])[:12]}"

    def build(site: Site) -> dict[str, Any]:
        tell(f"describing {machine.core.name}", 0, 1)
        with storage_errors(site.folder):
            site.folder.mkdir()
            for entry in sorted(one.name for one in shared.iterdir() if one.is_dir()):
                (site.folder / entry).symlink_to(Path("..") / shared.name / entry)
            describe(machine, site.folder)
        tell(f"describing {machine.core.name}", 1, 1)
        return {"core": machine.core.name}

    caches.make(made, f"the description of {machine.core.name}", build, caches.is_ready)
    return made


@cache
def _fixed_addresses() -> tuple[str, ...]:
    """What starts a command with addresses that are the same each time, where that is permitted."""
    command = ("setarch", "--addr-no-randomize")
    if not shutil.which("setarch"):
        return ()
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else ()
