"""MobileNet-style students: inverted residuals (Sandler et al. 2018, arXiv:1801.04381).

Every operator has a quantized kernel in each runtime: 1x1 and depthwise 3x3 convolutions, batch norms that fold away,
ReLU6, additions and one average. Hard-swish and squeeze-and-excitation (Howard et al. 2019, arXiv:1905.02244) are
there to be asked for: they cost more than they bring where a runtime has no int8 kernel for them.
"""

import math
from typing import Annotated, Any, Final, Literal

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import Disagreement
from edgekd.nets import Net, planes, values
from edgekd.specs import Preprocessing, Subject
from edgekd.students import StudentFamily

_CHANNELS = (16, 24, 40, 64, 96)
"""Of the stem and the four stages at width 1."""
_BLOCKS = (1, 2, 2, 1)
"""Of the four stages at depth 1."""
_HEAD = 192


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space."""

    width: Annotated[float, msgspec.Meta(ge=0.1, le=4)] = 1.0
    """Multiplies the channels."""
    depth: Annotated[float, msgspec.Meta(ge=0.5, le=4)] = 1.0
    """Multiplies the blocks of a stage."""
    resolution: Annotated[int, msgspec.Meta(ge=8, le=512)] | None = None
    """Height and width in pixels; None takes that of the data."""
    expansion: Annotated[int, msgspec.Meta(ge=1, le=8)] = 4
    """Channels of the depthwise convolution, as a multiple of the block's."""
    activation: Literal["relu6", "relu", "hardswish"] = "relu6"
    squeeze_excite: bool = False
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class _Mobile:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        channels, height, width = planes(subject)
        if options.resolution and not subject.images:
            raise Disagreement("the option resolution resizes images, and the data are float32", hint="leave it out")
        size = (options.resolution, options.resolution) if options.resolution else (height, width)
        net = MobileNet(options, channels, values(subject), halvings(min(size)))
        middle = (127.5,) * channels
        return Net(net, Preprocessing(size=size, mean=middle, std=middle) if subject.images else None, subject.classes)


def halvings(size: int) -> int:
    """How often an image is halved on its way to the head: to about 4 pixels, at least once and at most 5 times."""
    return min(5, max(1, round(math.log2(size / 4))))


class MobileNet(nn.Module):
    """Images (batch, channels, height, width) to logits (batch, classes)."""

    def __init__(self, options: Options, channels: int, classes: int, halvings: int) -> None:
        super().__init__()
        widths = [_divisible(channel * options.width) for channel in _CHANNELS]
        self.stem = _convolution(channels, widths[0], 3, stride=2, activation=options.activation)
        blocks: list[nn.Module] = []
        for stage, repeats in enumerate(_BLOCKS):
            # The stem halves once; the other halvings come as early as leaves one stage of detail before them.
            stride = 2 if (stage < 4 if halvings == 5 else 1 <= stage < halvings) else 1
            for repeat in range(max(1, round(repeats * options.depth))):
                first = repeat == 0
                blocks.append(
                    InvertedResidual(
                        widths[stage] if first else widths[stage + 1],
                        widths[stage + 1],
                        stride if first else 1,
                        options,
                    )
                )
        self.blocks = nn.Sequential(*blocks)
        features = _divisible(_HEAD * max(1.0, options.width))
        self.head = _convolution(widths[-1], features, 1, activation=options.activation)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(features, classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(images))).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; the input is added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, options: Options) -> None:
        super().__init__()
        hidden = inputs * options.expansion
        layers: list[nn.Module] = [
            _convolution(inputs, hidden, 1, activation=options.activation),
            _convolution(hidden, hidden, 3, stride=stride, groups=hidden, activation=options.activation),
        ]
        if options.squeeze_excite:
            layers.append(SqueezeExcite(hidden))
        layers.append(_convolution(hidden, outputs, 1, activation=None))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.layers(features)
        return features + out if self.adds else out


class SqueezeExcite(nn.Module):
    """Weighs each channel by a small net of all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _divisible(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        weights = torch.relu(self.reduce(features.mean((2, 3), keepdim=True)))
        return features * nn.functional.hardsigmoid(self.expand(weights))


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU, "hardswish": nn.Hardswish}


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: str | None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation:
        layers.append(_ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def _divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of 8, which kernels are written for; never below 8 nor a tenth below `channels`."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


PLUGIN: Final[StudentFamily] = _Mobile()
