"""What tests of devices behind lines share: an engine whose models count their inferences, and its files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.devices import Connection

ENGINE = """
import os, signal, sys, time
import numpy as np

class Toy:
    suffixes = (".toy",)
    runtime = "json"

    def version(self):
        print("loaded", file=sys.stderr)
        return "1"

    def load(self, model, threads):
        with open(model, "rb") as opened:
            return Session(opened.read())

class Session:
    inputs = outputs = ()

    def __init__(self, content):
        self.content, self.count = content, 0

    def feed(self, arrays):
        self.arrays = arrays

    def invoke(self):
        self.count += 1
        if self.content == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.content == b"hang":
            time.sleep(600)
        if self.content == b"fill":
            open(os.path.join(os.environ["TMPDIR"], "big"), "wb").write(bytes(1 << 26))
        time.sleep(0.002)

    def fetch(self):
        return [np.float32([self.count]), self.arrays[0] * 2, np.frombuffer(self.content, np.uint8)]

PLUGIN = Toy()
"""

HOSTILE = ["a b.toy", "it's.toy", 'a"b.toy', "$(touch x).toy", "`touch x`.toy", "a\nb.toy", "-rf.toy", "; touch x.toy"]


def wait_for(true: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def model_file(folder: Path, content: bytes, name: str = "model.toy") -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def inputs_file(folder: Path) -> Path:
    file = folder / "inputs.npz"
    np.savez(file, **{"0": np.arange(12, dtype=np.float32).reshape(4, 3)})
    return file


def timed(connection: Connection, tmp_path: Path, seconds: float) -> dict[str, Any]:
    """What the toy engine answers to a timing of so many seconds; its model counts its inferences."""
    model, inputs = connection.put(model_file(tmp_path, b"toy")), connection.put(inputs_file(tmp_path))
    connection.ask({"do": "load", "model": model, "threads": 1}, 30)
    request = {"do": "time", "inputs": inputs, "warmup_count": 3, "warmup_s": 0, "min_count": 10}
    return connection.ask({**request, "min_s": seconds, "max_s": seconds + 1}, 60)
