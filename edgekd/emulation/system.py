"""A whole emulated machine with so much RAM: QEMU's board `virt`, Debian's kernel, and a guest in it.

What the machine has is what its kernel has: a device with "512 MB" of RAM is one with 512 MiB, of which Linux, Python
and the runtime take their shares before the first byte of a model.
"""

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from edgekd.emulation import disks, wheels
from edgekd.emulation.cores import Machine, check_known
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import members, storage_errors

_EMULATOR: Final = "qemu-system-aarch64"
_TOOLS: Final = {_EMULATOR: "qemu-system-arm", "mke2fs": "e2fsprogs"}
"""Debian's package of each."""
SILENCE_S: Final = 300.0
"""After which a machine that says nothing is ended; one that is short of memory reads programs anew all the time."""
_ENVIRONMENT: Final = (
    "PATH=/usr/bin:/bin\nHOME=/tmp\nLANG=C.UTF-8\nPYTHONPATH=/wheels\nPYTHONDONTWRITEBYTECODE=1\n"
    "OMP_NUM_THREADS={threads}\nOPENBLAS_NUM_THREADS={threads}\n"
)
_MODEL: Final = "model"


class Said(NamedTuple):
    """What a machine said before it ended."""

    total_bytes: int | None
    """MemTotal; None where Linux did not start."""
    available_bytes: int | None
    """MemAvailable, before Python was started."""
    answers: tuple[dict[str, Any], ...]
    """Of the guest, to the requests in their order; fewer where it ended before."""
    exit_code: int | None
    """Of the guest; 128 more than a signal that ended it."""
    silent: bool
    """It said nothing for long, and was ended."""
    killed: str
    """The kernel's words where it killed for lack of memory, else ""."""
    last: str
    """The last line of its console."""


def check(machine: Machine) -> None:
    """Raise ConfigError for a core that no such machine has, PluginUnavailable where a tool is missing."""
    if machine.core.architecture != "aarch64":
        raise ConfigError(
            f"no machine with a RAM budget has the 32-bit core {machine.core.name}",
            hint="name a 64-bit one: cortex-a53",
        )
    missing = [tool for tool in _TOOLS if not (disks.mke2fs() if tool == "mke2fs" else shutil.which(tool))]
    if missing:
        names = " ".join(_TOOLS[tool] for tool in missing)
        raise PluginUnavailable(f"a machine with a RAM budget needs {', '.join(missing)}", hint=f"apt install {names}")
    check_known(Path(_EMULATOR), machine.core)


def prepare(engines: Mapping[str, Path]) -> None:
    """Make kernel and disks for engines that are prepared for the core already, unless they are there.

    Raises:
        PluginUnavailable: a download failed.
        StorageError: the disk is full.
    """
    disks.make_system()
    for engine in engines.values():
        disks.make_wheels(_wheels(engine))


def run(
    machine: Machine,
    ram_bytes: int,
    files: Mapping[str, Path],
    requests: Sequence[dict[str, Any]],
    threads: int,
    scratch: Path,
) -> Said:
    """Start a machine, let its guest answer requests, and end it.

    `files` are "guest.py", "engine.py" and whatever else the requests name, below /job there; a model of several files
    lies there by the name it is given. What the machine prints is appended to engine.log in `scratch`.

    Raises:
        PluginUnavailable: QEMU does not start.
        StorageError: the disk is full.
    """
    console = scratch / "console.log"
    with tempfile.TemporaryDirectory(prefix="job-", dir=scratch) as folder:
        disk = _job_disk(Path(folder), files, requests, threads)
        command = _command(
            machine, ram_bytes, threads, [disks.system_disk(), disks.wheels_disk(_wheels(files["engine.py"])), disk]
        )
        with _started([*command, "-serial", f"file:{console}"]) as process:
            lines, silent = _listen(process)
            process.kill()
            complaint = cast(IO[bytes], process.stderr).read().decode(errors="replace").strip()
    if complaint and not lines:
        raise PluginUnavailable(f"QEMU does not start such a machine: {complaint.splitlines()[-1]}")
    return understood(lines, silent, _drained(console, scratch / "engine.log"))


def there(name: str, file: Path) -> str:
    """Path in the machine of a file that is called `name` in `run`."""
    return f"/job/{name}{file.suffix}"


def _wheels(engine: Path) -> Path:
    return wheels.folder("aarch64", wheels.packages_of(engine, "aarch64"))


def _job_disk(folder: Path, files: Mapping[str, Path], requests: Sequence[dict[str, Any]], threads: int) -> Path:
    staged = folder / "job"
    with storage_errors(folder):
        staged.mkdir()
        (staged / "requests").write_text("".join(f"{json.dumps(one)}\n" for one in requests), encoding="utf-8")
        (staged / "environment").write_text(_ENVIRONMENT.format(threads=threads), encoding="ascii")
        for name, file in files.items():
            for part in members(file):
                inner = part.relative_to(file) if file.is_dir() else Path()
                target = (
                    staged
                    / (f"{Path(name).stem}{part.suffix}" if not file.is_dir() else f"{name}{file.suffix}")
                    / inner
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(part, target)
    disk = folder / "job.img"
    done = subprocess.run(disks.command(staged, disk), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PluginUnavailable(f"mke2fs could not make a disk of the model: {last}", hint=f"is {folder} full?")
    return disk


def _command(machine: Machine, ram_bytes: int, threads: int, images: Sequence[Path]) -> list[str]:
    """As many cores as the model has threads: others would be idle, and cost time here."""
    drives: list[str] = []
    for index, image in enumerate(images):
        escaped = str(image).replace(",", ",,")
        drives += ["-drive", f"file={escaped},if=none,format=raw,readonly=on,id=disk{index}"]
        drives += ["-device", f"nvme,drive=disk{index},serial=disk{index}"]
    return [
        *_dying_with_us(),
        *(_EMULATOR, "-M", "virt", "-cpu", machine.core.name, "-smp", str(threads), "-m", f"{ram_bytes >> 20}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-kernel", str(disks.kernel())),
        *("-append", "console=ttyAMA0 root=/dev/nvme0n1 rootfstype=ext4 ro init=/init panic=-1 quiet"),
        *("-chardev", "stdio,id=said,signal=off", "-device", "pci-serial,chardev=said"),
        *drives,
    ]


def _dying_with_us() -> tuple[str, ...]:
    """What starts a command that the kernel ends when this process is gone, where there is such a thing."""
    return ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


@contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _listen(process: subprocess.Popen[bytes]) -> tuple[list[str], bool]:
    """Lines that a machine says until it ends, or until it is silent for so long that it is given up: then True."""
    stdout = cast(IO[bytes], process.stdout).fileno()
    heard, deadline = b"", time.monotonic() + SILENCE_S
    while True:
        ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(stdout, 1 << 16) if ready else b""
        if not chunk:
            return heard.decode("utf-8", "replace").replace("\r", "").splitlines(), not ready
        if b"\n" in chunk:
            deadline = time.monotonic() + SILENCE_S
        heard = (heard + chunk)[-(1 << 24) :]


def _drained(console: Path, log: Path) -> list[str]:
    """The console's lines, which are moved to the end of a log."""
    if not console.exists():
        return []
    printed = console.read_bytes()
    with storage_errors(log), log.open("ab") as opened:
        opened.write(printed)
    console.unlink()
    return [line for line in printed.decode("utf-8", "replace").replace("\r", "").splitlines() if line.strip()]


def understood(lines: Sequence[str], silent: bool, console: Sequence[str]) -> Said:
    """What lines of a machine and of its console mean, also where it ended in the middle of one."""
    facts: dict[str, int] = {}
    answers: list[dict[str, Any]] = []
    for line in lines:
        words = line.split()
        if line.startswith("edgekd ") and len(words) == 3 and words[2].isdigit():
            facts[words[1].rstrip(":")] = int(words[2])
        elif line.startswith("{"):
            try:
                answers.append(json.loads(line))
            except ValueError:
                break  # it was ended in the middle of a word
    sizes = {name: facts[name] * 1024 for name in ("MemTotal", "MemAvailable") if name in facts}
    return Said(
        total_bytes=sizes.get("MemTotal"),
        available_bytes=sizes.get("MemAvailable"),
        answers=tuple(answers),
        exit_code=facts.get("exit"),
        silent=silent,
        killed=next((line.partition("] ")[2] or line for line in console if "Out of memory" in line), ""),
        last=next(
            (line.partition("] ")[2] or line for line in console if "Kernel panic" in line),
            console[-1] if console else "",
        ),
    )
