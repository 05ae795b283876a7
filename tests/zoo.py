"""Small seeded nets of the kinds that are exported, each with what goes in and what comes out."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgekd.specs import TensorSpec

EXAMPLES: Final = 24
FAR: Final = -100.0
"""What a mask adds where nothing may be seen: finite, for infinity has no place in a quantized range."""


class Case(NamedTuple):
    """A net in evaluation mode; `examples` has an array of shape (EXAMPLES, *shape with the batch) for each input."""

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    examples: tuple[NDArray[Any], ...]


def answers(case: Case) -> list[NDArray[Any]]:
    """What the net answers to its examples, in float32: for each output an array (EXAMPLES, *shape)."""
    rows = []
    with torch.no_grad():
        for example in zip(*case.examples, strict=True):
            found = case.module(*map(torch.from_numpy, example))
            rows.append(found if isinstance(found, tuple) else (found,))
    return [torch.stack(column).numpy() for column in zip(*rows, strict=True)]


# --- convolutional nets


class Convolution(nn.Sequential):
    """Convolution, batch norm and an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, activation: Any, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            activation(),
        )


class SqueezeExcite(nn.Module):
    """Weighs each channel by a small net of all channels' means."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        means = features.mean((2, 3), keepdim=True)
        return features * functional.hardsigmoid(self.expand(torch.relu(self.reduce(means))))


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, weigh, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Any, squeeze: bool):
        super().__init__()
        hidden = 4 * inputs
        self.expand = Convolution(inputs, hidden, 1, activation)
        self.depth_wise = Convolution(hidden, hidden, 3, activation, stride, hidden)
        self.squeeze = SqueezeExcite(hidden) if squeeze else nn.Identity()
        self.project = Convolution(hidden, outputs, 1, nn.Identity)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.project(self.squeeze(self.depth_wise(self.expand(features))))
        return features + out if self.adds else out


class Mobile(nn.Module):
    """MobileNetV2, or V3 with hard-swish and squeeze-and-excitation, in small."""

    def __init__(self, activation: Any = nn.ReLU6, squeeze: bool = False, classes: int = 10):
        super().__init__()
        self.stem = Convolution(3, 16, 3, activation, 2)
        self.blocks = nn.Sequential(
            InvertedResidual(16, 16, 1, activation, False),
            InvertedResidual(16, 24, 2, activation, squeeze),
            InvertedResidual(24, 24, 1, activation, squeeze),
            InvertedResidual(24, 32, 2, activation, squeeze),
        )
        self.head = Convolution(32, 96, 1, activation)
        self.classifier = nn.Linear(96, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(images))).mean((2, 3)))
        return logits


def mobile_v2() -> Case:
    """ReLU6 and depthwise convolutions."""
    return _classifier(Mobile)


def mobile_v3() -> Case:
    """Hard-swish, hard-sigmoid, and products of what they answer."""
    return _classifier(lambda: Mobile(nn.Hardswish, squeeze=True))


def _classifier(make: Callable[[], nn.Module]) -> Case:
    torch.manual_seed(0)
    module = make()
    images = _images(3, 32)
    _settle(module, images)
    return Case(module.eval(), (_image("image", 3, 32),), (TensorSpec(name="logits", shape=(1, 10)),), (images,))


class Heads(nn.Module):
    """Twelve answers of many shapes about two pictures and a row of numbers, as a detector has them."""

    NAMES: Final = ("scores", "boxes", "plane", "best", *(f"output_{number}" for number in range(4, 12)))

    def __init__(self) -> None:
        super().__init__()
        self.left = Convolution(3, 16, 3, nn.ReLU, 2)
        self.right = Convolution(1, 16, 3, nn.ReLU, 2)
        self.body = Convolution(32, 32, 3, nn.ReLU, 2)
        self.plane = nn.Conv2d(32, 4, 1)
        self.numbers = nn.Linear(8, 32)
        self.scores = nn.Linear(32, 6)
        self.boxes = nn.Linear(32, 12)
        self.more = nn.ModuleList([nn.Linear(32, 3) for _ in range(8)])

    def forward(self, left: Tensor, right: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
        features = self.body(torch.cat([self.left(left), self.right(right)], 1))
        pooled = features.mean((2, 3)) + torch.tanh(self.numbers(numbers))
        scores = self.scores(pooled)
        boxes = torch.sigmoid(self.boxes(pooled)).reshape(1, 3, 4)
        rest = [head(pooled) for head in self.more]
        return scores, boxes, self.plane(features), scores.argmax(-1), *rest


def heads() -> Case:
    """Many inputs and outputs; the outputs' alphabetical order is not their own."""
    torch.manual_seed(0)
    module = Heads()
    numbers = np.random.default_rng(2).normal(size=(EXAMPLES, 1, 8)).astype(np.float32)
    examples = (_images(3, 16), _images(1, 16), numbers)
    _settle(module, *examples)
    shapes: list[tuple[int, ...]] = [(1, 6), (1, 3, 4), (1, 4, 4, 4), (1,), *[(1, 3)] * 8]
    outputs = [
        TensorSpec(name=name, shape=shape, dtype="int64" if name == "best" else "float32")
        for name, shape in zip(Heads.NAMES, shapes, strict=True)
    ]
    inputs = (_image("left", 3, 16), _image("right", 1, 16), TensorSpec(name="numbers", shape=(1, 8)))
    return Case(module.eval(), inputs, tuple(outputs), examples)


def _image(name: str, channels: int, size: int) -> TensorSpec:
    return TensorSpec(name=name, shape=(1, channels, size, size), layout="NCHW")


def _images(channels: int, size: int) -> NDArray[np.float32]:
    """Pictures with something to see: blurred noise, of another contrast and brightness each."""
    random = np.random.default_rng(channels)
    coarse = random.normal(size=(EXAMPLES, channels, size // 4, size // 4)).astype(np.float32)
    smooth = functional.interpolate(torch.from_numpy(coarse), size=(size, size), mode="bilinear").numpy()
    contrast, brightness = random.uniform(0.5, 1.5, (2, EXAMPLES, 1, 1, 1))
    return np.clip(smooth * contrast + brightness - 1, -2, 2).astype(np.float32)[:, None]


def _settle(module: nn.Module, *examples: NDArray[Any]) -> None:
    """Let batch norms see the examples, so that activations are as those of a trained net."""
    module.train()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.5
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    with torch.no_grad():
        for example in zip(*examples, strict=True):
            module(*map(torch.from_numpy, example))


# --- transformers and recurrent nets


class Attention(nn.Module):
    """Of several heads; keys and values may come from elsewhere, and from before."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def attend(self, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        query = self.split(self.query(tokens))
        scores = query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        mixed: Tensor = self.out((weights @ values).transpose(1, 2).reshape(tokens.shape))
        return mixed

    def forward(self, tokens: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        source = tokens if memory is None else memory
        return self.attend(tokens, self.split(self.key(source)), self.split(self.value(source)), mask)


class Feed(nn.Sequential):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward net, norms behind them, as BERT has them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.feed, self.feed_norm = Feed(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = self.norm(tokens + self.attention(tokens, mask))
        out: Tensor = self.feed_norm(tokens + self.feed(tokens))
        return out


class Encoder(nn.Module):
    """Four layers of 128, as BERT-tiny; the mask of zeros and ones becomes one to add inside."""

    LENGTH: Final = 16

    def __init__(self, vocabulary: int = 100, width: int = 128, layers: int = 4, classes: int = 5):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1, self.LENGTH, width) / 2)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([EncoderLayer(width, 2) for _ in range(layers)])
        self.classifier = nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        far = (1.0 - mask[:, None, None, :].to(torch.float32)) * FAR
        tokens = self.norm(self.tokens(ids) + self.positions)
        for layer in self.layers:
            tokens = layer(tokens, far)
        logits: Tensor = self.classifier(torch.tanh(tokens[:, 0]))
        return logits


def encoder() -> Case:
    """Token ids and a mask of int64."""
    torch.manual_seed(0)
    random = np.random.default_rng(3)
    length = Encoder.LENGTH
    ids = random.integers(0, 100, (EXAMPLES, 1, length))
    mask = (np.arange(length) < random.integers(8, length + 1, (EXAMPLES, 1, 1))).astype(np.int64)
    inputs = (
        TensorSpec(name="ids", shape=(1, length), dtype="int64"),
        TensorSpec(name="mask", shape=(1, length), dtype="int64"),
    )
    return Case(Encoder().eval(), inputs, (TensorSpec(name="logits", shape=(1, 5)),), (ids, mask))


class DecoderLayer(nn.Module):
    """Attention to what was said before and to the encoder's states, norms before them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, heads)
        self.feed_norm, self.feed = nn.LayerNorm(width), Feed(width)

    def forward(
        self, token: Tensor, states: Tensor, mask: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.norm(token)
        key = self.attention.split(self.attention.key(normed))
        value = self.attention.split(self.attention.value(normed))
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        token = token + self.attention.attend(normed, keys, values, mask)
        token = token + self.cross(self.cross_norm(token), memory=states)
        return token + self.feed(self.feed_norm(token)), key, value


class DecoderStep(nn.Module):
    """One step of a decoder with a cache: the token's keys and values come out, to be put into the cache."""

    PAST: Final = 12
    STATES: Final = 10
    LAYERS: Final = 2
    HEADS: Final = 2
    WIDTH: Final = 64

    def __init__(self, vocabulary: int = 50):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, self.WIDTH)
        self.layers = nn.ModuleList([DecoderLayer(self.WIDTH, self.HEADS) for _ in range(self.LAYERS)])
        self.norm = nn.LayerNorm(self.WIDTH)
        self.head = nn.Linear(self.WIDTH, vocabulary, bias=False)

    def forward(self, ids: Tensor, states: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        token = self.tokens(ids)
        made: list[Tensor] = []
        for layer, keys, values in zip(self.layers, past[::2], past[1::2], strict=True):
            token, key, value = layer(token, states, mask, keys, values)
            made += [key, value]
        return self.head(self.norm(token)), *made


def decoder_step() -> Case:
    """An encoder-decoder's cached step: ids, states, a finite 4-D mask, and keys and values of two layers."""
    torch.manual_seed(0)
    random = np.random.default_rng(4)
    net = DecoderStep
    past = (1, net.HEADS, net.PAST, net.WIDTH // net.HEADS)
    token = (1, net.HEADS, 1, net.WIDTH // net.HEADS)
    named = [f"{kind}_{layer}" for layer in range(net.LAYERS) for kind in ("key", "value")]
    seen = random.integers(1, net.PAST + 1, (EXAMPLES, 1, 1, 1, 1))
    mask = np.where(np.arange(net.PAST + 1) < net.PAST - seen, FAR, 0).astype(np.float32)
    examples = (
        random.integers(0, 50, (EXAMPLES, 1, 1)),
        random.normal(size=(EXAMPLES, 1, net.STATES, net.WIDTH)).astype(np.float32),
        mask,
        *(random.normal(size=(EXAMPLES, *past)).astype(np.float32) for _ in named),
    )
    inputs = (
        TensorSpec(name="ids", shape=(1, 1), dtype="int64"),
        TensorSpec(name="states", shape=(1, net.STATES, net.WIDTH)),
        TensorSpec(name="mask", shape=(1, 1, 1, net.PAST + 1)),
        *(TensorSpec(name=f"past_{name}", shape=past) for name in named),
    )
    outputs = (
        TensorSpec(name="logits", shape=(1, 1, 50)),
        *(TensorSpec(name=f"new_{name}", shape=token) for name in named),
    )
    return Case(net().eval(), inputs, outputs, examples)


class Recurrent(nn.Module):
    """An LSTM over frames of sound."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.classifier = nn.Linear(32, 6)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.lstm(frames)[0][:, -1])
        return logits


def recurrent() -> Case:
    """A recurrent net."""
    torch.manual_seed(0)
    frames = np.random.default_rng(5).normal(size=(EXAMPLES, 1, 8, 16)).astype(np.float32)
    outputs = (TensorSpec(name="logits", shape=(1, 6)),)
    return Case(Recurrent().eval(), (TensorSpec(name="frames", shape=(1, 8, 16)),), outputs, (frames,))


ZOO: Final[dict[str, Callable[[], Case]]] = {
    "mobile_v2": mobile_v2,
    "mobile_v3": mobile_v3,
    "heads": heads,
    "encoder": encoder,
    "decoder_step": decoder_step,
    "recurrent": recurrent,
}
