"""What mobile students are built of: inverted residuals (Sandler et al. 2018, arXiv:1801.04381) and convolutions.

Hard-swish and squeeze-and-excitation (Howard et al. 2019, arXiv:1905.02244) are there to be asked for: they cost more
than they bring where a runtime has no int8 kernel for them.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn

from edgekd.repeats import repeated

Activation = Literal["relu6", "relu", "hardswish"]

WIDTHS: Final = (
    0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25,
    3.5, 3.75, 4.0,
)  # fmt: skip
"""Multiples of channels that are worth considering: near enough to each other for some net to come close to a limit."""
DEPTHS: Final = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""And of blocks."""

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU, "hardswish": nn.Hardswish}


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; the input is added where shapes allow."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        expansion: int,
        activation: Activation = "relu6",
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [
            convolution(inputs, hidden, 1, activation=activation),
            convolution(hidden, hidden, 3, stride=stride, groups=hidden, activation=activation),
        ]
        if squeeze_excite:
            layers.append(SqueezeExcite(hidden))
        layers.append(convolution(hidden, outputs, 1, activation=None))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.layers(features)
        return features + out if self.adds else out


inverted_residual = repeated(InvertedResidual)
linear = repeated(nn.Linear)


class SqueezeExcite(nn.Module):
    """Weighs each channel by a small net of all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        weights = torch.relu(self.reduce(features.mean((2, 3), keepdim=True)))
        return features * nn.functional.hardsigmoid(self.expand(weights))


@repeated
def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: Activation | None = "relu6"
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, with batch norm; `activation` None leaves it linear."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation:
        layers.append(_ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


@repeated
def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution in two: of each channel, then of each place (Howard et al. 2017, arXiv:1704.04861)."""
    return nn.Sequential(convolution(inputs, inputs, 3, groups=inputs), convolution(inputs, outputs, 1))


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of 8, which kernels are written for; never below 8 nor a tenth below `channels`."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def initialise(module: nn.Module) -> None:
    """Random weights that keep the variance of what goes through convolutions (He et al. 2015, arXiv:1502.01852)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
