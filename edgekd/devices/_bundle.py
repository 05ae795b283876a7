"""All that a device of Arm needs which has nothing: a Python with its libraries and loader, numpy, a runtime.

It is made once of the root and the wheels that emulation also uses, and packed without what no guest needs. Libraries
lie in one folder, so that the loader finds them there and nowhere else: nothing of the device's own is loaded.
"""

import gzip
import shutil
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekd import caches
from edgekd.caches import MARKER, Site
from edgekd.emulation import root, wheels
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import digest, file_digest, read_text, storage_errors
from edgekd.progress import tell

ARCHITECTURE: Final = "aarch64"
LOADER: Final = "lib/ld-linux-aarch64.so.1"
PYTHON: Final = "usr/bin/python3.11"
LIBRARIES: Final = "lib"
SITE: Final = "site"
"""Of the bundle: its loader, its Python, the folder of its libraries, and that of packages."""
VERSION: Final = 2
"""Of what is taken along."""

_STANDARD: Final = "usr/lib/python3.11"
_UNUSED: Final = (
    *("*.pyi", "*.pyx", "*.pxd", "*.pyc", "*.h", "*.hpp", "*.a", "*.lib", "*.cmake", "*.f", "*.f90", "*.exe"),
    *("*.dist-info/RECORD", "*.dist-info/licenses/*", "*.dist-info/LICENSE*", "*.dist-info/*NOTICES*"),
    *("*/tests/*", "tests/*", "*/include/*", "bin/*", "share/*", "numpy/f2py/*", "numpy/distutils/*"),
    "*Accelerator.so",
)
"""Of packages: sources, headers, tests, the means to build others, and litert's kernels for GPUs, whose drivers need
another libc.
"""
_UNUSED_MODULES: Final = (
    *("test/*", "idlelib/*", "lib2to3/*", "distutils/*", "ensurepip/*", "turtledemo/*", "tkinter/*", "config-*/*"),
    *("pydoc_data/*", "venv/*", "*.pyc", "sitecustomize.py", "sqlite3/*", "curses/*", "dbm/*"),
    *(f"lib-dynload/{name}.*" for name in ("_sqlite3", "_curses*", "readline", "nis", "_dbm", "_test*", "_xx*")),
)
"""Of the standard library: what needs a screen, a compiler or libraries of its own, and a script of Debian's."""
_LEVEL: Final = 6


@dataclass(frozen=True)
class Bundle:
    """A packed folder."""

    archive: Path
    """A gzipped tar file."""
    sha256: str
    packed_bytes: int
    bytes: int
    """Of its files."""


def bundle(engine: Path) -> Bundle:
    """What an engine needs on Arm, made unless it is there; needs the network only then.

    Raises:
        ConfigError: its file does not list packages for Arm.
        PluginUnavailable: a tool is missing, with its Debian package as the hint, or a download failed.
        StorageError: the disk is full.
    """
    packages = wheels.packages_of(engine, ARCHITECTURE)
    if not packages:
        raise ConfigError(
            f"the engine {engine.stem} does not run on Android", hint="its file lists no WHEELS: see engines/litert.py"
        )
    folder = _folder(packages)
    if not caches.is_ready(folder):
        _check_tools()
        root.make(ARCHITECTURE)
        wheels.make(ARCHITECTURE, packages, engine.stem)
        caches.make(folder, f"the bundle of {engine.stem}", lambda site: _build(site, packages), caches.is_ready)
    kept = msgspec.json.decode(read_text(folder / MARKER))
    return Bundle(folder / "bundle.tar.gz", kept["sha256"], kept["packed_bytes"], kept["bytes"])


def _folder(packages: Sequence[str]) -> Path:
    made_of = [root.folder(ARCHITECTURE).name, wheels.folder(ARCHITECTURE, packages).name, VERSION]
    return caches.cache() / "emulation" / f"bundle-{ARCHITECTURE}-{digest(made_of)[:12]}"


def _check_tools() -> None:
    missing = {"apt-get": "apt", "dpkg-deb": "dpkg"} if not caches.is_ready(root.folder(ARCHITECTURE)) else {}
    lacking = {tool: package for tool, package in missing.items() if not shutil.which(tool)}
    if lacking:
        raise PluginUnavailable(
            f"a bundle for Arm is made with {', '.join(lacking)}", hint=f"apt install {' '.join(lacking.values())}"
        )


def _build(site: Site, packages: Sequence[str]) -> Mapping[str, Any]:
    what = f"packing {', '.join(packages)}"
    tell(what, 0, 1)
    files = dict(_files(root.folder(ARCHITECTURE), wheels.folder(ARCHITECTURE, packages)))
    archive = site.folder / "bundle.tar.gz"
    with storage_errors(archive):
        site.folder.mkdir(parents=True, exist_ok=True)
        _pack(files, archive)
    tell(what, 1, 1)
    return {
        "packages": list(packages),
        "sha256": file_digest(archive),
        "packed_bytes": archive.stat().st_size,
        "bytes": sum(file.stat().st_size for file in files.values()),
    }


def _pack(files: Mapping[str, Path], archive: Path) -> None:
    """The same bytes for the same files."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=_LEVEL, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = file.stat().st_size, 0o700 if name in {LOADER, PYTHON} else 0o600
            with file.open("rb") as opened:
                tar.addfile(entry, opened)


def _files(system: Path, packages: Path) -> Iterator[tuple[str, Path]]:
    """Name in the bundle, and file here."""
    taken = [(PYTHON, system / root.PYTHON)]
    taken += [(f"{_STANDARD}/{name}", file) for name, file in _used(system / _STANDARD, _UNUSED_MODULES)]
    taken += [(f"{SITE}/{name}", file) for name, file in _used(packages, _UNUSED)]
    yield from taken
    for library in _libraries(system, [file for _, file in taken]):
        yield f"{LIBRARIES}/{library.name}", library
    yield LOADER, system / "lib" / "aarch64-linux-gnu" / Path(LOADER).name


def _used(folder: Path, unused: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not any(fnmatch(name, pattern) for pattern in (*unused, MARKER)):
            yield name, file


def _libraries(system: Path, files: Sequence[Path]) -> Iterator[Path]:
    """The libraries of a root that files need, and those that these need."""
    there = {
        file.name: file for place in ("usr/lib", "lib") for file in (system / place / "aarch64-linux-gnu").glob("*")
    }
    waiting, seen = list(files), set[str]()
    while waiting:
        for name in needed(waiting.pop()):
            if name in there and name not in seen:
                seen.add(name)
                yield there[name]
                waiting.append(there[name])


_DYNAMIC_SEGMENT: Final = 2
_LOADED_SEGMENT: Final = 1
_NEEDED, _STRINGS = 1, 5


def needed(file: Path) -> list[str]:
    """Names of the libraries that an ELF file of 64 bits asks for; [] for any other file.

    Source: System V ABI, chapter 5, "Dynamic Section".
    """
    with file.open("rb") as opened:
        if opened.read(6) != b"\x7fELF\x02\x01":
            return []
    content = file.read_bytes()
    try:
        return list(_needed(content))
    except (struct.error, ValueError, OverflowError):  # it is cut short, or garbled
        return []


def _needed(content: bytes) -> Iterator[str]:
    (at,) = struct.unpack_from("<Q", content, 0x20)
    size, count = struct.unpack_from("<HH", content, 0x36)
    segments = [struct.unpack_from("<II6Q", content, at + index * size) for index in range(count)]
    entries = [
        struct.unpack_from("<qQ", content, offset)
        for kind, _, begin, _, _, length, _, _ in segments
        if kind == _DYNAMIC_SEGMENT
        for offset in range(begin, begin + length, 16)
    ]
    strings = next((value for tag, value in entries if tag == _STRINGS), 0)
    for kind, _, begin, address, _, length, _, _ in segments:
        if kind == _LOADED_SEGMENT and address <= strings < address + length:
            strings += begin - address
            break
    for tag, value in entries:
        if tag == _NEEDED:
            yield content[strings + value : content.index(b"\0", strings + value)].decode("ascii")
