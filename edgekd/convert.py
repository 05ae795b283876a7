"""Write a model that somebody already has in the formats of devices, without distilling anything."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import converters, sources
from edgekd.converters import Source
from edgekd.errors import ConfigError, ConvertError, EdgekdError, WorkerDied
from edgekd.files import content, decode_json, dumps, read_text, storage_errors, write_text
from edgekd.fitness import newest_set, unfit
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.sources import Model
from edgekd.specs import Quantization, Spec, Target, TensorSpec
from edgekd.tensors import Tensors, fitted, given_inputs
from edgekd.workers import call, cores, sharing, together

SCHEMA = 1
MANIFEST = "edgekd.json"
CALIBRATION_EXAMPLES = 200
TIMEOUT_S = 900.0


class Order(Spec, frozen=True, kw_only=True):
    """What somebody wants of a model."""

    model: str
    """`module:function`, or a path: .pt2, .onnx, .keras, .h5, a SavedModel folder."""
    exports: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]] = {}
    """Of inputs that the model leaves open."""
    calibration: str = ""
    """A .npz or .npy file, or a `module:function` that returns arrays of (examples, *shape)."""
    properties: dict[str, str] = {}
    """Written into every file, besides what the model's own file says."""
    quantization: Quantization = Quantization()


class Exported(Spec, frozen=True, kw_only=True):
    """One file, or why there is none."""

    export: str
    file: str = ""
    """Below the folder that holds the manifest."""
    file_bytes: int = 0
    sha256: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    tools: dict[str, str] = {}
    error: str = ""
    hint: str = ""
    unfit: tuple[str, ...] = ()
    """Why no runtime of the target executes it rightly."""
    instead_of: str = ""
    """The export that it stands in for, as the target says."""


class Manifest(Spec, frozen=True, kw_only=True):
    """What a folder of exports holds: `edgekd.json` in it."""

    schema: int
    model: str
    shapes: dict[str, tuple[int, ...]] = {}
    artifacts: tuple[Exported, ...]

    @property
    def ok(self) -> bool:
        """True when every export was written."""
        return not any(one.error for one in self.artifacts)


def convert(order: Order, folder: Path, target: Target | None = None) -> Manifest:
    """Write each export into `folder`, named after the model, with a manifest; one that fails does not stop others.

    With a target, files are held against the runtimes that it has, and replaced where it names a stand-in.

    Raises:
        UnknownPlugin, PluginUnavailable, ConfigError: an export or the model is not known, before any work.
        StorageError: the folder cannot be written.
    """
    for export in order.exports:
        converters.check(export)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made: dict[str, Exported] = {}

        def family(exports: Sequence[str]) -> None:
            with sharing():
                for export in exports:
                    made[export] = _fitting(order, export, folder, target)
                    tell("exporting", len(made), len(order.exports))

        tell("exporting", 0, len(order.exports))
        together([partial(family, exports) for exports in converters.families(order.exports)], at_once=cores())
        artifacts = tuple(made[export] for export in order.exports)
        manifest = Manifest(schema=SCHEMA, model=absolute(order.model), shapes=order.shapes, artifacts=artifacts)
        write_text(folder / MANIFEST, dumps(manifest))
    return manifest


def manifest_of(folder: Path) -> Manifest | None:
    """The manifest of a folder of exports; None where there is none.

    Raises:
        ConfigError: it is damaged, or names a file outside of the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = decode_json(Manifest, read_text(path), str(path))
    for one in manifest.artifacts:
        if one.file and not (folder / one.file).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{path}: {one.file} points out of the folder")
    return manifest


def changed(folder: Path, one: Exported) -> str:
    """Why a file is no longer what was exported; "" where it is."""
    path = folder / one.file
    if not path.exists():
        return f"{path} is lost"
    return "" if content(path) == (one.file_bytes, one.sha256) else f"{path} was changed since it was exported"


def absolute(model: str) -> str:
    """A model's name that means the same in every folder."""
    path, colon, function = model.rpartition(":")
    if colon and path.endswith(".py"):
        return f"{Path(path).resolve()}:{function}"
    return str(Path(model).resolve()) if Path(model).exists() else model


def _fitting(order: Order, export: str, folder: Path, target: Target | None) -> Exported:
    made = _one(order, export, folder, target)
    if made.error or target is None:
        return made
    reasons = unfit(folder / made.file, converters.split(export)[1], target)
    if reasons and export in target.fallbacks:
        instead = _fitting(order, target.fallbacks[export], folder, msgspec.structs.replace(target, fallbacks={}))
        return msgspec.structs.replace(instead, instead_of=export)
    return msgspec.structs.replace(made, unfit=reasons)


def _one(order: Order, export: str, folder: Path, target: Target | None) -> Exported:
    newest = newest_set(converters.split(export)[0], target) if target else None
    log = folder / f".{export}.log"
    work = Work(run_folder=str(folder), name="", out_folder=str(folder))
    try:
        made = call(_write, work, order, export, newest, threads=1, log=log, timeout_s=TIMEOUT_S)
    except WorkerDied as error:
        return Exported(export=export, error=str(error), hint=error.hint)
    except EdgekdError as error:
        log.unlink(missing_ok=True)
        return Exported(export=export, error=str(error), hint=error.hint)
    log.unlink(missing_ok=True)
    return made


def _write(work: Work, order: Order, export: str, newest_set: int | None) -> Exported:
    """In a worker: opens the model and writes one export of it."""
    model = _opened(order.model, tuple(order.shapes.items()))
    _, precision = converters.split(export)
    calibration: tuple[NDArray[Any], ...] = ()
    if order.calibration and precision in converters.CALIBRATED:
        calibration = _some(fitted(given_inputs(order.calibration), model.inputs, order.model))
    source = Source(
        module=model.module,
        inputs=model.inputs,
        outputs=model.outputs,
        calibration=calibration,
        properties={**model.properties, **order.properties, "edgekd.precision": precision},
        quantization=order.quantization,
        newest_set=newest_set,
    )
    out = work.out / f"{title(order.model)}-{export}{converters.check(export).suffix}"
    try:
        inputs, outputs, tools = converters.write(source, export, out)
    except ConvertError as error:
        said = str(error) if str(error).startswith(export) else f"{export}: {error}"
        raise type(error)(said, hint=error.hint) from error
    file_bytes, sha256 = content(out)
    return Exported(
        export=export,
        file=out.name,
        file_bytes=file_bytes,
        sha256=sha256,
        inputs=inputs,
        outputs=outputs,
        tools=tools,
    )


@lru_cache(maxsize=1)  # all exports of a worker are of one model
def _opened(model: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Model:
    return sources.open_model(model, dict(shapes))


def _some(given: Tensors) -> tuple[NDArray[Any], ...]:
    """At most 200 examples, evenly spread."""
    count = len(given.arrays[0])
    indices = np.linspace(0, count - 1, min(CALIBRATION_EXAMPLES, count)).round().astype(np.int64)
    return tuple(array[indices] for array in given.arrays)


def title(model: str) -> str:
    """What files made of a model are named after.

    >>> title("nets.py:small"), title("models/big.onnx"), title("saved_model/")
    ('small', 'big', 'saved_model')
    """
    name = model.rpartition(":")[2] if ":" in model else Path(model).stem
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).lstrip(".") or "model"


def listed(text: Sequence[str]) -> tuple[str, ...]:
    """Exports of options that may be given several times, or with commas.

    >>> listed(["tflite-int8,onnx-fp32", "coreml-fp16"])
    ('tflite-int8', 'onnx-fp32', 'coreml-fp16')
    """
    names = [name.strip() for part in text for name in part.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def quantized_as(ranges: str) -> Quantization:
    """The rule for ranges that an option names.

    Raises:
        ConfigError: no such rule.
    """
    try:
        return msgspec.convert({"ranges": ranges}, Quantization)
    except msgspec.ValidationError as error:
        raise ConfigError(f"no rule for ranges named {ranges!r}", hint="full, percentile, mse or entropy") from error
