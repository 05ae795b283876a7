"""Kill -9 at any moment, run again: nothing finished is redone, and the artifacts are the same to the bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.files import file_digest
from edgekd.shipped import load_target

RECIPE = """
schema = 1
name = "killed"
title = "Killed at random"
task = "classification"
prefer = "smallest above the accuracy floor"
accuracy_floor = 0.5
probe_epochs = 1
dataset = {{ name = "{toys}:pictures", options = {{ count = 600 }} }}
teacher = {{ name = "{toys}:teacher", training = {{ epochs = 12, batch = 8 }} }}
losses = [{{ name = "soft_targets" }}, {{ name = "labels" }}]
views = {{ count = 3, shift = 0.1, rotate_degrees = 10 }}

[student]
name = "mobile"
options = {{ depth = 0.5 }}
space = {{ width = [0.25, 0.5] }}
training = {{ epochs = 6, batch = 16 }}
"""
WHAT_COUNTS = ("*.safetensors", "*.tflite", "*.onnx", "*.npy")


def command(folder: Path, recipe: Path, until: str) -> list[str]:
    run = [sys.executable, "-m", "edgekd", "run", str(recipe), "-t", "raspberry-pi-4", "-o", str(folder)]
    return [*run, "--until", until]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_digest(path)
        for pattern in WHAT_COUNTS
        for path in sorted(folder.rglob(pattern))
        if ".partial-" not in str(path)
    }


def own_store(folder: Path) -> dict[str, str]:
    """So that no run finds what another one has computed."""
    return {**os.environ, "EDGEKD_KNOWLEDGE": str(folder.with_name(f"{folder.name}-knowledge"))}


def kill(folder: Path, recipe: Path, until: str, seconds: float) -> bool:
    """Start a run and kill it after so many seconds; True when it had not ended by itself."""
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command(folder, recipe, until), stderr=nowhere, stdout=nowhere, env=own_store(folder))
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.fixture
def recipe(tmp_path: Path, toys: Path) -> Path:
    path = tmp_path / "killed.toml"
    path.write_text(RECIPE.format(toys=toys), encoding="utf-8")
    return path


def run_whole(folder: Path, recipe: Path, until: str) -> None:
    subprocess.run(command(folder, recipe, until), check=True, stdout=subprocess.DEVNULL, env=own_store(folder))


def check(tmp_path: Path, recipe: Path, until: str, kills: int) -> None:
    start, undisturbed, disturbed = time.monotonic(), tmp_path / "a" / "run", tmp_path / "b" / "run"
    run_whole(undisturbed, recipe, until)  # of one name, for artifacts tell their run's
    whole = time.monotonic() - start
    chance = random.Random(0)
    killed = sum(kill(disturbed, recipe, until, chance.uniform(0.5, whole * 0.6)) for _ in range(kills))
    run_whole(disturbed, recipe, until)
    assert killed >= 1, "the run ended before it could be killed once"
    assert hashes(undisturbed) == hashes(disturbed)
    assert not list(disturbed.rglob("*.partial-*"))
    assert not list(disturbed.rglob("*.old-*")), "a finished step was redone"


def test_a_killed_training_ends_at_the_same_bits(tmp_path: Path, recipe: Path) -> None:
    check(tmp_path, recipe, until="distil", kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_run_ends_with_the_same_artifacts(tmp_path: Path, recipe: Path) -> None:
    check(tmp_path, recipe, until="export", kills=10)


def test_the_second_process_says_who_holds_the_run(tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "run"
    first = subprocess.Popen(command(folder, recipe, "distil"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while not (folder / "log.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = subprocess.run(command(folder, recipe, "distil"), capture_output=True, text=True, check=False)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 7
    assert f"is held by process {first.pid} on " in second.stderr
    assert second.stderr.count("\n") == 2 and "Traceback" not in second.stderr


def test_target_files_reach_the_key(tmp_path: Path) -> None:
    """Two targets of different budgets are different inputs; the same file twice is the same one."""
    from edgekd.files import digest

    assert digest(load_target("raspberry-pi-4")) == digest(load_target("raspberry-pi-4"))
    assert digest(load_target("raspberry-pi-4")) != digest(load_target("raspberry-pi-5"))
