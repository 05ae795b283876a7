"""Neural nets as values: a module with what it expects and what it answers, its weights on disk, its anatomy."""

import contextlib
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd import remembered, repeats
from edgekd.decoding import Step
from edgekd.errors import ConfigError, Disagreement
from edgekd.files import digest, replacing
from edgekd.specs import Input, Preprocessing, Size, Spec, Subject, TensorSpec

NAMES: Final = {"images": "image", "tokens": "tokens", "numbers": "input"}
"""Kind of the first input -> what it is called on devices."""


@dataclass(frozen=True)
class Net:
    """A module that maps a batch of examples to an answer (batch, *shape), or to a tuple of one for each output."""

    module: nn.Module
    preprocessing: Preprocessing | None = None
    """What it expects of an image; None takes the data as they are."""
    classes: tuple[str, ...] = ()
    """The classes that its outputs stand for, where it says so."""
    step: Step | None = None
    """What a device executes instead of the module where it writes token after token; it shares the module's parts."""
    context: nn.Module | None = None
    """What makes the step's context of all inputs but the text; it shares the module's parts."""


def wrap(made: Any, where: str) -> Net:
    """A user's module as a Net; the module may carry `preprocessing` and `classes` as attributes.

    Raises:
        ConfigError: it is neither a module nor a Net.
    """
    if isinstance(made, Net):
        return made
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"{where} returned {type(made).__name__}", hint="return a torch.nn.Module or an edgekd.nets.Net"
        )
    classes = getattr(made, "classes", ())
    return Net(made, getattr(made, "preprocessing", None), tuple(map(str, classes)))


def planes(subject: Subject) -> tuple[int, int, int]:
    """Channels, height and width of one example.

    Raises:
        Disagreement: it has no such axes.
    """
    shape = subject.shape
    if len(shape) != 3:
        raise Disagreement(f"a convolutional net takes (channels, height, width), an example is of shape {shape}")
    return shape[0], shape[1], shape[2]


def values(subject: Subject) -> int:
    """How many numbers a net with a single head answers for an example.

    Raises:
        Disagreement: the subject has several outputs, or one that is more than a row.
    """
    shapes = [output.shape for output in subject.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise Disagreement(
            f"this net answers a single row of numbers, and the data want {', '.join(map(str, shapes))}",
            hint="choose a net with a head for each output",
        )
    return shapes[0][0]


def input_shape(net: Net, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one example as the net takes it, for data of `shape`."""
    return (shape[0], *net.preprocessing.size) if net.preprocessing else shape


def centred(subject: Subject, size: tuple[int, int] | None = None) -> Preprocessing | None:
    """Pixels in 0..255 to -1..1, at the data's size or another one; None where the data are no images."""
    if not subject.images:
        return None
    channels, height, width = planes(subject)
    middle = (127.5,) * channels
    return Preprocessing(size=size or (height, width), mean=middle, std=middle)


def answers_of(answer: Any) -> tuple[Tensor, ...]:
    """A net's answer as a tuple of one tensor an output."""
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers are not counted."""
    return repeats.parameters(module)


def code_digest(module: nn.Module) -> str:
    """SHA-256 of what a module computes, besides its weights: how it is put together, and the source of its classes."""
    kinds = {kind for one in module.modules() for kind in type(one).__mro__}
    generated = [code for one in module.modules() if isinstance(code := getattr(one, "code", ""), str)]  # torch.fx
    return digest([repr(module), generated, sorted(_source(kind) for kind in kinds if not _of_torch(kind))])


def _of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in {"torch", "builtins"}


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the weights and buffers with their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().contiguous().cpu()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def save(module: nn.Module, path: Path) -> None:
    """Write the weights and buffers as safetensors; equal weights give equal bytes."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}
    with replacing(path) as part:
        save_file(tensors, part)


def load(module: nn.Module, path: Path) -> None:
    """Read what `save` wrote into a module of the same architecture; executes nothing.

    Raises:
        ConfigError: not a safetensors file, or of another architecture.
    """
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ConfigError(f"{path}: not the weights of this net: {str(error).splitlines()[0]}") from error


# --- anatomy


class Layer(Spec, frozen=True, kw_only=True, cache_hash=True):
    """One operation as a mobile runtime executes it: batch norms folded, clamping activations fused."""

    kind: str
    """"conv", "depthwise", "linear", "elementwise", "pool" or "embedding"."""
    macs: Size
    weights: Size
    """Elements."""
    inputs: Size
    """Elements read, without the weights."""
    outputs: Size
    """Elements written."""
    channels: Size
    """Of the output."""
    op: str = ""
    """What torch calls it: "convolution"."""
    inside: Size = 0
    """Channels, or terms of the sums, that go into one output; of one group."""
    window: Size = 1
    """Places that one output sees."""
    stride: Size = 1
    positions: Size = 1
    """Places, or rows, of the output."""
    groups: Size = 1
    """Of a convolution."""


class Anatomy(Spec, frozen=True, kw_only=True):
    """What a net is made of, for one example."""

    layers: tuple[Layer, ...]
    outputs: tuple[tuple[int, ...], ...]
    """Shape of each answer, without the batch."""
    parameters: Size
    macs: Size
    arena_elements: Size
    """Most activation elements alive at once, by liveness."""


def examine(net: Net, subject: Subject) -> Anatomy:
    """What a net is made of for one example of the subject.

    Raises:
        Disagreement: it does not take such examples.
    """
    return anatomy(net.module, input_shape(net, subject.shape), subject.kind == "tokens", subject.beside)


def anatomy(module: nn.Module, shape: tuple[int, ...], tokens: bool = False, beside: Sequence[Input] = ()) -> Anatomy:
    """Examine a module on one example of `shape`, of floats or of tokens, and further inputs, without computing
    anything.

    One that cannot do without computing says itself what it is made of, by an attribute `anatomy`.

    Raises:
        Disagreement: the module does not take this shape.
    """
    inputs = [(shape, "tokens" if tokens else "numbers"), *((one.shape, one.kind) for one in beside)]
    return examined(module, [_empty((1, *size), "int64" if kind == "tokens" else "float32") for size, kind in inputs])


def examined(module: nn.Module, examples: Sequence[Tensor]) -> Anatomy:
    """As `anatomy`, on all inputs with their batch."""
    own = getattr(module, "anatomy", None)
    if isinstance(own, Anatomy):
        return own
    meta = module if _is_meta(module) else _on_meta(module)
    given = [example.to("meta") for example in examples]
    recorder = _Recorder(given)
    try:
        with torch.no_grad(), repeats.examined_by(recorder), recorder:
            answer = meta.eval()(*given)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        shapes = ", ".join(str(tuple(one.shape[1:])) for one in given)
        raise Disagreement(f"the net does not take an input of shape {shapes}: {line}") from error
    layers = recorder.live(answers_of(answer)) or tuple(recorder.layers)
    return Anatomy(
        outputs=tuple(tuple(one.shape[1:]) for one in answers_of(answer)),
        layers=layers,
        parameters=parameters(module),
        macs=sum(layer.macs for layer in layers),
        arena_elements=recorder.peak(),
    )


def anatomy_executed(net: Net, subject: Subject) -> Anatomy:
    """Of what a device executes at once: the net on one example, or one step of a net that writes, and what makes its
    context.

    Raises:
        Disagreement: the net does not take examples of this shape.
    """
    if net.step is None:
        return examine(net, subject)
    step = _executed(net.step, net.step.inputs)
    if net.context is None:
        return step
    once = _executed(net.context, context_inputs(net, subject))
    return Anatomy(
        outputs=step.outputs,
        layers=once.layers + step.layers,
        parameters=parameters(net.module),
        macs=once.macs + step.macs,
        arena_elements=max(once.arena_elements, step.arena_elements),
    )


def _executed(module: nn.Module, inputs: Sequence[TensorSpec]) -> Anatomy:
    return examined(module, [_empty(one.shape, one.dtype) for one in inputs])


def inputs_of(net: Net, subject: Subject) -> tuple[TensorSpec, ...]:
    """What the whole net takes, as devices know it."""
    shape = input_shape(net, subject.shape)
    layout: Literal["NCHW", ""] = "NCHW" if len(shape) == 3 else ""
    first = TensorSpec(name=NAMES[subject.kind], shape=(1, *shape), dtype=_dtype(subject.kind), layout=layout)
    further = (TensorSpec(name=one.name, shape=(1, *one.shape), dtype=_dtype(one.kind)) for one in subject.beside)
    return (first, *further)


def context_inputs(net: Net, subject: Subject) -> tuple[TensorSpec, ...]:
    """What makes a context takes: all inputs but the text."""
    return tuple(one for index, one in enumerate(inputs_of(net, subject)) if index != subject.text)


def _empty(shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.empty(shape, device="meta", dtype=getattr(torch, dtype))


def _dtype(kind: str) -> str:
    return "int32" if kind == "tokens" else "float32"


def _is_meta(module: nn.Module) -> bool:
    modules = list(module.modules())
    tensors = [one for part in modules for kept in (part._parameters, part._buffers) for one in kept.values()]
    known = any(one is not None for one in tensors) or any(isinstance(part, repeats.StandIn) for part in modules)
    return known and all(one is None or one.is_meta for one in tensors)


def _on_meta(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module).to("meta")


_FOLDED = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"}
_FUSED = {"relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "dropout", "detach", "clone", "alias"}
_VIEWS = {
    "view",
    "_unsafe_view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "expand",
    "unsqueeze",
    "squeeze",
    "flatten",
    "slice",
}
_KEPT = _FOLDED | _FUSED | _VIEWS
"""What these answer is in the memory of what they are given."""
_PIECES = {"split", "split_with_sizes", "chunk", "unbind", "tensor_split"}
_POOLS = {"mean", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices", "max_pool2d"}
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


_layers: dict[remembered.Key, Layer] = {}
"""Of operators that were seen before: many candidates have many of them in common."""


@dataclass(frozen=True)
class _Seen:
    """What was recorded of a part that is repeated. Buffers are those of its own layers, 0, 1 ..., and, from -1 on
    downwards, those that it is given."""

    layers: tuple[Layer, ...]
    reads: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[Any, ...], ...]
    """Size, stride, type and buffer, None for a constant, of each."""
    single: bool
    """The answer is one tensor, and no tuple."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Sees every operator of a forward pass, and keeps each as a Layer with the buffers that it reads.

    Buffers are numbered: first those of the inputs, then the one that each layer writes.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return remembered.WRAPPED

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.layers: list[Layer] = []
        self._reads: list[tuple[int, ...]] = []
        self._inputs = [one.numel() for one in inputs]
        self._tensors: list[Tensor] = []  # kept, so that no id is given twice
        self._buffer_of: dict[int, int] = {}
        for index, one in enumerate(inputs):
            self._place(one, index)

    def live(self, answers: Sequence[Tensor]) -> tuple[Layer, ...]:
        """The layers that an answer needs."""
        wanted = {self._buffer_of[id(answer)] for answer in answers if id(answer) in self._buffer_of}
        found = []
        for index in reversed(range(len(self.layers))):
            if index + len(self._inputs) in wanted:
                wanted.update(self._reads[index])
                found.append(self.layers[index])
        return tuple(reversed(found))

    def peak(self) -> int:
        """Most elements alive at once: a buffer is from the layer that writes it to the last one that reads it."""
        last = [0] * len(self._inputs)
        for moment, reads in enumerate(self._reads, start=1):
            for buffer in reads:
                last[buffer] = moment
            last.append(moment)
        sizes = self._inputs + [layer.outputs for layer in self.layers]
        dying = [0] * (len(self.layers) + 2)
        for size, moment in zip(sizes, last, strict=True):
            dying[moment + 1] += size
        alive = most = sum(self._inputs)
        for layer, gone in zip(self.layers, dying[1:], strict=False):
            alive += layer.outputs - gone
            most = max(most, alive)
        return most

    def repeat(self, part: repeats.Part, method: str, given: tuple[Any, ...]) -> Any:
        """What a part answers, with its layers recorded as they were when it was called like this before."""
        if not all(map(_is_told, given)):
            return getattr(part.module, method)(*given)
        tensors: list[Tensor] = []
        described = remembered.described(given, tensors)
        buffers = [self._buffer_of.get(id(one), -1) for one in tensors]
        outside = list(dict.fromkeys(buffers))
        called = (method, described, tuple([outside.index(one) if one >= 0 else -1 for one in buffers]))
        if called in part.seen:
            seen = part.seen[called]
            return self._repeated(seen, outside) if seen else getattr(part.module, method)(*given)
        start = len(self.layers)
        out = getattr(part.module, method)(*given)
        stayed = [self._buffer_of.get(id(one), -1) for one in tensors] == buffers
        part.seen[called] = self._seen(start, outside, out) if stayed else None  # what it is given is not changed
        return out

    def _seen(self, start: int, outside: list[int], out: Any) -> _Seen | None:
        """What a part's layers, from `start` on, were; None where that can not be told again."""
        first = start + len(self._inputs)
        names = {buffer: -1 - slot for slot, buffer in enumerate(outside) if buffer >= 0}
        names |= {first + index: index for index in range(len(self.layers) - start)}
        answers = out if type(out) is tuple else (out,)
        if not all(isinstance(one, Tensor) and remembered.is_plain(one) for one in answers):
            return None
        if not all(buffer in names for reads in self._reads[start:] for buffer in reads):
            return None  # it holds an activation that it was not given
        placed = [self._buffer_of.get(id(one)) for one in answers]
        return _Seen(
            layers=tuple(self.layers[start:]),
            reads=tuple(tuple(names[buffer] for buffer in reads) for reads in self._reads[start:]),
            answers=tuple(
                (one.shape, one.stride(), one.dtype, None if buffer is None else names[buffer])
                for one, buffer in zip(answers, placed, strict=True)
            ),
            single=isinstance(out, Tensor),
        )

    def _repeated(self, seen: _Seen, outside: list[int]) -> Any:
        first = len(self.layers) + len(self._inputs)
        self.layers += seen.layers
        for reads in seen.reads:
            self._reads.append(tuple([first + one if one >= 0 else outside[-1 - one] for one in reads]))
        answers = remembered.made([answer[:3] for answer in seen.answers])
        for answer, (*_, name) in zip(answers, seen.answers, strict=True):
            if name is not None:
                self._place(answer, first + name if name >= 0 else outside[-1 - name])
        return answers[0] if seen.single else tuple(answers)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = remembered.key(func, args, kwargs or {})
        out = remembered.answer(asked, func, args, kwargs or {})
        given = list(_tensors_in(args))
        buffers = [self._buffer_of.get(id(one)) for one in given]
        if any(buffer is not None for buffer in buffers):  # else it is of constants
            name = func.overloadpacket.__name__
            results = _tensors_in(out if name in _PIECES else out[:1] if isinstance(out, tuple | list) else [out])
            for index, result in enumerate(results):
                self._record(name, (asked, index) if asked else None, given, buffers, args, result)
        return out

    def _place(self, tensor: Tensor, buffer: int) -> None:
        self._tensors.append(tensor)
        self._buffer_of[id(tensor)] = buffer

    def _record(
        self,
        name: str,
        asked: remembered.Key | None,
        given: list[Tensor],
        buffers: list[int | None],
        args: Any,
        result: Tensor,
    ) -> None:
        if name in {"mul", "mul_"} and 0 in [arg for arg in args if isinstance(arg, int | float)]:
            return  # what is multiplied by 0 is a constant
        reads = tuple(dict.fromkeys(buffer for buffer in buffers if buffer is not None))
        if name in _KEPT:
            self._place(result, reads[0])
            return
        moving = tuple(buffer is not None for buffer in buffers)
        layer = _layers.get((asked, moving)) if asked else None
        if layer is None:
            layer = _layer(name, given, moving, args, result)
            if asked:
                remembered.keep(_layers, (asked, moving), layer)
        self._place(result, len(self.layers) + len(self._inputs))
        self._reads.append(reads)
        self.layers.append(layer)


def _layer(name: str, given: list[Tensor], moving: tuple[bool, ...], args: Any, result: Tensor) -> Layer:
    """One operator; of what it is given the tensors that are `moving` are activations, the others weights."""
    kind, macs = _kind_and_macs(name, given, args, result)
    channels = result.shape[1] if result.dim() > 1 else 1
    inside, window, stride, groups = _filter(name, given, args)
    rows = channels if name == "convolution" else max(result.shape[-1:], default=1)
    return Layer(
        kind=kind,
        macs=macs,
        weights=sum(tensor.numel() for tensor, moves in zip(given, moving, strict=True) if not moves),
        inputs=sum(tensor.numel() for tensor, moves in zip(given, moving, strict=True) if moves),
        outputs=result.numel(),
        channels=channels,
        op=name,
        inside=inside,
        window=window,
        stride=stride,
        positions=max(1, result.numel() // max(1, rows)),
        groups=groups,
    )


def _is_told(value: Any) -> bool:
    """Whether what a part is given is all in its key: of numbers and of changing objects there is more to know."""
    if isinstance(value, Tensor):
        return value.is_meta
    if isinstance(value, tuple | list):
        return all(map(_is_told, value))
    return value is None or isinstance(value, int | float | str)


def _tensors_in(args: Any) -> Any:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, tuple | list):
            yield from _tensors_in(arg)


def _kind_and_macs(name: str, given: list[Tensor], args: Any, result: Tensor) -> tuple[str, int]:
    if name == "convolution":
        weight, groups = given[1], args[8]
        kind = "depthwise" if groups > 1 and groups == given[0].shape[1] else "conv"
        return kind, (given[0] if args[6] else result).numel() * prod(weight.shape[1:])
    if name in _PRODUCTS:
        return "linear", result.numel() * given[-1].shape[-2]
    if "scaled_dot_product" in name:
        return "linear", 2 * given[0].numel() * given[1].shape[-2]
    return ("embedding" if name == "embedding" else "pool" if name in _POOLS else "elementwise"), 0


def _filter(name: str, given: list[Tensor], args: Any) -> tuple[int, int, int, int]:
    """Channels that go in, places of the window, stride and groups."""
    if name == "convolution":
        weight, stride, transposed, groups = given[1], args[3], args[6], args[8]
        entering = weight.shape[0] // groups if transposed else weight.shape[1]
        return entering, prod(weight.shape[2:]), max(stride, default=1), groups
    if name in _PRODUCTS:
        return given[-1].shape[-2], 1, 1, 1
    if "scaled_dot_product" in name:
        return given[0].shape[-1], 1, 1, 1
    return 0, 1, 1, 1


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Any:
    """Inference mode for the length of a block."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        module.train(was_training)
