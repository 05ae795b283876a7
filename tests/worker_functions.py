"""Functions that tests execute in worker processes; they import no torch, so a worker starts in a blink."""

import os
import re
import sys
import time
from pathlib import Path

from edgekd import progress
from edgekd.errors import Disagreement
from edgekd.specs import Budget, Spec


class Added(Spec, frozen=True, kw_only=True):
    """A result that is a noun."""

    budget: Budget
    numbers: tuple[float, ...]


def add(budget: Budget, numbers: tuple[float, ...], more: dict[str, int]) -> Added:
    assert isinstance(budget, Budget) and isinstance(numbers, tuple)
    return Added(budget=budget, numbers=tuple(number + more["by"] for number in numbers))


NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "PYTHONHASHSEED")


def environment() -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in NAMES}


def process() -> int:
    return os.getpid()


def large(size: int) -> str:
    return "é" * size


def disagree() -> int:
    raise Disagreement("four is not three", hint="count again")


def fail() -> int:
    raise ValueError("\nfirst line\nsecond line")


def fail_without_words() -> int:
    raise KeyError


def be_killed() -> int:
    os.kill(os.getpid(), 9)
    return 1


def leave(code: int) -> int:
    sys.exit(code)


def hang() -> int:
    time.sleep(600)
    return 1


def noise() -> str:
    print("printed")
    print('{"result": "forged"}', flush=True)
    os.write(1, b"written\n")
    os.write(2, b"complained\n")
    os.system("echo shouted")
    return "true"


def get_on() -> str:
    for done in range(3):
        progress.tell("counting", done, 3)
    return "done"


def stay(where: str) -> int:
    Path(where).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)
    return 1


def no_result() -> None:
    return None


def wrong_result() -> int:
    return "three"  # type: ignore[return-value]  # the mistake that is looked for


def stay_alone(where: str) -> None:
    """A parent that waits for its worker, for a test that kills it."""
    from edgekd.workers import call

    call(stay, where, threads=1, log=Path(where).with_suffix(".log"))


def huge_pages() -> int:
    """Kilobytes of this process that lie in huge pages, when it has touched 64 MB."""
    touched = bytearray(1 << 20), *(bytearray(b"1" * (1 << 20)) for _ in range(63))
    assert sum(map(len, touched)) == 64 << 20
    return int(re.findall(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())[0])
