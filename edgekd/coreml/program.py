"""An ML program in memory: operations over named values. No file and no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekd.specs import TensorSpec

Kind = Literal["tensor", "list", "tuple", "dictionary", "state"]

DTYPE_BITS = {
    "bool": 8, "float16": 16, "float32": 32, "float64": 64,
    "int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64,
}  # fmt: skip
"""Bits of an element where it is stored; "str" has no such number."""

OPSETS = {"CoreML5": "iOS 15", "CoreML6": "iOS 16", "CoreML7": "iOS 17", "CoreML8": "iOS 18", "CoreML9": "iOS 26"}
"""Op set -> the first system that has it."""


@dataclass(frozen=True)
class Type:
    """What a value is."""

    kind: Kind = "tensor"
    dtype: str = ""
    """Of a tensor: a key of DTYPE_BITS, or "str"."""
    shape: tuple[int, ...] = ()
    """Of a tensor; -1 where any size goes."""
    items: tuple["Type", ...] = ()
    """What a list, a tuple, a dictionary (key and value) or a state holds."""


@dataclass(frozen=True)
class Named:
    """A value's name and type."""

    name: str
    type: Type


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that stands in the package."""

    type: Type
    data: Any
    """NDArray of numbers, NDArray of str, or for a list or tuple a tuple of Constants. Two of one weight share it."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation; constants are operations of kind "const" with the one input "val"."""

    kind: str
    name: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    """Of each parameter the names of values, or constants. Most take one; `concat` and its like take several."""
    outputs: tuple[Named, ...]
    blocks: tuple["Block", ...] = ()
    """What `cond` and `while_loop` execute."""


@dataclass(frozen=True, eq=False)
class Block:
    """Operations in the order of their execution; those of a nested one see the values outside of it."""

    inputs: tuple[Named, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Feature:
    """What the package's description says of an input, an output or a state."""

    type: Type | None = None
    """None for images and classes, which a program sees as something else."""
    default: float | None = None
    """What an optional input is filled with when it is left out."""
    colours: str = ""
    """Of an image: "RGB", "BGR", "GRAYSCALE" or "GRAYSCALE_FLOAT16"."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Of an input of no fixed shape, smallest and largest sizes of its last axes; -1 for no largest."""
    listed: tuple[tuple[int, ...], ...] = ()
    """Or all sizes that its last axes may have."""


@dataclass(frozen=True, eq=False)
class Program:
    """A package's default function, with what the package says of it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    """Values that a model keeps from one call to the next (from iOS 18 on); all zeros at first."""
    block: Block
    """Its inputs are the function's: inputs and states."""
    opset: str
    """Such as "CoreML7"; see OPSETS."""
    specification_version: int
    metadata: dict[str, str]
    """author, license, version and short_description where the package has them, classes of a classifier as a JSON
    list, and the user-defined entries under their own names."""
    features: Mapping[str, Feature]
    """Of each input. Images come as tensors (1, channels, height, width) of 0 to 255, in the order of their colours;
    scale and bias, where they have them, are operations of the program."""
    sha256: str
    """Of all files that the program was read from: the format itself has no checksums."""
    size_bytes: int
    """Of these files."""
    cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What the interpreter prepares once; a copy of a program begins with an empty one."""

    @property
    def operations(self) -> Sequence[Operation]:
        """Operations of the function itself, in the order of their execution."""
        return self.block.operations

    @property
    def opset_number(self) -> int:
        """5 for iOS 15, 6 for iOS 16 and so on."""
        return int(self.opset.removeprefix("CoreML"))

    @property
    def ios(self) -> int:
        """The iOS that brought its operator set: 15, 16, 17, 18, 26."""
        return int(OPSETS[self.opset].removeprefix("iOS "))


def quote(name: str) -> str:
    """A name out of a package as it may stand in a message: in quotes, in one line, and not too long."""
    return repr(name if len(name) <= 100 else f"{name[:97]}...")


def describe(named: Named) -> TensorSpec:
    """A value as the rest of edgekd describes tensors."""
    inner = named.type.items[0] if named.type.kind == "state" else named.type
    if inner.kind == "dictionary":  # a classifier's probabilities come out as a vector in the order of the classes
        inner = dataclasses.replace(inner, dtype="float32", shape=(-1,))
    return TensorSpec(name=named.name, shape=inner.shape, dtype=inner.dtype)
