"""Keras models in one file: .keras, and the older .h5.

Keras builds the layers, TensorFlow traces them to a graph, and the graph becomes torch steps; inputs keep their order
of axes. A file may name code: only layers of Keras itself are built, none that holds Python code or reads other files,
and weights are read from the file alone.
"""

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edgekd.errors import ConfigError, EdgekdError, UnsupportedOperator
from edgekd.sources import Model, ModelSource
from edgekd.sources._failures import FAILURES, clean, one_line

LARGEST: Final = 4 * 2**30
"""Bytes of all that is in a file."""
MOST_ELEMENTS: Final = 2**28
"""Of one weight."""
MOST_OBJECTS: Final = 200_000
CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"

OWN_MODULES: Final = ("keras", "builtins", None)
FOREIGN: Final = frozenset(
    ("FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper", "__lambda__", "lambda", "SlicingOpLambda")
)
"""Classes that hold Python code, or load it from elsewhere."""


class _Keras:
    suffixes: tuple[str, ...] = (".keras", ".h5")

    def load(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        from edgekd.sources._tensorflow_models import import_tensorflow, module_of

        path = Path(name)
        try:
            if not path.is_file():
                raise ConfigError("no such file")
            _check(path)
            import_tensorflow()
            model = _built(path)
            return module_of(_program(model, shapes), {"keras.name": clean(str(model.name))})
        except EdgekdError as error:
            raise type(error)(f"{path}: {error}", hint=error.hint) from error
        except (*FAILURES, OSError, zipfile.BadZipFile, RecursionError) as error:
            raise ConfigError(f"{path}: Keras cannot read it: {one_line(error)}") from error


# --- what may be in a file


def _check(path: Path) -> None:
    """Refuse what would execute, read elsewhere, or fill the memory."""
    import h5py

    if path.stat().st_size > LARGEST:
        raise ConfigError(f"larger than {LARGEST} bytes")
    if path.suffix.lower() == ".h5":
        with h5py.File(path, "r") as stored:
            config = stored.attrs.get("model_config")
            if config is None:
                raise ConfigError("it holds weights without a model", hint="save the whole model: model.save(path)")
            _check_weights(stored)
    else:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive)
            config = archive.read(CONFIG)
            with h5py.File(io.BytesIO(archive.read(WEIGHTS)), "r") as stored:
                _check_weights(stored)
    _check_config(json.loads(config))


def _check_archive(archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if sum(entry.file_size for entry in entries) > LARGEST or len(set(names)) < len(names):
        raise ConfigError("what is packed in it is too large, or there twice")
    missing = {CONFIG, WEIGHTS} - set(names)
    if missing:
        raise ConfigError(f"it has no {min(missing)}")
    foreign = [name for name in names if name not in {CONFIG, WEIGHTS, METADATA} and not name.endswith("/")]
    if foreign:
        raise UnsupportedOperator(
            f"it holds {clean(foreign[0])!r} beside the model",
            hint="save a model without vocabularies and other assets",
        )


def _check_weights(stored: Any) -> None:
    """Only arrays of a size that can be, in this file."""
    import h5py

    waiting, seen = [stored], 0
    while waiting:
        group = waiting.pop()
        for name in group:
            seen += 1
            if seen > MOST_OBJECTS:
                raise ConfigError(f"more than {MOST_OBJECTS} objects")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ConfigError(f"weight {clean(name)!r} is a link")
            found = group[name]
            if isinstance(found, h5py.Group):
                waiting.append(found)
            elif found.external or found.is_virtual:
                raise ConfigError(f"weight {clean(name)!r} is in another file")
            elif math.prod(found.shape or ()) > MOST_ELEMENTS:
                raise ConfigError(f"weight {clean(name)!r} of shape {found.shape} is too large")


def _check_config(config: Any) -> None:
    for part in _dicts(config):
        name, module = part.get("class_name"), part.get("module")
        if name in FOREIGN:
            raise UnsupportedOperator(
                f"a layer {clean(str(name))!r} holds code, which is not executed",
                hint="write it with layers of Keras, or save the model by model.export(folder) and open the folder",
            )
        if name is not None and not (module in OWN_MODULES or str(module).startswith("keras.")):
            raise UnsupportedOperator(
                f"{clean(str(name))!r} of {clean(str(module))!r} is not a part of Keras",
                hint="save the model by model.export(folder) and open the folder",
            )


def _dicts(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


# --- the graph


def _built(path: Path) -> Any:
    import keras

    if keras.config.backend() != "tensorflow":
        raise ConfigError(f"Keras runs on {keras.config.backend()} here", hint="set KERAS_BACKEND=tensorflow")
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ConfigError(
            "the model does not know its inputs", hint="save it by model.export(folder) and open the folder"
        )
    return model


def _program(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    import keras
    import tensorflow

    from edgekd.sources._tensorflow_models import Program, Weight, check_names, concrete

    names = _input_names(model)
    check_names(shapes, names)
    sizes = [concrete(name, one.shape, shapes) for name, one in zip(names, model.inputs, strict=True)]
    structure = getattr(model, "_inputs_struct", None)
    nested = structure if structure is not None else model.inputs if len(names) > 1 else model.inputs[0]

    def run(*arrays: Any) -> Any:
        packed = keras.tree.pack_sequence_as(nested, arrays) if len(names) > 1 else arrays[0]
        return keras.tree.flatten(model(packed, training=False))

    given = [
        tensorflow.TensorSpec(size, keras.backend.standardize_dtype(one.dtype), name=f"input_{position}")
        for position, (size, one) in enumerate(zip(sizes, model.inputs, strict=True))
    ]
    traced = tensorflow.function(run, autograph=False).get_concrete_function(*given)
    weights = {id(weight.value.handle): weight for weight in model.variables}
    handles, values = {}, {}
    for captured, inner in traced.graph.captures:
        weight = weights.get(id(captured))
        if weight is not None:
            handles[inner.op.name] = Weight(weight.path, weight.numpy())
        else:
            values[inner.op.name] = captured.numpy()
    count = len(names)
    inputs = {
        name: (tensor.name, size, int(tensor.dtype.as_datatype_enum))
        for name, tensor, size in zip(names, traced.inputs[:count], sizes, strict=True)
    }
    outputs = dict(zip(_output_names(model, len(traced.outputs)), (one.name for one in traced.outputs), strict=True))
    return Program(traced.graph.as_graph_def(), inputs, outputs, handles, values)


def _input_names(model: Any) -> list[str]:
    """Of the input layers, as the file has them; names of tensors change with every load."""
    names = [str(name) for name in getattr(model, "input_names", None) or []]
    return names if len(set(names)) == len(model.inputs) else [str(one.name) for one in model.inputs]


def _output_names(model: Any, count: int) -> list[str]:
    names = [str(name) for name in getattr(model, "output_names", None) or []]
    if len(set(names)) != count:
        return [f"output_{position}" for position in range(count)] if count > 1 else ["output"]
    return names


PLUGIN: Final[ModelSource] = _Keras()
