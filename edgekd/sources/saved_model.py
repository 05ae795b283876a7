"""SavedModels of TensorFlow: folders with saved_model.pb.

TensorFlow's own loader runs what the file wants run at loading, so nothing of it is called: the graph is read as data,
its signature's inputs and outputs are taken, and weights are read from the checkpoint that the graph's restore function
would read. Inputs keep their order of axes.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekd.errors import ConfigError, EdgekdError
from edgekd.sources import SAVED_MODEL, Model, ModelSource
from edgekd.sources._failures import FAILURES, clean, one_line

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef

    from edgekd.sources._tensorflow_models import Program, Weight

LARGEST_FILE: Final = 2 * 2**30 - 1
MOST_ELEMENTS: Final = 2**28
"""Of one weight."""
USUAL: Final = ("serving_default", "serve")
"""Signatures that are taken before others."""
INITIALIZERS: Final = "__"
"""Signatures of such names start something, and answer nothing."""


class _SavedModel:
    suffixes: tuple[str, ...] = ()

    def load(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        from edgekd.sources._tensorflow_models import import_tensorflow, module_of

        folder = Path(name)
        try:
            content = _content(folder)
            import_tensorflow()
            graph = _meta_graph(content)
            return module_of(_program(graph, folder, shapes), _properties(graph))
        except EdgekdError as error:
            raise type(error)(f"{folder}: {error}", hint=error.hint) from error
        except (*FAILURES, OSError) as error:
            raise ConfigError(f"{folder}: not a whole SavedModel: {one_line(error)}") from error


def _content(folder: Path) -> bytes:
    path = folder / SAVED_MODEL
    if not path.is_file():
        raise ConfigError(f"there is no {SAVED_MODEL}")
    if path.stat().st_size > LARGEST_FILE:
        raise ConfigError(f"{SAVED_MODEL} is larger than {LARGEST_FILE} bytes")
    return path.read_bytes()


def _meta_graph(content: bytes) -> "MetaGraphDef":
    """The graph that serves."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ConfigError(f"{SAVED_MODEL} is not one, or cut short") from error
    serving = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not serving:
        raise ConfigError("it has no graph that serves")
    return serving[0]


def _program(meta: "MetaGraphDef", folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> "Program":
    from edgekd.sources._tensorflow_models import Program, check_names, concrete

    signature = _signature(meta)
    check_names(shapes, signature.inputs)
    inputs = {}
    for name, info in sorted(signature.inputs.items()):
        shape = None if info.tensor_shape.unknown_rank else [int(axis.size) for axis in info.tensor_shape.dim]
        inputs[name] = (info.name, concrete(name, shape, shapes), int(info.dtype))
    outputs = {name: info.name for name, info in sorted(signature.outputs.items())}
    return Program(meta.graph_def, inputs, outputs, _weights(meta, folder))


def _signature(meta: "MetaGraphDef") -> "SignatureDef":
    names = [name for name in meta.signature_def if not name.startswith(INITIALIZERS)]
    if not names:
        raise ConfigError("it has no signature", hint="save it with signatures, or by model.export(folder) of Keras")
    chosen = next((name for name in USUAL if name in names), min(names))
    return meta.signature_def[chosen]


# --- weights


def _weights(meta: "MetaGraphDef", folder: Path) -> dict[str, "Weight"]:
    """The graph's handles, each with what the checkpoint has for it."""
    from edgekd.sources._tensorflow_models import Weight

    graph = meta.graph_def
    handles = {node.name for node in graph.node if node.op in {"VarHandleOp", "VariableV2", "Variable"}}
    if not handles:
        return {}
    reader = _reader(folder)
    sizes = reader.get_variable_to_shape_map()
    weights = {}
    for handle, key in _keys(graph, meta.saver_def.restore_op_name):
        if handle in handles and key in sizes:
            weights[handle] = Weight(handle, partial(_read, reader, key, sizes[key]))
    return weights


def _reader(folder: Path) -> Any:
    import tensorflow

    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise ConfigError("its folder `variables` is not there", hint="keep the whole folder together")
    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except tensorflow.errors.OpError as error:
        raise ConfigError(f"its weights cannot be read: {one_line(error)}") from error


def _read(reader: Any, key: str, shape: list[int]) -> Any:
    import math

    import tensorflow

    if math.prod(shape) > MOST_ELEMENTS or min(shape, default=0) < 0:
        raise ConfigError(f"weight {clean(key)!r} of shape {tuple(shape)} is too large")
    try:
        return reader.get_tensor(key)
    except tensorflow.errors.OpError as error:
        raise ConfigError(f"weight {clean(key)!r} cannot be read: {one_line(error)}") from error


def _keys(graph: "GraphDef", restore: str) -> Iterator[tuple[str, str]]:
    """Handles and their keys in the checkpoint, as the restore function assigns them."""
    from edgekd.sources._tensorflow_graphs import node_of

    nodes = {node.name: node for node in graph.node}
    top = nodes.get(restore.partition(":")[0])
    if top is None or top.op not in {"StatefulPartitionedCall", "PartitionedCall"}:
        yield from _assigned(nodes)  # of TensorFlow 1, where the graph itself restores
        return
    functions = {one.signature.name: one for one in graph.library.function}
    body = functions.get(top.attr["f"].func.name)
    if body is None:
        raise ConfigError("its restore function is not there")
    given = dict(zip((one.name for one in body.signature.input_arg), top.input, strict=False))
    for argument, key in _assigned({node.name: node for node in body.node_def}):
        yield node_of(given.get(argument, "")), key


def _assigned(nodes: dict[str, "NodeDef"]) -> Iterator[tuple[str, str]]:
    """What each assignment writes to, and the key that it reads."""
    from tensorflow.python.framework.tensor_util import MakeNdarray

    from edgekd.sources._tensorflow_graphs import node_of

    names: dict[str, list[str]] = {}
    for node in nodes.values():
        if node.op not in {"AssignVariableOp", "Assign"} or len(node.input) < 2:
            continue
        source, index = _origin(nodes, node.input[1])
        if source is None or source.op != "RestoreV2" or len(source.input) < 2:
            continue
        table = nodes.get(node_of(source.input[1]))
        if table is not None and source.name not in names:
            stored = MakeNdarray(table.attr["value"].tensor).reshape(-1).tolist()
            names[source.name] = [key.decode("utf-8", "replace") if isinstance(key, bytes) else "" for key in stored]
        keys = names.get(source.name, [])
        if index < len(keys):
            yield node_of(node.input[0]), keys[index]


def _origin(nodes: dict[str, "NodeDef"], tensor: str) -> "tuple[NodeDef | None, int]":
    """The node that makes a tensor, and which of its outputs that is, identities passed over."""
    from edgekd.sources._tensorflow_graphs import node_of

    for _ in range(100):
        node = nodes.get(node_of(tensor))
        if node is None or node.op != "Identity" or not node.input:
            last = tensor.rpartition(":")[2]
            return node, int(last) if last.isdecimal() and len(last) < 7 else 0
        tensor = node.input[0]
    return None, 0


def _properties(meta: "MetaGraphDef") -> dict[str, str]:
    version = meta.meta_info_def.tensorflow_version
    return {"tensorflow.version": clean(version)} if version else {}


PLUGIN: Final[ModelSource] = _SavedModel()
