"""Small nets of the kinds that people bring, each with seeded weights and inputs, and how answers are compared."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.sources import Model

Examples = tuple[Tensor, ...]


class InvertedResidual(nn.Module):
    """Expand, depthwise, maybe squeeze and excite, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, hard: bool) -> None:
        super().__init__()
        wide = inputs * 4
        activation: Callable[[], nn.Module] = nn.Hardswish if hard else nn.ReLU6
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), activation())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide // 4, 1), nn.ReLU(), nn.Conv2d(wide // 4, wide, 1)
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.hard, self.shortcut = hard, stride == 1 and inputs == outputs

    def forward(self, image: Tensor) -> Tensor:
        wide = self.depthwise(self.expand(image))
        if self.hard:
            wide = wide * F.hardsigmoid(self.squeeze(wide))
        narrow: Tensor = self.project(wide)
        return image + narrow if self.shortcut else narrow


class MobileNet(nn.Module):
    """As MobileNetV2, or with hard activations as V3."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, hard=hard),
            InvertedResidual(8, 16, 2, hard=hard),
            InvertedResidual(16, 16, 1, hard=hard),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(self.stem(image))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


class Attention(nn.Module):
    """Of several heads, written with matrix products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.heads = heads

    def split(self, tokens: Tensor) -> Tensor:
        batch, steps, width = tokens.shape
        return tokens.reshape(batch, steps, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = query @ key.transpose(-1, -2) / (query.shape[-1] ** 0.5)
        if mask is not None:
            scores = scores + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        out: Tensor = self.out(mixed)
        return out


class Block(nn.Module):
    """Of a transformer's encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        attention = self.attention
        q, k, v = (attention.split(part(tokens)) for part in (attention.query, attention.key, attention.value))
        tokens = self.first(tokens + attention(q, k, v, mask))
        found: Tensor = self.second(tokens + self.down(F.gelu(self.up(tokens))))
        return found


class Bert(nn.Module):
    """Token ids and an attention mask to hidden states and a pooled state."""

    def __init__(self, width: int = 32, vocabulary: int = 50, steps: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(steps, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(2)])
        self.pooler = nn.Linear(width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        places = torch.arange(input_ids.shape[1])
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        hidden = self.norm(self.words(input_ids) + self.places(places))
        for block in self.blocks:
            hidden = block(hidden, mask)
        return {"last_hidden_state": hidden, "pooler_output": torch.tanh(self.pooler(hidden[:, 0]))}


class DecoderStep(nn.Module):
    """One step of a decoder: ids, the encoder's states and the caches to logits and longer caches."""

    def __init__(self, width: int = 32, heads: int = 4, vocabulary: int = 40) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])

    def forward(
        self, input_ids: Tensor, states: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.norms[0](self.words(input_ids))
        key = torch.cat([past_key, self.own.split(self.own.key(tokens))], 2)
        value = torch.cat([past_value, self.own.split(self.own.value(tokens))], 2)
        tokens = tokens + self.own(self.own.split(self.own.query(tokens)), key, value)
        normal = self.norms[1](tokens)
        parts = (self.cross.query(normal), self.cross.key(states), self.cross.value(states))
        tokens = self.norms[2](tokens + self.cross(*map(self.cross.split, parts)))
        return tokens @ self.words.weight.t(), key, value


class UNet(nn.Module):
    """Down and up again, once by interpolation and once by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.1))
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
        self.third = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(16))
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.last = nn.Conv2d(40, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.first(image)
        second = self.second(F.max_pool2d(first, 2))
        third = self.third(F.avg_pool2d(second, 2))
        up = torch.cat([self.up(third), second], 1)
        large = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
        padded = F.pad(first, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1]
        mask: Tensor = self.last(torch.cat([large, padded], 1))
        return torch.sigmoid(mask)


class Recurrent(nn.Module):
    """Frames of sound to labels: a bidirectional LSTM and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(6, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 10, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(20, 7, batch_first=True)
        self.classifier = nn.Linear(7, 4)

    def forward(self, frames: Tensor) -> Tensor:
        features = torch.relu(self.front(frames.transpose(1, 2))).transpose(1, 2)
        states, _ = self.gru(self.lstm(features)[0])
        labels: Tensor = self.classifier(states).log_softmax(-1)
        return labels


class Heads(nn.Module):
    """One body, three answers of different type and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ELU(), nn.Conv2d(12, 12, 3, 2, 1, groups=4), nn.SELU())
        self.boxes, self.scores = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 3, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        body = self.body(image)
        scores = self.scores(body).flatten(2).transpose(1, 2).softmax(-1)
        return self.boxes(body).flatten(2).transpose(1, 2), scores, scores.argmax(-1)


def _image(channels: int, size: int) -> Examples:
    return (torch.randn(1, channels, size, size),)


def _tokens() -> Examples:
    mask = torch.ones(1, 12, dtype=torch.int64)
    mask[:, 9:] = 0
    return torch.randint(0, 50, (1, 12)), mask


def _step() -> Examples:
    return torch.randint(0, 40, (1, 1)), torch.randn(1, 6, 32), torch.randn(1, 4, 5, 8), torch.randn(1, 4, 5, 8)


MAKERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Examples], tuple[str, ...], tuple[str, ...]]] = {
    "mobilenet_v2": (lambda: MobileNet(hard=False), lambda: _image(3, 32), ("image",), ("logits",)),
    "mobilenet_v3": (lambda: MobileNet(hard=True), lambda: _image(3, 32), ("image",), ("logits",)),
    "bert": (Bert, _tokens, ("input_ids", "attention_mask"), ("last_hidden_state", "pooler_output")),
    "decoder_step": (
        DecoderStep,
        _step,
        ("input_ids", "states", "past_key", "past_value"),
        ("logits", "key", "value"),
    ),
    "unet": (UNet, lambda: _image(1, 16), ("image",), ("mask",)),
    "recurrent": (Recurrent, lambda: (torch.randn(1, 9, 6),), ("frames",), ("labels",)),
    "heads": (Heads, lambda: _image(3, 24), ("image",), ("boxes", "scores", "best")),
}
"""Name -> module, example inputs, names of inputs and outputs."""


def make(name: str) -> tuple[nn.Module, Examples, tuple[str, ...], tuple[str, ...]]:
    """A net in evaluation mode, its statistics away from their start, so that folding them wrongly is seen."""
    torch.manual_seed(0)
    build, examples, inputs, outputs = MAKERS[name]
    module = build()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval(), examples(), inputs, outputs


def flat(made: Any) -> Examples:
    """What a module returned, as a tuple."""
    if isinstance(made, Tensor):
        return (made,)
    return tuple(made.values() if isinstance(made, dict) else made)


EXACT_DB = 100.0


def sqnr_db(expected: Any, found: Any) -> float:
    """10 log10(sum x^2 / sum (x - y)^2), 300 where they are equal."""
    truth, other = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    noise = ((truth - other) ** 2).sum()
    return 300.0 if noise == 0 else float(10 * np.log10((truth**2).sum() / noise))


def outputs_of(model: Model, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What it answers; shapes and types are those that it says."""
    with torch.no_grad():
        made = flat(model.module(*inputs))
    assert [(tuple(one.shape), str(one.dtype)) for one in made] == [
        (spec.shape, f"torch.{spec.dtype}") for spec in model.outputs
    ]
    assert isinstance(model.module(*inputs), Tensor) == (len(model.outputs) == 1)
    return made


def assert_same(expected: Any, found: Any, least_db: float = EXACT_DB) -> None:
    """Floats agree to the last digits, everything else exactly."""
    for truth, other in zip(map(np.asarray, expected), map(np.asarray, found), strict=True):
        assert truth.shape == other.shape and truth.dtype == other.dtype
        if truth.dtype.kind == "f":
            assert sqnr_db(truth, other) > least_db
        else:
            np.testing.assert_array_equal(truth, other)


def arrays(tensors: tuple[Tensor, ...]) -> list[Any]:
    """Tensors as numpy has them."""
    return [tensor.detach().numpy() for tensor in tensors]
