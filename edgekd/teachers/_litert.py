"""A .tflite file as a torch module without gradients, executed by LiteRT's own kernels."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import formats
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.nets import Anatomy, Layer
from edgekd.sources import Model
from edgekd.specs import TensorSpec


def open_tflite(path: Path) -> Model:
    """The model, with images in their own layout.

    Raises:
        ConfigError: the file is not there, or LiteRT refuses it.
        PluginUnavailable: LiteRT is not installed.
    """
    module = Executed(path)
    inputs = tuple(_spec(one) for one in module.interpreter.get_input_details())
    outputs = tuple(_spec(one) for one in module.interpreter.get_output_details())
    return Model(module, inputs, outputs, formats.read(path).properties)


def _anatomy(interpreter: Any) -> Anatomy:
    """Constants as parameters, and the products of the operators that have some."""
    tensors = {one["index"]: one for one in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    made = {int(index) for operator in operators for index in operator["outputs"]}
    made |= {one["index"] for one in interpreter.get_input_details()}
    read = {int(index) for operator in operators for index in operator["inputs"]}
    layers = tuple(layer for operator in operators if (layer := _layer(operator, tensors)))
    return Anatomy(
        layers=layers,
        outputs=tuple(tuple(int(size) for size in one["shape"][1:]) for one in interpreter.get_output_details()),
        parameters=sum(_prod(tensors[index]["shape"]) for index in read - made if index in tensors),
        macs=sum(layer.macs for layer in layers),
        arena_elements=0,
    )


def _layer(operator: Any, tensors: dict[int, Any]) -> Layer | None:
    """An operator of weights; None for another."""
    kind = _KINDS.get(operator["op_name"])
    if kind is None:
        return None
    data, weight = (tensors[int(index)]["shape"] for index in operator["inputs"][:2])
    out = tensors[int(operator["outputs"][0])]["shape"]
    products = _prod(weight[1:3]) if kind == "depthwise" else _prod(weight[1:])
    return Layer(
        kind=kind,
        macs=_prod(out) * products,
        weights=_prod(weight),
        inputs=_prod(data),
        outputs=_prod(out),
        channels=int(out[-1]),
    )


_KINDS: Final = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "linear"}


def _prod(sizes: Any) -> int:
    """Of sizes in numpy's integers."""
    return math.prod(int(size) for size in sizes)


def _spec(described: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in described["shape"])
    image = len(shape) == 4 and shape[3] in {1, 3, 4}
    # integers of quantized models are given and taken as the floats that they stand for
    dtype = np.dtype(described["dtype"]).name
    whole = dtype in {"int32", "int64"}
    return TensorSpec(
        name=str(described["name"]), shape=shape, dtype=dtype if whole else "float32", layout="NHWC" if image else ""
    )


class Executed(nn.Module):
    """Examples (1, ...) to the outputs of the file, in floats; `seen` holds the tensors that are watched."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.interpreter = _interpreter(path, whole=False)
        details = self.interpreter.get_tensor_details()
        produced = {one["index"] for one in self.interpreter.get_output_details()}
        self._tensors = {str(one["name"]): one for one in details if one["name"] and one["index"] not in produced}
        self.anatomy = _anatomy(self.interpreter)
        self.seen: dict[str, Tensor] = {}
        self._watched: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the file's tensors between input and outputs."""
        return tuple(self._tensors)

    def watch(self, names: Iterable[str]) -> None:
        """Keep these tensors, and no others, in `seen` whenever the module computes."""
        wanted = tuple(names)
        if wanted and not self._watched:
            self.interpreter = _interpreter(self._path, whole=True)
        self._watched = wanted
        self.seen.clear()

    def forward(self, example: Tensor) -> tuple[Tensor, ...]:
        (given,) = self.interpreter.get_input_details()
        self.interpreter.set_tensor(given["index"], _integers(example.detach().numpy(), given))
        self.interpreter.invoke()
        for name in self._watched:
            self.seen[name] = self._floats(self._tensors[name])
        return tuple(self._floats(one) for one in self.interpreter.get_output_details())

    def _floats(self, described: dict[str, Any]) -> Tensor:
        array = self.interpreter.get_tensor(described["index"])
        scale, zero = described["quantization"]
        return torch.from_numpy((array.astype(np.float32) - zero) * scale if scale else np.array(array, np.float32))


def _integers(array: Any, described: dict[str, Any]) -> Any:
    scale, zero = described["quantization"]
    kind = np.dtype(described["dtype"])
    if not scale:
        return array.astype(kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(array / scale + zero), limits.min, limits.max).astype(kind)


def _interpreter(path: Path, whole: bool) -> Any:
    """One that keeps every tensor where `whole`, for which it does without XNNPACK."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(f"{path} is executed by LiteRT", hint="pip install 'edgekd[tflite]'") from missing
    try:
        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if whole else OpResolverType.AUTO
        made = Interpreter(
            model_content=path.read_bytes(),
            num_threads=1,
            experimental_op_resolver_type=kernels,
            experimental_preserve_all_tensors=whole,
        )
        made.allocate_tensors()
    except (OSError, ValueError, RuntimeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{path}: LiteRT does not load it: {line}") from error
    return made
