"""Small nets whose latencies tell what a device's kernels cost: each spends its time on another kind."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

EXAMPLES = 16


def _square(channels: int, side: int) -> Tensor:
    return torch.zeros(1, channels, side, side)


def _examples(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(EXAMPLES, *shape)).astype(np.float32)


def _conv(entering: int, leaving: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(entering, leaving, side, stride, side // 2, groups=groups), nn.BatchNorm2d(leaving), nn.ReLU()
    )


def convolutions() -> tuple[nn.Module, Tensor]:
    """3x3 convolutions, at sizes as in ResNets."""
    layers = [_conv(3, 32, 3, 2), _conv(32, 64, 3, 2), *(_conv(64, 64, 3) for _ in range(3)), _conv(64, 128, 3, 2)]
    return nn.Sequential(*layers, *(_conv(128, 128, 3) for _ in range(3))), _square(3, 128)


def pointwise() -> tuple[nn.Module, Tensor]:
    """1x1 convolutions, narrow ones on many places and wide ones on few."""
    layers = [_conv(32, 128, 1), _conv(128, 128, 1), nn.MaxPool2d(2), _conv(128, 512, 1), _conv(512, 512, 1)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), _conv(512, 1024, 1)), _square(32, 28)


def depthwise() -> tuple[nn.Module, Tensor]:
    """Depthwise convolutions, 3x3 and 5x5."""
    layers = [_conv(64, 64, 3, 1, 64), _conv(64, 64, 5, 1, 64), _conv(64, 64, 3, 2, 64), _conv(64, 64, 5, 2, 64)]
    return nn.Sequential(*layers, *(_conv(64, 64, 3, 1, 64) for _ in range(4))), _square(64, 56)


class _Inverted(nn.Module):
    """A block of MobileNetV3: inverted residual with squeeze-and-excitation."""

    def __init__(self, channels: int, expanded: int) -> None:
        super().__init__()
        self.expand, self.filter = _conv(channels, expanded, 1), _conv(expanded, expanded, 3, 1, expanded)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(expanded, expanded // 4, 1), nn.ReLU(),
            nn.Conv2d(expanded // 4, expanded, 1), nn.Hardsigmoid(),
        )  # fmt: skip
        self.project = nn.Conv2d(expanded, channels, 1)

    def forward(self, given: Tensor) -> Tensor:
        """The input and what the block adds to it."""
        wide = self.filter(self.expand(given))
        added: Tensor = given + self.project(wide * self.squeeze(wide))
        return added


def inverted() -> tuple[nn.Module, Tensor]:
    """Many small kernels, as in MobileNetV3."""
    layers = [_conv(3, 16, 3, 2), _conv(16, 24, 3, 2), *(_Inverted(24, 96) for _ in range(4)), _conv(24, 48, 3, 2)]
    return nn.Sequential(*layers, *(_Inverted(48, 192) for _ in range(4))), _square(3, 128)


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = _conv(32, 32, 1), _conv(32, 32, 3)

    def forward(self, given: Tensor) -> Tensor:
        """Branches side by side, added to a pooled copy of the input."""
        pooled = nn.functional.avg_pool2d(given, 3, 1, 1)
        halves = torch.cat([self.one(given), self.two(pooled)], dim=1)
        return torch.sigmoid(halves[:, :32] + halves[:, 32:]) * given


def branches() -> tuple[nn.Module, Tensor]:
    """Pooling, concatenation, sigmoids and sums beside little arithmetic."""
    return nn.Sequential(*(_Branches() for _ in range(4))), _square(32, 32)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, given: Tensor) -> Tensor:
        """A block of a transformer."""
        batch, length, width = given.shape
        projected = self.project(self.norms[0](given))
        queries, keys, values = projected.reshape(batch, length, 3, self.heads, width // self.heads).permute(
            2, 0, 3, 1, 4
        )
        shares = torch.softmax(queries @ keys.transpose(-1, -2) * (width // self.heads) ** -0.5, dim=-1)
        found = given + self.join((shares @ values).transpose(1, 2).reshape(batch, length, width))
        added: Tensor = found + self.feed(self.norms[1](found))
        return added


def attention() -> tuple[nn.Module, Tensor]:
    """Two blocks of a transformer."""
    return nn.Sequential(_Attention(128, 4), _Attention(128, 4)), torch.zeros(1, 64, 128)


def dense() -> tuple[nn.Module, Tensor]:
    """Fully connected layers on a single row: as fast as weights are read."""
    layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512)]
    return nn.Sequential(*layers), torch.zeros(1, 512)


def convolutions_examples() -> NDArray[np.float32]:
    """Random pictures; so are those below."""
    return _examples(3, 128, 128)


def pointwise_examples() -> NDArray[np.float32]:
    """For `pointwise`."""
    return _examples(32, 28, 28)


def depthwise_examples() -> NDArray[np.float32]:
    """For `depthwise`."""
    return _examples(64, 56, 56)


def inverted_examples() -> NDArray[np.float32]:
    """For `inverted`."""
    return _examples(3, 128, 128)


def branches_examples() -> NDArray[np.float32]:
    """For `branches`."""
    return _examples(32, 32, 32)


def attention_examples() -> NDArray[np.float32]:
    """For `attention`."""
    return _examples(64, 128)


def dense_examples() -> NDArray[np.float32]:
    """For `dense`."""
    return _examples(512)
