"""Ways of distilling, each in a run that ends with a student: heads, layers, stages, several teachers, tokens."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgekd import know, pipeline, training
from edgekd.errors import ConfigError, Disagreement
from edgekd.files import decode
from edgekd.ladder import REMEDIES, Slope
from edgekd.nets import load
from edgekd.pipeline import Made, build
from edgekd.runs import Run
from edgekd.shipped import load_target
from edgekd.specs import LossChoice, Quantization, Recipe, Stage, Training
from edgekd.workers import sharing
from tests import text_nets, toys

TOYS = Path(toys.__file__)


def recipe(**changes: Any) -> Recipe:
    """Of toys; `changes` are its keys, as in a TOML file."""
    plain = {
        "schema": 1,
        "name": "toys",
        "title": "toys",
        "dataset": {"name": f"{TOYS}:pictures"},
        "task": "classification",
        "prefer": "most capable within the budget",
        "teacher": {"name": f"{TOYS}:teacher", "training": {"epochs": 4, "batch": 16}},
        "student": {"name": f"{TOYS}:student", "training": {"epochs": 2, "batch": 16}},
        "losses": [{"name": "soft_targets"}, {"name": "labels"}],
    }
    return decode(Recipe, {**plain, **changes}, "recipe")


def made(folder: Path, wanted: Recipe, until: Any = "distil") -> Made:
    target = msgspec.structs.replace(load_target("raspberry-pi-4"), exports=("onnx-int8",))
    with sharing():  # libraries load once
        (one,) = build(Run(folder), wanted, [target], until=until)
    return one


HEADS = {
    "task": "",
    "heads": {"kind": {"task": "classification", "weight": 2.0}, "side": {"task": "classification"}},
    "dataset": {"name": f"{TOYS}:places"},
    "teacher": {"name": f"{TOYS}:two_heads", "training": {"epochs": 6, "batch": 16}, "options": {"width": 16}},
    "student": {"name": f"{TOYS}:two_heads", "training": {"epochs": 4, "batch": 16}},
}
ADAMW = {"batch": 16, "learning_rate": 0.01, "optimiser": "adamw"}
SMALL_ENCODER = {"family": "encoder", "options": {"width": 32, "layers": 1}}
COMMANDS = {
    "task": "",
    "heads": {"intent": {"task": "classification"}, "slots": {"task": "tagging"}},
    "dataset": {"name": f"{Path(text_nets.__file__)}:commands"},
    "teacher": {"name": "family", "training": {**ADAMW, "epochs": 4}, "options": SMALL_ENCODER},
    "student": {"name": "encoder", "training": {**ADAMW, "epochs": 3}, "options": {"width": 16, "layers": 1}},
}
WORDS = {
    "dataset": {"name": f"{TOYS}:words"},
    "teacher": {"name": f"{TOYS}:reader", "training": {**ADAMW, "epochs": 8}, "options": {"layers": 4}},
    "student": {"name": f"{TOYS}:reader", "training": {**ADAMW, "epochs": 3}},
}
FEATURES = {"name": "hidden_states", "layers": [{"teacher": "layers.*", "student": "layers.*"}]}


def test_two_heads_from_one_backbone_are_exported_verified_and_reported(tmp_path: Path) -> None:
    """With a loss for one head alone, learned weights of the heads, and int8 artifacts of two outputs."""
    losses = [{"name": "soft_targets"}, {"name": "labels"}, {"name": "dist", "head": "kind", "weight": 0.5}]
    found = made(tmp_path, recipe(**HEADS, losses=losses, weighting="uncertainty"), "report")
    assert found.student is not None and found.report is not None
    names = {"mean", "kind.accuracy", "side.accuracy"}
    assert set(found.student.metrics) == set(found.teacher.metrics) == names
    assert found.student.metrics["mean"] > 0.7
    assert found.student.metrics["mean"] == pytest.approx(
        np.mean([found.student.metrics["kind.accuracy"], found.student.metrics["side.accuracy"]])
    )
    assert [one.name for one in found.student.outputs] == ["kind", "side"]
    for agreement in found.agreements:
        assert agreement.ok and len(agreement.outputs) == 2 and set(agreement.metrics) == names, agreement
    assert {one.limit for one in found.report.verdicts} >= {"accuracy_floor", "parity"}


def test_several_teachers_teach_what_they_know(tmp_path: Path) -> None:
    more = {"sides": {"name": f"{TOYS}:knows_sides", "training": {"epochs": 6, "batch": 16}, "heads": ["side"]}}
    wanted = recipe(**{**HEADS, "teachers": more})
    made(tmp_path, wanted)
    run = Run(tmp_path)
    first, second = (run.result(name, know.Told) for name in ("knowledge", "knowledges/sides"))
    assert first.outputs == (0, 1) and second.outputs == (1,)
    assert set(second.teacher.metrics) == {"accuracy"}


def test_layers_stages_and_a_start_from_the_teacher(tmp_path: Path) -> None:
    """Of tokens: layers first, then logits, from the teacher's embedding and every second of its layers."""
    stage = {"training": {**ADAMW, "epochs": 2}, "losses": [FEATURES]}
    start = {
        "layers": [{"teacher": "embedding", "student": "embedding"}, {"teacher": "layers.*", "student": "layers.*"}]
    }
    student = {**WORDS["student"], "initialise": start}
    found = made(tmp_path, recipe(**{**WORDS, "student": student, "stages": [stage]}), "verify")
    assert found.student is not None and found.student.inputs[0].dtype == "int32"
    told = Run(tmp_path).result("knowledge", know.Told)
    assert told.layers == ("layers.1", "layers.3") and len(told.views[0].layers) == 2
    kept = np.load(tmp_path / told.views[0].layers[0].path)
    assert kept.shape == (200, 6, 16) and kept.dtype == np.float16
    assert found.student.metrics["accuracy"] > 0.5
    assert all(one.ok for one in found.agreements), found.agreements


def test_layers_that_take_too_much_room_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student is the same, but for what float16 rounds."""
    wanted = recipe(**{**WORDS, "losses": [*recipe().losses, FEATURES]})
    weights = []
    monkeypatch.setattr(know, "call", lambda function, *given, **_: function(*given))  # where the room is patched
    for name, room in (("kept", know.LAYERS_BYTES), ("asked", 0)):
        monkeypatch.setattr(know, "LAYERS_BYTES", room)
        found = made(tmp_path / name, wanted)
        assert Run(tmp_path / name).result("knowledge", know.Told).kept is (name == "kept")
        module = toys.reader()
        assert found.student is not None
        load(module, tmp_path / name / found.student.weights.path)
        weights.append(torch.cat([one.flatten() for one in module.state_dict().values()]))
    assert torch.allclose(*weights, atol=2e-2) and not torch.equal(*weights)


def test_another_seed_of_the_student_in_another_run_teaches_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher, what it says and the plan are the same; students and their twins are not."""
    log = tmp_path / "asked.txt"
    monkeypatch.setenv("TOYS_LOG", str(log))
    wanted = recipe(
        teacher={"name": f"{TOYS}:patient", "training": {"epochs": 2, "batch": 16}},
        views={"count": 2, "shift": 0.1},
    )
    first = made(tmp_path / "a", wanted)
    asked = len(log.read_text(encoding="ascii").split())
    second = made(tmp_path / "b", msgspec.structs.replace(wanted, student_seed=7))
    assert asked > 10 and len(log.read_text(encoding="ascii").split()) == asked
    assert second.teacher == first.teacher and second.plan == first.plan
    for name in ("teacher/teacher.safetensors", "knowledge/view-001/output-0.npy"):
        assert (tmp_path / "a" / name).samefile(tmp_path / "b" / name)
    assert first.student is not None and second.student is not None
    assert first.student.weights.sha256 != second.student.weights.sha256
    assert first.student.twin_weights.sha256 != second.student.twin_weights.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": {"a": {"task": "classification"}}}, "names a task and heads"),
        ({"task": ""}, "names neither a task nor heads"),
        ({"task": "", "heads": {**HEADS["heads"], "x": {"task": "classification"}}}, "has labels for one head"),
        ({**HEADS, "heads": {**HEADS["heads"], "x": {"task": "classification"}}}, "no labels for the head 'x'"),
        ({"losses": [{"name": "labels", "head": "x"}]}, "loss labels is for the head 'x'"),
        ({"losses": [{"name": "labels"}, {"name": "hints"}]}, "loss hints compares layers"),
        ({"losses": [{"name": "labels", "layers": FEATURES["layers"]}]}, "loss labels compares outputs"),
        ({"losses": [{"name": "soft_targets"}]}, "every loss needs the teacher"),
        ({"losses": [{"name": "labels"}, FEATURES]}, r"the teacher has no layer 'layers.\*'"),
        (
            {**WORDS, "losses": [{"name": "labels"}, {**FEATURES, "name": "hints"}]},
            r"answer \(6, 16\) in the student and \(6, 16\) in the teacher, not both",
        ),
        (
            {"losses": [{"name": "labels"}, {"name": "localisation"}]},
            r"loss localisation: an output of shape \(3,\)",
        ),
        ({"teachers": {"b": {"name": f"{TOYS}:teacher", "training": {"epochs": 0}, "heads": ["x"]}}}, "teaches 'x'"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_found_before_any_training(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, recipe(**changes))
    assert not (tmp_path / "teacher").exists()


def test_a_loss_that_no_teacher_can_serve_is_refused(tmp_path: Path) -> None:
    teacher = {"name": f"{TOYS}:knows_sides", "training": {"epochs": 1}, "heads": ["side"]}
    losses = [{"name": "labels"}, {"name": "soft_targets", "head": "kind"}]
    with pytest.raises(ConfigError, match="soft_targets is for the head 'kind', which no teacher teaches"):
        made(tmp_path, recipe(**{**HEADS, "teacher": teacher, "losses": losses}))


@pytest.mark.slow
def test_a_student_is_born_again_of_one_like_it(tmp_path: Path) -> None:
    """The second generation's teacher is the first one's student, and its own student another net."""
    like_it = {"family": f"{TOYS}:student", "options": {"width": 4}}
    student = {"name": f"{TOYS}:student", "training": {"epochs": 2, "batch": 16}, "options": {"width": 4}}
    teacher = {"name": "family", "training": {"epochs": 2, "batch": 16}, "options": like_it}
    first = made(tmp_path / "first", recipe(teacher=teacher, student=student))
    assert first.student is not None and first.teacher.parameters == first.student.parameters
    weights = str(tmp_path / "first" / first.student.weights.path)
    again = {"name": "family", "training": {"epochs": 0}, "options": {**like_it, "weights": weights}}
    second = made(tmp_path / "second", recipe(teacher=again, student=student))
    assert second.student is not None and second.teacher.metrics == first.student.metrics
    assert second.student.weights.sha256 != first.student.weights.sha256


def test_a_net_of_other_outputs_is_refused(tmp_path: Path) -> None:
    student = {"name": f"{TOYS}:student", "training": {"epochs": 2}}
    with pytest.raises(Disagreement, match=r"the student answers \(3,\), the data want kind \(3,\), side \(2,\)"):
        made(tmp_path, recipe(**{**HEADS, "student": student}))


def test_students_start_from_a_file(tmp_path: Path) -> None:
    """Transfer learning: with a training of hardly anything, the student is what the file says."""
    from edgekd.nets import save

    torch.manual_seed(5)
    given = toys.student(4)
    save(given, tmp_path / "pretrained.safetensors")
    student = {
        "name": f"{TOYS}:student",
        "training": {"epochs": 1, "batch": 160, "learning_rate": 1e-9, "warmup": 0.0},
        "initialise": {"weights": str(tmp_path / "pretrained.safetensors")},
    }
    found = made(tmp_path / "run", recipe(student=student))
    module = toys.student(4)
    assert found.student is not None
    load(module, tmp_path / "run" / found.student.weights.path)
    assert torch.allclose(module.features.weight, given.features.weight, atol=1e-6)
    broken = {**student, "initialise": {"weights": str(tmp_path / "nothing.safetensors")}}
    with pytest.raises(ConfigError, match="nothing.safetensors: not the weights of a student"):
        made(tmp_path / "another", recipe(student=broken))
    assert not (tmp_path / "another/teacher").exists()
    save(toys.student(4), tmp_path / "pretrained.safetensors")
    again = made(tmp_path / "run", recipe(student=student))
    assert again.student is not None and again.student.weights.sha256 != found.student.weights.sha256


def test_a_teacher_whose_file_has_changed_is_another(tmp_path: Path) -> None:
    from edgekd.nets import save

    path = tmp_path / "teacher.safetensors"
    options = {"family": f"{TOYS}:student", "options": {"width": 4}, "weights": str(path)}
    wanted = recipe(teacher={"name": "family", "training": {"epochs": 0}, "options": options})
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        save(toys.student(4), path)
        found.append(made(tmp_path / "run", wanted, "teach").teacher.weights.sha256)
    assert found[0] != found[1]


def test_a_teacher_learns_from_what_has_a_label_for_any_of_its_outputs() -> None:
    kinds, tags = np.array([1, -1, -1, 0]), np.array([[-1, -1], [-1, 2], [-1, -1], [0, 1]])
    depth = np.array([np.nan, np.nan, 0.5, np.nan])
    assert training.labelled([kinds]).tolist() == [0, 3]
    assert training.labelled([kinds, tags]).tolist() == [0, 1, 3]
    assert training.labelled([kinds, tags, depth]).tolist() == [0, 1, 2, 3]


def test_a_twin_learns_as_long_from_what_has_labels() -> None:
    """Where two thirds of the examples have none, three epochs of the rest are one of all."""
    from edgekd.lessons import _alone

    stage = Stage(training=Training(epochs=4), losses=(LossChoice(name="labels"),))
    pool, (longer,) = _alone(np.arange(90), (stage,), np.arange(0, 120, 3))
    assert pool.tolist() == list(range(0, 90, 3)) and longer.training.epochs == 12
    pool, (same,) = _alone(np.arange(90), (stage,), np.arange(90))
    assert len(pool) == 90 and same == stage


@pytest.mark.slow
@pytest.mark.parametrize("changes", [COMMANDS, HEADS], ids=["tokens", "images"])
def test_every_rung_of_the_ladder_takes_several_outputs(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tokens too: corrections, layers in float, training for integers; each makes an artifact that is executed."""
    slopes: list[Slope] = []
    monkeypatch.setattr(pipeline, "falls_short", lambda slope, _: slopes.append(slope))
    found = made(tmp_path, recipe(**changes), "climb")
    assert found.student is not None and len(found.student.outputs) == 2
    with sharing():
        for number, remedy in enumerate(REMEDIES):
            student, tried = remedy.attempt(slopes[0], f"rung-{number}", Quantization())
            assert tried.artifact is not None and not any(one.failed for one in tried.trials), (remedy.name, tried)
            assert (student == found.student) == (remedy.name != "quantization-aware training")
