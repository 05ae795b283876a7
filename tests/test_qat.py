"""Training for integers: what leaves is the student's own weights, better for integers, and the same after a stop."""

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd import qat, training
from edgekd.fake_quant import FakeQuantized
from edgekd.specs import Student, Training
from edgekd.traces import trace
from edgekd.training import Shown, fit, predict
from tests.hard_ground import VIEWS, Ground, ground


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """With a student that int8 spoils, and no correction can mend."""
    return ground(tmp_path_factory.mktemp("uneven"), "uneven", {"times": 300.0})


def accuracy_in_integers(ground: Ground, student: Student) -> float:
    """By simulation, on the test split, with ranges as an export takes them."""
    simulated = FakeQuantized(trace(ground.module(student), [torch.zeros(1, 1, 16, 16)]))
    simulated.observe([ground.viewer("train").batch(np.arange(0, 400, 2))])
    (outputs,) = predict(simulated, ground.viewer("test"))
    return float(np.mean(outputs.argmax(1) == ground.labels("test")))


def test_a_fifth_of_the_epochs_at_a_tenth_of_the_rate() -> None:
    recipe = Training(epochs=40, learning_rate=0.01, batch=8, weight_decay=1e-4)
    assert qat.short(recipe) == Training(epochs=8, learning_rate=0.001, batch=8, weight_decay=1e-4, optimiser="adamw")
    least = qat.short(Training(epochs=0, learning_rate=0.5))
    assert least.epochs == 2 and least.learning_rate == 0.002


def test_the_student_learns_to_be_rounded(uneven: Ground) -> None:
    before = accuracy_in_integers(uneven, uneven.student)
    lesson = msgspec.structs.replace(uneven.lesson, training=Training(epochs=50, batch=16))
    taught = uneven.run.step("qat", qat.train_rounded, lesson, uneven.student, uneven.data, uneven.knowledge)
    assert before < 0.6
    assert accuracy_in_integers(uneven, taught) > 0.95
    assert taught.weights != uneven.student.weights
    assert (
        msgspec.structs.replace(taught, weights=uneven.student.weights, metrics=uneven.student.metrics)
        == uneven.student
    )
    assert not list(uneven.run.folder.glob("qat/*.checkpoint"))


class Stopped(Exception):
    """What a kill is, in a test."""


def train(ground: Ground, checkpoint: Path, stop_at: int = 10_000) -> dict[str, bytes]:
    """The state after some steps; `Stopped` before `stop_at` of them."""
    viewer = ground.viewer("train")
    simulated = FakeQuantized(trace(ground.module(ground.student), [torch.zeros(1, 1, 16, 16)]), momentum=0.1)
    simulated.observe([viewer.batch(np.arange(100))])
    said = torch.from_numpy(
        np.load(ground.run.folder / ground.knowledge.told[0].views[0].outputs[0].path).astype(np.float32)
    )
    steps = iter(range(10_000))

    def objective(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        if next(steps) == stop_at:
            raise Stopped
        return (answers[0] - said[shown.indices]).square().mean()

    how = Training(epochs=1, batch=16, learning_rate=0.001, optimiser="adamw")
    fit(simulated, viewer, objective, how, views=VIEWS.count, seed=0, checkpoint=checkpoint, what="training")
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in simulated.state_dict().items()}


def test_a_stopped_training_ends_at_the_same_bits(
    uneven: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges among them, which are no weights."""
    whole = train(uneven, tmp_path / "whole")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", math.inf)
    with pytest.raises(Stopped):
        train(uneven, tmp_path / "stopped", stop_at=9)
    assert train(uneven, tmp_path / "stopped") == whole
    assert {"low", "high"} < whole.keys()


def test_what_the_graph_does_not_use_stays_as_it_was(uneven: Ground) -> None:
    module = uneven.module(uneven.student)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    simulated = FakeQuantized(trace(module, [torch.zeros(1, 1, 16, 16)]))
    with torch.no_grad():
        for parameter in simulated.parameters():
            parameter.add_(1)
    qat._take_weights(module, simulated)
    after = module.state_dict()
    trained = {name for name, _ in module.named_parameters()}
    assert all(torch.equal(after[name], before[name] + (name in trained)) for name in before)
