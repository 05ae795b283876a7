"""A phone for tests: a real adbd, with mksh and toybox for its shell and tools as on Android, in namespaces of its own.

It needs neither root rights nor a device: a user namespace has its own mounts, network and binfmt_misc, so that the
machine's own stay as they are. Debian's packages of all that are fetched once below EDGEKD_CACHE. Files of Arm start
there by qemu-user. There is no Python, no glibc of Arm and no Android property service in it.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd import caches
from edgekd.caches import Site
from edgekd.emulation import machine_at, root
from edgekd.emulation.description import describe
from edgekd.errors import EdgekdError

SUITES = ("bookworm", "bookworm-backports")
PACKAGES = ("adbd", "mksh", "toybox")
PORT = 5555
LIBRARIES = "usr/lib/x86_64-linux-gnu"
ADBD = "/usr/lib/android-sdk/platform-tools/adbd"
MAGIC = "7f454c46020101000000000000000000 0200b700", "ffffffffffffff00ffffffffffffffff feffffff"
"""How a program of 64-bit Arm begins, and which bits of that count: the header of an ELF file."""
TOOLS = {
    "adb": "adb",
    "qemu-aarch64": "qemu-user",
    "unshare": "util-linux",
    "ip": "iproute2",
    "ldd": "libc-bin",
    "dpkg-deb": "dpkg",
}
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child")


# --- what a phone is made of


def obstacle() -> str:
    """Why there can be no phone on this machine, "" where there can."""
    if os.uname().machine != "x86_64" or sys.platform != "linux":
        return "the phone of these tests is one of x86-64 Linux"
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        return f"apt install {' '.join(dict.fromkeys(missing))}"
    tried = subprocess.run(
        [*UNSHARE, "sh", "-c", "mount -t binfmt_misc none /mnt && mount -t proc none /proc && ip link set lo up"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces for a phone (Linux 6.7 is needed): {tried.stderr.strip()}" if tried.returncode else ""


def make() -> Path:
    """The phone's files, fetched and unpacked unless that is done.

    Raises:
        EdgekdError: a mirror of Debian does not answer.
    """
    folder = caches.cache() / "tests" / "phone-1"
    caches.make(folder, "the phone of the tests", _build, caches.is_ready)
    return folder


def _build(site: Site) -> Mapping[str, Any]:
    downloads = site.folder / "download"
    for name in ("lists/partial", "archives/partial", "none"):
        (downloads / name).mkdir(parents=True)
    (downloads / "status").touch()
    lines = [f"deb [signed-by={root._KEYRING}] {root._mirror()} {suite} main\n" for suite in SUITES]
    (downloads / "sources.list").write_text("".join(lines))
    chosen = [part.replace("=arm64", "=amd64") for part in root._options("aarch64", downloads)]
    apt = ["apt-get", "-q", "-y", *chosen]
    site.call([*apt, "update"], root._apt_complaint)
    site.call([*apt, "install", "--download-only", "-t", SUITES[1], "--", *PACKAGES], root._apt_complaint)
    for package in sorted((downloads / "archives").glob("*.deb")):
        site.call(["dpkg-deb", "--extract", str(package), str(site.folder)], root._last_line)
    shutil.rmtree(downloads)
    _add_emulator(site.folder)
    describe(machine_at("cortex-a72"), site.folder / "described")
    return {"packages": PACKAGES}


def _add_emulator(folder: Path) -> None:
    """QEMU with its libraries; those that the phone has already are the same or newer."""
    emulator = str(shutil.which("qemu-aarch64"))
    (folder / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(emulator, folder / "usr" / "bin" / "qemu-aarch64")
    listed = subprocess.run(["ldd", emulator], capture_output=True, text=True, check=True).stdout
    for word in listed.split():
        there = [folder / place / Path(word).name for place in (LIBRARIES, "lib/x86_64-linux-gnu", "lib64")]
        if word.startswith("/") and not any(one.exists() for one in there):
            shutil.copy(word, there[0])


# --- inside of the namespaces


def live(files: Path, place: Path, size_bytes: str, wire: str) -> None:
    """Be the phone's first process: mount all that it has, start adbd, and pass its port on to a Unix socket."""
    _call("mount", "-t", "tmpfs", "none", place)
    for name in ("usr", "lib", "lib64", "bin", "etc", "proc", "sys", "dev", "tmp", "root", "data/local/tmp"):
        (place / name).mkdir(parents=True)
    for name in ("usr", "lib", "lib64"):
        _call("mount", "--rbind", files / name, place / name)
    _call("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0771", "none", place / "data" / "local" / "tmp")
    _add_tools(files, place)
    _describe(files, place)
    _let_arm_start(place)
    _call("ip", "link", "set", "lo", "up")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(wire)
    listener.listen(16)
    environment = {"PATH": "/bin", "HOME": "/root", "SHELL": "/bin/sh", "QEMU_CPU": "cortex-a72"}
    environment |= {"LD_LIBRARY_PATH": f"/{LIBRARIES}/android", "OMP_NUM_THREADS": "1"}
    subprocess.Popen([str(shutil.which("chroot")), str(place), ADBD], env=environment)
    threading.Thread(target=_pass_on, args=(listener,), daemon=True).start()
    threading.Thread(target=_end_with_tests, daemon=True).start()
    while True:
        with suppress(ChildProcessError):
            os.wait()  # for whom nobody else does
        time.sleep(0.05)


def _end_with_tests() -> None:
    """The first process takes all others with it."""
    sys.stdin.buffer.read()
    os._exit(0)


def _call(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def _add_tools(files: Path, place: Path) -> None:
    for name in ("mksh", "toybox"):
        shutil.copy(files / "bin" / name, place / "bin" / name)
    (place / "bin" / "sh").symlink_to("mksh")
    libraries = f"{files}/lib/x86_64-linux-gnu:{files}/{LIBRARIES}"
    listed = subprocess.run(
        [files / "bin" / "toybox"], env={"LD_LIBRARY_PATH": libraries}, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split():
        if not (place / "bin" / name).exists():
            (place / "bin" / name).symlink_to("toybox")
    (place / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


def _let_arm_start(place: Path) -> None:
    registry = place / "proc" / "sys" / "fs" / "binfmt_misc"
    _call("mount", "-t", "binfmt_misc", "none", registry)
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(one)) for one in MAGIC)
    (registry / "register").write_text(f":arm:M::{magic}:{mask}:/usr/bin/qemu-aarch64:", encoding="ascii")


def _describe(files: Path, place: Path) -> None:
    """Runtimes read in /proc and /sys what processor there is."""
    _call("mount", "-t", "proc", "none", place / "proc")
    for name in ("dev", "sys"):
        _call("mount", "--rbind", f"/{name}", place / name)
    for name in ("proc/cpuinfo", "sys/devices/system/cpu"):
        _call("mount", "--bind", files / "described" / name, place / name)


def _pass_on(listener: socket.socket) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.socket()
        with suppress(OSError):
            far.connect(("127.0.0.1", PORT))
        couple(near, far, threading.Event())


def couple(near: socket.socket, far: socket.socket, silent: threading.Event) -> None:
    """Pass bytes on between two sockets until one of them ends; none while it is silent."""
    for source, sink in ((near, far), (far, near)):
        threading.Thread(target=_pump, args=(source, sink, silent), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    with suppress(OSError):
        while chunk := source.recv(1 << 18):
            if not silent.is_set():
                sink.sendall(chunk)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


# --- outside of them


@dataclass
class Phone:
    """A running adbd, and the TCP port that leads to it."""

    process: "subprocess.Popen[bytes]"
    place: Path
    wire: Path
    listener: socket.socket
    ends: list[socket.socket] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    """Of the connections there are: nothing comes through."""

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def folder(self) -> Path:
        """/data/local/tmp of the phone, as this machine sees it."""
        return self.inside("/data/local/tmp")

    def inside(self, path: str) -> Path:
        (first,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return Path(f"/proc/{first}/root{self.place}{path}")

    def left(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir())

    def processes(self) -> list[str]:
        """Command lines of what runs on the phone, besides adbd."""
        found = []
        for one in self.inside("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = one.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found += [line] if line and "adbd" not in line and __file__ not in line else []
        return found

    def cut(self) -> int:
        """End the connections there are; how many."""
        ends, self.ends = self.ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2

    def hold(self) -> None:
        """Drop all that comes on the connections there are, as where a radio is off; new ones work."""
        self.silent.set()
        self.silent = threading.Event()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                with suppress(OSError):
                    far.connect(str(self.wire))
                self.ends += [near, far]
                couple(near, far, self.silent)


@contextmanager
def running(folder: Path, size_bytes: str = "2g") -> Iterator[Phone]:
    """A phone whose sockets and mount points are in `folder`."""
    files, place, wire = make(), folder / "phone", folder / "wire"
    place.mkdir()
    listener = socket.create_server(("127.0.0.1", 0))
    command = [*UNSHARE, sys.executable, __file__, str(files), str(place), size_bytes, str(wire)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (folder / "phone.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    phone = Phone(process, place, wire, listener)
    try:
        end = time.monotonic() + 20
        while not wire.exists():
            if time.monotonic() > end or process.poll() is not None:
                raise EdgekdError(f"the phone does not start: {(folder / 'phone.log').read_text()}")
            time.sleep(0.05)
        threading.Thread(target=phone.accept, daemon=True).start()
        yield phone
    finally:
        phone.cut()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        process.kill()
        process.communicate()


if __name__ == "__main__":
    live(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
