"""An encoder with two heads, as `edgekd export` takes it, sentences to calibrate it with, and a data set of them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd import students
from edgekd.plugins import find
from edgekd.specs import Output, Subject

WORDS, LENGTH = 300, 12
SUBJECT = Subject(
    shape=(LENGTH,),
    kind="tokens",
    vocabulary=tuple(f"word {number}" for number in range(WORDS)),
    outputs=(
        Output(name="intent", task="classification", shape=(7,), classes=tuple("abcdefg"), metric="accuracy"),
        Output(name="slots", task="tagging", shape=(5, LENGTH), classes=("O", "B-a", "I-a", "B-b", "I-b"), metric="f1"),
    ),
)


def sentences() -> NDArray[np.int32]:
    """32 of 2 to 12 words."""
    random = np.random.default_rng(0)
    rows = random.integers(1, WORDS, (32, LENGTH), dtype=np.int32)
    rows[np.arange(LENGTH) >= random.integers(2, LENGTH + 1, (32, 1))] = 0
    return rows


def encoder() -> nn.Module:
    """Random weights, larger than a training starts with: each token is to make a difference."""
    torch.manual_seed(0)
    family = find(students, "encoder")
    module: Any = family.build(family.Options(width=64, embedding=32), SUBJECT).module.eval()
    for layer in module.encoder.layers:
        for part in (layer.attention.query, layer.attention.key):
            nn.init.normal_(part.weight, std=0.2)
    module.example_inputs = torch.from_numpy(sentences()[:1])
    return module  # type: ignore[no-any-return]


def commands(count: int = 240) -> dict[str, Any]:
    """Sentences with an intent and tags: a word of three says the one, and is the phrase that is tagged."""
    random = np.random.default_rng(3)
    tokens = random.integers(4, 20, (count, LENGTH), dtype=np.int32)
    intents, places = random.integers(0, 3, count), random.integers(0, 2, count)
    tokens[np.arange(LENGTH) >= random.integers(3, LENGTH + 1, (count, 1))] = 0
    tokens[np.arange(count), places] = intents + 1
    tags = np.where(tokens == 0, -1, 0)
    tags[np.arange(count), places] = 1
    labels = {"intent": intents, "slots": tags}
    return {
        "train_inputs": tokens[:160],
        "train_labels": {head: one[:160] for head, one in labels.items()},
        "test_inputs": tokens[160:],
        "test_labels": {head: one[160:] for head, one in labels.items()},
        "classes": {"intent": ("on", "off", "up"), "slots": ("O", "B-word", "I-word")},
        "vocabulary": ("[PAD]", *(f"word{index}" for index in range(1, 20))),
    }
