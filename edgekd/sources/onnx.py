"""ONNX files: every node becomes a torch function (see _onnx_operators), every initializer a weight of its name.

Opsets 7 to 28. Control flow and functions are unrolled; batch norms keep the statistics of the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekd.errors import ConfigError, EdgekdError, UnsupportedOperator
from edgekd.sources import Model, ModelSource
from edgekd.sources._failures import FAILURES, clean, misfit, one_line

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto
    from torch import Tensor

    from edgekd.sources._graphs import Value
    from edgekd.sources._onnx_operators import Node

NEWEST_OPSET: Final = 28
DEEPEST: Final = 24
"""Functions and subgraphs in each other."""
MOST_VISITS: Final = 300_000
"""Nodes that are looked at, those of functions and loops as often as they are called."""
HINTS: Final[Mapping[str, str]] = {
    "NonMaxSuppression": "cut the model before it, and do this step in the application",
    "RoiAlign": "cut the model before it, or write it as GridSample",
    "StringNormalizer": "texts are turned to numbers by the application",
    "TfIdfVectorizer": "texts are turned to numbers by the application",
    "STFT": "compute the spectrum in the application, or by Conv with fixed weights",
    "DFT": "compute the spectrum in the application, or by MatMul with fixed weights",
    "RandomNormal": "make the noise an input of the model",
    "RandomNormalLike": "make the noise an input of the model",
    "RandomUniform": "make the noise an input of the model",
    "RandomUniformLike": "make the noise an input of the model",
    "Unique": "the size of its result depends on the data: do this step in the application",
}


class _Onnx:
    suffixes: tuple[str, ...] = (".onnx",)

    def load(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        from edgekd.sources._onnx_files import read

        path = Path(name)
        proto = read(path)
        try:
            return _model(proto, path, dict(shapes))
        except EdgekdError as error:
            raise type(error)(f"{path}: {error}", hint=error.hint) from error
        except FAILURES as error:  # of protobuf too: texts that are not UTF-8
            raise ConfigError(f"{path}: not a whole ONNX file: {one_line(error)}") from error


def _model(proto: "ModelProto", path: Path, shapes: dict[str, tuple[int, ...]]) -> Model:
    from edgekd.sources._description import describe

    importer = _Importer(proto, path.parent)
    inputs, outputs = importer.run(shapes)
    module = importer.builder.module(inputs, outputs)
    examples = tuple(value.meta for value in inputs)
    names = [value.name for value in proto.graph.output]
    given, made = describe(module, [value.name for value in inputs], examples, names)
    properties = {prop.key: prop.value for prop in proto.metadata_props}
    return Model(module, given, made, properties)


class _Importer:
    """Walks through a graph, with the values that each name stands for."""

    def __init__(self, proto: "ModelProto", folder: Path) -> None:
        from edgekd.sources._graphs import Builder

        self._proto, self._folder = proto, folder
        self.builder = Builder()
        self._opsets = {imported.domain or "": imported.version for imported in proto.opset_import}
        self._functions = {(one.domain, one.name): one for one in proto.functions}
        self._depth = self._visits = 0

    def run(self, shapes: dict[str, tuple[int, ...]]) -> tuple[list["Value"], list["Value"]]:
        """The graph's inputs and outputs."""
        self._check_opset()
        graph = self._proto.graph
        known = self._initializers(graph)
        inputs = self._inputs(graph, set(known), shapes)
        values = {**known, **{value.name: value for value in inputs}}
        outputs = self._run_nodes(graph, values, self._opsets, {})
        return inputs, outputs

    def _check_opset(self) -> None:
        from edgekd.sources._onnx_operators import OLDEST_OPSET

        opset = self._opsets.get("", self._opsets.get("ai.onnx", 0))
        self._opsets[""] = opset
        if opset and not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            raise ConfigError(
                f"opset {opset} is not known",
                hint=f"bring it to {OLDEST_OPSET}..{NEWEST_OPSET} by onnx.version_converter",
            )

    def _initializers(self, graph: "GraphProto") -> dict[str, "Value"]:
        from edgekd.sources._onnx_files import odd_type, tensor_of

        if graph.sparse_initializer:
            raise UnsupportedOperator("sparse initializers cannot be read", hint="store them as dense tensors")
        return {
            one.name: self.builder.constant(tensor_of(one, self._folder), one.name, one.name, odd_type(one))
            for one in graph.initializer
        }

    def _inputs(self, graph: "GraphProto", known: set[str], shapes: dict[str, tuple[int, ...]]) -> list["Value"]:
        from edgekd.sources._onnx_files import input_shape, symbols
        from edgekd.sources._onnx_operators import dtype_of

        infos = [info for info in graph.input if info.name not in known]
        names = [info.name for info in infos]
        if len(set(names)) < len(names):
            raise ConfigError("two inputs have the same name")
        unknown = sorted(set(shapes) - set(names))
        if unknown:
            raise ConfigError(f"it has no input {unknown[0]!r}", hint=f"its inputs: {', '.join(names)}")
        sizes, inputs = symbols(infos, shapes), []
        for info in infos:
            if not info.type.HasField("tensor_type"):
                raise UnsupportedOperator(f"input {info.name!r} is not a tensor", hint="pass its parts one by one")
            shape = input_shape(info, shapes.get(info.name), sizes)
            dtype = dtype_of(info.type.tensor_type.elem_type, f"input {info.name!r}")
            inputs.append(self.builder.input(info.name, shape, dtype))
        return inputs

    # --- nodes

    def _run_nodes(
        self,
        graph: "GraphProto | FunctionProto",
        values: dict[str, "Value"],
        opsets: Mapping[str, int],
        outer: dict[str, "AttributeProto"],
    ) -> list["Value"]:
        """Values of the graph's outputs."""
        from edgekd.sources._onnx_files import sorted_nodes

        self._depth += 1
        self._visits += len(graph.node)
        if self._visits > MOST_VISITS:
            raise ConfigError(f"the graph has more than {MOST_VISITS} nodes when its functions are put in place")
        if self._depth > DEEPEST:
            raise ConfigError("its functions or subgraphs are nested too deeply, or call themselves")
        for proto in sorted_nodes(graph, values):
            missing = [name for name in proto.input if name and name not in values]
            if missing:
                raise ConfigError(f"{clean(proto.op_type)} reads {clean(missing[0])!r}, which nothing makes")
            inputs = [values[name] if name else None for name in proto.input]
            made = self._run_node(proto, inputs, values, opsets, outer)
            values.update((name, value) for name, value in zip(proto.output, made, strict=False) if name)
        self._depth -= 1
        names = [output if isinstance(output, str) else output.name for output in graph.output]
        absent = [name for name in names if name not in values]
        if absent:
            raise ConfigError(f"output {clean(absent[0])!r} is never made")
        return [values[name] for name in names]

    def _run_node(
        self,
        proto: "NodeProto",
        inputs: list["Value | None"],
        scope: dict[str, "Value"],
        opsets: Mapping[str, int],
        outer: dict[str, "AttributeProto"],
    ) -> Sequence["Value"]:
        from edgekd.sources._onnx_files import attributes_of, tensor_of
        from edgekd.sources._onnx_operators import Node

        domain = "" if proto.domain == "ai.onnx" else proto.domain
        node = Node(
            operator=proto.op_type,
            name=proto.name,
            opset=opsets.get(domain, 0),
            inputs=tuple(inputs),
            outputs=tuple(proto.output),
            attributes=attributes_of(proto, outer),
            builder=self.builder,
            run_graph=lambda graph, given: self._run_subgraph(graph, given, scope, opsets, outer),
            read_tensor=lambda stored: tensor_of(stored, self._folder),
        )
        try:
            return self._translate(node, domain, proto)
        except EdgekdError:
            raise
        except NotImplementedError as error:
            raise node.refusal(one_line(error), hint="use float32 or int64 here") from error
        except FAILURES as error:
            shapes = ", ".join(str(value.shape) for value in inputs if value is not None)
            raise ConfigError(
                f"{node}: {misfit(error)}", hint=f"its inputs are of shapes {shapes}; `shapes` sets what is left open"
            ) from error

    def _translate(self, node: "Node", domain: str, proto: "NodeProto") -> Sequence["Value"]:
        from torch import Tensor

        from edgekd.sources._onnx_operators import table

        function = self._functions.get((proto.domain, proto.op_type))
        if function is not None:
            return self._run_function(function, node)
        translator = table().get(f"{domain}.{node.operator}" if domain else node.operator)
        if translator is None:
            body = _body_in_the_specification(node, domain)
            if body is None:
                raise self._unknown(node, domain)
            return self._run_function(body, node)
        made = translator(node)
        if isinstance(made, Tensor):
            made = (made,)
        if isinstance(made, list):
            return made
        if isinstance(made, tuple):
            return [self._constant(tensor, name) for tensor, name in zip(made, node.outputs, strict=False)]
        left = [value for position, value in enumerate(node.inputs) if position not in node.static_inputs]
        frozen = [left.index(node.inputs[position]) for position in node.frozen_inputs if node.has(position)]
        name = next(filter(None, node.outputs), node.operator)
        extra = [self.builder.constant(tensor, f"{name}.constant_{at}") for at, tensor in enumerate(node.attached)]
        names = [output or f"{name}:{position}" for position, output in enumerate(node.outputs)]
        return self.builder.apply(made, [*left, *extra], names or [name], frozen=frozen, maker=node)

    def _constant(self, tensor: "Tensor", name: str) -> "Value":
        return self.builder.constant(tensor, name)

    def _unknown(self, node: "Node", domain: str) -> UnsupportedOperator:
        hint = HINTS.get(node.operator, "write it with operators that there are")
        if domain:
            hint = f"operators of {clean(domain)!r} are a runtime's own: save the model before that optimizes it"
        return UnsupportedOperator(f"{node} is not known", hint=hint)

    # --- what stands in a node

    def _run_subgraph(
        self,
        graph: "GraphProto",
        given: Sequence["Value"],
        scope: dict[str, "Value"],
        opsets: Mapping[str, int],
        outer: dict[str, "AttributeProto"],
    ) -> list["Value"]:
        if len(given) != len(graph.input):
            raise ConfigError(f"a subgraph with {len(graph.input)} inputs gets {len(given)}")
        named = {info.name: value for info, value in zip(graph.input, given, strict=True)}
        inner = {**scope, **self._initializers(graph), **named}
        made = {name for node in graph.node for name in node.output}
        return self._run_nodes(graph, {name: value for name, value in inner.items() if name not in made}, opsets, outer)

    def _run_function(self, function: "FunctionProto", node: "Node") -> list["Value"]:
        opsets = {**self._opsets, **{imported.domain: imported.version for imported in function.opset_import}}
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        values = {name: value for name, value in zip(function.input, node.inputs, strict=False) if value is not None}
        wanted = [name for position, name in enumerate(function.output) if node.wants(position)]
        body = _without_absent(function, set(values), wanted)
        made = self._run_nodes(body, values, opsets, {**defaults, **node.attributes})
        named = dict(zip(wanted, made, strict=True))
        return [named.get(name, made[0]) for name in function.output]


def _without_absent(function: "FunctionProto", given: set[str], wanted: list[str]) -> "FunctionProto":
    """The function with the wanted outputs alone, and with inputs that are not given taken out of its nodes."""
    from onnx import FunctionProto

    absent = set(function.input) - given
    body = FunctionProto()
    body.CopyFrom(function)
    del body.output[:]
    body.output.extend(wanted)
    for node in body.node:
        for position, name in enumerate(node.input):
            if name in absent:
                node.input[position] = ""
    return body


def _body_in_the_specification(node: "Node", domain: str) -> "FunctionProto | None":
    """What the specification says that an operator is made of, where it says so."""
    import onnx
    from onnx.defs import SchemaError, get_schema

    try:
        schema = get_schema(node.operator, node.opset, domain)
    except SchemaError:
        return None
    body = onnx.FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
    elif schema.has_context_dependent_function:
        content = schema.get_context_dependent_function(_as_proto(node).SerializeToString(), _types(node))
        body.ParseFromString(content)
    else:
        return None
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name and name not in {one.name for one in body.attribute_proto}:
            body.attribute_proto.append(attribute.default_value)
    return body


def _as_proto(node: "Node") -> "NodeProto":
    from onnx import helper

    names = [value.name if value is not None else "" for value in node.inputs]
    proto = helper.make_node(node.operator, names, list(node.outputs))
    proto.attribute.extend(node.attributes.values())
    return proto


def _types(node: "Node") -> list[bytes]:
    from onnx import TypeProto, helper

    from edgekd.sources._onnx_operators import DTYPES

    numbers = {dtype: number for number, dtype in DTYPES.items()}
    return [
        TypeProto().SerializeToString()
        if value is None
        else helper.make_tensor_type_proto(numbers[value.meta.dtype], value.shape).SerializeToString()
        for value in node.inputs
    ]


PLUGIN: Final[ModelSource] = _Onnx()
