"""Sweeps: which runs there are, one table of them, what is gone on with, and what fails alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekd import sweep
from edgekd.cli import main
from edgekd.errors import ConfigError
from edgekd.sweep import Row, Swept, cells, groups, load_sweep, markdown, run_sweep, verdict
from tests.test_ways import TOYS

RECIPE = f"""
schema = 1
name = "toys"
title = "toys"
task = "classification"
prefer = "most capable within the budget"
dataset = {{ name = "{TOYS}:numbers" }}
teacher = {{ name = "{TOYS}:perceptron", training = {{ epochs = 2 }}, options = {{ width = 32 }} }}
student = {{ name = "{TOYS}:perceptron", training = {{ epochs = 1 }} }}
losses = [{{ name = "soft_targets" }}, {{ name = "labels" }}]

[scales.small]
"teacher.training.epochs" = 1
"""
SWEEP = """
schema = 1
name = "temperatures"
title = "Two temperatures"
recipes = ["toys.toml"]
targets = ["raspberry-pi-4"]
seeds = [0, 1]
scale = "small"
until = "distil"

[options]
"losses.0.options.temperature" = [1.0, 4.0]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "toys.toml").write_text(RECIPE)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    return tmp_path / "sweep.toml"


def test_every_combination_is_a_run_of_its_own(file: Path) -> None:
    wanted = load_sweep(file)
    found = cells(wanted, Path("out"))
    assert len(found) == 4 and len({cell.folder for cell in found}) == 4
    assert {cell.seed for cell in found} == {0, 1}
    assert {cell.options["losses.0.options.temperature"] for cell in found} == {1.0, 4.0}
    assert all(Path(cell.recipe).is_absolute() for cell in found)


def test_seeds_of_students_leave_them_one_teacher(file: Path, tmp_path: Path) -> None:
    shared = SWEEP.replace("[1.0, 4.0]", "[4.0]").replace("scale", 'seeded = "student"\nscale')
    file.write_text(shared)
    swept = run_sweep(load_sweep(file), tmp_path / "out", "none")
    first, second = swept.rows
    assert first.teacher == second.teacher and first.student != second.student
    assert "students' seeds 0, 1, of one teacher" in markdown(swept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"losses.0.', '"losses.7.'), "leads nowhere"),
        (('"small"', '"large"'), "no scale 'large'"),
        (("raspberry-pi-4", "raspberry"), "no target named 'raspberry'"),
        (("seeds = [0, 1]", "seeds = []"), "seeds"),
    ],
)
def test_what_is_not_there_is_said_before_any_run(change: tuple[str, str], message: str, file: Path) -> None:
    file.write_text(SWEEP.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_sweep(file)


def test_a_sweep_is_gone_on_with_and_failures_are_rows(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four runs, two cannot train; a second call does nothing but those, after its recipe was mended."""
    file.write_text(SWEEP.replace("[1.0, 4.0]", "[4.0, -1.0]"))
    out = tmp_path / "out"
    assert main(["sweep", str(file), "-o", str(out), "--ray", "none", "--json"]) == 2
    swept = msgspec.json.decode(capsys.readouterr().out, type=Swept)
    assert [bool(row.error) for row in swept.rows] == [False, False, True, True]
    assert "temperature" in swept.rows[2].error
    (group,) = groups(swept)
    assert len(group.values("gain")) == 2 and group.rows[0].metric == "accuracy"
    text = (out / "sweep.md").read_text()
    assert "| 4.0 | accuracy |" in text and "seed 1: ConfigError" in text and "provenance `host`" in text

    file.write_text(SWEEP.replace("[1.0, 4.0]", "[4.0, 1.0]"))
    asked = []
    monkeypatch.setattr(sweep, "run_cell", lambda cell: asked.append(cell) or ())
    run_sweep(load_sweep(file), out, "none")
    assert [cell.options for cell in asked] == [{"losses.0.options.temperature": 1.0}] * 2


def test_a_sweep_runs_on_ray(file: Path, tmp_path: Path) -> None:
    """One that is started here; what its workers find is what the table has."""
    pytest.importorskip("ray", reason="ray, of the extra cluster, is not installed")
    file.write_text(SWEEP.replace("[1.0, 4.0]", "[4.0]").replace("[0, 1]", "[0]"))
    (row,) = run_sweep(load_sweep(file), tmp_path / "out", "local").rows
    assert not row.error and row.student is not None and row.teacher_parameters > row.student_parameters
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"][0]["student"] == row.student
    shutil.rmtree(tmp_path / "out" / "toys")


def row(seed: int, student: float, twin: float, **more: Any) -> Row:
    return Row(
        recipe="r",
        target="t",
        options={},
        seed=seed,
        metric="accuracy",
        teacher=0.9,
        student=student,
        twin=twin,
        **more,
    )


def test_the_table_has_means_deviations_and_a_verdict(file: Path) -> None:
    rows = (row(0, 0.8, 0.7, artifacts={"tflite-int8": 0.75}), row(1, 0.9, 0.7, artifacts={"tflite-int8": 0.85}))
    text = markdown(Swept(sweep=load_sweep(file), rows=rows, environment={"python": "3"}))
    assert "0.8500 ± 0.0707" in text and "0.1500 ± 0.0707 | helped" in text and "0.8000 ± 0.0707" in text
    assert verdict([-0.1, 0.2]) == "(helped)" and verdict([-0.1, 0.0]) == "hurt"
