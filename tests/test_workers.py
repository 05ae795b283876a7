"""A worker process: what is asked there comes back, and nothing that happens there hurts the asker."""

import importlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import ConfigError, Disagreement, WorkerDied
from edgekd.progress import listening
from edgekd.specs import Budget
from edgekd.workers import call, cores, sharing, together

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
own: Any = importlib.import_module("worker_functions")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def test_nouns_go_and_come_back(log: Path) -> None:
    added = call(own.add, Budget(latency_ms=33), (1.0, 2.5), {"by": 1}, threads=1, log=log)
    assert added == own.Added(budget=Budget(latency_ms=33.0), numbers=(2.0, 3.5))


def test_it_is_another_process_with_as_many_threads_as_said(log: Path) -> None:
    assert call(own.process, threads=1, log=log) != os.getpid()
    found = call(own.environment, threads=2, log=log)
    counts = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert found == {**counts, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0"}


def test_what_a_worker_allocates_lies_in_huge_pages(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if platform.libc_ver()[0] != "glibc" or not switch.exists() or "[madvise]" not in switch.read_text():
        pytest.skip("no glibc, or a kernel whose huge pages are not for those who ask for them")
    assert call(own.huge_pages, threads=1, log=log) > 32 << 10
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert call(own.huge_pages, threads=1, log=log) < 16 << 10


def test_a_large_answer_comes_back_whole(log: Path) -> None:
    assert call(own.large, 300_000, threads=1, log=log) == "é" * 300_000


def test_nothing_comes_back_as_nothing(log: Path) -> None:
    assert call(own.no_result, threads=1, log=log) is None


def test_an_error_of_ours_comes_back_as_it_was_raised(log: Path) -> None:
    with pytest.raises(Disagreement, match="^four is not three$") as error:
        call(own.disagree, threads=1, log=log)
    assert type(error.value) is Disagreement and error.value.hint == "count again"


def test_an_argument_of_the_wrong_type_is_said(log: Path) -> None:
    with pytest.raises(ConfigError, match="worker_functions:add: expected 'object', got 'int'"):
        call(own.add, 1, (1.0,), {}, threads=1, log=log)


DEATHS: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "an error": (own.fail, (), "^ValueError: first line$"),
    "an error without words": (own.fail_without_words, (), "^KeyError: $"),
    "killed": (own.be_killed, (), "^its process was ended by signal 9$"),
    "left": (own.leave, (3,), "^its process ended with exit code 3$"),
    "left as if well": (own.leave, (0,), "^its process ended with exit code 0$"),
}


@pytest.mark.parametrize("case", DEATHS)
def test_a_worker_that_dies_is_said(case: str, log: Path) -> None:
    function, arguments, message = DEATHS[case]
    with pytest.raises(WorkerDied, match=message) as error:
        call(function, *arguments, threads=1, log=log)
    assert error.value.hint == f"what it printed is in {log}"


def test_the_log_has_where_an_error_was_raised(log: Path) -> None:
    with pytest.raises(WorkerDied):
        call(own.fail, threads=1, log=log)
    text = log.read_text(encoding="utf-8")
    assert "worker_functions.py" in text and "second line" in text


def test_a_worker_that_hangs_is_ended(log: Path) -> None:
    with pytest.raises(WorkerDied, match="^it hung, and was ended$"):
        call(own.hang, threads=1, log=log, timeout_s=0.7)


def test_a_result_of_another_type_than_declared_is_said(log: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("worker_functions:wrong_result: expected 'int', got 'str'")):
        call(own.wrong_result, threads=1, log=log)


def test_what_is_printed_goes_to_the_log_and_is_no_answer(log: Path) -> None:
    assert call(own.noise, threads=1, log=log) == "true"
    text = log.read_text(encoding="utf-8")
    for line in ("printed", '{"result": "forged"}', "written", "complained", "shouted"):
        assert f"{line}\n" in text


def test_the_log_is_added_to(log: Path) -> None:
    log.write_text("before\n", encoding="utf-8")
    call(own.noise, threads=1, log=log)
    assert log.read_text(encoding="utf-8").startswith("before\n")


def test_progress_is_passed_on(log: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    with listening(lambda *parts: heard.append(parts)):
        assert call(own.get_on, threads=1, log=log) == "done"
    assert heard == [("counting", done, 3) for done in range(3)]


def test_several_are_called_in_order_and_the_first_error_is_raised(log: Path) -> None:
    calls = [partial(call, function, threads=1, log=log) for function in (own.get_on, own.disagree, own.fail)]
    assert together(calls[:1] * 3, at_once=2) == ["done"] * 3
    with pytest.raises(Disagreement):
        together(calls, at_once=2)
    assert together([], at_once=2) == []


def test_calls_that_share_a_process_are_told_apart(log: Path) -> None:
    other = log.with_name("other.log")
    with sharing():
        first = call(own.process, threads=1, log=log)
        with pytest.raises(Disagreement):
            call(own.disagree, threads=1, log=log)
        assert call(own.noise, threads=1, log=other) == "true"
        assert call(own.process, threads=1, log=log) == first != call(own.process, threads=2, log=log)
        assert _runs(first)
    assert not _runs(first) and call(own.process, threads=1, log=log) != first
    assert "printed\n" in other.read_text(encoding="utf-8") and not log.read_bytes()


@pytest.mark.parametrize("case", DEATHS)
def test_a_shared_process_that_died_is_replaced(case: str, log: Path) -> None:
    function, arguments, message = DEATHS[case]
    with sharing():
        first = call(own.process, threads=1, log=log)
        with pytest.raises(WorkerDied, match=message):
            call(function, *arguments, threads=1, log=log)
        assert not _runs(first) and call(own.process, threads=1, log=log) != first


def test_a_shared_process_that_hangs_is_replaced(log: Path) -> None:
    with sharing():
        first = call(own.process, threads=1, log=log)
        with pytest.raises(WorkerDied, match="^it hung, and was ended$"):
            call(own.hang, threads=1, log=log, timeout_s=0.7)
        assert not _runs(first) and call(own.process, threads=1, log=log) != first


def test_there_is_a_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_parent(number: int, tmp_path: Path) -> None:
    where = tmp_path / "pid"
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    script += f"import worker_functions as own; own.stay_alone({str(where)!r})"
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        assert _becomes(lambda: where.exists() and where.read_text(encoding="utf-8"))
        worker = int(where.read_text(encoding="utf-8"))
        assert _runs(worker)
        parent.send_signal(number)
    assert _becomes(lambda: not _runs(worker))


def _becomes(condition: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
