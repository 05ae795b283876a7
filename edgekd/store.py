"""What all runs of this machine share, so that it is computed once: trained teachers, and what they say.

An entry is a folder whose name is the SHA-256 of everything that its content depends on. It is held by one process at a
time; a run takes what it needs by hard links, or by copies where those cannot be, and needs the store no more then.
Above the budget the entries that were not used for the longest time go, but never one that a process holds.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from edgekd.caches import cache
from edgekd.errors import ConfigError
from edgekd.files import dumps, storage_errors, write_text
from edgekd.progress import tell
from edgekd.specs import Spec

BUDGET_BYTES: Final = 20_000_000_000
HINT: Final = "`edgekd cache clear` frees some, EDGEKD_KNOWLEDGE names a folder elsewhere; what is done stays"

_ABOUT = "about.json"


class Entry(Spec, frozen=True, kw_only=True):
    """Something that the store keeps."""

    key: str
    kind: str
    """"teacher", "knowledge", "front" or "texts"."""
    what: str
    size_bytes: int
    """On the disk."""
    used_at_s: float
    """Seconds since 1970."""
    in_use: bool
    """A process holds it at this moment."""


def root() -> Path:
    """The folder of all entries: `EDGEKD_KNOWLEDGE`, or `knowledge` below the cache folder."""
    named = os.environ.get("EDGEKD_KNOWLEDGE")
    return Path(named).expanduser().absolute() if named else cache() / "knowledge"


def budget_bytes() -> int:
    """How much the store may take: `EDGEKD_KNOWLEDGE_BYTES`, or 20 GB.

    Raises:
        ConfigError: that is not a number of bytes.
    """
    given = os.environ.get("EDGEKD_KNOWLEDGE_BYTES", str(BUDGET_BYTES))
    if not given.isascii() or not given.isdecimal():
        raise ConfigError(f"EDGEKD_KNOWLEDGE_BYTES is {given!r}", hint="a number of bytes, such as 20000000000")
    return int(given)


@contextmanager
def entry(key: str, kind: str, what: str) -> Iterator[Path]:
    """The folder of an entry, new or as it was left, for this process alone; waits for another that holds it.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    folder = root() / key
    with storage_errors(folder, HINT):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _held(key, wait=True) as lock:
            assert lock is not None
            os.utime(lock.fileno())
            folder.mkdir(exist_ok=True)
            write_text(folder / _ABOUT, dumps({"kind": kind, "what": what}))
            yield folder


def entries() -> list[Entry]:
    """All that there are; those that were not used for the longest time first."""
    found = [one for folder in _folders() if (one := _described(folder))]
    return sorted(found, key=lambda one: (one.used_at_s, one.key))


def make_room(needed_bytes: int = 0) -> None:
    """Remove entries until so much more fits the budget; nothing where it never will."""
    budget = budget_bytes()
    if needed_bytes > budget:
        return
    there = entries()
    left = sum(one.size_bytes for one in there)
    for one in there:
        if left + needed_bytes <= budget:
            return
        if remove(one.key):
            left -= one.size_bytes


def remove(key: str) -> bool:
    """Remove an entry; False where a process holds it."""
    with _held(key, wait=False) as lock:
        if lock is None:
            return False
        shutil.rmtree(root() / key, ignore_errors=True)
        _lock_path(key).unlink(missing_ok=True)
        return True


@contextmanager
def _held(key: str, *, wait: bool) -> Iterator[IO[bytes] | None]:
    """The lock of an entry, or None where another process has it; it goes with the process, however it ends."""
    lock = _lock(key, wait)
    if lock is None:
        yield None
        return
    with lock:
        yield lock


def _lock(key: str, wait: bool) -> IO[bytes] | None:
    path = _lock_path(key)
    while True:
        opened = path.open("ab")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                opened.close()
                return None
            tell("waiting for another process", 0, 1)
            fcntl.flock(opened, fcntl.LOCK_EX)
            tell("waiting for another process", 1, 1)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(opened.fileno()).st_ino:
                return opened
        opened.close()  # its entry was removed while we waited


def _lock_path(key: str) -> Path:
    return root() / f"{key}.lock"


def _folders() -> list[Path]:
    return [one for one in root().iterdir() if one.is_dir()] if root().is_dir() else []


def _described(folder: Path) -> Entry | None:
    """None where it has just been removed."""
    key = folder.name
    about = {"kind": "", "what": ""}
    with suppress(OSError, ValueError):
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    with suppress(FileNotFoundError):
        sizes = [one.stat().st_blocks * 512 for one in folder.iterdir()]
        return Entry(
            key=key,
            kind=str(about["kind"]),
            what=str(about["what"]),
            size_bytes=sum(sizes),
            used_at_s=_used_at(key, folder),
            in_use=_in_use(key),
        )
    return None


def _used_at(key: str, folder: Path) -> float:
    lock = _lock_path(key)
    return (lock if lock.exists() else folder).stat().st_mtime


def _in_use(key: str) -> bool:
    if not _lock_path(key).exists():
        return False
    with _lock_path(key).open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
