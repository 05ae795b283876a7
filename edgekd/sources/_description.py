"""What a module takes and makes, seen by running it once."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.specs import TensorSpec

Layout = Literal["NCHW", "NHWC"]
Sources = frozenset[tuple[int, Layout]]
"""Inputs that a tensor holds the pixels of, and the order of axes that the input has where this one is NCHW."""

TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)


def describe(
    module: nn.Module, names: Sequence[str], examples: Sequence[Tensor], outputs: Sequence[str]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a module; examples on the meta device cost nothing.

    An input is an image where a convolution, a pool or the like reads it, as it is or behind a transposition.
    """
    watcher = _Watcher(examples)
    weights = {name: tensor.to("meta") for name, tensor in module.state_dict(keep_vars=False).items()}
    with torch.no_grad(), watcher:
        if examples and all(example.is_meta for example in examples):
            made = torch.func.functional_call(module, weights, tuple(examples))
        else:
            made = module(*examples)
    results = made if isinstance(made, tuple | list) else (made,)
    given = tuple(
        _spec(name, example, watcher.layouts.get(position, ""))
        for position, (name, example) in enumerate(zip(names, examples, strict=True))
    )
    return given, tuple(_spec(name, result) for name, result in zip(outputs, results, strict=True))


def _spec(name: str, tensor: Tensor, layout: Literal["", "NCHW", "NHWC"] = "") -> TensorSpec:
    return TensorSpec(
        name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."), layout=layout
    )


IMAGE_OPERATORS: Final = {
    "_adaptive_avg_pool2d",
    "_native_batch_norm_legit_no_training",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "convolution",
    "grid_sampler_2d",
    "max_pool2d_with_indices",
    "native_batch_norm",
    "native_group_norm",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad2d",
    "replication_pad2d",
    "upsample_bicubic2d",
    "upsample_bilinear2d",
    "upsample_nearest2d",
}
PASSING: Final = {
    "_to_copy",
    "abs",
    "add",
    "alias",
    "cat",
    "clamp",
    "clone",
    "constant_pad_nd",
    "detach",
    "div",
    "exp",
    "log",
    "mul",
    "neg",
    "pow",
    "relu",
    "rsub",
    "sigmoid",
    "slice",
    "split_with_sizes",
    "sqrt",
    "sub",
    "tanh",
    "where",
    "round",
}
"""Operators after which pixels are still pixels."""


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Follows images from the inputs to the first operator that tells which axes they have."""

    def __init__(self, examples: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.layouts: dict[int, Layout] = {}
        self._kept: list[Any] = list(examples)  # so that no id is given twice
        self._sources: dict[int, Sources] = {
            id(example): frozenset({(position, "NCHW")})
            for position, example in enumerate(examples)
            if example.dim() == 4 and example.is_floating_point()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        sources = self._of(args[:1] if name in IMAGE_OPERATORS else args)
        if not sources:
            return made
        if name in IMAGE_OPERATORS:
            for position, layout in sources:
                self.layouts.setdefault(position, layout)
        elif name == "permute" and tuple(args[1]) == TO_CHANNELS_FIRST:
            self._pass(made, frozenset((position, "NHWC") for position, layout in sources if layout == "NCHW"))
        elif name in PASSING:
            self._pass(made, sources)
        return made

    def _of(self, args: Any) -> Sources:
        found = [self._sources.get(id(tensor), frozenset()) for tensor in _tensors(args)]
        return frozenset().union(*found)

    def _pass(self, made: Any, sources: Sources) -> None:
        for tensor in _tensors(made if isinstance(made, tuple | list) else (made,)):
            if tensor.dim() == 4:
                self._kept.append(tensor)
                self._sources[id(tensor)] = sources


def _tensors(args: Any) -> Iterator[Tensor]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, tuple | list):
            yield from _tensors(arg)
