"""Three nets for the comparison with hand-written calls: a trained student, a MobileNetV2, a BERT-like encoder.

Each function returns a module that carries `example_inputs`; `<name>_inputs` gives seeded or real inputs for it.
"""

import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import datasets, students
from edgekd.nets import load, save
from edgekd.plugins import find
from edgekd.specs import Output, Subject

NAMES = ("digits", "mobilenet", "encoder")
EXAMPLES = 128


@cache
def _mnist() -> Any:
    plugin = find(datasets, "mnist_5k")
    return plugin.load(plugin.Options())


def _pixels(images: NDArray[Any]) -> NDArray[np.float32]:
    return ((images.astype(np.float32) - 127.5) / 127.5)[:, None]


def digits() -> nn.Module:
    """A `mobile` student, trained on digits for half a minute; its labels are known, so accuracy can be told.

    The file that EDGEKD_PEERS_DIGITS names keeps its weights, for training is not what is timed.
    """
    torch.manual_seed(0)
    data = _mnist()
    family = find(students, "mobile")
    output = Output(name="logits", task="classification", shape=(10,), classes=data.classes, metric="accuracy")
    subject = Subject(shape=(1, 28, 28), kind="numbers", outputs=(output,))
    module: nn.Module = family.build(family.Options(), subject).module
    module.example_inputs = (torch.zeros(1, 1, 28, 28),)  # type: ignore[assignment]
    file = Path(os.environ["EDGEKD_PEERS_DIGITS"])
    if not file.exists():
        _train(module, data)
        save(module, file)
    load(module, file)
    return module.eval()


def _train(module: nn.Module, data: Any) -> None:
    torch.set_num_threads(1)
    inputs = torch.from_numpy(_pixels(data.train_inputs)[:, 0])
    labels = torch.from_numpy(data.train_labels)
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for _ in range(4):
        for some in torch.randperm(len(inputs)).split(64):
            loss = F.cross_entropy(module(inputs[some]), labels[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def digits_inputs() -> NDArray[np.float32]:
    """Training digits, for calibration."""
    return _pixels(_mnist().train_inputs)[:EXAMPLES]


def digits_test() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Test digits and their labels."""
    return _pixels(_mnist().test_inputs), _mnist().test_labels


class Bottleneck(nn.Module):
    """Inverted residual (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, given: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = given * expansion
        self.expand = nn.Sequential(nn.Conv2d(given, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and given == out

    def forward(self, x: Tensor) -> Tensor:
        """(batch, given, h, w) to (batch, out, h / stride, w / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def mobilenet() -> nn.Module:
    """MobileNetV2 x0.5 for 96 pixels with seeded weights and batch statistics of seeded inputs."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    channels = 16
    for expansion, out, count, stride in ((1, 8, 1, 1), (6, 16, 2, 2), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1)):
        for index in range(count):
            blocks.append(Bottleneck(channels, out, stride if index == 0 else 1, expansion))
            channels = out
    blocks += [nn.Conv2d(channels, 640, 1, bias=False), nn.BatchNorm2d(640), nn.ReLU6()]
    module = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(640, 100))
    with torch.no_grad():
        module.train()
        for _ in range(8):
            module(torch.from_numpy(mobilenet_inputs()[:32, 0]))
    module.example_inputs = (torch.zeros(1, 3, 96, 96),)  # type: ignore[assignment]
    return module.eval()


def mobilenet_inputs() -> NDArray[np.float32]:
    """Smooth seeded pictures."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.normal(size=(EXAMPLES, 3, 12, 12)).astype(np.float32))
    return F.interpolate(coarse, size=(96, 96), mode="bilinear")[:, None].numpy()


class Attention(nn.Module):
    """Self-attention of a BERT-like layer, written with plain products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width) and a finite additive mask to (batch, tokens, width)."""
        batch, tokens, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
        found: Tensor = self.out(mixed)
        return found


class Encoder(nn.Module):
    """Four layers of width 128 (Turc et al. 2019, arXiv:1908.08962, BERT-mini's half)."""

    def __init__(self, width: int = 128, layers: int = 4, words: int = 1000, tokens: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(tokens, width)
        self.attentions = nn.ModuleList(Attention(width, 2) for _ in range(layers))
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.classifier = nn.Linear(width, 20)
        self.register_buffer("places_of", torch.arange(tokens)[None], persistent=False)

    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        """Token ids and an attention mask of (batch, tokens) to (batch, 20)."""
        mask = (1.0 - attended[:, None, None, :]) * -1e4
        x = self.words(ids) + self.places(self.places_of)
        for index, (attention, hidden) in enumerate(zip(self.attentions, self.hidden, strict=True)):
            x = self.norms[2 * index](x + attention(x, mask))
            x = self.norms[2 * index + 1](x + hidden(x))
        logits: Tensor = self.classifier(x[:, 0])
        return logits


def encoder() -> nn.Module:
    """The encoder with seeded weights."""
    torch.manual_seed(0)
    module = Encoder().eval()
    module.example_inputs = (torch.zeros(1, 32, dtype=torch.int64), torch.ones(1, 32))  # type: ignore[assignment]
    return module


def encoder_inputs() -> dict[str, NDArray[Any]]:
    """Seeded token ids; the last quarter is not attended to."""
    ids = np.random.default_rng(0).integers(0, 1000, (EXAMPLES, 1, 32))
    attended = np.ones((EXAMPLES, 1, 32), np.float32)
    attended[:, :, 24:] = 0
    return {"ids": ids, "attended": attended}
