"""Runs on a device beside the guest: keeps it, and its last answer, while the line to edgekd is cut.

usage: python keeper.py probe ENGINE.py       whether this Python can execute the engine, as JSON
       python keeper.py start PATIENCE_S      start guest.py with engine.py in the background
       python keeper.py attach                speak with it over standard input and output

Needs Python 3.8 and its standard library. All its files are in its own folder, which it deletes at its end: when it is
asked to, when it is ended, or when it hears nothing for PATIENCE_S seconds. It speaks JSON lines. It is told
{"number": N, "request": {...}}, where N counts up, and is the same again after a cut; {"alive": true}, to which it says
{"heard": true}; {"stop": true}, which ends the guest; and {"end": true}. It says {"number": N, "answer": {...}},
{"number": N, "ended": EXIT_CODE} where the guest is no more, {"bye": true} when the folder is deleted, or
{"gone": true} when there is nothing to speak with. EDGEKD_PYTHON is the command of Python, as JSON, where it is not the
one that sys.executable names.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import types
from typing import Any

LEFT_BEHIND_S = 600
"""Age from which a folder that no keeper holds is taken for a dead one's, and not for one that is being filled."""

here = os.path.dirname(os.path.abspath(__file__))


class Keeper:
    """Holds the guest; the client comes and goes."""

    def __init__(self, listener: socket.socket, patience_s: float) -> None:
        self.listener, self.patience_s = listener, patience_s
        self.client: socket.socket | None = None
        self.received, self.outgoing = bytearray(), bytearray()
        self.number, self.asked = 0, False
        self.reply = b""
        self.partial = bytearray()
        self.heard_s = time.monotonic()
        self.going = True
        os.mkdir("tmp")
        own = os.path.join(here, "tmp")
        environment = dict(os.environ, TMPDIR=own, XDG_CACHE_HOME=own)  # onnxruntime keeps a database in the latter
        with open("engine.log", "ab") as log:
            self.guest: subprocess.Popen[bytes] = subprocess.Popen(
                [*python(), "guest.py", "engine.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self.guest.stdin is not None and self.guest.stdout is not None
        self.stdin, self.stdout = self.guest.stdin.fileno(), self.guest.stdout.fileno()

    def serve(self) -> None:
        """Work until asked to end; it sleeps whenever nobody speaks, for the guest may be timing."""
        while self.going:
            left_s = self.heard_s + self.patience_s - time.monotonic()
            if left_s <= 0:
                return
            reading: list[Any] = [self.listener]
            reading += [self.stdout] if self.guest.returncode is None else []
            reading += [self.client] if self.client else []
            writing: list[Any] = [self.client] if self.client and self.outgoing else []
            readable, writable, _ = select.select(reading, writing, [], left_s)
            if self.stdout in readable:
                self.hear_guest()
            if self.client in writable:
                self.send()
            if self.client in readable:
                self.hear_client()
            if self.listener in readable:
                self.welcome()

    def welcome(self) -> None:
        """Take a new client; the line of the one before it is cut, even where it has not noticed."""
        client, _ = self.listener.accept()
        if not is_own(client):
            client.close()
            return
        self.leave()
        self.client = client
        self.client.setblocking(False)
        self.heard_s = time.monotonic()

    def leave(self) -> None:
        """Forget the client, and what only it was told."""
        if self.client:
            self.client.close()
        self.client, self.asked = None, False
        self.received.clear()
        self.outgoing.clear()

    def hear_client(self) -> None:
        """Read what came, and do as told."""
        assert self.client is not None
        try:
            chunk = self.client.recv(1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            self.leave()
            return
        self.heard_s = time.monotonic()
        self.received += chunk
        while b"\n" in self.received:
            line, _, rest = bytes(self.received).partition(b"\n")
            self.received[:] = rest
            self.obey(json.loads(line))

    def obey(self, told: dict[str, Any]) -> None:
        """Do one thing."""
        if "end" in told:
            self.going = False
        elif "alive" in told:
            self.say(b'{"heard": true}\n')
        elif "stop" in told:
            self.bury()
        elif "request" in told:
            self.asked = True
            if told["number"] == self.number + 1:
                self.number, self.reply = told["number"], b""
                self.forward(told["request"])
            if self.reply:
                self.say(self.reply)

    def forward(self, request: dict[str, Any]) -> None:
        """Give a request to the guest."""
        try:
            if self.guest.returncode is None:
                os.write(self.stdin, json.dumps(request).encode() + b"\n")
        except OSError:
            self.bury()
        if self.guest.returncode is not None:
            self.answered({"ended": self.guest.returncode})

    def hear_guest(self) -> None:
        """Read what came of an answer."""
        chunk = os.read(self.stdout, 1 << 20)
        self.partial += chunk
        if not chunk:
            self.bury()
        elif self.partial.endswith(b"\n"):
            answer = json.loads(bytes(self.partial))
            self.partial.clear()
            self.answered({"answer": answer})

    def answered(self, answer: dict[str, Any]) -> None:
        """Keep an answer, for the line may be cut before it is through, and say it."""
        self.reply = json.dumps(dict(answer, number=self.number)).encode() + b"\n"
        if self.client and self.asked:
            self.say(self.reply)

    def say(self, line: bytes) -> None:
        """Queue a line for the client."""
        self.outgoing += line

    def send(self) -> None:
        """Send as much as the line takes."""
        assert self.client is not None
        try:
            del self.outgoing[: self.client.send(self.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self.leave()

    def bury(self) -> None:
        """End the guest and all that it started; who waits for an answer is told."""
        if self.guest.returncode is not None:
            return
        try:
            os.killpg(self.guest.pid, signal.SIGKILL)  # before `wait`, which gives its number to others
        except OSError:
            pass
        self.guest.wait()
        if not self.reply:
            self.answered({"ended": self.guest.returncode})

    def close(self) -> None:
        """Leave nothing, then say so."""
        self.bury()
        remove(here)
        try:
            if self.client and not self.going:
                self.client.settimeout(5)
                self.client.sendall(b'{"bye": true}\n')
        except OSError:
            pass


def start(patience_s: float) -> None:
    """Start the keeper in the background, and come back when it listens."""
    sweep()
    lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    listener = listen()
    if os.fork():
        print('{"started": true}')
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        keeper = Keeper(listener, patience_s)
        try:
            keeper.serve()
        finally:
            keeper.close()
    finally:
        remove(here)


def attach() -> None:
    """Pass lines on between the keeper and whoever started this, until either of them ends."""
    line = reach()
    if line is None:
        print('{"gone": true}')
        return
    both: list[Any] = [0, line]
    try:
        while True:
            readable, _, _ = select.select(both, [], [])
            for source in readable:
                chunk = os.read(0, 1 << 16) if source == 0 else line.recv(1 << 16)
                if not chunk:
                    return
                if source == 0:
                    line.sendall(chunk)
                while source != 0 and chunk:
                    chunk = chunk[os.write(1, chunk) :]
    except OSError:
        return


def python() -> list[str]:
    """The command of this Python."""
    found: list[str] = json.loads(os.environ.get("EDGEKD_PYTHON", "[]"))
    return found or [sys.executable]


ABSTRACT = "\0" + here
"""Android lets a shell's user make no socket in a folder of its own."""


def listen() -> socket.socket:
    """Where clients come to."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("socket")  # a relative name, for a whole path may be too long
    except OSError:
        listener.bind(ABSTRACT)
    listener.listen(4)
    return listener


def reach() -> socket.socket | None:
    """A connection to where the keeper listens; None where it does not."""
    for name in ("socket", ABSTRACT):
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(name)
        except OSError:
            line.close()
        else:
            return line
    return None


def is_own(client: socket.socket) -> bool:
    """True for a client of this user; a name that lies in no folder is open to all."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.geteuid())


def sweep() -> None:
    """Delete what keepers left behind that were killed, or whose start was cut short."""
    above, own = os.path.split(here)
    kind = own[: own.rindex("-") + 1]
    for name in os.listdir(above):
        folder = os.path.join(above, name)
        if name.startswith(kind) and name != own and is_left_behind(folder):
            remove(folder)


def is_left_behind(folder: str) -> bool:
    """True for an old folder of this user that nobody holds."""
    try:
        found = os.lstat(folder)
        old = time.time() - found.st_mtime > LEFT_BEHIND_S
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or not old:
            return False
        with open(os.path.join(folder, "lock"), "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


def remove(folder: str) -> None:
    """Delete a folder; what dying processes still write there is waited for."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.1)


def probe(engine: str) -> int:
    """Print what this Python lacks, 0 where it is nothing."""
    found: dict[str, Any] = {"python": sys.executable, "version": "%d.%d" % sys.version_info[:2], "lacks": []}
    if sys.version_info < (3, 8):
        found["lacks"].append("Python 3.8")
    elif importlib.util.find_spec("numpy") is None:
        found["lacks"].append("numpy")
        sys.modules["numpy"] = types.ModuleType("numpy")  # an engine needs it to be read, but not to say its runtime
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    try:
        spec = importlib.util.spec_from_file_location("edgekd_engine", engine)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        runtime = module.PLUGIN.runtime.partition(".")[0]
        needs = getattr(module.PLUGIN, "needs", "")
        if hasattr(module.PLUGIN, "installed"):
            runtime, here_too = needs or runtime, module.PLUGIN.installed()
        else:
            here_too = importlib.util.find_spec(runtime) is not None
        if not here_too:
            found["lacks"].append(runtime)
            found["needs"] = needs
    except Exception as error:  # noqa: BLE001 - the edge of the process: the guest says the same, and is heard
        found["unread"] = "%s: %s" % (type(error).__name__, error)
    print(json.dumps(found))
    return 1 if found["lacks"] else 0


def main(verb: str, *arguments: str) -> int:
    """Do what the command line says."""
    os.chdir(here)
    if verb == "probe":
        return probe(arguments[0])
    if verb == "start":
        start(float(arguments[0]))
    else:
        attach()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
