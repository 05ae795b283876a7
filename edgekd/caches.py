"""Folders below the user's cache that are made once, whole or not at all; of several processes that want one, one
makes it.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from platformdirs import user_cache_path

from edgekd.errors import ConfigError, EdgekdError, PluginUnavailable, StorageError
from edgekd.files import decode_json, dumps, file_digest, read_text, storage_errors, write_text

MARKER: Final = "edgekd.json"
"""Written last: a folder is ready exactly when it is there."""
TIMEOUT_S: Final = 1800.0


def cache() -> Path:
    """The folder that all of them lie below: the user's cache folder, or `EDGEKD_CACHE`."""
    return Path(os.environ.get("EDGEKD_CACHE") or user_cache_path("edgekd")).expanduser().absolute()


def is_ready(folder: Path) -> bool:
    """True for a folder that was finished."""
    return (folder / MARKER).is_file()


@dataclass(frozen=True)
class Site:
    """Where a folder is being made."""

    folder: Path
    what: str
    """Of error messages: "the environment of tiny"."""
    log: Path
    lock: IO[bytes]

    def call(self, command: Sequence[str], explain: Callable[[str], tuple[str, str]], **variables: str) -> None:
        """Execute a command; `explain` tells message and hint from what it printed, where it fails.

        It holds the lock too, so that nobody builds where the child of a killed process still writes. What PYTHONPATH
        names would count as installed, so it is taken away.

        Raises:
            PluginUnavailable: it failed or took too long.
            StorageError: the disk is full.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with storage_errors(self.log):
            printed = self.log.open("ab")
        with printed:
            try:
                code = subprocess.call(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    env={**environment, **variables},
                    pass_fds=(self.lock.fileno(),),
                    timeout=TIMEOUT_S,
                )
            except subprocess.TimeoutExpired as error:
                raise PluginUnavailable(
                    f"{self.what} took longer than {TIMEOUT_S:.0f} s", hint=f"what was printed is in {self.log}"
                ) from error
            except OSError as error:
                raise PluginUnavailable(
                    f"{self.what} cannot be made: {command[0]} cannot be executed: {error.strerror}"
                ) from error
        if code:
            raise self._failure(explain)

    def _failure(self, explain: Callable[[str], tuple[str, str]]) -> EdgekdError:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if "No space left on device" in text:
            return StorageError(f"no space left for {self.what}", hint="set EDGEKD_CACHE to another disk")
        why, hint = explain(text)
        return PluginUnavailable(
            f"{self.what} cannot be made: {why}", hint=hint or f"what was printed is in {self.log}"
        )


def make(folder: Path, what: str, build: Callable[[Site], Mapping[str, Any]], ready: Callable[[Path], bool]) -> None:
    """Let `build` fill a folder, unless it is `ready`; what it returns is written to the marker.

    Raises:
        PluginUnavailable: a command gave up; the message has its last word.
        StorageError: the disk is full or the folder cannot be written.
    """
    with alone(folder) as lock:
        if not ready(folder):
            _build(Site(folder, what, folder.with_name(f"{folder.name}.log"), lock), build)


def _build(site: Site, build: Callable[[Site], Mapping[str, Any]]) -> None:
    with storage_errors(site.folder):
        (site.folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(site.folder, ignore_errors=True)
        site.log.unlink(missing_ok=True)
    try:
        with storage_errors(site.folder):
            write_text(site.folder / MARKER, dumps(build(site)))
        site.log.unlink(missing_ok=True)
    finally:
        if not is_ready(site.folder):
            shutil.rmtree(site.folder, ignore_errors=True)


@contextmanager
def alone(path: Path) -> Iterator[IO[bytes]]:
    """The lock of a file or folder, for which other processes wait; it goes with the process, however it ends.

    Raises:
        StorageError: there can be none.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock").open("ab")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def is_whole(folder: Path) -> bool:
    """True where all files of a folder are as its maker left them, by the SHA-256 that its marker has of each."""
    try:
        kept = decode_json(dict[str, str], read_text(folder / MARKER), MARKER)
        return bool(kept) and all(file_digest(folder / name) == sha256 for name, sha256 in kept.items())
    except (ConfigError, OSError):
        return False
