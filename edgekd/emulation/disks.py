"""Kernel and disks of emulated machines, made of what guests have, without root rights.

Nothing but the kernel's image lies in the machine's RAM at the start: it mounts its disks itself, for what an initramfs
has in it would count.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgekd import caches
from edgekd.caches import Site
from edgekd.emulation import root
from edgekd.files import digest, storage_errors
from edgekd.progress import tell

_ARCHITECTURE: Final = "aarch64"
_KERNEL: Final = "linux-image-cloud-arm64"
"""Debian's, which has NVMe, ext4 and serial ports built in, and so needs no modules to start."""
_SHELL: Final = "busybox-static"
_BLOCK_BYTES: Final = 4096
_INODE_BYTES: Final = 256
_SPARE_BYTES: Final = 4 << 20
_SPARE_FILES: Final = 64
_MOUNT_POINTS: Final = ("proc", "sys", "dev", "tmp", "wheels", "job")

INIT: Final = """#!/busybox sh
# The first process of the machine: mounts, says what memory there is, starts the guest, says how it ended.
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
/busybox mount -t tmpfs tmp /tmp
/busybox mount -t ext4 -o ro /dev/nvme1n1 /wheels
/busybox mount -t ext4 -o ro /dev/nvme2n1 /job
while read -r name kilobytes unit; do
  case "$name" in MemTotal: | MemAvailable:) echo "edgekd $name $kilobytes" >/dev/ttyS0 ;; esac
done </proc/meminfo
set -a
. /job/environment
set +a
/usr/bin/python3.11 -s /job/guest.py /job/engine.py </job/requests >/dev/ttyS0
echo "edgekd exit $?" >/dev/ttyS0
/busybox poweroff -f
"""


def system_folder() -> Path:
    """Where the kernel and the disk of the system lie, whether they are made or not."""
    key = digest([root.folder(_ARCHITECTURE).name, _KERNEL, _SHELL, INIT])[:12]
    return caches.cache() / "emulation" / f"system-{_ARCHITECTURE}-{key}"


def kernel() -> Path:
    """The kernel's image."""
    return system_folder() / "vmlinuz"


def system_disk() -> Path:
    """The disk that the kernel starts from."""
    return system_folder() / "system.img"


def wheels_folder(wheels: Path) -> Path:
    """Where the disk of an engine's packages lies, whether it is made or not."""
    return wheels.with_name(f"disk-{wheels.name}")


def wheels_disk(wheels: Path) -> Path:
    """The disk of an engine's packages."""
    return wheels_folder(wheels) / "wheels.img"


def make_system() -> None:
    """Make kernel and disk of the system, unless they are ready: 35 MB to fetch, 90 MB on the disk.

    Raises:
        PluginUnavailable: apt or mke2fs gave up; the message has its last word.
        StorageError: the disk is full.
    """
    caches.make(system_folder(), "the system for a machine with a RAM budget", _build_system, caches.is_ready)


def make_wheels(wheels: Path) -> None:
    """Make the disk of an engine's packages, unless it is ready.

    Raises:
        PluginUnavailable: mke2fs gave up.
        StorageError: the disk is full.
    """

    def build(site: Site) -> Mapping[str, Any]:
        tell(f"a disk of {wheels.name}", 0, 1)
        with storage_errors(site.folder):
            site.folder.mkdir()
        _make_disk(site, wheels, site.folder / "wheels.img")
        tell(f"a disk of {wheels.name}", 1, 1)
        return {"wheels": wheels.name}

    caches.make(wheels_folder(wheels), f"the disk of {wheels.name}", build, caches.is_ready)


def command(source: Path, disk: Path) -> list[str]:
    """The command that makes a disk of a folder; `mke2fs -d` needs no root rights."""
    files = [source, *source.rglob("*")]
    blocks = sum(-(-one.lstat().st_size // _BLOCK_BYTES) + 1 for one in files)
    size_bytes = int(blocks * _BLOCK_BYTES * 1.03) + len(files) * _INODE_BYTES + _SPARE_BYTES
    return [
        *(mke2fs() or "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal,^resize_inode", "-m", "0"),
        *("-b", str(_BLOCK_BYTES), "-I", str(_INODE_BYTES), "-N", str(len(files) + _SPARE_FILES)),
        *("-d", str(source), str(disk), f"{size_bytes // 1024}k"),
    ]


def mke2fs() -> str | None:
    """The tool; Debian leaves its folder out of a user's path."""
    return shutil.which("mke2fs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _build_system(site: Site) -> Mapping[str, Any]:
    packages = root.unpack(site, _ARCHITECTURE, (_KERNEL, _SHELL), ("linux-image-", "busybox-static_"))
    image = next(site.folder.glob("boot/vmlinuz-*"))
    staged = site.folder / "staged"
    with storage_errors(site.folder):
        image.replace(site.folder / "vmlinuz")
        shutil.copytree(root.folder(_ARCHITECTURE), staged, symlinks=True)
        (site.folder / "bin/busybox").replace(staged / "busybox")
        (staged / "init").write_text(INIT, encoding="ascii")
        (staged / "init").chmod(0o755)
        for name in _MOUNT_POINTS:
            (staged / name).mkdir(exist_ok=True)
    _make_disk(site, staged, site.folder / "system.img")
    for entry in site.folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
    return {"packages": packages}


def _make_disk(site: Site, source: Path, disk: Path) -> None:
    site.call(command(source, disk), _last_line)


def _last_line(text: str) -> tuple[str, str]:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given"), ""
