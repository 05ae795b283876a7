"""A user's own students for the data of toys.py, which static int8 breaks, each in its own way."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import Preprocessing
from tests.toys import spectra

SIZE = Preprocessing(size=(16, 16), mean=(127.5,), std=(127.5,))


def spread(channels: int, times: float, seed: int = 0) -> Tensor:
    """Factors between 1 / times and times."""
    exponents = np.random.default_rng(seed).permutation(np.linspace(-1, 1, channels))
    return torch.from_numpy(np.exp(exponents * math.log(times)).astype(np.float32))


class Uneven(nn.Module):
    """A depthwise convolution between factors that are taken back behind it; hard-swish lets no other factors pass."""

    def __init__(self, channels: int, times: float) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.register_buffer("gains", spread(channels, times).view(-1, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        channels = len(self.gains)
        scaled = nn.functional.hardswish(nn.functional.conv2d(features, self.gains, groups=channels))
        return nn.functional.conv2d(self.filter(scaled), 1 / self.gains, groups=channels)


class Stream(nn.Module):
    """x + f(x)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


def residual(channels: int = 8, pixels: bool = True) -> nn.Module:
    """Two residual blocks between a stem and a head; their stream has no activation. Takes pixels, or else floats."""
    parts = {
        "stem": nn.Sequential(nn.Conv2d(1, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels)),
        "first": Stream(channels, 2 * channels),
        "second": Stream(channels, 2 * channels),
        "head": nn.Sequential(nn.Conv2d(channels, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "classifier": nn.Linear(16, 3),
    }
    module = nn.Sequential(OrderedDict(parts))
    if pixels:
        module.preprocessing = SIZE  # type: ignore[assignment]
    return module


def unevened(module: Any, times: float, seed: int = 0) -> None:
    """Scale the channels of a `residual` net's stream, and all that reads them, so that it computes the same."""
    scales = spread(module.stem[1].num_features, times, seed)
    for norm in (module.stem[1], module.first.layers[7], module.second.layers[7]):
        norm.weight.data *= scales
        norm.bias.data *= scales
    for layer in (module.first.layers[0], module.second.layers[0], module.head[0]):
        layer.weight.data /= scales.view(1, -1, 1, 1)


def uneven(channels: int = 8, times: float = 300.0) -> nn.Module:
    """Trains as well as any, and is lost in int8."""
    parts = {
        "stem": nn.Sequential(nn.Conv2d(1, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
        "uneven": Uneven(channels, times),
        "clamp": nn.ReLU(),
        "head": nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "classifier": nn.Linear(16, 3),
    }
    module = nn.Sequential(OrderedDict(parts))
    module.preprocessing = SIZE  # type: ignore[assignment]
    return module


def broken_sensor(count: int = 600, times: float = 300.0, pixels: int = 2) -> dict[str, Any]:
    """Planes of floats, and a sensor that failed on some training examples, with pixels far out of range."""
    made = spectra(count)
    for index in range(pixels):
        made["train_inputs"][index * 97, 0, 3 + index, 5] = times
    return made
