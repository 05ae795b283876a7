"""Each rung of the ladder can be the one where it stops, on a student that integers spoil in a way of its own."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

import edgekd
from edgekd import cost
from edgekd.cli import main
from edgekd.cli._tables import _print_climb
from edgekd.data import load as load_data
from edgekd.errors import BUDGET_BROKEN, ConvertError
from edgekd.export import calibration_indices, export
from edgekd.fake_quant import FakeQuantized
from edgekd.ladder import (
    FIRST,
    REMEDIES,
    Remedy,
    Slope,
    agreement_after,
    artifact_after,
    climb,
    falls_short,
    unfit_after,
)
from edgekd.nets import Net, anatomy
from edgekd.parity import sqnr_db
from edgekd.plugins import find
from edgekd.sensitivity import _growing, rank
from edgekd.specs import (
    Agreement,
    Artifact,
    Budget,
    Choice,
    Climb,
    Cost,
    File,
    Interval,
    Plan,
    Quantization,
    Rung,
    Student,
    TensorSpec,
    Training,
    Trial,
    Tried,
)
from edgekd.traces import trace
from edgekd.training import predict
from edgekd.trials import Done, best, held_back
from edgekd.verify import verify
from tests.hard_ground import HERE, Ground, described, ground
from tests.hard_toys import unevened
from tests.subjects import HEADS

CALIBRATION, CORRECTIONS, MIXED, TRAINED = REMEDIES
EXPORT, ENGINE = "onnx-int8", "onnxruntime"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slope(ground: Ground, wanted: str = EXPORT, engine: str = ENGINE, **limits: float) -> tuple[Slope, Agreement]:
    """The first try of a ground's student, and how it agrees."""
    target = edgekd.load_target("raspberry-pi-4")
    examined = anatomy(ground.module(ground.student), (1, 16, 16))
    plan = Plan(
        target=target.name,
        export=wanted,
        student=ground.student.choice,
        predicted=find(cost, "spec_sheet").estimate(examined, target, "int8"),
        considered=1,
        fitting=1,
        front=(),
        reason="there is no other",
    )
    run, student, data = ground.run, ground.student, ground.data
    first = run.step(f"{target.name}/3-export/{wanted}", export, student, data, wanted)
    place = f"{target.name}/4-verify/{wanted}@{engine}"
    agreement = run.step(place, verify, student, data, first, engine)
    budget = Budget(**{"accuracy_floor": 0.9, **limits})
    return Slope(run, target, budget, plan, ground.lesson, data, ground.knowledge, student, first, engine), agreement


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """With channels of the residual stream far apart."""
    made = ground(tmp_path_factory.mktemp("streamed"), "residual", {})
    module = made.module(made.student)
    unevened(module, 50.0)
    net = Net(module, made.student.preprocessing)
    return replace(made, student=described(made.run, made.data, made.student.choice, net, "uneven"))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """With channels far apart by factors that nothing can move."""
    return ground(tmp_path_factory.mktemp("uneven"), "uneven", {"times": 300.0})


# --- for real, on ONNX Runtime


def test_corrections_mend_channels_that_are_far_apart(streamed: Ground) -> None:
    made, agreement = slope(streamed)
    assert falls_short(made, agreement)
    found = climb(made, agreement, [CORRECTIONS])
    assert found.held and found.chosen == "corrections"
    first, rung = found.rungs
    assert first.name == FIRST and not first.holds_accuracy and first.tried.artifact == made.first
    assert rung.tried.artifact is not None and rung.tried.artifact.quantization.equalization
    assert rung.agreement is not None and rung.agreement.metrics["accuracy"] > 0.98
    assert len(rung.tried.trials) == 4
    assert artifact_after([found], made.first) == rung.tried.artifact
    assert agreement_after([found], agreement) == rung.agreement
    before = sorted(path.stat().st_mtime_ns for path in streamed.run.folder.rglob("result.json"))
    assert climb(made, agreement, [CORRECTIONS]) == found, "done again"
    assert before == sorted(path.stat().st_mtime_ns for path in streamed.run.folder.rglob("result.json"))
    kept = {path.parent.name for path in streamed.run.folder.glob("*/3-export/*.rungs/*/*/model.onnx")}
    assert len(kept) == 1, "models of the other trials"


@pytest.mark.slow
def test_calibration_mends_a_sensor_that_failed_on_some_examples(tmp_path: Path) -> None:
    clean = ground(tmp_path, "residual", {"pixels": False}, data="toys.py:spectra")
    broken = Choice(name=f"{HERE / 'hard_toys.py'}:broken_sensor")
    made, agreement = slope(replace(clean, data=clean.run.step("broken", load_data, broken, HEADS, "")))
    assert falls_short(made, agreement)
    found = climb(made, agreement)
    assert found.held and [rung.name for rung in found.rungs] == [FIRST, "calibration"]
    assert found.best.tried.artifact is not None
    assert found.best.tried.artifact.quantization.ranges in {"percentile", "entropy"}


@pytest.mark.slow
def test_mixed_precision_mends_what_nothing_can_move(uneven: Ground) -> None:
    made, agreement = slope(uneven)
    found = climb(made, agreement)
    assert found.held
    assert [rung.name for rung in found.rungs] == [FIRST, "calibration", "corrections", "mixed precision"]
    tried = found.best.tried
    assert tried.artifact is not None and tried.artifact.quantization.in_float == ("uneven",)
    assert tried.blame[0].sqnr_gain_db > 20 and any("uneven" in one.layers for one in tried.blame[:3])
    assert tried.predicted is not None
    assert made.predicted.latency_ms.high < tried.predicted.latency_ms.high


@pytest.mark.slow
def test_training_mends_what_may_not_cost_more_on_the_device(tmp_path: Path) -> None:
    hard = ground(tmp_path, "uneven", {"times": 300.0})
    hard = replace(hard, lesson=msgspec.structs.replace(hard.lesson, training=Training(epochs=100, batch=16)))
    made, agreement = slope(hard)
    made = replace(made, budget=msgspec.structs.replace(made.budget, latency_ms=made.predicted.latency_ms.high))
    found = climb(made, agreement)
    assert [rung.name for rung in found.rungs][-2:] == ["mixed precision", "quantization-aware training"]
    assert found.held and found.chosen == "quantization-aware training"
    mixed, trained = found.rungs[-2:]
    assert [trial.quantization.in_float for trial in mixed.tried.trials] == [()], "none is affordable"
    assert trained.agreement is not None and trained.tried.artifact is not None
    assert trained.agreement.metric_drop == pytest.approx(
        hard.student.metrics["accuracy"] - trained.agreement.metrics["accuracy"]
    )


@pytest.mark.slow
def test_a_tflite_follows_the_simulation(streamed: Ground) -> None:
    """Within 3 dB, before and after; the simulation knows nothing of the format."""
    pytest.importorskip("litert_torch")
    made, agreement = slope(streamed, "tflite-int8", "litert")
    found = climb(made, agreement, [CORRECTIONS])
    assert found.held
    viewer = streamed.viewer("train")
    module = streamed.module(streamed.student)
    simulated = FakeQuantized(trace(module, [torch.zeros(1, 1, 16, 16)]))
    simulated.observe([viewer.batch(calibration_indices(len(viewer)))])
    expected, rounded = (predict(one, streamed.viewer("test"))[0] for one in (module, simulated))
    assert agreement.sqnr_db == pytest.approx(sqnr_db(expected, rounded), abs=3)


# --- the whole run


def own(student: str, **options: Any) -> edgekd.Recipe:
    recipe = edgekd.own_recipe(
        "hard",
        dataset=f"{HERE / 'toys.py'}:pictures",
        teacher=f"{HERE / 'toys.py'}:teacher",
        student=f"{HERE / 'hard_toys.py'}:{student}",
        teacher_epochs=10,
        epochs=10,
        batch=16,
        learning_rate=0.1,
        views=edgekd.Views(count=2, shift=0.1),
    )
    return msgspec.structs.replace(
        recipe,
        dataset=msgspec.structs.replace(recipe.dataset, options={"count": 600}),
        student=msgspec.structs.replace(recipe.student, options=options),
    )


def target(**limits: float) -> edgekd.Target:
    board = edgekd.load_target("raspberry-pi-4")
    budget = Budget(**{"latency_ms": 33, "peak_memory_bytes": 1e8, "accuracy_floor": 0.9, **limits})
    return msgspec.structs.replace(board, exports=(EXPORT,), budget=budget, emulator="")


@pytest.mark.slow
def test_a_run_climbs_by_itself_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = edgekd.run(own("uneven", times=300.0), target(), out=tmp_path / "run")
    assert result.ok
    (artifact,) = result.summary()["artifacts"]
    ladder = artifact["ladder"]
    assert ladder["held"] and ladder["chosen"] == "mixed precision"
    assert artifact["file"] == ladder["rungs"][-1]["file"] and (result.folder / artifact["file"]).exists()
    assert artifact["metrics"] == ladder["rungs"][-1]["metrics"]
    assert result.made.measurements[0].memory.file_bytes == artifact["file_bytes"]
    latency = next(verdict for verdict in result.verdicts if verdict.limit == "latency_ms")
    assert "with 1 module in float" in latency.note
    assert any("mixed precision mended it" in finding for finding in result.summary()["findings"])
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert "onnx-int8: what was tried" in page and "Which layers were to blame" in page
    assert main(["report", str(result.folder)]) == 0
    printed = capsys.readouterr().out
    assert "onnx-int8, tried" in printed and "mixed precision [chosen]" in printed


@pytest.mark.slow
def test_where_nothing_holds_the_run_ends_as_for_a_broken_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, board = own("uneven", times=1e5), target()
    made = edgekd.run(recipe, board, out=tmp_path / "run", until="plan").made
    assert made.plan is not None
    predicted = made.plan.by_export.get(EXPORT, made.plan.predicted)
    board = target(latency_ms=predicted.latency_ms.high)
    result = edgekd.run(recipe, board, out=tmp_path / "run")
    assert not result.ok
    ladder = result.summary()["artifacts"][0]["ladder"]
    assert not ladder["held"] and len(ladder["rungs"]) == 5
    accurate = max(ladder["rungs"], key=lambda rung: rung["metrics"]["accuracy"])
    chosen = next(rung for rung in ladder["rungs"] if rung["name"] == ladder["chosen"])
    assert chosen["metrics"] == accurate["metrics"]
    assert any("nothing that was tried holds" in finding for finding in result.summary()["findings"])
    assert main(["report", str(result.folder), "--json"]) == BUDGET_BROKEN
    assert json.loads(capsys.readouterr().out)["artifacts"][0]["ladder"] == ladder


# --- the rules


FILE = File(path="a/model.onnx", size_bytes=1000, sha256="0" * 64)


def artifact(**changes: Any) -> Artifact:
    tensor = TensorSpec(name="x", shape=(1, 4))
    plain: dict[str, Any] = {
        "export": EXPORT,
        "format": "onnx",
        "precision": "int8",
        "model": FILE,
        "inputs": (tensor,),
        "outputs": (tensor,),
        "samples": FILE,
        "tools": {},
    }
    return Artifact(**{**plain, **changes})


def agreement(accuracy: float, ok: bool = True, student: float = 0.98) -> Agreement:
    return Agreement(
        artifact=EXPORT,
        engine=ENGINE,
        provenance="host",
        max_abs=1.0,
        sqnr_db=20.0,
        top1_agreement=accuracy,
        metrics={"accuracy": accuracy},
        metric_drop=student - accuracy,
        metric_drop_low=0.0,
        metric_drop_high=1.0,
        ok=ok,
    )


def paper_slope(streamed: Ground, accuracy: float, floor: float, precision: str = "int8", **limits: float) -> Slope:
    """A slope of a student that is so accurate; nothing of it is executed."""
    predicted = Cost(
        latency_ms=Interval(value=1, low=0.5, high=2),
        peak_memory_bytes=1000,
        file_bytes=1000,
        macs=1,
        parameters=1,
        tier="none",
    )
    student = msgspec.structs.replace(streamed.student, metrics={"accuracy": accuracy})
    plan = Plan(
        target="a",
        export=EXPORT,
        student=student.choice,
        predicted=predicted,
        considered=1,
        fitting=1,
        front=(),
        reason="-",
    )
    return Slope(
        run=streamed.run,
        target=edgekd.load_target("raspberry-pi-4"),
        budget=Budget(accuracy_floor=floor, **limits),
        plan=plan,
        lesson=streamed.lesson,
        data=streamed.data,
        knowledge=streamed.knowledge,
        student=student,
        first=artifact(precision=precision),
        engine=ENGINE,
    )


@pytest.mark.parametrize(
    ("student", "floor", "found", "ok", "needed"),
    [
        (0.98, 0.97, 0.975, True, False),  # holds both
        (0.98, 0.97, 0.969, True, True),  # below the floor
        (0.98, 0.0, 0.969, True, True),  # drops by more than a hundredth
        (0.98, 0.0, 0.975, False, True),  # does not agree
        (0.98, 0.98, 0.98, True, False),
        (0.98, 0.98, 0.979, True, True),
        (0.90, 0.97, 0.895, True, False),  # what the student itself misses is no matter of integers
        (0.90, 0.97, 0.889, True, True),
    ],
)
def test_an_export_needs_the_ladder_when_integers_cost_too_much(
    streamed: Ground, student: float, floor: float, found: float, ok: bool, needed: bool
) -> None:
    assert falls_short(paper_slope(streamed, student, floor), agreement(found, ok, student)) is needed
    assert not falls_short(paper_slope(streamed, student, floor, "fp32"), agreement(found, ok, student))


def failing(slope: Slope, step: str, so_far: Quantization) -> tuple[Student, Tried]:
    raise ConvertError("no kernel for this")


def without_artifact(slope: Slope, step: str, so_far: Quantization) -> tuple[Student, Tried]:
    return slope.student, Tried(trials=(Trial(quantization=so_far, failed="the engine crashed"),))


def test_a_remedy_that_cannot_be_tried_is_told_and_passed_by(streamed: Ground) -> None:
    made = paper_slope(streamed, 0.98, 0.97)
    found = climb(made, agreement(0.5, ok=False), [Remedy("one", failing), Remedy("two", without_artifact)])
    assert not found.held and found.chosen == FIRST
    assert [rung.tried.trials[0].failed for rung in found.rungs[1:]] == ["no kernel for this", "the engine crashed"]
    assert artifact_after([found], made.first) == made.first
    other = artifact(export="tflite-int8")
    assert artifact_after([found], other) == other


def rung(name: str, accuracy: float | None, budget: bool, accurate: bool = False) -> Rung:
    return Rung(
        name=name,
        tried=Tried(artifact=artifact()) if accuracy is not None else Tried(),
        agreement=None if accuracy is None else agreement(accuracy),
        holds_accuracy=accurate,
        holds_budget=budget,
    )


@pytest.mark.parametrize(
    ("rungs", "chosen"),
    [
        ([rung("a", 0.5, True), rung("b", 0.9, True, True)], "b"),
        ([rung("a", 0.5, True), rung("b", 0.7, True), rung("c", 0.6, True)], "b"),
        ([rung("a", 0.5, True), rung("b", 0.99, False, True), rung("c", 0.6, True)], "c"),
        ([rung("a", 0.5, False), rung("b", 0.7, False)], "b"),
        ([rung("a", 0.5, True), rung("b", 0.5, True), rung("c", None, False)], "a"),
    ],
)
def test_where_none_holds_the_most_accurate_within_the_budget_is_kept(rungs: list[Rung], chosen: str) -> None:
    from edgekd.ladder import _chosen

    assert _chosen(rungs, "accuracy").name == chosen
    climbed = Climb(export=EXPORT, floor=0.9, most_drop=0.01, rungs=tuple(rungs), chosen=chosen)
    assert climbed.held is (climbed.best.holds_accuracy and climbed.best.holds_budget)


def test_what_no_runtime_of_the_target_executes_does_not_hold() -> None:
    refused = msgspec.structs.replace(rung("b", 0.99, False, True), unfit=("no version 4 of CONV_2D",))
    climbed = Climb(export=EXPORT, floor=0.9, most_drop=0.01, rungs=(rung("a", 0.5, False), refused), chosen="b")
    assert not climbed.held
    assert unfit_after([climbed], {"other": ("why",)}) == {"other": ("why",), EXPORT: ("no version 4 of CONV_2D",)}
    assert unfit_after([msgspec.structs.replace(climbed, chosen="a")], {}) == {}


def done(metric: float, decibels: float, made: bool = True) -> Done:
    trial = Trial(quantization=Quantization(), metric=metric, sqnr_db=decibels)
    return Done(trial=trial, artifact=artifact() if made else None)


def test_among_trials_as_accurate_the_closest_wins() -> None:
    assert best([done(0.9, 30), done(0.95, 10), done(0.949, 20)]) == done(0.949, 20)
    assert best([done(0.9, 30), done(0.95, 10)]) == done(0.95, 10)
    assert best([done(0.99, 50, made=False), done(0.5, 1)]) == done(0.5, 1)
    assert best([done(0.99, 50, made=False)]) is None and best([]) is None


@pytest.mark.parametrize("examples", [1, 150, 200, 201, 205, 450, 5000])
def test_trials_are_examined_on_examples_that_calibration_does_not_see(examples: int) -> None:
    held = held_back(examples)
    assert len(held) == len(set(held)) and held.min() >= 0 and held.max() < examples
    if examples > 200:
        assert not set(held) & set(calibration_indices(examples))
        assert len(held) == min(500, examples - 200)
    else:
        assert len(held) == examples


def test_the_terminal_shows_what_was_tried() -> None:
    text = "[red]no kernel\x1b[31m"
    failed = Rung(name="calibration", tried=Tried(trials=(Trial(quantization=Quantization(), failed=text),)))
    way = Quantization(ranges="mse", equalization=True, bias_correction=True, in_float=("stem", "blocks.0"))
    held = msgspec.structs.replace(
        rung("corrections", 0.97, True, True), tried=Tried(artifact=artifact(quantization=way))
    )
    climbed = Climb(
        export=EXPORT, floor=0.9, most_drop=0.01, rungs=(rung(FIRST, 0.5, False), failed, held), chosen="corrections"
    )
    written = StringIO()
    _print_climb(Console(file=written, width=300), climbed)
    shown = written.getvalue()
    assert "corrections [chosen]" in shown and "first try [chosen]" not in shown
    assert "mse ranges, channels equalized, biases corrected, in float: stem, blocks.0" in shown
    assert "failed: [red]no kernel?[31m" in shown and "\x1b" not in shown
    assert shown.count("broken") == 2 and shown.count("holds") == 2


# --- blame


def test_the_worst_rounding_is_ranked_first(uneven: Ground) -> None:
    module = uneven.module(uneven.student)
    calibration = uneven.viewer("train").batch(np.arange(0, 400, 4))
    suspects = rank(trace(module, [torch.zeros(1, 1, 16, 16)]), calibration, calibration[:32])
    assert "uneven" in suspects[0].layers, "the module with factors that are far apart"
    assert suspects[0].noise > 100 * suspects[-1].noise
    assert [one.noise for one in suspects] == sorted((one.noise for one in suspects), reverse=True)


def test_sets_of_layers_grow_by_one_and_then_by_half() -> None:
    order = [(str(layer),) for layer in range(20)]
    sets = _growing(order)
    assert [len(one) for one in sets] == [1, 2, 3, 4, 6, 9, 13, 19, 20]
    assert all(set(smaller) < set(larger) for smaller, larger in zip(sets, sets[1:], strict=False))
    assert _growing([("a.b",), ("a",), ("a.c", "d")]) == [("a.b",), ("a",), ("a", "d")]
    assert _growing([]) == []
