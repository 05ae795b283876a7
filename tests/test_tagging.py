"""Phrases in BIO: found as seqeval finds them, and counted so that examples add up."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekd import tasks
from edgekd.errors import ConfigError
from edgekd.plugins import find

TASK = find(tasks, "tagging")
NAMES = ("O", "B-artist", "I-artist", "B-place", "I-place")


def reference_phrases(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """seqeval 1.2.2, `get_entities` for IOB2 by prefix, written down again from its rules."""
    found, previous, kind, begin = set(), "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        before, _, earlier = previous.partition("-")
        ends = before in {"B", "I"} and (prefix in {"B", "O"} or name != earlier)
        starts = prefix == "B" or (prefix == "I" and (before == "O" or name != earlier))
        if ends:
            found.add((kind, begin, place - 1))
        if starts:
            kind, begin = name, place
        previous = tag
    return found


def reference(found: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> dict[str, float]:
    answered = {(i, *one) for i, tags in enumerate(found) for one in reference_phrases(tags)}
    there = {(i, *one) for i, tags in enumerate(true) for one in reference_phrases(tags)}
    precision = len(answered & there) / len(answered) if answered else 0.0
    recall = len(answered & there) / len(there) if there else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def outputs_of(tags: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of shape (examples, classes, length) whose largest are these tags."""
    return np.eye(len(NAMES), dtype=np.float32)[tags].transpose(0, 2, 1)


rows = st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5)


@given(rows, st.data())
def test_phrases_are_counted_as_seqeval_counts_them(found: list[list[int]], data: st.DataObject) -> None:
    true = data.draw(
        st.lists(st.lists(st.integers(-1, 4), min_size=6, max_size=6), min_size=len(found), max_size=len(found))
    )
    labels = np.array(true)
    metrics = TASK.metrics(TASK.counts(outputs_of(np.array(found)), labels))
    kept = [
        [(NAMES[answer], NAMES[label]) for answer, label in zip(*pair, strict=True) if label >= 0]
        for pair in zip(found, true, strict=True)
    ]
    expected = reference([[one for one, _ in row] for row in kept], [[one for _, one in row] for row in kept])
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    pairs = [pair for row in kept for pair in row]
    assert metrics["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0)


def test_a_known_case() -> None:
    """The second phrase goes a word too far, the third is of another kind, and one is made up."""
    true = np.array([[1, 2, 0, 3, 0, 3, -1, -1], [0, 0, 0, 0, -1, -1, -1, -1]])
    found = np.array([[1, 2, 0, 3, 4, 1, 1, 1], [0, 4, 4, 0, 1, 1, 1, 1]])
    metrics = TASK.metrics(TASK.counts(outputs_of(found), true))
    assert metrics == pytest.approx({"precision": 1 / 4, "recall": 1 / 3, "f1": 2 / 7, "accuracy": 6 / 10})


def test_counts_add_up() -> None:
    random = np.random.default_rng(0)
    outputs, labels = random.normal(size=(20, 5, 7)), random.integers(-1, 5, (20, 7))
    whole = TASK.counts(outputs, labels)
    assert whole.shape[0] == 20
    halves = [TASK.counts(outputs[part], labels[part]) for part in (slice(0, 9), slice(9, 20))]
    assert np.array_equal(np.concatenate(halves), whole)
    assert TASK.metrics(np.concatenate(halves)) == TASK.metrics(whole.sum(axis=0, keepdims=True))


def test_the_loss_is_of_the_tokens_that_have_a_tag() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(2, 5, 3, requires_grad=True)
    labels = torch.tensor([[1, -1, 0], [-1, -1, 4]], dtype=torch.int32)
    expected = -torch.stack([outputs.log_softmax(1)[i, labels[i, k], k] for i, k in ((0, 0), (0, 2), (1, 2))]).mean()
    loss = TASK.label_loss(outputs, labels, 0.0)
    assert torch.allclose(loss, expected)
    loss.backward()
    assert outputs.grad is not None and not outputs.grad[0, :, 1].any() and outputs.grad[0, :, 0].any()
    assert TASK.label_loss(outputs, torch.full((2, 3), -1), 0.0).item() == 0.0


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([[0, 1]], ("O", "I-a", "B-a"), "the tags are O, I-a, B-a"),
        ([[0, 1]], ("O", "B-a"), "the tags are O, B-a"),
        ([[0, 1]], ("O",), "the tags are O"),
        ([[0, 1]], ("B-a", "I-a", "O"), "the tags are"),
        ([[0, 5]], NAMES, "tags run from 0 to 5, their names from 0 to 4"),
        ([[-2, 1]], NAMES, "tags run from -2 to 1"),
        ([[0, -1]], NAMES, "no token is of a phrase"),
    ],
)
def test_tags_that_are_none_are_refused(labels: list[list[int]], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TASK.check(np.array(labels), names)


def test_an_answer_is_a_column_of_tags_a_token() -> None:
    assert TASK.output((12,), NAMES, (12,)) == (5, 12)
    with pytest.raises(ConfigError, match="labels of shape"):
        TASK.output((), NAMES, ())
