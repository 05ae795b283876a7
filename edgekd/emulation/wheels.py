"""Runtimes for guests, from the wheels that their makers built for Arm."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgekd import caches, environments
from edgekd.caches import Site
from edgekd.environments import pip_complaint
from edgekd.files import digest
from edgekd.progress import tell

_PYTHON: Final = "3.11"
_NEWEST_GLIBC: Final = 36
"""Of Debian bookworm: 2.36."""
_OLDEST_GLIBC: Final = 17
_MACHINES: Final = {"aarch64": "aarch64", "arm": "armv7l"}
_LISTED_AS: Final = {"aarch64": ("WHEELS", "ENVIRONMENT"), "arm": ("WHEELS_ARMV7",)}
"""Names that an engine file lists its packages under, the first that it has."""


def packages_of(engine: Path, architecture: str) -> tuple[str, ...]:
    """What an engine needs in a guest, all of it; () where its file does not say.

    numpy for 32-bit Arm is in the root, for nobody builds wheels of it.
    """
    listed = (environments.declared(engine, name) for name in _LISTED_AS[architecture])
    return next(filter(None, listed), ())


def folder(architecture: str, packages: Sequence[str]) -> Path:
    """Where such packages lie, whether they are there or not; engines that need the same share them."""
    return caches.cache() / "emulation" / f"wheels-{architecture}-{digest(list(packages))[:12]}"


def make(architecture: str, packages: Sequence[str], name: str) -> None:
    """Fetch and unpack packages for an architecture, unless they are there.

    Raises:
        PluginUnavailable: pip gave up; the message has its last word.
        StorageError: the disk is full.
    """

    def build(site: Site) -> Mapping[str, Any]:
        tell(f"{name} for {architecture}", 0, 1)
        site.call(_command(architecture, packages, site.folder), pip_complaint)
        tell(f"{name} for {architecture}", 1, 1)
        return {"packages": list(packages)}

    caches.make(folder(architecture, packages), f"the runtime {name} for {architecture}", build, caches.is_ready)


def _command(architecture: str, packages: Sequence[str], target: Path) -> list[str]:
    machine = _MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    return [
        *(sys.executable, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"),
        *(part for one in (*platforms, f"manylinux2014_{machine}") for part in ("--platform", one)),
        *("--python-version", _PYTHON, "--implementation", "cp", "--only-binary", ":all:"),
        *("--no-deps", "--no-compile", "--target", str(target), "--", *packages),
    ]
