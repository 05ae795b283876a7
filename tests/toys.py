"""A user's own code, as a user would write it: data, a teacher and students that train in seconds."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import Preprocessing

CLASSES = ("bar", "cross", "dot")


def pictures(count: int = 240, classes: int = 3, channels: int = 1) -> dict[str, Any]:
    """16x16 drawings: a vertical bar, a cross, a dot, at random places, with noise."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = np.array([_draw(int(label), random) for label in labels]).reshape(-1, 1, 16, 16).repeat(channels, axis=1)
    return {
        "train_inputs": images[: count * 2 // 3],
        "train_labels": labels[: count * 2 // 3],
        "test_inputs": images[count * 2 // 3 :],
        "test_labels": labels[count * 2 // 3 :],
        "classes": list(CLASSES[:classes]),
        "licence": "CC0-1.0",
    }


def _draw(label: int, random: np.random.Generator) -> NDArray[np.uint8]:
    image = random.integers(0, 90, (16, 16))
    row, column = random.integers(4, 12, 2)
    if label == 0:
        image[2:14, column] = 255
    elif label == 1:
        image[row, 2:14] = image[2:14, column] = 255
    else:
        image[row - 1 : row + 2, column - 1 : column + 2] = 255
    return image.astype(np.uint8)


def numbers(count: int = 240) -> dict[str, Any]:
    """Arrays that are no pictures: 12 numbers an example; the class is where the largest third lies."""
    random = np.random.default_rng(1)
    labels = np.arange(count) % 3
    inputs = random.normal(size=(count, 3, 4)).astype(np.float32)
    inputs[np.arange(count), labels] += 1.0
    flat = inputs.reshape(count, 12)
    return {
        "train_inputs": flat[:160],
        "train_labels": labels[:160],
        "test_inputs": flat[160:],
        "test_labels": labels[160:],
        "classes": CLASSES,
    }


def teacher(width: int = 16, outputs: int = 3, classes: tuple[str, ...] | None = CLASSES) -> nn.Module:
    """A small convolutional net."""
    module = nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, outputs),
    )
    module.preprocessing = Preprocessing(size=(16, 16), mean=(127.5,), std=(127.5,))  # type: ignore[assignment]
    if classes is not None:
        module.classes = tuple(classes)  # type: ignore[assignment]
    return module


class Student(nn.Module):
    """A smaller one; `width` is what the space varies."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(size=(16, 16), mean=(127.5,), std=(127.5,))
        self.features = nn.Conv2d(1, width, 3, 2, 1)
        self.more = nn.Conv2d(width, width, 3, 2, 1)
        self.classifier = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.more(torch.relu(self.features(images))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def student(width: int = 4) -> nn.Module:
    """A function that makes the student."""
    return Student(width)


def perceptron(width: int = 16) -> nn.Module:
    """For `numbers`."""
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3))


def raises() -> nn.Module:
    """A function with a mistake in it."""
    raise ValueError("no weights\nat that path")


def four_outputs() -> nn.Module:
    """Does not fit three classes."""
    return teacher(outputs=4, classes=None)


def other_order() -> nn.Module:
    """Knows the classes by other numbers."""
    return teacher(classes=("dot", "cross", "bar"))


def other_classes() -> nn.Module:
    """Knows other classes."""
    return teacher(classes=("circle", "cross", "dot"))


def colour() -> dict[str, Any]:
    """Three channels where the nets take one."""
    return pictures(channels=3)


def one_class() -> dict[str, Any]:
    """Nothing to tell apart."""
    return pictures(classes=1)


def nothing() -> dict[str, Any]:
    """No examples."""
    return pictures(count=0) | {"train_inputs": np.empty((0, 1, 16, 16), np.uint8)}


def nan() -> dict[str, Any]:
    """A broken sensor."""
    made = numbers()
    made["train_inputs"][3, 2] = np.nan
    return made


def spectra(count: int = 240) -> dict[str, Any]:
    """Float planes, as of sound: what `pictures` draws, scaled by a user's own hand."""
    made = pictures(count)
    for split in ("train", "test"):
        made[f"{split}_inputs"] = (made[f"{split}_inputs"] / 127.5 - 1).astype(np.float32)
    return made


def places(count: int = 240) -> dict[str, Any]:
    """The drawings, each with a second question: is it brighter on the left or on the right? Some have no answer."""
    made = pictures(count)
    for split in ("train", "test"):
        images, kinds = made[f"{split}_inputs"].astype(float), made[f"{split}_labels"]
        sides = (images[..., 8:].sum((1, 2, 3)) > images[..., :8].sum((1, 2, 3))).astype(int)
        if split == "train":
            sides[::7] = -1
        made[f"{split}_labels"] = {"kind": kinds, "side": sides}
    made["classes"] = {"kind": CLASSES, "side": ("left", "right")}
    return made


class TwoHeads(nn.Module):
    """One backbone, an answer to each question."""

    def __init__(self, width: int = 8, heads: tuple[int, ...] = (3, 2)) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(size=(16, 16), mean=(127.5,), std=(127.5,))
        self.backbone = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        self.heads = nn.ModuleList([nn.Linear(width * 16, size) for size in heads])

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        features = self.backbone(images).flatten(1)
        answers = tuple(head(features) for head in self.heads)
        return answers if len(answers) > 1 else answers[0]


def two_heads(width: int = 8) -> nn.Module:
    """For `places`."""
    return TwoHeads(width)


def knows_sides(width: int = 8) -> nn.Module:
    """A teacher of the second question alone."""
    return TwoHeads(width, (2,))


def words(count: int = 300) -> dict[str, Any]:
    """Sentences of up to 6 words out of 20; the class is the greatest of three words that is in it."""
    random = np.random.default_rng(2)
    tokens = random.integers(4, 20, (count, 6)).astype(np.int32)
    labels = np.arange(count) % 3
    tokens[np.arange(count), random.integers(0, 3, count)] = labels + 1
    tokens[np.arange(6) >= random.integers(3, 7, count)[:, None]] = 0
    return {
        "train_inputs": tokens[:200],
        "train_labels": labels[:200],
        "test_inputs": tokens[200:],
        "test_labels": labels[200:],
        "classes": CLASSES,
        "vocabulary": ("[PAD]", *(f"word{index}" for index in range(1, 20))),
    }


class Reader(nn.Module):
    """Averages what words mean; padding means nothing."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.classifier = nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.embedding(tokens)
        for layer in self.layers:
            states = states + torch.relu(layer(states))
        mask = (tokens != 0).unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.classifier((states * mask).sum(1))
        return logits


def reader(width: int = 16, layers: int = 2) -> nn.Module:
    """For `words`."""
    return Reader(width, layers)


class Patient(nn.Module):
    """A teacher that counts: a line for each batch goes into the file that TOYS_LOG names, and it waits."""

    def __init__(self, wait_s: float = 0.0) -> None:
        super().__init__()
        self.wait_s = wait_s
        self.preprocessing = Preprocessing(size=(16, 16), mean=(127.5,), std=(127.5,))
        self.features = nn.Conv2d(1, 4, 3, 4, 1)
        self.more = nn.Conv2d(4, 2, 1)
        self.classifier = nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 1:  # one alone is asked for shapes
            with Path(os.environ["TOYS_LOG"]).open("a", encoding="ascii") as log:
                log.write(f"{len(images)}\n")
            time.sleep(self.wait_s)
        logits: Tensor = self.classifier(self.more(torch.relu(self.features(images))).flatten(1))
        return logits


def patient(wait_s: float = 0.0, weights: str = "") -> nn.Module:
    """For `pictures`; `weights` may name a file, which is not read."""
    return Patient(wait_s)


def mirror() -> nn.Module:
    """Its layer "0" says what it is shown."""
    return nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool1d(3))


def seeded_teacher() -> nn.Module:
    """The same random weights each time."""
    torch.manual_seed(0)
    made = teacher().eval()
    made.example_inputs = (torch.zeros(1, 1, 16, 16),)  # type: ignore[assignment]
    return made
