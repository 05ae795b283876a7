"""Arrays that go into nets and come out of them: read, drawn, brought into another's order, written. Plain numpy."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd import parity
from edgekd.errors import ConfigError
from edgekd.files import replacing
from edgekd.plugins import find_object
from edgekd.specs import TensorSpec

Array = NDArray[Any]

LARGEST_RANDOM_INTEGER = 4
"""Token ids, positions and masks take these; a user who wants others gives inputs."""


@dataclass(frozen=True)
class Tensors:
    """Named arrays of shape (examples, *shape)."""

    specs: tuple[TensorSpec, ...]
    arrays: tuple[Array, ...]


def given_inputs(name: str) -> Tensors:
    """Inputs of a .npz or .npy file, or that a user's function returns: arrays, or a dict of them by name.

    Each is of shape (examples, *shape), where the model's own batch may be left out if it is 1.

    Raises:
        ConfigError: no such file or function, or what it gives are no arrays of equal length.
    """
    found = _load(name)
    named: dict[str, Any] = found if isinstance(found, dict) else {}
    arrays = [
        np.asarray(one) for one in (named.values() if named else found if isinstance(found, tuple | list) else [found])
    ]
    names = list(named) or [""] * len(arrays)
    if not arrays or any(one.ndim == 0 or one.dtype.kind not in "fiub" for one in arrays):
        raise ConfigError(f"{name}: not arrays of numbers", hint="give one array of (examples, *shape) for each input")
    if len({len(one) for one in arrays}) > 1 or not len(arrays[0]):
        raise ConfigError(f"{name}: the arrays have {', '.join(str(len(one)) for one in arrays)} examples")
    specs = tuple(
        TensorSpec(name=label, shape=array.shape[1:], dtype=array.dtype.name)
        for label, array in zip(names, arrays, strict=True)
    )
    return Tensors(specs, tuple(arrays))


def _load(name: str) -> Any:
    path = Path(name)
    if path.suffix not in {".npz", ".npy"}:
        made = find_object(name)
        return made() if callable(made) else made
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {key: found[key] for key in found.files}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{name}: not arrays of numpy: {line}", hint="write it with numpy.savez") from error


def first_examples(given: Tensors, count: int) -> Tensors:
    """At most `count` of the examples."""
    return Tensors(given.specs, tuple(array[:count] for array in given.arrays))


def read_arrays(path: Path) -> tuple[Array, ...]:
    """What `write_inputs` or an engine's guest wrote."""
    with np.load(path, allow_pickle=False) as opened:
        return tuple(opened[str(index)] for index in range(len(opened.files)))


def first_inputs(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The first example of each array as a file in a folder, with its dtype and shape: what a guest is weighed with."""
    found = []
    for index, array in enumerate(read_arrays(path)):
        file = folder / f"first-{index}.bin"
        array[0].tofile(file)
        found.append({"file": file, "dtype": str(array.dtype), "shape": list(array[0].shape)})
    return found


def drawn(inputs: Sequence[Mapping[str, Any]], examples: int, seed: int = 0) -> Tensors:
    """Seeded random inputs: normal floats, or what the range of a quantized input holds, and small integers."""
    random = np.random.default_rng(seed)
    arrays = []
    for one in inputs:
        shape = (examples, *(1 if size < 0 else size for size in one["shape"]))
        if "low" in one:
            array = random.uniform(one["low"], one["high"], shape).astype(np.float32)
        elif one["dtype"] == "bool":
            array = random.integers(0, 2, shape).astype(bool)
        elif "int" in one["dtype"]:
            array = random.integers(0, LARGEST_RANDOM_INTEGER, shape).astype(one["dtype"])
        else:
            array = random.normal(size=shape).astype(np.float32)
        arrays.append(array)
    return Tensors(specs_of(inputs), tuple(arrays))


def fitted(given: Tensors, wanted: Sequence[TensorSpec], who: str) -> Tensors:
    """The same inputs as another takes them: its order, its order of axes, its types.

    Raises:
        ConfigError: it takes other inputs.
    """
    order = parity.paired(wanted, _with_batch(given.specs, wanted))
    if order is None:
        raise ConfigError(
            f"{who} takes {listed(wanted)}, and the inputs are {listed(given.specs)}",
            hint="give one array of (examples, *shape) for each input",
        )
    arrays = []
    for spec, index in zip(wanted, order, strict=True):
        array = parity.arranged(given.arrays[index], spec.shape)
        if array is None:
            raise ConfigError(f"{who} takes {listed(wanted)}, and the inputs are {listed(given.specs)}")
        arrays.append(array if _keeps_floats(array, spec) else array.astype(spec.dtype))
    return Tensors(tuple(wanted), tuple(arrays))


def _with_batch(given: Sequence[TensorSpec], wanted: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Names that are not told are taken from the order."""
    if all(one.name for one in given) or len(given) != len(wanted):
        return list(given)
    return [
        TensorSpec(name=other.name, shape=one.shape, dtype=one.dtype) for one, other in zip(given, wanted, strict=True)
    ]


def _keeps_floats(array: Array, spec: TensorSpec) -> bool:
    """Integer inputs of quantized models are given floats, which the engine quantizes by the model's own scale."""
    return array.dtype.kind == "f" and spec.dtype in {"int8", "uint8", "int16"}


def specs_of(described: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs as an engine's guest describes them."""
    return tuple(
        TensorSpec(name=str(one["name"]), shape=tuple(int(size) for size in one["shape"]), dtype=str(one["dtype"]))
        for one in described
    )


def listed(specs: Sequence[TensorSpec]) -> str:
    """Names and shapes, for a message."""
    return ", ".join(f"{one.name or 'an array'} {one.shape}" for one in specs) or "nothing"


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy that is either whole or not there."""
    with replacing(path) as part, part.open("wb") as opened:
        np.save(opened, array, allow_pickle=False)


def write_inputs(path: Path, *inputs: NDArray[Any]) -> None:
    """Write a .npz that an engine's guest reads, an array of (examples, *shape) an input; either whole or not there."""
    arrays: dict[str, Any] = {str(index): array for index, array in enumerate(inputs)}
    with replacing(path) as part, part.open("wb") as opened:
        np.savez(opened, allow_pickle=False, **arrays)


def following(tokens: Array, prompt: int) -> Array:
    """Labels of texts (examples, length): at each place from the last of the prompt on the token behind it, -1 where
    that is padding (0), and in the prompt."""
    labels = np.full_like(tokens, -1)
    behind = tokens[:, prompt:]
    labels[:, prompt - 1 : -1] = np.where(behind == 0, -1, behind)
    return labels
