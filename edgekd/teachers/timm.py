"""Any image classifier of timm, where that is installed (it needs a torchvision that fits torch), with a new head.

Weights are those of a file of this machine, or, with `pretrained`, those that timm downloads or has in its cache.
"""

from typing import Any, Final

import msgspec
from torch import nn

from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.nets import Net, planes, values
from edgekd.specs import Preprocessing, Subject
from edgekd.teachers import TeacherSource


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which net, and its weights."""

    model: str = "resnet18"
    """As `timm.list_models()` has it."""
    weights: str = ""
    """Path of a .safetensors file of this net, of any number of classes."""
    pretrained: bool = False
    """Take timm's own weights, from its cache or from the Hugging Face Hub."""
    size: tuple[int, int] = (0, 0)
    """Height and width in pixels; (0, 0) for those that the net was made for."""


class _Timm:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        if not subject.images:
            raise Disagreement("timm's nets take images, the data are not", hint="choose another teacher")
        if options.weights and options.pretrained:
            raise ConfigError("the teacher timm has two kinds of weights", hint="weights, or pretrained")
        channels, _, _ = planes(subject)
        net = _made(options, channels, values(subject))
        if options.weights:
            _load(net, options.weights)
        return Net(net, _preprocessing(net, options.size, channels))


def _made(options: Options, channels: int, classes: int) -> Any:
    try:
        import timm
    except (ModuleNotFoundError, RuntimeError) as missing:  # a torchvision of another torch raises the latter
        raise PluginUnavailable(
            f"this teacher needs timm, and a torchvision that fits torch: {missing}",
            hint="pip install timm torchvision",
        ) from missing
    try:
        return timm.create_model(options.model, options.pretrained, in_chans=channels, num_classes=classes)
    except (RuntimeError, OSError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"timm makes no {options.model!r}: {line}", hint="timm.list_models() has the names"
        ) from error


def _load(net: nn.Module, path: str) -> None:
    """All that fits but the head, which is new."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a safetensors file: {error}") from error
    own = net.state_dict()
    fitting = {name: one for name, one in given.items() if name in own and own[name].shape == one.shape}
    head = [name for name in own if name not in fitting]
    if 2 * len(fitting) < len(own):
        raise ConfigError(f"{path}: not the weights of this net: {head[0]} is not in it", hint="name its own `model`")
    net.load_state_dict(fitting, strict=False)


def _preprocessing(net: Any, size: tuple[int, int], channels: int) -> Preprocessing:
    said = net.pretrained_cfg
    mean, std = (tuple(255 * one for one in said[name]) for name in ("mean", "std"))
    if len(mean) != channels:  # first convolutions are summed up or repeated by timm
        mean, std = (mean[:1] * channels, std[:1] * channels)
    _, height, width = said["input_size"]
    return Preprocessing(size=size if all(size) else (height, width), mean=mean, std=std)


PLUGIN: Final[TeacherSource] = _Timm()
