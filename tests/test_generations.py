"""What a student writes itself while it learns: when, what of it counts, and what its step of training is (GKD)."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import edgekd
from edgekd.errors import ConfigError
from edgekd.generations import OwnTexts, follows
from edgekd.heads import tasks_of
from edgekd.objectives import Objective, terms_of
from edgekd.specs import LossChoice, Training
from edgekd.training import fit, targets
from edgekd.views import Viewer
from tests import talkers
from tests.test_decoding import recipe

TOKENS, LABELS = talkers.texts(8, 0)


def student(seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return talkers.teacher(width=16, layers=1)


def writer(net: Any, share: float, seed: int = 0) -> OwnTexts:
    return OwnTexts(net.step, LABELS, share, talkers.END, seed)


def test_the_share_of_steps_is_that_of_the_recipe_and_the_seed_says_which() -> None:
    net, inputs, indices = student(), torch.from_numpy(TOKENS).long(), np.arange(8)
    own = [writer(net, 0.3)(inputs, indices, number) is not None for number in range(300)]
    assert 0.2 < np.mean(own) < 0.4
    assert own == [writer(net, 0.3)(inputs, indices, number) is not None for number in range(300)]
    first, second = (writer(net, 1.0, seed)(inputs, indices, 5) for seed in (0, 1))
    again = writer(net, 1.0)(inputs, indices, 5)
    assert first and second and again
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], second[0])
    assert writer(net, 0.0)(inputs, indices, 5) is None


def test_beginnings_stay_and_what_was_written_is_what_counts() -> None:
    net, inputs = student(), torch.from_numpy(TOKENS).long()
    made = writer(net, 1.0)(inputs, np.arange(8), 0)
    assert made is not None
    texts, labels = made
    for text, follow, ours, theirs in zip(texts.tolist(), labels.tolist(), TOKENS.tolist(), LABELS, strict=True):
        known = int((theirs >= 0).argmax()) + 1
        assert text[:known] == ours[:known]
        written = text[known:]
        size = written.index(talkers.END) + 1 if talkers.END in written else len(written)
        assert not any(written[size:])
        expected = [-1] * (known - 1) + written[:size]
        assert follow == expected + [-1] * (talkers.LENGTH - len(expected))


def test_where_texts_end_with_their_padding_the_first_counts() -> None:
    labels = follows(torch.tensor([[1, 5, 2, 6, 0, 0], [1, 5, 2, 6, 7, 8]]), torch.tensor([3, 3]), 0)
    assert labels.tolist() == [[-1, -1, 6, 0, -1, -1], [-1, -1, 6, 7, 8, -1]]


class _Told:
    """An oracle that asks a teacher directly."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        self._teacher = teacher

    def outputs(self, shown: Any) -> list[Tensor | None]:
        with torch.no_grad():
            return [self._teacher(*shown.inputs)]


def test_a_step_is_the_divergence_on_what_the_student_wrote(tmp_path: Path) -> None:
    """Against the paper's formula, one gradient step by hand, on texts that are drawn by hand."""
    teacher, net, twin = student(3).module.eval(), student(), student()
    subject = talkers.subject()
    choices = (
        LossChoice(name="divergence", weight=0.5, options={"kind": "reverse_kl", "temperature": 1.0}),
        LossChoice(name="labels", weight=0.5),
    )
    objective: Any = Objective(terms_of(choices, subject), subject, [LABELS], _Told(teacher))  # type: ignore[arg-type]
    training = Training(epochs=1, batch=8, learning_rate=0.1, weight_decay=0.0, warmup=0.0, own_generations=1.0)
    viewer = Viewer(TOKENS, None)
    how: Any = {"views": 1, "seed": 0, "checkpoint": tmp_path / "c", "what": "x"}
    fit(net.module, viewer, objective, training, writer=writer(net, 1.0), **how)

    inputs = torch.from_numpy(TOKENS).long()
    made = writer(twin, 1.0)(inputs, np.arange(8), 0)
    assert made is not None
    texts, labels = made
    q, p = twin.module(texts).log_softmax(1), teacher(texts).log_softmax(1).detach()
    by_token = (q.exp() * (q - p)).sum(1)
    loss = by_token[labels >= 0].mean()
    loss.backward()
    momentum = 1.9  # of Nesterov's first step
    for name, parameter in twin.module.named_parameters():
        expected = parameter.detach() - 0.1 * momentum * parameter.grad
        found = dict(net.module.named_parameters())[name]
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)
    on_data = F.cross_entropy(twin.module(inputs), targets([LABELS], np.arange(8))[0], ignore_index=-1)
    assert not torch.isclose(on_data, loss, rtol=0.01), "of the data, something else would have been learned"


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    subject = talkers.subject()
    teacher = student(3).module.eval()
    terms = terms_of((LossChoice(name="divergence"),), subject)

    def train(net: Any, epochs: int, checkpoint: Path, stop: int | None = None) -> None:
        own = writer(net, 0.5)

        def maybe(inputs: Tensor, indices: Any, number: int) -> Any:
            if number == stop:
                raise KeyboardInterrupt
            return own(inputs, indices, number)

        training = Training(epochs=epochs, batch=4, learning_rate=0.05, own_generations=0.5)
        objective: Any = Objective(terms, subject, [LABELS], _Told(teacher))  # type: ignore[arg-type]
        how: Any = {"views": 1, "seed": 0, "checkpoint": checkpoint, "what": "x", "writer": maybe}
        fit(net.module, Viewer(TOKENS, None), objective, training, **how)

    whole, broken = student(), student()
    train(whole, 4, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekd.training.CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(broken, 4, tmp_path / "broken", stop=5)
    again = student(7)
    train(again, 4, tmp_path / "broken")
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(weight, again.module.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"name": "encoder"}}, "does not write"),
        ({"teacher_share": 0.5}, "nobody who tells it what they are worth"),
        ({"losses": "labels"}, "no loss of that training hears the teacher"),
    ],
)
def test_who_cannot_write_or_be_judged_is_told_before_any_work(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    wanted = recipe(own_generations=0.5)
    if "teacher_share" in changes:
        training = msgspec.structs.replace(wanted.teacher.training, own_generations=0.5)
        wanted = msgspec.structs.replace(wanted, teacher=msgspec.structs.replace(wanted.teacher, training=training))
    if "losses" in changes:
        wanted = msgspec.structs.replace(wanted, losses=wanted.losses[1:])
    if "student" in changes:
        own = msgspec.structs.replace(wanted.student, name=f"{Path(talkers.__file__)}:mute", options={})
        wanted = msgspec.structs.replace(wanted, student=own)
    with pytest.raises(ConfigError, match=message):
        edgekd.run(wanted, "raspberry-pi-4", out=tmp_path / "run", until="teach")


def test_a_subject_has_one_task_that_counts_tokens() -> None:
    (task,) = tasks_of(talkers.subject())
    outputs = np.zeros((2, len(talkers.PIECES), talkers.LENGTH), np.float32)
    found = task.metrics(task.counts(outputs, LABELS[:2]))
    assert found["perplexity"] == pytest.approx(len(talkers.PIECES))
