"""Rounds what goes into convolutions and linear layers, in a form that coremltools reads as quantize and dequantize."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekd.converters import Source
from edgekd.converters._modules import lies_below
from edgekd.ranges import Histogram

if TYPE_CHECKING:
    from torch import nn

LEVELS = 255
"""Of integers from -127 to 127: with no zero point, what Apple's kernels are made for."""


def rounded(source: Source) -> "nn.Module":
    """A copy of the module whose convolutions and linear layers, but those in float, take 8-bit inputs."""
    import copy

    import torch
    from torch import nn

    class Rounded(nn.Module):
        """A layer behind a rounding of its input."""

        def __init__(self, layer: nn.Module, scale: float) -> None:
            super().__init__()
            self.layer = layer
            self.scale = scale

        def forward(self, x: Any) -> Any:
            return self.layer(torch.quantize_per_tensor(x, self.scale, 0, torch.qint8).dequantize())

    module = copy.deepcopy(source.module)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    layers = {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, kinds) and not lies_below(path, source.quantization.in_float)
    }
    seen = _watch(module, layers, source)
    for path, layer in layers.items():
        low, high = seen[path].range(source.quantization.ranges, levels=LEVELS, symmetric=True)
        if high > low:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, Rounded(layer, high / (LEVELS // 2)))
    return module.eval()


def _watch(module: "nn.Module", layers: "Mapping[str, nn.Module]", source: Source) -> dict[str, Histogram]:
    """What each layer is given on the calibration examples."""
    import torch

    seen = {path: Histogram() for path in layers}

    def watcher(path: str) -> Any:
        return lambda _, given: seen[path].add(given[0].numpy())

    hooks = [layer.register_forward_pre_hook(watcher(path)) for path, layer in layers.items()]
    with torch.no_grad():
        for example in zip(*source.calibration, strict=True):
            module(*(torch.from_numpy(one) for one in example))
    for hook in hooks:
        hook.remove()
    return seen
