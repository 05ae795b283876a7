"""A root file system for guests: packages of Debian, unpacked without root rights, without their scripts."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgekd import caches
from edgekd.caches import Site
from edgekd.files import digest, storage_errors
from edgekd.progress import tell

SUITE: Final = "bookworm"
"""Whose Python, 3.11, is that of the wheels."""
PYTHON: Final = "usr/bin/python3.11"
ARCHITECTURES: Final = {"aarch64": "arm64", "arm": "armhf"}
"""What Debian calls them."""
_PACKAGES: Final = {
    "aarch64": ("python3.11-minimal", "libpython3.11-stdlib", "libgomp1", "libstdc++6", "libatomic1", "zlib1g"),
    "arm": ("python3.11-minimal", "libpython3.11-stdlib", "libgomp1", "libstdc++6", "libatomic1", "python3-numpy"),
}
_MIRROR: Final = "http://deb.debian.org/debian/"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OFFLINE: Final = ("Could not resolve", "Temporary failure resolving", "Could not connect", "Connection failed")


def folder(architecture: str) -> Path:
    """Where the root of an architecture lies, whether it is made or not."""
    key = digest([SUITE, *_PACKAGES[architecture]])[:12]
    return caches.cache() / "emulation" / f"root-{architecture}-{key}"


def make(architecture: str) -> None:
    """Make the root of an architecture, unless it is ready: about 20 MB to fetch, 80 MB on the disk.

    Raises:
        PluginUnavailable: apt gave up; the message has its last word.
        StorageError: the disk is full.
    """

    def build(site: Site) -> Mapping[str, Any]:
        return _build(architecture, site)

    caches.make(folder(architecture), f"the root file system for {architecture}", build, caches.is_ready)


def _build(architecture: str, site: Site) -> Mapping[str, Any]:
    packages = unpack(site, architecture, _PACKAGES[architecture])
    with storage_errors(site.folder):
        _choose_libraries(site.folder)
    return {"suite": SUITE, "packages": packages}


def unpack(site: Site, architecture: str, packages: Sequence[str], only: Sequence[str] = ()) -> list[str]:
    """Fetch packages with all that they depend on, and unpack those whose names begin with one of `only`, or all.

    Raises:
        PluginUnavailable: apt gave up; the message has its last word.
        StorageError: the disk is full.
    """
    what = f"Debian {SUITE} for {architecture}"
    tell(what, 0, 3)
    downloads = site.folder / "download"
    with storage_errors(downloads):
        for name in ("lists/partial", "archives/partial", "none"):
            (downloads / name).mkdir(parents=True)
        (downloads / "status").touch()
        (downloads / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {SUITE} main\n")
    apt = ["apt-get", "-q", "-y", *_options(architecture, downloads)]
    site.call([*apt, "update"], _apt_complaint)
    tell(what, 1, 3)
    site.call([*apt, "install", "--download-only", "--", *packages], _apt_complaint)
    tell(what, 2, 3)
    found = [one for one in sorted((downloads / "archives").glob("*.deb")) if one.name.startswith(tuple(only) or "")]
    for package in found:
        site.call(["dpkg-deb", "--extract", str(package), str(site.folder)], _last_line)
    shutil.rmtree(downloads)
    tell(what, 3, 3)
    return [package.stem for package in found]


def _choose_libraries(folder: Path) -> None:
    """What a script of Debian's would do: libraries that come in variants lie in folders that no loader looks into."""
    for library in folder.glob("usr/lib/*/*/lib*.so.*"):
        if library.parent.name in {"blas", "lapack"}:
            (library.parents[1] / library.name).symlink_to(Path(library.parent.name) / library.name)


def _options(architecture: str, downloads: Path) -> list[str]:
    """An apt that knows nothing of what is installed on this machine, and writes nowhere else."""
    name = ARCHITECTURES[architecture]
    chosen = {
        "APT::Architecture": name,
        "APT::Architectures": name,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # another user could not write to the cache folder
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::State": downloads,
        "Dir::State::lists": downloads / "lists",
        "Dir::State::status": downloads / "status",
        "Dir::Cache": downloads,
        "Dir::Cache::archives": downloads / "archives",
        "Dir::Etc::sourcelist": downloads / "sources.list",
        "Dir::Etc::sourceparts": downloads / "none",
        "Dir::Etc::preferences": downloads / "none/preferences",
        "Dir::Etc::preferencesparts": downloads / "none",
    }
    return [part for key, value in chosen.items() for part in ("-o", f"{key}={value}")]


def _mirror() -> str:
    """The mirror of Debian that this machine's apt uses, or the public one."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return next((address for address in listed if address.rstrip("/").endswith("/debian")), _MIRROR)


def _apt_complaint(text: str) -> tuple[str, str]:
    why, hint = _last_line(text)
    if any(sign in text for sign in _OFFLINE):
        return why, "no mirror of Debian answered: go online, for this once"
    if not _KEYRING.exists():
        return why, "apt install debian-archive-keyring"
    return why, hint


def _last_line(text: str) -> tuple[str, str]:
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    last = next((line for line in reversed(lines) if line.startswith("E:")), lines[-1])
    return last.removeprefix("E: "), ""
