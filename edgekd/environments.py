"""Virtual environments of engines whose packages cannot be installed beside edgekd's own.

An engine file that needs one declares its packages: `ENVIRONMENT = ("tflite-runtime==2.14.0", "numpy==1.26.4")`. The
environment lies below the user's cache folder, or `EDGEKD_CACHE`; nothing is installed before somebody asks for it.
"""

import ast
import sys
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgekd import caches
from edgekd.caches import MARKER, Site
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import digest
from edgekd.progress import tell

__all__ = ["MARKER", "declared", "install", "installed", "make", "packages_of", "pip_complaint", "python_for"]

_parsing = threading.Lock()
"""Two threads that build trees at once share a counter in Python 3.11, and one of them may end with a SystemError."""


def packages_of(engine: Path) -> tuple[str, ...]:
    """The packages of an engine's own environment; () where it lives beside edgekd. The file is not executed.

    Raises:
        ConfigError: its ENVIRONMENT is not a tuple of texts.
    """
    return declared(engine, "ENVIRONMENT")


def declared(engine: Path, name: str) -> tuple[str, ...]:
    """The packages that an engine file lists under a name, () where it does not. The file is not executed.

    Raises:
        ConfigError: it is not a tuple of texts.
    """
    try:
        with _parsing:
            tree = ast.parse(engine.read_bytes())
    except (SyntaxError, ValueError):
        return ()  # the guest says what is wrong with it
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]
    return _texts(values[-1], engine, name) if values else ()


def _texts(node: ast.expr, engine: Path, name: str) -> tuple[str, ...]:
    try:
        found: Any = ast.literal_eval(node)
    except ValueError:
        found = None
    if not (isinstance(found, tuple) and found and all(isinstance(one, str) for one in found)):
        raise ConfigError(f"{engine}: {name} is not a tuple of packages", hint=f'{name} = ("package==1.0",)')
    return found


def installed(engine: Path) -> bool:
    """True where the environment that an engine declares is ready; true where it declares none."""
    packages = packages_of(engine)
    return not packages or _is_ready(_folder(engine.stem, packages))


def python_for(engine: Path) -> Path:
    """The Python that executes an engine: that of its own environment, or the one that runs edgekd.

    Raises:
        PluginUnavailable: its environment is not made yet; the hint has the command.
    """
    packages = packages_of(engine)
    if not packages:
        return Path(sys.executable)
    folder = _folder(engine.stem, packages)
    if not _is_ready(folder):
        raise PluginUnavailable(
            f"engine {engine.stem!r} needs an environment of its own, with {', '.join(packages)}",
            hint=f"edgekd engines install {engine.stem}",
        )
    return _python(folder)


def install(engine: Path) -> Path:
    """Make the environment that an engine declares, unless it is ready; its Python.

    Raises:
        ConfigError: it declares none.
        PluginUnavailable, StorageError: as `make`.
    """
    packages = packages_of(engine)
    if not packages:
        raise ConfigError(f"engine {engine.stem!r} has no environment of its own", hint="`edgekd engines` lists them")
    return make(engine.stem, packages)


def make(name: str, packages: Sequence[str]) -> Path:
    """A virtual environment with these packages, built unless it is ready; its Python.

    Of several processes that ask at once one builds, and the others wait for it.

    Raises:
        PluginUnavailable: pip or venv gave up; the message has its last word, the hint names the log.
        StorageError: the disk is full or the folder cannot be written.
    """
    folder = _folder(name, packages)
    caches.make(folder, f"the environment of {name}", partial(_build, name, packages), _is_ready)
    return _python(folder)


def _folder(name: str, packages: Sequence[str]) -> Path:
    """Another Python, or other packages, make another environment."""
    built_for = [list(packages), sys.implementation.cache_tag, sysconfig.get_platform()]
    return caches.cache() / "engines" / f"{name}-{digest(built_for)[:12]}"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _is_ready(folder: Path) -> bool:
    return caches.is_ready(folder) and _python(folder).exists()  # its Python is a link, which may point nowhere


def _build(name: str, packages: Sequence[str], site: Site) -> Mapping[str, Any]:
    what = f"making the environment of {name}"
    here = [sys.executable, "-I", "-m"]
    install = ["install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:", "--", *packages]
    tell(what, 0, 2)
    site.call([*here, "venv", "--without-pip", str(site.folder)], pip_complaint)
    tell(what, 1, 2)
    site.call([*here, "pip", "--python", str(_python(site.folder)), *install], pip_complaint)
    tell(what, 2, 2)
    return {"packages": list(packages)}


_OFFLINE: Final = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")


def pip_complaint(text: str) -> tuple[str, str]:
    """Why pip or venv failed, in a line, and what to do, from what it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR:")), (lines or ["no reason given"])[-1])
    hint = ""
    if any(sign in text for sign in _OFFLINE):
        hint = "no package index answered: go online, or name a folder of wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
    elif "No module named pip" in last:
        hint = f"{sys.executable} -m ensurepip"
    elif "No module named venv" in last:
        hint = "install your system's package of it: apt install python3-venv"
    return last.removeprefix("ERROR: "), hint
