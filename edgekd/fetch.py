"""Download files that are named by their SHA-256, once, into the user's cache."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Final

from edgekd.caches import cache
from edgekd.errors import ConfigError
from edgekd.files import file_digest, replacing, storage_errors
from edgekd.progress import tell

TIMEOUT_S: Final = 60.0
CHUNK: Final = 1 << 16


def fetch(url: str, sha256: str, size_bytes: int) -> Path:
    """The file that a URL has, from the cache if it was fetched before; its name keeps the URL's ending.

    Raises:
        ConfigError: the URL is no web address, does not answer, or has something else than was named.
        StorageError: the cache cannot be written.
    """
    path = _place(url, sha256)
    if path.is_file() and file_digest(path) == sha256:
        return path
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"{url}: not a web address", hint="https://...")
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as opened:
            found = _copy(url, opened, size_bytes)
            if found != sha256:
                raise ConfigError(f"{url} is not what was named: its SHA-256 is {found}", hint="somebody changed it")
    return path


def fetched(url: str, sha256: str) -> Path | None:
    """The file, if it was fetched before."""
    path = _place(url, sha256)
    return path if path.is_file() else None


def _place(url: str, sha256: str) -> Path:
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return cache() / "files" / sha256 / (name if name and not name.startswith(".") else "file")


def _copy(url: str, out: IO[bytes], size_bytes: int) -> str:
    """The SHA-256 of what was copied."""
    sha, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # the caller checked its scheme
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                if done > size_bytes:
                    raise ConfigError(f"{url} is larger than the {size_bytes:,} bytes that were named")
                sha.update(chunk)
                out.write(chunk)
                tell(f"fetching {url.rpartition('/')[2]}", done, size_bytes)
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        raise ConfigError(f"{url} does not answer: {error}", hint="put the file into EDGEKD_DATA by hand") from error
    return sha.hexdigest()
