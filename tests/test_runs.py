"""A run folder: every step is done once for the same inputs, survives a kill, and notices what was changed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import ConfigError, CorruptStep, RunLocked
from edgekd.files import digest, dumps, replacing
from edgekd.runs import Run, Work, files_of, step_key
from edgekd.specs import Choice, File, Spec

VERSION = 1
calls: list[Any] = []


class Made(Spec, frozen=True, kw_only=True):
    """What the steps of these tests return."""

    number: float
    text: File
    more: tuple[File, ...] = ()


class Doubled(Spec, frozen=True, kw_only=True):
    """Of a step that takes another one's result."""

    number: float


def make(work: Work, number: float, scale: float = 1.0) -> Made:
    calls.append(number)
    path = work.out / "text.txt"
    with replacing(path) as part:
        part.write_text(f"number {number}", encoding="utf-8")
    (work.out / "below").mkdir(exist_ok=True)
    (work.out / "below/more.txt").write_text("more", encoding="utf-8")
    return Made(number=number * scale, text=work.keep(path), more=(work.keep(work.out / "below/more.txt"),))


def half_of(work: Work, made: Made) -> Doubled:
    calls.append("half")
    assert work.path(made.text).read_text(encoding="utf-8").startswith("number")
    return Doubled(number=made.number // 2)


def interrupted(work: Work, number: float) -> Made:
    calls.append(number)
    if not (work.out / "checkpoint").exists():
        (work.out / "checkpoint").write_text("far", encoding="utf-8")
        raise KeyboardInterrupt
    return make(work, number)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


# --- done once


def test_a_step_is_done_once(run: Run) -> None:
    first = run.step("a/step", make, 3)
    assert run.step("a/step", make, 3) == first
    assert calls == [3]
    assert first.number == 3.0 and first.text.path == "a/step/text.txt"
    assert (run.folder / first.text.path).read_text(encoding="utf-8") == "number 3"
    assert [path.name for path in (run.folder / "a").iterdir()] == ["step"]


def test_the_first_result_and_the_later_ones_are_one_value(run: Run) -> None:
    first = run.step("step", make, 256)
    assert type(first.number) is float
    assert digest(first) == digest(run.step("step", make, 256))


def test_new_inputs_redo_the_step_and_keep_the_old(run: Run) -> None:
    for number in (1, 2, 3):
        assert run.step("step", make, number).number == number
    assert calls == [1, 2, 3]
    kept = {path.name: (path / "text.txt").read_text(encoding="utf-8") for path in run.folder.glob("step*")}
    assert kept == {"step": "number 3", "step.old-1": "number 1", "step.old-2": "number 2"}


def test_an_option_is_an_input(run: Run) -> None:
    assert run.step("step", make, 1, scale=2.0).number == 2.0
    assert run.step("step", make, 1, scale=3.0).number == 3.0
    assert run.step("step", make, 1, scale=3.0).number == 3.0
    assert calls == [1, 1]


def test_an_equal_result_stops_the_redo(run: Run) -> None:
    def all_of_it(scale: float) -> Doubled:
        return run.step("half", half_of, run.step("step", make, 4, scale=scale))

    assert all_of_it(1.0).number == 2.0
    run.step("step", make, 5)
    assert all_of_it(1.0).number == 2.0
    assert calls == [4, "half", 5, 4]


def test_a_higher_version_redoes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.step("step", make, 1)
    monkeypatch.setattr(sys.modules[__name__], "VERSION", 2)
    run.step("step", make, 1)
    assert calls == [1, 1]


def test_a_key_tells_functions_inputs_and_options_apart() -> None:
    keys = [
        step_key(make, (1,), {}),
        step_key(make, (1.5,), {}),
        step_key(make, (), {"scale": 1}),
        step_key(make, (1, 1), {}),
        step_key(interrupted, (1,), {}),
    ]
    assert len(set(keys)) == len(keys)


def test_a_step_that_is_not_done_has_no_result(run: Run) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{run.folder / 'step'} is not done yet")):
        run.result("step", Made)


def test_files_are_found_anywhere_in_a_result() -> None:
    one, two = (File(path=name, size_bytes=0, sha256="0" * 64) for name in "ab")
    assert list(files_of(Made(number=1, text=one, more=(two,)))) == [one, two]
    assert list(files_of([Choice(name="x"), (one, [two])])) == [one, two]


# --- killed


def test_a_step_that_is_stopped_goes_on_from_what_it_left(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.step("step", interrupted, 1)
    assert not (run.folder / "step").exists()
    (left,) = run.folder.glob("step.partial-*")
    assert left.name == f"step.partial-{step_key(interrupted, (1,), {})[:12]}"
    made = run.step("step", interrupted, 1)
    assert (run.folder / "step/checkpoint").read_text(encoding="utf-8") == "far"
    assert made.number == 1 and not left.exists()


def test_a_try_with_other_inputs_starts_in_a_folder_of_its_own(run: Run) -> None:
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run.step("step", interrupted, number)
    assert len(list(run.folder.glob("step.partial-*"))) == 2


def test_killed_between_the_last_byte_and_the_renaming_nothing_is_redone(run: Run) -> None:
    made = run.step("step", make, 1)
    (run.folder / "step").rename(run.folder / f"step.partial-{step_key(make, (1,), {})[:12]}")
    assert run.step("step", make, 1) == made
    assert calls == [1]
    assert not list(run.folder.glob("*.partial-*"))


def test_killed_between_putting_the_old_away_and_the_renaming_nothing_is_redone(run: Run) -> None:
    run.step("step", make, 1)
    made = run.step("step", make, 2)
    (run.folder / "step").rename(run.folder / f"step.partial-{step_key(make, (2,), {})[:12]}")
    assert run.step("step", make, 2) == made
    assert calls == [1, 2] and (run.folder / "step.old-1").exists()


SCRIPT = """
import os, sys
from pathlib import Path
from edgekd.runs import Run, Work
from edgekd.specs import Data, File

def step(work: Work, number: int) -> File:
    path = work.out / "out.txt"
    tries = len(path.read_text()) if path.exists() else 0
    path.write_text("x" * (tries + 1))
    if tries < 2:
        os.kill(os.getpid(), 9)
    return work.keep(path)

print(Run(Path(sys.argv[1])).step("step", step, 1).size_bytes)
"""


def test_a_process_that_is_killed_twice_is_done_at_the_third_try(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    codes = [subprocess.run(command, check=False, capture_output=True, text=True) for _ in range(3)]
    assert [one.returncode for one in codes] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert codes[-1].stdout == "3\n"


# --- changed


def _flip_a_byte(run: Run) -> None:
    path = run.folder / "step/text.txt"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def _edit(run: Run, change: Callable[[dict[str, Any]], None], *, seal: bool = False) -> None:
    path = run.folder / "step/result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    if seal:
        record["seal"] = digest([record["key"], record["result"]])
    path.write_text(json.dumps(record), encoding="utf-8")


def _link_to_itself(run: Run) -> None:
    (run.folder / "step/text.txt").unlink()
    (run.folder / "step/text.txt").symlink_to("text.txt")


def _link_outwards(run: Run) -> None:
    path = run.folder / "step/text.txt"
    path.rename(run.folder.parent / "elsewhere.txt")
    path.symlink_to(run.folder.parent / "elsewhere.txt")


def _truncate(run: Run) -> None:
    path = run.folder / "step/result.json"
    path.write_bytes(path.read_bytes()[:-20])


def _point_at(path: str) -> Callable[[Run], None]:
    return lambda run: _edit(run, lambda record: record["result"]["text"].update(path=path), seal=True)


CHANGES: dict[str, tuple[Callable[[Run], Any], str]] = {
    "a byte of a file": (_flip_a_byte, "text.txt was changed since it was made"),
    "a byte more": (lambda run: (run.folder / "step/text.txt").write_text("number 12"), "text.txt was changed"),
    "a lost file": (lambda run: (run.folder / "step/text.txt").unlink(), "text.txt is lost"),
    "a lost file below": (lambda run: (run.folder / "step/below/more.txt").unlink(), "more.txt is lost"),
    "a link to itself": (_link_to_itself, "text.txt"),
    "a link out of the folder": (_link_outwards, "step/text.txt points out of the run folder"),
    "a value": (lambda run: _edit(run, lambda record: record["result"].update(number=9)), "result.json was changed"),
    "the key": (lambda run: _edit(run, lambda record: record.update(key="0" * 64)), "result.json was changed"),
    "no seal": (lambda run: _edit(run, lambda record: record.pop("seal")), "result.json cannot be read"),
    "a cut": (_truncate, "result.json cannot be read"),
    "nothing in it": (lambda run: (run.folder / "step/result.json").write_text(""), "result.json cannot be read"),
    "a list": (lambda run: (run.folder / "step/result.json").write_text("[1]"), "result.json cannot be read"),
    "no text": (lambda run: (run.folder / "step/result.json").write_bytes(b"\xff\xfe"), "result.json cannot be read"),
    "a sealed path upwards": (_point_at("../secret"), "../secret points out of the run folder"),
    "a sealed absolute path": (_point_at("/etc/passwd"), "/etc/passwd points out of the run folder"),
    "a sealed detour": (_point_at("step/../../secret"), "points out of the run folder"),
    "a sealed path that no file can have": (_point_at("a\0b"), "b"),
    "a sealed path that is too long": (_point_at("a" * 4000), "aaaa"),
    "a sealed folder": (_point_at("step"), "step was changed"),
    "a sealed unknown key": (
        lambda run: _edit(run, lambda record: record["result"].update(numbr=1), seal=True),
        "unknown key 'numbr'",
    ),
    "a sealed wrong type": (
        lambda run: _edit(run, lambda record: record["result"].update(number="1"), seal=True),
        "number: expected 'float', got 'str'",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_finished_step_that_was_changed_is_not_taken(case: str, run: Run) -> None:
    change, message = CHANGES[case]
    run.step("step", make, 1)
    (run.folder.parent / "secret").write_text("secret", encoding="utf-8")
    change(run)
    attempts: list[Callable[[], Made]] = [lambda: run.step("step", make, 1), lambda: run.result("step", Made)]
    for again in attempts:
        with pytest.raises(CorruptStep, match=re.escape(message)) as error:
            again()
        assert error.value.hint == f"delete {run.folder / 'step'} to redo the step"
    assert calls == [1]
    shutil.rmtree(run.folder / "step")
    assert run.step("step", make, 1).number == 1


def test_a_run_folder_that_was_moved_goes_on(run: Run, tmp_path: Path) -> None:
    made = run.step("step", make, 1)
    shutil.copytree(run.folder, tmp_path / "there/run")
    shutil.rmtree(run.folder)
    moved = Run(tmp_path / "there/run")
    assert moved.step("step", make, 1) == made
    assert calls == [1]


# --- held by one process at a time


HOLDER = """
import sys
from pathlib import Path
from edgekd.runs import Run

with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_hears_who_holds_the_folder(run: Run) -> None:
    command = [sys.executable, "-c", HOLDER, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        message = re.escape(f"{run.folder} is held by process {holder.pid} on ")
        with pytest.raises(RunLocked, match=message) as error, run.lock():
            pass
        assert error.value.hint == "wait for it, end it, or choose another folder with -o"
        holder.kill()
    with run.lock():
        assert f"process {os.getpid()} " in (run.folder / ".lock").read_text(encoding="utf-8")


def test_the_lock_is_given_back(run: Run) -> None:
    for _ in range(2):
        with run.lock():
            pass
    with run.lock(), pytest.raises(RunLocked, match=f"held by process {os.getpid()} "), run.lock():
        pass


# --- the log


def test_the_log_is_a_line_of_json_an_event(run: Run) -> None:
    run.step("step", make, 1)
    run.step("step", make, 1)
    run.step("step", make, 2)
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["event"]) for line in lines] == [
        ("step", event) for event in ("started", "done", "reused", "started", "done")
    ]
    assert lines[0]["key"] == step_key(make, (1,), {})
    assert all(line["at"] for line in lines)


def test_a_result_that_json_has_no_number_for_is_not_kept(run: Run) -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        run.step("step", make, 1, scale=float("inf"))
    assert not (run.folder / "step").exists()


def test_what_is_kept_is_stable(run: Run) -> None:
    made = run.step("step", make, 1)
    record = json.loads((run.folder / "step/result.json").read_text(encoding="utf-8"))
    assert record["result"] == json.loads(dumps(made))
    assert record["seal"] == digest([record["key"], record["result"]])


# --- what is the same for two targets


def test_another_targets_equal_step_is_taken_over(run: Run) -> None:
    first, second = (run.step(f"{target}/2-step", make, 3) for target in ("pi", "phone"))
    assert calls == [3], "once"
    assert second.number == first.number and second.text.sha256 == first.text.sha256
    assert second.text.path == "phone/2-step/text.txt" and second.more[0].path == "phone/2-step/below/more.txt"
    assert run.step("phone/3-half", half_of, second) == run.step("pi/3-half", half_of, first)
    assert calls == [3, "half"], "a file counts by its content"
    shutil.rmtree(run.folder / "pi")
    assert run.step("phone/2-step", make, 3) == second and calls == [3, "half"], "each target has all that is its"


def test_what_is_of_no_target_or_other_work_is_not_taken_over(run: Run) -> None:
    run.step("pi/2-step", make, 3)
    run.step("step", make, 3)
    run.step("phone/2-step", make, 4)
    run.step("phone/5-other", make, 3)
    assert calls == [3, 3, 4, 3]


def test_a_damaged_step_is_not_taken_over(run: Run) -> None:
    run.step("pi/2-step", make, 3)
    (run.folder / "pi/2-step/text.txt").write_text("other", encoding="utf-8")
    assert run.step("phone/2-step", make, 3).number == 3
    assert calls == [3, 3]
