"""Virtual environments of engines whose packages cannot be installed beside edgekd's own.

An engine file that needs one declares its packages: `ENVIRONMENT = ("tflite-runtime==2.14.0", "numpy==1.26.4")`. The
environment lies below the user's cache folder, or `EDGEKD_CACHE`; nothing is installed before somebody asks for it.
"""

import ast
import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from platformdirs import user_cache_path

from edgekd.errors import ConfigError, EdgekdError, PluginUnavailable, StorageError
from edgekd.files import digest, dumps, storage_errors, write_text
from edgekd.progress import tell

MARKER: Final = "edgekd.json"
"""Written last: an environment is ready exactly when it is there."""
TIMEOUT_S: Final = 1800.0


def packages_of(engine: Path) -> tuple[str, ...]:
    """The packages of an engine's own environment; () where it lives beside edgekd. The file is not executed.

    Raises:
        ConfigError: its ENVIRONMENT is not a tuple of texts.
    """
    try:
        tree = ast.parse(engine.read_bytes())
    except (SyntaxError, ValueError):
        return ()  # the guest says what is wrong with it
    declared = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "ENVIRONMENT" for target in node.targets)
    ]
    return _texts(declared[-1], engine) if declared else ()


def _texts(node: ast.expr, engine: Path) -> tuple[str, ...]:
    try:
        found: Any = ast.literal_eval(node)
    except ValueError:
        found = None
    if not (isinstance(found, tuple) and found and all(isinstance(one, str) for one in found)):
        raise ConfigError(f"{engine}: ENVIRONMENT is not a tuple of packages", hint='ENVIRONMENT = ("package==1.0",)')
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
    with _alone(folder) as lock:
        if not _is_ready(folder):
            _build(folder, name, packages, lock)
    return _python(folder)


def cache_folder() -> Path:
    """What EDGEKD_CACHE names, else edgekd's folder in the user's cache; it may not be there yet."""
    return Path(os.environ.get("EDGEKD_CACHE") or user_cache_path("edgekd")).expanduser().absolute()


def _folder(name: str, packages: Sequence[str]) -> Path:
    """Another Python, or other packages, make another environment."""
    built_for = [list(packages), sys.implementation.cache_tag, sysconfig.get_platform()]
    return cache_folder() / "engines" / f"{name}-{digest(built_for)[:12]}"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _is_ready(folder: Path) -> bool:
    return (folder / MARKER).is_file() and _python(folder).exists()  # its Python is a link, which may point nowhere


@contextmanager
def _alone(folder: Path) -> Iterator[IO[bytes]]:
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("ab")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _build(folder: Path, name: str, packages: Sequence[str], lock: IO[bytes]) -> None:
    what, log = f"making the environment of {name}", folder.with_name(f"{folder.name}.log")
    here = [sys.executable, "-I", "-m"]
    install = ["install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:", "--", *packages]
    with storage_errors(folder):
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        log.unlink(missing_ok=True)
    try:
        tell(what, 0, 2)
        _call(name, [*here, "venv", "--without-pip", str(folder)], log, lock)
        tell(what, 1, 2)
        _call(name, [*here, "pip", "--python", str(_python(folder)), *install], log, lock)
        write_text(folder / MARKER, dumps({"packages": list(packages)}))
        tell(what, 2, 2)
        log.unlink(missing_ok=True)
    finally:
        if not _is_ready(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _call(name: str, command: Sequence[str], log: Path, lock: IO[bytes]) -> None:
    """Execute a command; it holds the lock too, so that nobody builds where the child of a killed process still writes.

    What PYTHONPATH names would count as installed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with storage_errors(log), log.open("ab") as printed:
        try:
            code = subprocess.call(
                command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=environment,
                pass_fds=(lock.fileno(),),
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise PluginUnavailable(
                f"the environment of {name} took longer than {TIMEOUT_S:.0f} s", hint=f"what was printed is in {log}"
            ) from error
    if code:
        raise _why(name, log)


_OFFLINE: Final = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")


def _why(name: str, log: Path) -> EdgekdError:
    """The error of a call that failed, from what it printed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR:")), (lines or ["no reason given"])[-1])
    if "No space left on device" in text:
        return StorageError(f"no space left for the environment of {name}", hint="set EDGEKD_CACHE to another disk")
    if any(sign in text for sign in _OFFLINE):
        hint = "no package index answered: go online, or name a folder of wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
    elif "No module named pip" in last:
        hint = f"{sys.executable} -m ensurepip"
    elif "No module named venv" in last:
        hint = "install your system's package of it: apt install python3-venv"
    else:
        hint = f"what was printed is in {log}"
    return PluginUnavailable(f"the environment of {name} cannot be made: {last.removeprefix('ERROR: ')}", hint=hint)
