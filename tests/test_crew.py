"""Several processes learn what one learns, and whatever ends one ends all."""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgekd import crew as crews
from edgekd.cli import main
from edgekd.errors import ConfigError, PluginUnavailable, TrainingDiverged, WorkerDied
from edgekd.runs import Work
from edgekd.workers import call, crew

pytest.importorskip("accelerate", reason="accelerate, of the extra cluster, is not installed")
sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
own: Any = importlib.import_module("crew_functions")


def train(folder: Path, processes: int, how: str = "", batch: int = 8) -> Any:
    folder.mkdir(exist_ok=True)
    work = Work(str(folder), "step", str(folder))
    with crew(processes):
        return call(own.train, work, how, batch, threads=1, log=folder / "log", trains=True)


def test_two_processes_have_the_loss_of_one(tmp_path: Path) -> None:
    """After every step, and so the same net at the end, to the rounding of sums."""
    alone, both = train(tmp_path / "alone", 0), train(tmp_path / "both", 2)
    assert len(alone.losses) == 15 and alone.processes == 1 and both.processes == 2
    assert both.losses == pytest.approx(alone.losses, rel=1e-5)
    assert both.weights == pytest.approx(alone.weights, rel=1e-4, abs=1e-6)
    assert alone.losses[-1] < alone.losses[0]
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"log", "net.checkpoint", "answer.txt"}


@pytest.mark.slow
def test_they_go_on_from_the_checkpoint_of_one(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match="Stopped"):
        train(tmp_path / "both", 0, "stops")
    rest = train(tmp_path / "both", 2)
    assert rest.losses == pytest.approx(train(tmp_path / "alone", 0).losses[-len(rest.losses) :], rel=1e-5)
    assert len(rest.losses) < 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "batch", "error", "message"),
    [
        ("", 7, ConfigError, "a batch of 7 cannot be divided among 2 processes"),
        ("diverges", 8, TrainingDiverged, "the loss is nan at step 0"),
        ("dies", 8, WorkerDied, "ended"),
    ],
)
def test_what_ends_one_ends_all(how: str, batch: int, error: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path, 2, how, batch)
    started = [int(pid) for pid in (tmp_path / "pids").read_text().split()] if (tmp_path / "pids").exists() else []
    until = time.monotonic() + 60
    while any(map(_runs, started)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(_runs, started))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_accelerate_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.workers.find_spec", lambda _: None)
    with pytest.raises(PluginUnavailable, match="need accelerate"), crew(2):
        pass


def test_of_the_processes_of_a_launcher_the_first_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crews.launched() == 0
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="^0$"):  # the second has nothing to do
        main(["run", "digits", "-t", "raspberry-pi-4"])
    monkeypatch.setenv("RANK", "0")
    assert crews.launched() == 2 and "WORLD_SIZE" not in os.environ
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="one machine"):
        monkeypatch.setenv("RANK", "0")
        crews.launched()
