"""The plugin that lets QEMU count, compiled on this machine."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekd import caches
from edgekd.caches import MARKER, Site
from edgekd.emulation import instructions
from edgekd.errors import PluginUnavailable
from edgekd.files import digest, read_text, storage_errors
from edgekd.progress import tell
from edgekd.specs import Spec

SOURCE: Final = Path(__file__).with_name("counter.c")
_FLAGS: Final = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden")


class Counter(Spec, frozen=True, kw_only=True):
    """Whether QEMU counts here."""

    library: str = ""
    """The compiled plugin, "" where there is none."""
    problem: str = ""
    """Why there is none."""


def folder(emulator: Path, architecture: str) -> Path:
    """Where the plugin for an emulator lies, whether it is made or not; another QEMU may take no plugins."""
    facts = emulator.stat()
    built_for = [
        SOURCE.read_text(),
        instructions.c_header(architecture),
        str(emulator),
        facts.st_size,
        facts.st_mtime_ns,
    ]
    return caches.cache() / "emulation" / f"counter-{emulator.name}-{digest(built_for)[:12]}"


def counter(emulator: Path, architecture: str) -> Counter:
    """What `make` found."""
    made = folder(emulator, architecture)
    if not caches.is_ready(made):
        return Counter(problem="it is not prepared")
    kept: dict[str, str] = msgspec.json.decode(read_text(made / MARKER))
    return Counter(library="" if kept["problem"] else str(made / "counter.so"), problem=kept["problem"])


def make(emulator: Path, architecture: str, guest: Sequence[str]) -> None:
    """Compile the plugin and try it on a guest's command, unless that is done; a QEMU without plugins is no error.

    Raises:
        PluginUnavailable: gcc gave up, or QEMU hung.
        StorageError: the disk is full.
    """

    def build(site: Site) -> Mapping[str, Any]:
        return _build(emulator, architecture, guest, site)

    caches.make(folder(emulator, architecture), "the plugin that counts", build, caches.is_ready)


def options(library: Path, output: int, sizes: Sequence[str]) -> str:
    """What QEMU's -plugin takes; `sizes` are those of caches, as SIZE:WAYS."""
    levels = [f"l{level}={one}" for level, one in enumerate(sizes, 1)]
    return ",".join([str(library).replace(",", ",,"), f"fd={output}", *levels])


def _build(emulator: Path, architecture: str, guest: Sequence[str], site: Site) -> Mapping[str, Any]:
    what = "compiling the counter"
    tell(what, 0, 1)
    library = site.folder / "counter.so"
    with storage_errors(site.folder):
        site.folder.mkdir()
        (site.folder / "instructions.h").write_text(f"#include <stdint.h>\n{instructions.c_header(architecture)}")
    site.call(["gcc", *_FLAGS, "-I", str(site.folder), "-o", str(library), str(SOURCE)], _gcc_complaint)
    problem = _trial([str(emulator), "-plugin", options(library, 2, ()), *guest]) if _takes_plugins(emulator) else _NONE
    tell(what, 1, 1)
    return {"problem": problem, "emulator": _version(emulator)}


_TRIAL_TIMEOUT_S: Final = 120.0
_NONE: Final = "this QEMU is built without plugins; that of Debian bookworm's package qemu-user has them"


def _takes_plugins(emulator: Path) -> bool:
    return "-plugin" in subprocess.run([emulator, "-help"], capture_output=True, text=True, check=False).stdout


def _trial(command: Sequence[str]) -> str:
    """Why a guest does not run with the plugin; "" where it does."""
    try:
        tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise PluginUnavailable(
            "QEMU hung with the plugin", hint="prepare it again when this machine is idle"
        ) from error
    last = next(iter(reversed(tried.stderr.strip().splitlines())), f"it ended with {tried.returncode}")
    return f"QEMU did not load the plugin: {last}" if tried.returncode else ""


def _version(emulator: Path) -> str:
    shown = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=False).stdout
    return next(iter(shown.splitlines()), "")


def _gcc_complaint(text: str) -> tuple[str, str]:
    lines = [line.strip() for line in text.splitlines() if "error:" in line] or ["gcc failed"]
    return lines[0], "apt install gcc libc6-dev" if "No such file" in text else ""
