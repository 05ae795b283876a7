"""The nets of the shipped suites, with seeded random weights; each carries its `example_inputs`."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

EXAMPLES = 16
"""For calibration: ranges, not accuracy, are what integers need here."""


class Unit(nn.Sequential):
    """Convolution, batch norm and an activation."""

    def __init__(
        self,
        given: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: type[nn.Module] = nn.ReLU6,
    ) -> None:
        sizes = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (sizes[0] // 2, sizes[1] // 2)
        layers: list[nn.Module] = [nn.Conv2d(given, out, sizes, stride, padding, groups=groups, bias=False)]
        super().__init__(*layers, nn.BatchNorm2d(out), activation())


class Excite(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507), with the hard sigmoid of MobileNetV3."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.excite = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) to the same."""
        weights = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.excite(weights))


class Inverted(nn.Module):
    """Inverted residual (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(
        self,
        given: int,
        inner: int,
        out: int,
        kernel: int,
        stride: int,
        activation: type[nn.Module] = nn.ReLU6,
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        self.expand = Unit(given, inner, 1, activation=activation) if inner != given else nn.Identity()
        self.filter = Unit(inner, inner, kernel, stride, groups=inner, activation=activation)
        self.excite = Excite(inner, squeeze) if squeeze else nn.Identity()
        self.project = Unit(inner, out, 1, activation=nn.Identity)
        self.residual = stride == 1 and given == out

    def forward(self, x: Tensor) -> Tensor:
        """(batch, given, h, w) to (batch, out, h / stride, w / stride)."""
        y: Tensor = self.project(self.excite(self.filter(self.expand(x))))
        return x + y if self.residual else y


def _classifier(*layers: nn.Module, channels: int) -> nn.Module:
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))
    module.example_inputs = (torch.zeros(1, 3, 224, 224),)  # type: ignore[assignment]
    return module.eval()


def mobilenet_v1() -> nn.Module:
    """1.0, 224 (Howard et al. 2017, arXiv:1704.04861)."""
    layers: list[nn.Module] = [Unit(3, 32, 3, 2)]
    channels = 32
    for out, stride in [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]:
        layers += [Unit(channels, channels, 3, stride, groups=channels), Unit(channels, out, 1)]
        channels = out
    return _classifier(*layers, channels=channels)


def mobilenet_v2() -> nn.Module:
    """1.0, 224: table 2 of the paper."""
    layers: list[nn.Module] = [Unit(3, 32, 3, 2)]
    channels = 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, out, count, stride in table:
        for index in range(count):
            layers.append(Inverted(channels, channels * expansion, out, 3, stride if index == 0 else 1))
            channels = out
    return _classifier(*layers, Unit(channels, 1280, 1), channels=1280)


def mobilenet_v3_small() -> nn.Module:
    """1.0, 224: table 2 of Howard et al. 2019 (arXiv:1905.02244)."""
    relu, swish = nn.ReLU, nn.Hardswish
    table: list[tuple[int, int, int, int, int, type[nn.Module]]] = [
        *((3, 16, 16, 8, 2, relu), (3, 72, 24, 0, 2, relu), (3, 88, 24, 0, 1, relu), (5, 96, 40, 24, 2, swish)),
        *[(5, 240, 40, 64, 1, swish)] * 2,
        *((5, 120, 48, 32, 1, swish), (5, 144, 48, 40, 1, swish), (5, 288, 96, 72, 2, swish)),
        *[(5, 576, 96, 144, 1, swish)] * 2,
    ]
    layers: list[nn.Module] = [Unit(3, 16, 3, 2, activation=swish)]
    channels = 16
    for kernel, inner, out, squeeze, stride, activation in table:
        layers.append(Inverted(channels, inner, out, kernel, stride, activation, squeeze))
        channels = out
    layers += [Unit(channels, 576, 1, activation=swish), nn.AdaptiveAvgPool2d(1), nn.Conv2d(576, 1024, 1), swish()]
    return _classifier(*layers, channels=1024)


def efficientnet_lite0() -> nn.Module:
    """224: EfficientNet-B0 without squeeze and excitation, with ReLU6 (Tan and Le 2019, arXiv:1905.11946)."""
    layers: list[nn.Module] = [Unit(3, 32, 3, 2)]
    channels = 32
    table = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5)]
    for expansion, out, count, stride, kernel in [*table, (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]:
        for index in range(count):
            layers.append(Inverted(channels, channels * expansion, out, kernel, stride if index == 0 else 1))
            channels = out
    return _classifier(*layers, Unit(channels, 1280, 1), channels=1280)


def photos() -> NDArray[np.float32]:
    """Smooth seeded pictures, (examples, 1, 3, 224, 224)."""
    coarse = np.random.default_rng(0).normal(size=(EXAMPLES, 3, 14, 14)).astype(np.float32)
    return F.interpolate(torch.from_numpy(coarse), size=(224, 224), mode="bilinear")[:, None].numpy()


def keywords() -> nn.Module:
    """DS-CNN of 49 x 10 features (Zhang et al. 2017, arXiv:1711.07128), as MLPerf Tiny has it."""
    layers: list[nn.Module] = [Unit(1, 64, (11, 5), 2)]
    for _ in range(4):
        layers += [Unit(64, 64, 3, groups=64), Unit(64, 64, 1)]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))
    module.example_inputs = (torch.zeros(1, 1, 49, 10),)  # type: ignore[assignment]
    return module.eval()


def keywords_inputs() -> NDArray[np.float32]:
    """Seeded features, (examples, 1, 1, 49, 10)."""
    return np.random.default_rng(0).normal(size=(EXAMPLES, 1, 1, 49, 10)).astype(np.float32)


class Attention(nn.Module):
    """Self-attention with plain products, as every format knows them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        batch, tokens, width = x.shape
        query, key, value = (
            layer(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(-1, -2)) * (width // self.heads) ** -0.5
        mixed: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class Bert(nn.Module):
    """BERT-tiny: two layers of width 128 (Turc et al. 2019, arXiv:1908.08962), 128 tokens."""

    def __init__(self, words: int = 30522, tokens: int = 128, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.attentions = nn.ModuleList(Attention(width, 2) for _ in range(layers))
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.classifier = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (batch, tokens) to (batch, 2)."""
        x = self.words(ids) + self.places
        for index, (attention, hidden) in enumerate(zip(self.attentions, self.hidden, strict=True)):
            x = self.norms[2 * index](x + attention(x))
            x = self.norms[2 * index + 1](x + hidden(x))
        logits: Tensor = self.classifier(x[:, 0])
        return logits


def bert() -> nn.Module:
    """BERT-tiny."""
    module = Bert().eval()
    module.example_inputs = (torch.zeros(1, 128, dtype=torch.int64),)  # type: ignore[assignment]
    return module


def tokens() -> dict[str, NDArray[Any]]:
    """Seeded token ids."""
    return {"ids": np.random.default_rng(0).integers(0, 30522, (EXAMPLES, 1, 128))}
