"""A training is a function of its seed: stopped and gone on with, it ends in the same bits."""

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekd import training
from edgekd.errors import TrainingDiverged
from edgekd.progress import listening
from edgekd.specs import Preprocessing, TensorSpec, Training, Views
from edgekd.training import Objective, Shown, fit, in_layout, learning_rate, predict
from edgekd.views import Viewer

EXAMPLES, CLASSES = 40, 3
SGD = Training(epochs=3, batch=8, learning_rate=0.05)
ADAMW = Training(epochs=3, batch=8, learning_rate=0.01, optimiser="adamw")
BOTH = pytest.mark.parametrize("how", [SGD, ADAMW], ids=["sgd", "adamw"])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the workers that train students."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Stopped(Exception):
    """What a kill is, in a test."""


def net() -> nn.Module:
    """With everything that has a state: batch norm's averages, dropout's chance, momentum of kernels and biases."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, CLASSES))
    return nn.Sequential(*layers)


def viewer() -> Viewer:
    noise = np.random.default_rng(0).integers(0, 90, (EXAMPLES, 1, 8, 8))
    images = (noise + 80 * (np.arange(EXAMPLES) % CLASSES).reshape(-1, 1, 1, 1)).astype(np.uint8)
    preprocessing = Preprocessing(size=(8, 8), mean=(127.5,), std=(127.5,))
    return Viewer(images, preprocessing, Views(count=2, shift=0.1, rotate_degrees=10), seed=1)


@BOTH
def test_matrices_may_be_multiplied_in_bfloat16(how: Training, tmp_path: Path) -> None:
    """The net stays in float32, and its answers are that for the loss; the training ends close to the exact one."""
    seen = []

    def watched(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        seen.append(answers[0].dtype)
        return objective(answers, shown)

    ends = []
    for autocast in (False, True):
        module = net()
        wanted = msgspec.structs.replace(how, autocast=autocast)
        path = tmp_path / f"{autocast}.checkpoint"
        fit(module, viewer(), watched, wanted, views=2, seed=0, checkpoint=path, what="training")
        assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}
        ends.append(predict(module, viewer())[0])
    assert set(seen) == {torch.float32}
    assert not np.array_equal(*ends)
    np.testing.assert_allclose(*ends, atol=0.2 * np.abs(ends[0]).max())


def objective(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
    return F.cross_entropy(answers[0], torch.from_numpy(shown.indices % CLASSES))


def stopping_at(step: int) -> Objective:
    steps = iter(range(10_000))

    def stopping(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        if next(steps) == step:
            raise Stopped
        return objective(answers, shown)

    return stopping


def train(module: nn.Module, how: Training, checkpoint: Path, objective: Objective = objective, seed: int = 0) -> None:
    fit(module, viewer(), objective, how, views=2, seed=seed, checkpoint=checkpoint, what="training")


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in module.state_dict().items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "net.checkpoint"


@pytest.fixture
def _checkpoint_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", math.inf)


# --- to the bit


@BOTH
def test_the_same_training_ends_in_the_same_bits(how: Training, tmp_path: Path) -> None:
    first, second, other = net(), net(), net()
    train(first, how, tmp_path / "first")
    train(second, how, tmp_path / "second")
    train(other, how, tmp_path / "other", seed=1)
    assert bits(first) == bits(second)
    assert bits(first) != bits(other) and bits(first) != bits(net())


@BOTH
@pytest.mark.parametrize("stops", [[1], [4], [5], [7, 3], [14], [2, 1, 1, 1]])
@pytest.mark.usefixtures("_checkpoint_every_step")
def test_a_training_that_was_stopped_ends_in_the_same_bits(how: Training, stops: list[int], tmp_path: Path) -> None:
    whole = net()
    train(whole, how, tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Stopped):
            train(net(), how, tmp_path / "net", stopping_at(stop))
    assert (tmp_path / "net").exists()
    resumed = net()
    train(resumed, how, tmp_path / "net")
    assert bits(resumed) == bits(whole)


@BOTH
@pytest.mark.usefixtures("_checkpoint_every_step")
def test_moments_of_kernels_of_several_channels_go_on_in_their_places(how: Training, checkpoint: Path) -> None:
    """A checkpoint is contiguous, such kernels are not while they are trained."""

    def deeper() -> nn.Module:
        rest = net()  # which sets the seed
        return nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 3, padding=1), rest)

    whole, resumed = deeper(), deeper()
    train(whole, how, checkpoint.with_name("whole"))
    with pytest.raises(Stopped):
        train(deeper(), how, checkpoint, stopping_at(7))
    train(resumed, how, checkpoint)
    assert bits(resumed) == bits(whole)


@pytest.mark.usefixtures("_checkpoint_every_step")
def test_it_goes_on_from_its_checkpoint_and_not_from_the_start(checkpoint: Path) -> None:
    with pytest.raises(Stopped):
        train(net(), SGD, checkpoint, stopping_at(11))
    with pytest.raises(Stopped):
        train(net(), SGD, checkpoint, stopping_at(3))  # steps 11, 12 and 13 are done, of 15
    train(net(), SGD, checkpoint, stopping_at(1))  # the last one


def test_a_finished_training_is_not_done_again(checkpoint: Path) -> None:
    first, again = net(), net()
    train(first, SGD, checkpoint)
    train(again, SGD, checkpoint, stopping_at(0))
    assert bits(first) == bits(again) and not again.training


def test_without_a_checkpoint_in_time_nothing_is_written(checkpoint: Path) -> None:
    with pytest.raises(Stopped):
        train(net(), SGD, checkpoint, stopping_at(5))
    assert not checkpoint.exists()


def test_no_epochs_leave_the_net_as_it_is(checkpoint: Path) -> None:
    module = net()
    train(module, Training(epochs=0), checkpoint)
    assert bits(module) == bits(net()) and not module.training


# --- what it is trained on


def seen(how: Training, checkpoint: Path, examples: NDArray[np.int64] | None = None) -> list[tuple[int, list[int]]]:
    found: list[tuple[int, list[int]]] = []

    def looking(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        found.append((shown.epoch, shown.indices.tolist()))
        return objective(answers, shown)

    fit(net(), viewer(), looking, how, views=2, seed=0, checkpoint=checkpoint, what="training", examples=examples)
    return found


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own(checkpoint: Path) -> None:
    batches = seen(SGD, checkpoint)
    orders = [[batch for epoch, batch in batches if epoch == wanted] for wanted in range(3)]
    for order in orders:
        assert sorted(sum(order, [])) == list(range(EXAMPLES))
    assert orders[0] != orders[1] != orders[2]


class Watched(Viewer):
    """Remembers which views it was asked for."""

    asked: tuple[int | None, ...] = ()

    def batch(self, indices: NDArray[np.int64], view: int | None = None) -> Tensor:
        self.asked += (view,)
        return super().batch(indices, view)


def test_each_epoch_shows_the_next_view(checkpoint: Path) -> None:
    watched = Watched(np.zeros((4, 1, 8, 8), np.uint8), Preprocessing(size=(8, 8), mean=(0.0,), std=(1.0,)))
    how = Training(epochs=5, batch=2)
    fit(net(), watched, objective, how, views=3, seed=0, checkpoint=checkpoint, what="training")
    assert watched.asked == (0, 0, 1, 1, 2, 2, 0, 0, 1, 1)


def test_only_the_examples_that_were_named_are_seen(checkpoint: Path) -> None:
    named = np.arange(0, EXAMPLES, 2)
    batches = seen(Training(epochs=2, batch=6), checkpoint, named)
    assert [epoch for epoch, _ in batches] == [0, 0, 0, 1, 1, 1]  # 20 examples are 3 batches of 6
    assert {index for _, batch in batches for index in batch} <= set(named.tolist())


def test_a_batch_is_at_most_all_examples(checkpoint: Path) -> None:
    assert seen(Training(epochs=1, batch=1000), checkpoint) == [(0, list(range(EXAMPLES)))]


def test_it_learns(checkpoint: Path) -> None:
    module = net()
    train(module, Training(epochs=12, batch=8, learning_rate=0.05), checkpoint)
    (outputs,) = predict(module, viewer())
    assert outputs.shape == (EXAMPLES, CLASSES) and outputs.dtype == np.float32
    assert np.mean(outputs.argmax(1) == np.arange(EXAMPLES) % CLASSES) > 0.8


def test_kernels_decay_and_biases_do_not(checkpoint: Path) -> None:
    linear = nn.Linear(64, CLASSES)
    module = nn.Sequential(nn.Flatten(), linear)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(1.0)
    how = Training(epochs=1, batch=EXAMPLES, learning_rate=0.1, weight_decay=0.5)
    train(module, how, checkpoint, lambda answers, shown: answers[0].sum() * 0)
    assert torch.all(linear.weight < 1) and torch.all(linear.bias == 1)


def test_progress_is_told(checkpoint: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    with listening(lambda *parts: heard.append(parts)):
        train(net(), SGD, checkpoint)
    assert heard == [("training", 0, 15), ("training", 5, 15), ("training", 10, 15), ("training", 15, 15)]


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_gradient_is_no_longer_than_its_clip(clip: float | None, checkpoint: Path) -> None:
    module, lengths = net(), []

    def watched(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        before = [one.grad.flatten() for one in module.parameters() if one.grad is not None]
        lengths.extend([torch.cat(before).norm().item()] if before else [])
        return objective(answers, shown)

    train(module, msgspec.structs.replace(SGD, clip=clip), checkpoint, watched)
    assert len(lengths) == 14
    assert max(lengths) < 0.0101 if clip else min(lengths) > 0.0101


# --- what goes wrong


def hint_of(checkpoint: Path) -> str:
    return f"lower learning_rate (now 0.05), or `clip` gradients; the last good checkpoint is {checkpoint}"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.usefixtures("_checkpoint_every_step")
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint_before_it(bad: float, checkpoint: Path) -> None:
    steps = iter(range(100))

    def diverging(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        return objective(answers, shown) * (bad if next(steps) == 6 else 1.0)

    with pytest.raises(TrainingDiverged, match=f"^training: the loss is {bad} at step 6 of 15$") as error:
        train(net(), SGD, checkpoint, diverging)
    assert error.value.hint == hint_of(checkpoint)
    with pytest.raises(Stopped):
        train(resumed := net(), SGD, checkpoint, stopping_at(0))
    assert all(torch.isfinite(tensor).all() for tensor in resumed.state_dict().values())
    assert bits(resumed) != bits(net())


def test_a_loss_that_is_no_number_before_the_first_checkpoint_makes_one(checkpoint: Path) -> None:
    steps = iter(range(100))

    def diverging(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        return objective(answers, shown) * (math.nan if next(steps) == 6 else 1.0)

    with pytest.raises(TrainingDiverged) as error:
        train(net(), SGD, checkpoint, diverging)
    assert error.value.hint == hint_of(checkpoint)
    with pytest.raises(Stopped):
        train(net(), SGD, checkpoint, stopping_at(8))  # steps 6 to 14 are left


@pytest.mark.parametrize(
    ("step", "said"), [(6, "the loss is nan at step 7 of 15$"), (14, "the last step left weights")]
)
@pytest.mark.usefixtures("_checkpoint_every_step")
def test_weights_that_are_no_numbers_are_no_checkpoint(step: int, said: str, checkpoint: Path) -> None:
    """A loss may be a number, and its gradient none."""
    module, steps = net(), iter(range(100))

    def spoiling(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        if next(steps) == step:
            answers[0].register_hook(lambda gradient: gradient * math.nan)
        return objective(answers, shown)

    with pytest.raises(TrainingDiverged, match=said):
        train(module, SGD, checkpoint, spoiling)
    with pytest.raises(Stopped):
        train(resumed := net(), SGD, checkpoint, stopping_at(0))
    assert all(torch.isfinite(tensor).all() for tensor in resumed.state_dict().values())


@BOTH
@pytest.mark.usefixtures("_checkpoint_every_step")
def test_an_unreadable_checkpoint_is_as_none(how: Training, tmp_path: Path) -> None:
    whole = net()
    train(whole, how, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(net(), how, tmp_path / "net", stopping_at(6))
    content = (tmp_path / "net").read_bytes()
    for number, broken in enumerate((b"", b"\0" * 50, content[:-1], content[: len(content) // 2], content[100:])):
        path = tmp_path / f"broken-{number}"
        path.write_bytes(broken)
        anew = net()
        train(anew, how, path)
        assert bits(anew) == bits(whole), number


@pytest.mark.usefixtures("_checkpoint_every_step")
def test_a_checkpoint_that_says_no_step_is_as_none(tmp_path: Path) -> None:
    whole, anew = net(), net()
    train(whole, SGD, tmp_path / "whole")
    save_file({"net.0.weight": torch.zeros(1)}, tmp_path / "net")
    train(anew, SGD, tmp_path / "net")
    assert bits(anew) == bits(whole)


@pytest.mark.usefixtures("_checkpoint_every_step")
def test_a_checkpoint_of_another_net_is_as_none(tmp_path: Path) -> None:
    whole, anew = net(), net()
    train(whole, SGD, tmp_path / "whole")
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(Stopped):
        train(narrow, SGD, tmp_path / "net", stopping_at(2))
    train(anew, SGD, tmp_path / "net")
    assert bits(anew) == bits(whole)


# --- the schedule


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    how = Training(epochs=1, learning_rate=0.4, warmup=0.2)
    rates = [learning_rate(how, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.4 / 20)
    assert rates[19] == rates[20] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(0.0, abs=1e-12) and 0 < rates[99] < 0.4 / 1000


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-6, 10))
def test_the_learning_rate_is_at_most_the_recipes_and_above_zero(steps: int, warmup: float, highest: float) -> None:
    how = Training(epochs=1, learning_rate=highest, warmup=warmup)
    rates = [learning_rate(how, step, steps) for step in range(steps)]
    assert all(0 < rate <= highest * (1 + 1e-12) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


# --- outputs


@pytest.mark.parametrize("examples", [None, np.array([3, 1, 2])])
def test_outputs_do_not_depend_on_how_many_are_asked_at_once(
    examples: NDArray[np.int64] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = net()
    (at_once,) = predict(module, viewer(), examples=examples)
    monkeypatch.setattr(training, "BATCH_OF_INFERENCE", 7)
    np.testing.assert_allclose(predict(module, viewer(), examples=examples)[0], at_once, atol=1e-5)
    assert module.training  # as it was


def test_outputs_of_a_view_are_others() -> None:
    module = net()
    assert np.abs(predict(module, viewer(), 0)[0] - predict(module, viewer(), 1)[0]).max() > 1e-3


def test_axes_are_brought_into_a_models_order() -> None:
    examples = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    assert in_layout(examples, TensorSpec(name="x", shape=(1, 2, 3, 4), layout="NCHW")).shape == (1, 1, 2, 3, 4)
    turned = in_layout(examples, TensorSpec(name="x", shape=(1, 3, 4, 2), layout="NHWC"))
    assert turned.shape == (1, 1, 3, 4, 2) and turned.flags.c_contiguous
    assert turned[0, 0, 2, 1, 1] == examples[0, 1, 2, 1]
