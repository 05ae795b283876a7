"""The whole flow on a user's own code: from Python, from a recipe file, and what it says before any long work."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekd
from edgekd import formats
from edgekd.cli import main
from edgekd.errors import BudgetInfeasible, ConfigError, CorruptStep, Disagreement, EdgekdError, PluginError, WorkerDied
from edgekd.specs import Budget

TOYS = Path(__file__).with_name("toys.py")


def own(**changes: Any) -> edgekd.Recipe:
    choices: dict[str, Any] = {
        "dataset": f"{TOYS}:pictures",
        "teacher": f"{TOYS}:teacher",
        "student": f"{TOYS}:student",
        "space": {"width": [4, 8]},
        "teacher_epochs": 10,
        "epochs": 10,
        "batch": 16,
        "learning_rate": 0.05,
        "views": edgekd.Views(count=2, shift=0.1),
    }
    return edgekd.own_recipe("toys", **{**choices, **changes})


def target(**changes: Any) -> edgekd.Target:
    """Without an emulator, for one that is prepared here would take its time."""
    changes = {"emulator": "", **changes}
    return msgspec.structs.replace(edgekd.load_target("raspberry-pi-4"), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> edgekd.Result:
    """One whole run of the toys, that several tests look at."""
    easy = target(budget=Budget(latency_ms=33, peak_memory_bytes=1e8, file_bytes=1e6, accuracy_floor=0.4))
    return edgekd.run(own(), easy, out=tmp_path_factory.mktemp("whole") / "run")


def test_every_artifact_is_verified_and_measured(whole: edgekd.Result) -> None:
    summary = whole.summary()
    wanted = ["tflite-int8", "onnx-int8", "tflite-fp32", "onnx-fp32"]
    assert [artifact["export"] for artifact in summary["artifacts"]] == wanted
    assert [measurement["artifact"] for measurement in summary["measurements"]] == wanted
    for artifact in summary["artifacts"]:
        (parity,) = artifact["parity"]
        assert parity["ok"], parity
        assert parity["sqnr_db"] > (80 if artifact["export"].endswith("fp32") else 15)
        assert (whole.folder / artifact["file"]).stat().st_size == artifact["file_bytes"]
        properties = formats.read(whole.folder / artifact["file"]).properties
        assert properties["edgekd.run"] == "run" and properties["edgekd.data"] == f"{TOYS}:pictures"
    for measurement in summary["measurements"]:
        assert measurement["provenance"] == "host"
        assert measurement["latency_ms"]["min"] > 0
        assert measurement["memory"]["peak_rss_bytes"] > 0


def test_verdicts_carry_their_provenance(whole: edgekd.Result) -> None:
    found = {verdict.limit: verdict for verdict in whole.verdicts}
    assert found["latency_ms"].provenance == "estimated"  # nothing was measured on a Raspberry Pi
    assert found["latency_ms"].high is not None and found["latency_ms"].high > found["latency_ms"].found
    assert found["file_bytes"].found == whole.summary()["artifacts"][0]["file_bytes"]
    assert found["accuracy_floor"].provenance == "host"
    assert set(found) == {"latency_ms", "peak_memory_bytes", "file_bytes", "accuracy_floor", "parity"}


def test_the_student_stands_beside_its_twin(whole: edgekd.Result) -> None:
    summary = whole.summary()
    assert set(summary["student_without_distillation"]["metrics"]) == {"accuracy"}
    assert any(finding.startswith("Distillation ") for finding in summary["findings"])


def test_the_page_is_written(whole: edgekd.Result) -> None:
    assert whole.report is not None
    text = whole.report.read_text(encoding="utf-8")
    assert "toys" in text and "tflite-int8" in text


def test_a_second_run_redoes_nothing(whole: edgekd.Result) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("result.json")}
    again = edgekd.resume(whole.folder)[0]
    assert before == {path: path.stat().st_mtime_ns for path in whole.folder.rglob("result.json")}
    assert again.summary() == whole.summary()


def test_what_is_required_redoes_the_report_alone(whole: edgekd.Result, tmp_path: Path) -> None:
    """On this machine nothing is measured of a device."""
    copy = tmp_path / "copy"
    shutil.copytree(whole.folder, copy)
    log = copy / "log.jsonl"
    log.unlink()
    assert main(["report", str(copy), "--require", "emulated"]) == 5
    done = [line["step"] for text in log.read_text().splitlines() if (line := json.loads(text))["event"] == "done"]
    assert done == ["raspberry-pi-4/6-report"]
    (again,) = edgekd.resume(copy, require="measured")
    broken = {one.limit: one.note for one in again.verdicts if not one.ok}
    assert set(broken) == {"latency_ms", "peak_memory_bytes"} and again.summary()["required"] == "measured"
    assert all("`measured` is required: edgekd measure RUN --on ssh://" in note for note in broken.values())
    assert edgekd.resume(copy)[0].ok


def test_a_second_target_shares_the_teacher(whole: edgekd.Result, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(whole.folder, folder)
    stamp = (folder / "teacher" / "result.json").stat().st_mtime_ns
    made = edgekd.run(own(), "raspberry-pi-5", out=folder, until="plan").made
    assert made.plan is not None and made.plan.target == "raspberry-pi-5"
    assert made.student is None and made.report is None
    assert (folder / "teacher" / "result.json").stat().st_mtime_ns == stamp


def test_what_the_runtimes_of_a_target_get_wrong_is_replaced_where_it_says_so(
    whole: edgekd.Result, tmp_path: Path
) -> None:
    """The last tflite-runtime answers dynamic int8 wrongly, without an error."""
    folder = tmp_path / "copy"
    shutil.copytree(whole.folder, folder)
    easy = Budget(latency_ms=33, peak_memory_bytes=1e8, file_bytes=1e6, accuracy_floor=0.4)
    old = target(budget=easy, exports=("tflite-dynamic",), runtimes={"tflite_runtime": "2.14.0"})
    made = edgekd.run(own(), old, out=folder, until="export").made
    assert [one.export for one in made.artifacts] == ["tflite-dynamic"]
    (reason,) = made.unfit["tflite-dynamic"]
    assert "tflite_runtime 2.14.0 is silently wrong" in reason
    mended = msgspec.structs.replace(old, fallbacks={"tflite-dynamic": "tflite-fp32"})
    made = edgekd.run(own(), mended, out=folder, until="export").made
    assert [one.export for one in made.artifacts] == ["tflite-fp32"] and not made.unfit


def test_step_verbs_and_compare_work_on_a_run_folder(whole: edgekd.Result, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("teach", "plan", "distil", "export", "verify", "measure", "report"):
        assert main([verb, str(whole.folder), "--json"]) == 0
        plain = json.loads(capsys.readouterr().out)
        assert [one["target"] for one in plain["targets"]] == ["raspberry-pi-4"]
    assert main(["report", str(whole.folder)]) == 0
    shown = capsys.readouterr().out
    assert "holds the budget" in shown and "estimated" in shown
    assert main(["compare", str(whole.folder), str(whole.folder), "--json"]) == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert differences and all(one["a"] == one["b"] for one in differences)


def test_a_tampered_artifact_is_noticed(
    whole: edgekd.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.folder, copy)
    model = copy / "raspberry-pi-4/3-export/onnx-int8/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(CorruptStep, match="model.onnx was changed"):
        edgekd.resume(copy)
    assert main(["verify", str(copy)]) == 6
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "delete" in error and "Traceback" not in error
    shutil.rmtree(model.parent)
    assert edgekd.resume(copy)[0].ok


def test_a_broken_budget_ends_with_its_own_exit_code(whole: edgekd.Result, tmp_path: Path) -> None:
    mean = target(budget=Budget(latency_ms=33, accuracy_floor=1.0))
    recipe = own(epochs=1, teacher_epochs=1)
    result = edgekd.run(recipe, mean, out=tmp_path / "run")
    assert not result.ok
    assert main(["report", str(tmp_path / "run")]) == 5


def test_data_that_are_no_pictures(tmp_path: Path) -> None:
    functions = dict.fromkeys(("teacher", "student"), f"{TOYS}:perceptron")
    recipe = own(dataset=f"{TOYS}:numbers", views=None, space={"width": [8]}, teacher_epochs=8, **functions)
    aim = target(exports=("tflite-int8", "onnx-fp32"))
    result = edgekd.run(recipe, aim, out=tmp_path / "run", until="verify")
    assert len(result.made.agreements) == 2
    for agreement in result.made.agreements:
        assert agreement.metrics["accuracy"] > 0.5 and agreement.sqnr_db > 15


def test_float_planes_go_through_our_own_families(tmp_path: Path) -> None:
    recipe = own(dataset=f"{TOYS}:spectra", teacher="residual", student="mobile", views=None, space={"width": [0.25]})
    result = edgekd.run(recipe, target(exports=("tflite-fp32", "onnx-int8")), out=tmp_path / "run", until="verify")
    assert result.made.student is not None and result.made.student.preprocessing is None
    assert [agreement.ok for agreement in result.made.agreements] == [True, True]


def test_a_recipe_file_finds_the_code_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TOYS.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "mine.toml").write_text(
        """
schema = 1
name = "mine"
title = "My own"
task = "classification"
prefer = "smallest above the accuracy floor"
accuracy_floor = 0.4
probe_epochs = 2
dataset = { name = "mine:pictures", options = { count = 120 } }
teacher = { name = "mine:teacher", options = { width = 8 }, training = { epochs = 2 } }
student = { name = "mine.py:student", space = { width = [4, 8, 16] }, training = { epochs = 2 } }
losses = [{ name = "soft_targets" }, { name = "labels" }]
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "edgekd", "run", str(tmp_path / "mine.toml"), "-t", "raspberry-pi-4", "-o", "run"]
    ended = subprocess.run(
        [*command, "--until", "distil", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    plain = json.loads(ended.stdout)
    assert plain["plan"]["student"]["options"]["width"] in {4, 8, 16}
    assert any("probe_accuracy" in candidate for candidate in plain["plan"]["front"])
    assert ended.stderr == ""


WRONG: dict[str, tuple[dict[str, Any], type[EdgekdError], str]] = {
    "a class more": (
        {"teacher": f"{TOYS}:four_outputs"},
        Disagreement,
        "the teacher answers 4 values, the data have 3 classes",
    ),
    "another order": (
        {"teacher": f"{TOYS}:other_order"},
        Disagreement,
        "another order: class 0 is 'dot', in the data 'bar'",
    ),
    "other classes": ({"teacher": f"{TOYS}:other_classes"}, Disagreement, "not in both: bar, circle"),
    "other channels": ({"dataset": f"{TOYS}:colour"}, Disagreement, "preprocesses 1 channels, the data have 3"),
    "no preprocessing": (
        {"student": f"{TOYS}:perceptron", "space": {}},
        Disagreement,
        "does not say how it wants them",
    ),
    "no pictures": ({"dataset": f"{TOYS}:numbers"}, Disagreement, "wants to preprocess images"),
    "one class": ({"dataset": f"{TOYS}:one_class"}, ConfigError, "1 class is no choice"),
    "no data": ({"dataset": f"{TOYS}:nothing"}, ConfigError, "the train split is empty"),
    "not a number": ({"dataset": f"{TOYS}:nan"}, ConfigError, "hold NaN or infinity"),
    "a mistake": ({"teacher": f"{TOYS}:raises"}, WorkerDied, "ValueError: no weights"),
    "no such function": ({"teacher": f"{TOYS}:techer"}, ConfigError, "has no 'techer'"),
    "no such plugin": ({"teacher": "residul"}, PluginError, "no teacher named 'residul'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_said_before_the_teacher_is_trained(case: str, tmp_path: Path) -> None:
    changes, kind, message = WRONG[case]
    with pytest.raises(kind, match=re.escape(message)):
        edgekd.run(own(**changes), "raspberry-pi-4", out=tmp_path / "run")
    assert not (tmp_path / "run/teacher").exists()


def test_what_is_made_in_python_is_checked_as_a_file_is(tmp_path: Path) -> None:
    wrong = target(budget=Budget(latency_ms=-1))
    with pytest.raises(ConfigError, match="target raspberry-pi-4: budget.latency_ms: expected"):
        edgekd.run(own(), wrong, out=tmp_path / "run")


def test_an_infeasible_budget_says_what_would_fit(tmp_path: Path) -> None:
    tiny = target(budget=Budget(latency_ms=33, file_bytes=2000))
    with pytest.raises(BudgetInfeasible, match="file_bytes .* where 2000 is allowed") as error:
        edgekd.run(own(), tiny, out=tmp_path / "run")
    enough = int(re.search(r"file_bytes = (\d+)", error.value.hint)[1])  # type: ignore[index]
    assert not (tmp_path / "run/teacher").exists()
    roomy = target(budget=Budget(latency_ms=33, file_bytes=enough))
    made = edgekd.run(own(teacher_epochs=0), roomy, out=tmp_path / "run", until="plan").made
    assert made.plan is not None and made.plan.finalists[-1].fits  # by its real file, which is smaller than estimated


def test_numpy_and_python_are_enough_to_read_a_result(whole: edgekd.Result) -> None:
    samples = np.load(whole.folder / "raspberry-pi-4/3-export/tflite-int8/samples.npz", allow_pickle=False)
    assert samples["0"].shape == (32, 1, 16, 16, 1)
