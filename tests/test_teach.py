"""A teacher is trained once: whoever wants the same one of the same data gets it, and any other is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgekd import store, teach
from edgekd.runs import Work
from edgekd.specs import Data, Teacher, TeacherChoice, Training
from tests import toys
from tests.asked import VIEWS, begun

CURRICULUM = teach.Curriculum(
    teacher=TeacherChoice(name=f"{toys.__file__}:patient", training=Training(epochs=1, batch=50)),
    views=VIEWS,
    seed=0,
    source="",
    threads=1,
)
STEPS, TESTS = 20, 3


def learning(training: Training) -> teach.Curriculum:
    return msgspec.structs.replace(CURRICULUM, teacher=msgspec.structs.replace(CURRICULUM.teacher, training=training))


Train = Callable[..., Teacher]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line a batch that a teacher computed."""
    monkeypatch.setenv("TOYS_LOG", str(tmp_path / "asked.txt"))
    return tmp_path / "asked.txt"


@pytest.fixture
def train(tmp_path: Path, log: Path) -> Train:
    """Teach in a run of its own, in this process."""

    def training(run: str, curriculum: teach.Curriculum = CURRICULUM, change: Any = None) -> Teacher:
        _, _, data = begun(tmp_path / run)
        work = Work(str(tmp_path / run), "teacher", str(tmp_path / run / "teacher"))
        work.out.mkdir()
        return teach._teach(work, curriculum, change(work, data) if change else data)

    return training


def batches(log: Path) -> int:
    """Since the last time."""
    found = len(log.read_text(encoding="ascii").split()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return found


def test_a_second_run_trains_nothing(train: Train, log: Path, tmp_path: Path) -> None:
    first = train("a")
    assert batches(log) == STEPS + TESTS
    assert train("b") == first and batches(log) == 0
    weights = [tmp_path / run / "teacher" / "teacher.safetensors" for run in ("a", "b")]
    assert weights[0].samefile(weights[1])
    assert [one.kind for one in store.entries()] == ["teacher"]


@pytest.mark.parametrize(
    "curriculum",
    [
        msgspec.structs.replace(CURRICULUM, seed=1),
        msgspec.structs.replace(CURRICULUM, views=msgspec.structs.replace(VIEWS, shift=0.2)),
        msgspec.structs.replace(
            CURRICULUM,
            teacher=msgspec.structs.replace(
                CURRICULUM.teacher, training=Training(epochs=1, batch=50, learning_rate=0.2)
            ),
        ),
    ],
    ids=["seed", "views", "training"],
)
def test_another_curriculum_is_another_teacher(train: Train, log: Path, curriculum: teach.Curriculum) -> None:
    first = train("a")
    batches(log)
    assert train("b", curriculum).weights != first.weights and batches(log) == STEPS + TESTS


def test_other_labels_are_another_teacher(train: Train, log: Path) -> None:
    def turned(work: Work, data: Data) -> Data:
        path = Path(work.run_folder) / "made" / "y.npy"
        np.save(path, (np.load(path) + 1) % 3)
        return msgspec.structs.replace(data, train_labels=(Work(work.run_folder, "made", str(path.parent)).keep(path),))

    first = train("a")
    batches(log)
    assert train("b", change=turned).weights != first.weights and batches(log) == STEPS + TESTS


def test_other_pretrained_weights_are_another_teacher(train: Train, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the recipe is the same: they come out of a user's own file."""
    as_it_is = learning(Training(epochs=0))
    first = train("a", as_it_is)
    assert train("b", as_it_is) == first and batches(log) == TESTS
    build = teach.build_teacher

    def pretrained(*given: Any) -> Any:
        net = build(*given)
        torch.nn.init.constant_(net.module.features.weight, 0.5)
        return net

    monkeypatch.setattr(teach, "build_teacher", pretrained)
    assert train("c", as_it_is).weights != first.weights and batches(log) == TESTS


@pytest.mark.parametrize("what", ["teacher.safetensors", "teacher.json"])
def test_a_damaged_teacher_is_trained_again(train: Train, log: Path, what: str) -> None:
    first = train("a")
    batches(log)
    (path,) = store.root().glob(f"*/{what}")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1] + b"x")
    assert train("b") == first and batches(log) == STEPS + TESTS
    assert train("c") == first and batches(log) == 0


def test_weights_and_code_of_a_net_have_a_digest() -> None:
    from edgekd.nets import code_digest, weights_digest

    torch.manual_seed(0)
    one, other = toys.patient(), toys.patient()
    assert weights_digest(one) == weights_digest(one) != weights_digest(other)
    assert code_digest(one) == code_digest(other) != code_digest(toys.student())
    assert code_digest(torch.nn.Conv2d(1, 1, 3)) != code_digest(torch.nn.Conv2d(1, 1, 3, padding=1))

    class Twice(toys.Patient):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(images)

    assert code_digest(Twice()) != code_digest(one)
