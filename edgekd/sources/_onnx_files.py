"""Reads ONNX files that may be broken or hostile: what comes back has a graph, and every tensor in it is whole."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._failures import clean, one_line
from edgekd.sources._graphs import MOST_ELEMENTS
from edgekd.sources._onnx_operators import DTYPES, dtype_of

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

LARGEST_FILE: Final = 2 * 2**30 - 1
"""Bytes; what the encoding can hold."""
MOST_NODES: Final = 200_000


def read(path: Path) -> "ModelProto":
    """The content of an ONNX file; external data are not read yet.

    Raises:
        ConfigError: no such file, too large, or not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = read_bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ConfigError(f"{path}: not an ONNX file, or cut short") from error
    if not model.ir_version or not model.graph.output:
        raise ConfigError(f"{path}: not an ONNX file: it has no graph")
    if len(model.graph.node) > MOST_NODES:
        raise ConfigError(f"{path}: more than {MOST_NODES} nodes")
    return model


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ConfigError: it is not there, not readable, or too large.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {LARGEST_FILE} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


# --- tensors


def tensor_of(proto: "TensorProto", folder: Path) -> Tensor:
    """The content of a stored tensor, 4-bit integers as 8-bit ones and 8-bit floats as 32-bit ones.

    Raises:
        ConfigError: its data do not fill its shape, or lie outside of the folder.
        UnsupportedOperator: it holds texts or complex numbers.
    """
    from onnx import TensorProto, numpy_helper

    where = f"tensor {clean(proto.name)!r}"
    shape = tuple(proto.dims)
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_ELEMENTS:
        raise ConfigError(f"{where}: a shape of {shape}")
    if proto.data_location == TensorProto.EXTERNAL:
        proto = _with_external_data(proto, folder, where)
    if proto.data_type in {TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        dtype_of(proto.data_type, where)
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"{where}: {one_line(error)}") from error
    if array.shape != shape:
        raise ConfigError(f"{where}: data of shape {array.shape} for a shape of {shape}")
    if proto.data_type not in DTYPES:
        integral = array.dtype.name.startswith(("int", "uint"))
        array = array.astype(np.int8 if integral and "uint" not in array.dtype.name else np.uint8 if integral else "f4")
    elif proto.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))  # a copy: what the file lends cannot be written to


def odd_type(proto: "TensorProto") -> str:
    """Name of a stored tensor's type where torch has none like it, else ""."""
    from onnx import TensorProto

    return "" if proto.data_type in DTYPES else TensorProto.DataType.Name(proto.data_type)


def _with_external_data(proto: "TensorProto", folder: Path, where: str) -> "TensorProto":
    from onnx import TensorProto

    entries = {entry.key: entry.value for entry in proto.external_data}
    path = _inside(folder, entries.get("location", ""), where)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
        size = path.stat().st_size
    except (ValueError, OSError) as error:
        raise ConfigError(f"{where}: its external data cannot be read: {one_line(error)}") from error
    length = size - offset if length < 0 else length
    if not 0 <= offset <= offset + length <= size or length > LARGEST_FILE:
        raise ConfigError(f"{where}: bytes {offset} to {offset + length} of a file of {size}")
    with path.open("rb") as opened:
        opened.seek(offset)
        whole = TensorProto()
        whole.CopyFrom(proto)
        whole.ClearField("external_data")
        whole.data_location = TensorProto.DEFAULT
        whole.raw_data = opened.read(length)
    return whole


def _inside(folder: Path, location: str, where: str) -> Path:
    """A file of the folder, links followed.

    Raises:
        ConfigError: it is elsewhere.
    """
    try:
        path = (folder / location).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{where}: external data at a path that cannot be") from error
    if not inside:
        raise ConfigError(
            f"{where}: its data are expected in {clean(location)!r}", hint="keep the model and its data in one folder"
        )
    return path


# --- graphs


def sorted_nodes(graph: "GraphProto", known: Iterable[str]) -> list["NodeProto"]:
    """The nodes, each after those that make what it reads; the stored order is kept where it can be.

    Raises:
        ConfigError: a value is made twice, or read and never made, or the nodes form a circle.
    """
    makers: dict[str, int] = {}
    names = set(known)
    for position, node in enumerate(graph.node):
        for output in filter(None, node.output):
            if output in makers or output in names:
                raise ConfigError(f"value {clean(output)!r} is made twice")
            makers[output] = position
    waits = [{makers[name] for name in _reads(node) if name in makers} for node in graph.node]
    if all(max(waited, default=-1) < position for position, waited in enumerate(waits)):
        return list(graph.node)
    readers: dict[int, list[int]] = {}
    for position, waited in enumerate(waits):
        for maker in waited:
            readers.setdefault(maker, []).append(position)
    ready, order = deque(position for position, waited in enumerate(waits) if not waited), []
    while ready:
        position = ready.popleft()
        order.append(position)
        for reader in readers.get(position, ()):
            waits[reader].discard(position)
            if not waits[reader]:
                ready.append(reader)
    if len(order) < len(graph.node):
        raise ConfigError("its nodes wait for each other in a circle")
    return [graph.node[position] for position in order]


def _reads(node: "NodeProto") -> Iterator[str]:
    """Names that a node reads; its subgraphs read what they do not make themselves."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            own = {name for inner in graph.node for name in inner.output}
            own.update(info.name for info in (*graph.input, *graph.initializer))
            read = (name for inner in graph.node for name in _reads(inner))
            yield from (name for name in (*read, *(info.name for info in graph.output)) if name not in own)


def input_shape(info: "ValueInfoProto", asked: tuple[int, ...] | None, sizes: dict[str, int]) -> tuple[int, ...]:
    """Concrete sizes of an input: as asked for, as in the file, as another input of that symbol has it, or one.

    Raises:
        ConfigError: what is asked for contradicts the file, or the file does not know how many axes there are.
    """
    where, stored = f"input {clean(info.name)!r}", info.type.tensor_type
    if not stored.HasField("shape"):
        if asked is None:
            raise ConfigError(f"{where} has no shape in the file", hint="give its shape, batch included")
        return asked
    dimensions = stored.shape.dim
    if asked is None:
        return tuple(d.dim_value if d.dim_value > 0 else sizes.get(d.dim_param, 1) for d in dimensions)
    fixed = tuple(d.dim_value if d.dim_value > 0 else None for d in dimensions)
    if len(asked) != len(fixed) or any(size not in {None, new} for size, new in zip(fixed, asked, strict=True)):
        shown = ", ".join("?" if size is None else str(size) for size in fixed)
        raise ConfigError(f"{where} is of shape ({shown}), not {asked}")
    return asked


def symbols(inputs: Iterable["ValueInfoProto"], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes that the shapes that are asked for give to the symbols of the file, such as "batch"."""
    sizes: dict[str, int] = {}
    for info in inputs:
        for dimension, size in zip(info.type.tensor_type.shape.dim, shapes.get(info.name, ()), strict=False):
            if dimension.dim_param:
                sizes.setdefault(dimension.dim_param, size)
    return sizes


def attributes_of(node: "NodeProto", outer: dict[str, "AttributeProto"]) -> dict[str, "AttributeProto"]:
    """Name -> attribute; one that refers to an attribute of the function that it stands in takes its value."""
    found: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in outer:
            found[attribute.name] = outer[attribute.ref_attr_name]
    return found
