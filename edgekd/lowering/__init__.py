"""From a model file to what its runtime executes: kernels, and how much memory its activations take at once.

Constants are folded, branches that reach no output dropped, batch norms, biases and clamps fused into what they follow.
An operator that is in no table counts by the numbers that it reads and writes, and `notes` says so.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edgekd.errors import ConfigError
from edgekd.kernels import Kernel, Kernels
from edgekd.lowering._memory import Life, plan
from edgekd.lowering._roles import CHANNELS_LAST, roles
from edgekd.programs import Node, Program, Value

_BYTES: Final = {
    "float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2,
    "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "int4": 0.5, "uint4": 0.5,
}  # fmt: skip


MOST_ELEMENTS: Final = 2**40
MOST_NODES: Final = 50_000


@dataclass(frozen=True)
class Lowered:
    """A model as it is executed."""

    kernels: Kernels
    macs: int
    arena_bytes: int
    """Planned as TFLite plans it: tensors that are alive at the same time do not share memory."""
    builtin_arena_bytes: int
    """The same with what TFLite's own kernels gather for a convolution where no delegate takes it (im2col)."""
    precision: str
    """Of most of its arithmetic: "fp32", "fp16", "int8" or "dynamic"."""
    notes: tuple[str, ...]
    """What was assumed."""


def lower(program: Program) -> Lowered:
    """What a runtime executes of a program.

    Raises:
        ConfigError: nothing in it depends on its inputs, or a tensor's shape is not known.
    """
    if len(program.nodes) > MOST_NODES:
        raise ConfigError(f"it has more than {MOST_NODES} operators")
    return _Lowering(program).done()


class _Lowering:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._values = dict(program.values)
        self._roles = roles(program.format)
        self._last = program.format in CHANNELS_LAST
        self._folds = program.format not in CHANNELS_LAST  # TFLite's converter has folded what can be
        self._alive, self._reached = _live(program)
        self._readers: dict[str, int] = {}
        for node in self._alive:
            for name in set(node.inputs):
                self._readers[name] = self._readers.get(name, 0) + 1
        for name in program.outputs:
            self._readers[name] = self._readers.get(name, 0) + 1
        self._buffer: dict[str, str] = {name: name for name in program.inputs}
        """Tensor -> the tensor in whose memory it is."""
        self._sizes: dict[str, int] = {}
        """Bytes of those that are not what their types say."""
        self._computed: dict[str, Kernel] = {}
        """Tensor -> the kernel that makes it, where something could be fused into that."""
        self._kernels: list[Kernel] = []
        self._when: list[Node] = []
        self._unknown: dict[str, int] = {}
        self._guessed: set[str] = set()

    def done(self) -> Lowered:
        if not self._alive:
            raise ConfigError("nothing of the model depends on its inputs", hint="what it answers is a constant")
        for node in self._alive:
            self._visit(node)
        notes = [
            f"operator {kind} ({count}x) is not known: costed by the numbers that it reads and writes"
            for kind, count in sorted(self._unknown.items())
        ]
        notes += [f"{kind} is taken to make what is as large as its input" for kind in sorted(self._guessed)]
        notes += [f"open sizes of input {name} count as 1" for name in self._program.open]
        kernels = Kernels.of(self._kernels)
        return Lowered(
            kernels,
            round(float(kernels.column("macs").sum())) if len(kernels) else 0,
            self._arena(gathered=False),
            self._arena(gathered=self._last),
            self._precision(),
            tuple(notes),
        )

    # --- one node

    def _visit(self, node: Node) -> None:
        if not node.outputs:
            return
        role = self._roles.get(node.kind, "other")
        given = [name for name in node.inputs if name and not self._constant(name)]
        if role == "other":
            self._unknown[node.kind] = self._unknown.get(node.kind, 0) + 1
            for name in node.outputs:
                if name not in self._values:  # nobody says what it makes
                    self._values[name] = Value(name, self._value(given[0]).shape, self._value(given[0]).dtype)
                    self._guessed.add(node.kind)
        if self._is_fused(role, node, given):
            for name in node.outputs:
                buffer = self._buffer[name] = self._buffer.get(given[0], given[0])
                if role == "quantize":  # it holds integers where the runtime has fused this
                    byte = self._value(name).elements
                    self._sizes[buffer] = min(byte, self._sizes.get(buffer, byte))
                if given[0] in self._computed:
                    self._computed[name] = self._computed[given[0]]
            return
        kernel = self._kernel(role, node, given)
        for name in node.outputs:
            self._buffer[name] = name
            if kernel.kind not in {"move", "pool"}:
                self._computed[name] = kernel
        self._kernels.append(kernel)
        self._when.append(node)

    def _is_fused(self, role: str, node: Node, given: list[str]) -> bool:
        if not given:
            return False
        if role in {"view", "quantize"}:
            return True
        alone = len(given) == 1 and given[0] in self._computed and self._readers.get(given[0], 0) == 1
        if role == "clamp":
            return alone
        products = {"conv", "pointwise", "depthwise", "grouped", "linear", "matmul"}
        scales = role == "norm" or (role == "elementwise" and self._folds and len(node.inputs) > 1)
        return scales and alone and self._computed[given[0]].kind in products and self._by_channel(node)

    def _by_channel(self, node: Node) -> bool:
        """Whether its constants are of one number a channel, so that they fold into the weights."""
        made = self._value(node.outputs[0])
        most = max(made.shape, default=1)
        return all(self._value(name).elements <= most for name in node.inputs if name and self._constant(name))

    def _kernel(self, role: str, node: Node, given: list[str]) -> Kernel:
        made = [self._value(name) for name in node.outputs if name]
        reads = sum(self._value(name).elements for name in dict.fromkeys(given))
        writes = sum(value.elements for value in made)
        first = made[0] if made else Value("", ())
        plain = Kernel(
            kind="other", op=node.kind, name=node.name, reads=reads, writes=writes, positions=_places(first, self._last)
        )
        if role in {"conv", "transposed", "linear", "matmul", "recurrent"}:
            weights = [self._value(name) for name in node.inputs[1:] if name and self._constant(name)]
            return _product(role, node, plain, [self._value(name) for name in given], weights, first, self._last)
        if role == "attention":
            keys = self._value(given[min(1, len(given) - 1)]).shape
            width, length = max((1, *keys[-1:])), max((1, *keys[-2:-1]))
            macs = 2 * self._value(given[0]).elements * length
            return replace(plain, kind="matmul", macs=macs, inside=width, outside=length)
        if role == "embedding":
            return replace(plain, kind="embedding", reads=writes)
        if role == "pool":
            window = reads / max(1, writes)
            return replace(plain, kind="pool", window=window)
        kind = {"clamp": "elementwise", "norm": "elementwise", "quantize": "elementwise"}
        known = kind.get(role, role)
        if known == "elementwise":
            constants = sum(self._value(name).elements for name in node.inputs if name and self._constant(name))
            return replace(plain, kind=known, reads=reads + min(constants, writes))
        return replace(plain, kind=known if known in {"activation", "move"} else "other")

    # --- memory

    def _arena(self, gathered: bool) -> int:
        first: dict[str, int] = dict.fromkeys(self._program.inputs, 0)
        last: dict[str, int] = dict.fromkeys(self._program.inputs, len(self._when))
        for moment, node in enumerate(self._when):
            for name in node.outputs:
                if name:
                    first.setdefault(name, moment)
                    last.setdefault(name, moment)
            for name in node.inputs:
                if name and not self._constant(name):
                    buffer = self._buffer.get(name, name)
                    last[buffer] = max(last.get(buffer, moment), moment)
        for name in self._program.outputs:
            buffer = self._buffer.get(name, name)
            if buffer in first:
                last[buffer] = len(self._when)
        lives = [Life(self._bytes(name), first[name], last[name]) for name in first]
        if gathered:
            lives += [life for moment in range(len(self._when)) if (life := self._gathered(moment)) is not None]
        return plan(lives)

    def _gathered(self, moment: int) -> Life | None:
        """The columns that a convolution copies its input to: all but 1x1 of stride 1 (conv.cc, IsIm2ColRequired)."""
        kernel, node = self._kernels[moment], self._when[moment]
        if node.kind != "CONV_2D" or (kernel.window <= 1 and kernel.stride <= 1):
            return None
        given = self._value(node.inputs[0])
        width = _BYTES.get(given.dtype, 4)
        size = int(kernel.positions * kernel.window * max(1, given.shape[-1]) * width)
        return Life(size, moment, moment)

    def _bytes(self, name: str) -> int:
        value = self._value(name)
        if name in self._sizes:
            return self._sizes[name]
        return int(np.ceil(value.elements * _BYTES.get(value.dtype, 4)))

    # --- small ones

    def _constant(self, name: str) -> bool:
        return name not in self._reached

    def _value(self, name: str) -> Value:
        value = self._values.get(name)
        if value is None:
            raise ConfigError(
                f"the size of tensor {name!r} is not known", hint="give the shapes of the inputs, or export it anew"
            )
        if value.elements > MOST_ELEMENTS:
            raise ConfigError(f"tensor {name!r} has more than {MOST_ELEMENTS} elements", hint="the file is damaged")
        return value

    def _precision(self) -> str:
        weights: dict[str, float] = {}
        answers: dict[str, float] = {}
        for node in self._when:
            if self._roles.get(node.kind) in {"conv", "linear", "transposed", "matmul"} and len(node.inputs) > 1:
                weight, made = self._values.get(node.inputs[1]), self._value(node.outputs[0])
                if weight is not None:
                    weights[weight.dtype] = weights.get(weight.dtype, 0) + weight.elements
                answers[made.dtype] = answers.get(made.dtype, 0) + made.elements
        weight_type = max(weights, key=lambda name: weights[name], default="float32")
        answer_type = max(answers, key=lambda name: answers[name], default="float32")
        if any(self._roles.get(node.kind) == "quantize" for node in self._alive) and weight_type != "float16":
            return "int8"
        if weight_type in {"int8", "uint8", "int4"}:
            return "int8" if answer_type in {"int8", "uint8"} else "dynamic"
        if answer_type == "int16":
            return "int16"
        return "fp16" if answer_type == "float16" else "fp32"


def _live(program: Program) -> tuple[tuple[Node, ...], set[str]]:
    """The nodes on the way from an input to an output, and the tensors that depend on an input.

    What is multiplied by a constant 0 depends on none.
    """
    reached, forward = set(program.inputs), []
    for node in program.nodes:
        zero = node.kind in {"MUL", "Mul", "mul", "Multiply"} and any(
            name in program.values and program.values[name].zero for name in node.inputs
        )
        if not zero and reached.intersection(node.inputs):
            reached.update(node.outputs)
            forward.append(node)
    wanted, found = set(program.outputs), []
    for node in reversed(forward):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return tuple(reversed(found)), reached


def _places(value: Value, last: bool) -> float:
    if len(value.shape) < 3:
        return max(1.0, value.elements / max(1, value.shape[-1] if value.shape else 1))
    channels = value.shape[-1] if last else value.shape[1]
    return value.elements / max(1, channels)


def _product(
    role: str, node: Node, plain: Kernel, given: list[Value], weights: list[Value], made: Value, last: bool
) -> Kernel:
    """A convolution or a product of matrices."""
    if role == "matmul" or not weights:
        return _matmul(plain, given, weights, made, node)
    weight = max(weights, key=lambda one: one.elements)
    if role == "recurrent":
        whole, steps = sum(one.elements for one in weights), max(1, max((s for s in given[0].shape[:2]), default=1))
        return replace(plain, kind="linear", macs=whole * steps, weights=whole * steps, inside=1, outside=1)
    if role == "linear":
        outside = max(1, made.shape[-1] if made.shape else 1)
        inside = weight.elements / outside
        return _dense(plain, weight.elements, plain.writes / outside, inside, outside)
    return _convolution(role, node, plain, given[0], weight, made, last)


def _convolution(role: str, node: Node, plain: Kernel, given: Value, weight: Value, made: Value, last: bool) -> Kernel:
    if len(given.shape) < 3 or len(given.shape) != len(made.shape):
        return plain
    axis = -1 if last else 1
    window = _window(weight, len(made.shape) - 2, last)
    outside, entering = max(1, made.shape[axis]), max(1, given.shape[axis])
    depthwise = node.kind.upper().startswith("DEPTHWISE") or (
        outside >= entering > 1 and weight.elements == outside * window
    )
    inside = 1.0 if depthwise else weight.elements / outside / window
    positions = plain.writes / outside
    places = given.elements / entering
    counted = places if role == "transposed" else positions
    stride = max(1.0, round((places / max(1, positions)) ** 0.5))
    sizes = {
        "macs": weight.elements * counted,
        "weights": weight.elements,
        "inside": inside,
        "outside": outside,
        "window": window,
        "stride": stride,
        "positions": positions,
    }
    if depthwise:
        kind = "depthwise"
    elif inside < entering and role != "transposed":
        kind = "grouped"
    elif window > 1:
        kind = "conv"
    else:
        kind = "pointwise" if positions > 1 else "linear"
    return replace(plain, kind=kind, **sizes)


def _window(weight: Value, spatial: int, last: bool) -> float:
    """Places that a filter covers; filters are OHWI in TFLite, OIHW or GOIHW elsewhere."""
    if last:
        return float(np.prod(weight.shape[1:-1]))
    return float(np.prod(weight.shape[-spatial:])) if spatial > 0 else 1.0


def _matmul(plain: Kernel, given: list[Value], weights: list[Value], made: Value, node: Node) -> Kernel:
    outside = max(1, made.shape[-1] if made.shape else 1)
    if weights:
        weight = max(weights, key=lambda one: one.elements)
        inside = max(1.0, weight.elements / outside)
        if len(weight.shape) <= 2 or weight.elements == outside * weight.shape[-2]:
            return _dense(plain, weight.elements, plain.writes / outside, inside, outside)
    inside = max(1, given[0].shape[-1] if given and given[0].shape else 1)
    if node.attributes.get("transpose_a") and given and len(given[0].shape) > 1:
        inside = max(1, given[0].shape[-2])
    return replace(plain, kind="matmul", macs=plain.writes * inside, inside=inside, outside=outside)


def _dense(plain: Kernel, weights: float, rows: float, inside: float, outside: float) -> Kernel:
    return replace(
        plain,
        kind="pointwise" if rows > 1 else "linear",
        macs=weights * rows,
        weights=weights,
        inside=inside,
        outside=outside,
        positions=rows,
    )
