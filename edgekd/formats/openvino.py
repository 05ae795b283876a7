"""OpenVINO's IR: layers and edges in XML, numbers in a .bin beside it.

The XML is read by expat event by event; a document type, without which no entity can be, is refused.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from edgekd.errors import ConfigError
from edgekd.formats import Format
from edgekd.formats._reading import (
    Broken,
    Names,
    content,
    is_ours,
    layer_of,
    member,
    ordered,
    pick,
    refusing,
    resized,
)
from edgekd.programs import MOST_AXES, Node, Program, Value
from edgekd.specs import Graph, Operator, TensorSpec

MOST_DEPTH: Final = 128
MOST_ELEMENTS: Final = 1_000_000
"""Of a file; a layer has about twenty."""

_DTYPES: Final = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "boolean": "bool"} | {
    f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)
}


class _OpenVINO:
    suffixes: tuple[str, ...] = (".xml",)

    def read(self, path: Path) -> Graph:
        data = content(path)
        with refusing(path, "OpenVINO IR"):
            net = _Parser(data).net
            _check_numbers(net, path)
            return _Reader(net).graph()

    def program(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Program:
        data = content(path)
        with refusing(path, "OpenVINO IR"):
            net = _Parser(data).net
            weights = _check_numbers(net, path)
            return _program(net, weights, shapes)

    def tap(self, path: Path, tensors: Sequence[str], out: Path) -> None:
        data = content(path)
        with refusing(path, "OpenVINO IR"):
            parser = _Parser(data)
            weights = _check_numbers(parser.net, path)
            reader = _Reader(parser.net)
            reader.graph()
            pick(tensors, reader.ports.__contains__, path)
            changed = _with_results(data, parser, [reader.ports[tensor] for tensor in tensors])
        out.write_bytes(changed)
        if weights and weights.resolve() != out.with_suffix(".bin").resolve():
            shutil.copyfile(weights, out.with_suffix(".bin"))


@dataclass
class _Port:
    """An output of a layer."""

    number: int
    precision: str
    names: str
    dims: list[int] = field(default_factory=list)


@dataclass
class _Layer:
    number: int
    name: str
    kind: str
    version: str
    data: dict[str, str] = field(default_factory=dict)
    ports: list[_Port] = field(default_factory=list)
    bodies: list["_Net"] = field(default_factory=list)
    layout: str = ""


@dataclass
class _Net:
    """A graph, or the body of a loop or a branch."""

    layers: list[_Layer] = field(default_factory=list)
    edges: list[tuple[int, int, int, int]] = field(default_factory=list)
    """From layer, from port, to layer, to port."""
    properties: dict[str, str] = field(default_factory=dict)


class _Parser:
    """Listens to expat; `net` is what it heard."""

    def __init__(self, data: bytes) -> None:
        self.net = _Net()
        self.ends: dict[str, int] = {}
        """Where the outermost layers and edges end in the file."""
        self._nets: list[_Net] = []
        self._path: list[str] = []
        self._text = ""
        self._count = 0
        self._expat: Any = expat.ParserCreate("UTF-8")
        self._expat.XmlDeclHandler = _check_declaration
        self._expat.StartDoctypeDeclHandler = _refuse_doctype
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters
        try:
            self._expat.Parse(data, True)
        except expat.ExpatError as error:
            raise Broken(f"XML: {error}") from error
        if "layers" not in self.ends or "edges" not in self.ends:
            raise Broken("it has no layers, or no edges")

    def _start(self, tag: str, given: dict[str, str]) -> None:
        self._count += 1
        if self._count > MOST_ELEMENTS or len(self._path) > MOST_DEPTH:
            raise Broken("it has too many elements, or too deep ones")
        self._path.append(tag)
        inside = self._path[-2] if len(self._path) > 1 else ""
        if tag == "net" or tag.endswith("body"):
            self._open_net(tag)
        elif not self._nets:
            raise Broken("its outermost element is not <net>")
        elif self._path[:2] == ["net", "rt_info"]:
            self._property(tag, given)
        elif tag == "layer" and inside == "layers":
            made = _Layer(_whole(given, "id"), given.get("name", ""), given.get("type", ""), given.get("version", ""))
            self._nets[-1].layers.append(made)
        elif tag == "edge":
            places = (_whole(given, f"{side}-{what}") for side in ("from", "to") for what in ("layer", "port"))
            self._nets[-1].edges.append(tuple(places))  # type: ignore[arg-type]  # four of them
        elif self._nets[-1].layers:
            self._of_layer(self._nets[-1].layers[-1], tag, inside, given)

    def _open_net(self, tag: str) -> None:
        net = self.net if not self._nets else _Net()
        if self._nets:
            if tag == "net" or not self._nets[-1].layers:
                raise Broken(f"<{tag}> where no layer is")
            self._nets[-1].layers[-1].bodies.append(net)
        elif tag != "net":
            raise Broken("its outermost element is not <net>")
        self._nets.append(net)

    def _of_layer(self, layer: _Layer, tag: str, inside: str, given: dict[str, str]) -> None:
        if tag == "data" and inside == "layer":
            layer.data = given
        elif tag == "port" and inside == "output":
            layer.ports.append(_Port(_whole(given, "id"), given.get("precision", ""), given.get("names", "")))
        elif tag == "dim":
            self._text = ""
        elif tag == "attribute" and given.get("name") == "layout":
            layer.layout = given.get("layout", "").strip("[]").replace(",", "")

    def _property(self, tag: str, given: dict[str, str]) -> None:
        self._path[-1] = given.get("name", tag) if tag == "info" else tag
        if "value" in given:
            self.net.properties[".".join(self._path[2:])] = given["value"]

    def _characters(self, text: str) -> None:
        if self._path and self._path[-1] == "dim" and len(self._text) < 20:
            self._text += text

    def _end(self, tag: str) -> None:
        if tag in {"layers", "edges"} and len(self._path) == 2:
            self.ends[tag] = self._expat.CurrentByteIndex
        elif tag == "dim" and self._path[-3:-1] == ["output", "port"]:
            ports = [port for layer in self._nets[-1].layers[-1:] for port in layer.ports[-1:]]
            for port in ports:
                port.dims.append(_integer(self._text.strip()))
        elif tag.endswith("body"):
            self._nets.pop()
        self._path.pop()


def _check_declaration(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.lower() != "utf-8":
        raise Broken("it is not UTF-8")


def _refuse_doctype(*_: Any) -> None:
    raise Broken("it declares a document type, which IR has none of")


def _whole(given: dict[str, str], name: str) -> int:
    number = _integer(given.get(name, ""))
    if number < 0:
        raise Broken(f"{name} is below zero")
    return number


def _integer(text: str) -> int:
    try:
        number = int(text[:20])
    except ValueError as error:
        raise Broken(f"{text[:20]!r} is not a whole number") from error
    if abs(number) >= 2**63:
        raise Broken(f"{text[:20]} is too large")
    return number


def _check_numbers(net: _Net, path: Path) -> Path | None:
    """The file of weights, which has room for every constant; None where there is none."""
    layers = [layer for inner in _nets(net) for layer in inner.layers if layer.kind == "Const"]
    ends = [_whole(layer.data, "offset") + _whole(layer.data, "size") for layer in layers]
    if not max(ends, default=0):
        return None
    weights = member(path.parent, path.with_suffix(".bin").name)
    if weights.stat().st_size < max(ends):
        raise Broken(f"its file {weights.name!r} is too short")
    return weights


def _nets(net: _Net) -> list[_Net]:
    """A net and the bodies in it."""
    found = [net]
    for one in found:
        found += [body for layer in one.layers for body in layer.bodies]
    return found


class _Reader:
    """Makes a Graph of what stands in the file."""

    def __init__(self, net: _Net) -> None:
        self._net = net
        self._operator_names = Names()
        self._tensor_names = Names()
        self._ours = is_ours(net.properties)
        self.ports: dict[str, tuple[_Layer, _Port]] = {}
        """Tensor -> the layer and the port that make it, for those that operators of the outermost graph make."""

    def graph(self) -> Graph:
        wired = _Wired(self._net, self._tensor_names, "")
        operators = self._operators(wired)
        self.ports = {
            name: (wired.layers[layer], wired.ports[layer, port])
            for (layer, port), name in wired.tensors.items()
            if wired.layers[layer].kind not in _NO_OPERATORS
        }
        inputs = [layer for layer in self._net.layers if layer.kind == "Parameter"]
        return Graph(
            format="openvino",
            inputs=tuple(_spec(wired, layer.number, port.number) for layer in inputs for port in layer.ports[:1]),
            outputs=tuple(_spec(wired, *wired.sources[result, 0]) for result in wired.results),
            operators=ordered(operators),
            properties=self._net.properties,
        )

    def _operators(self, wired: "_Wired") -> list[Operator]:
        found = []
        for layer in wired.layers.values():
            if layer.kind in _NO_OPERATORS:
                continue
            name = self._operator_names.unique(wired.prefix + (layer.name or layer.kind))
            found.append(
                Operator(
                    kind=layer.kind if layer.version.startswith("opset") else f"{layer.version}:{layer.kind}",
                    name=name,
                    layer=layer_of(name) if self._ours and not wired.prefix else "",
                    version=_opset(layer.version),
                    inputs=tuple(wired.inputs.get(layer.number, ())),
                    outputs=tuple(wired.tensors[layer.number, port.number] for port in layer.ports),
                    dtype=_dtype(layer.ports[0].precision) if layer.ports else "",
                )
            )
            for body in layer.bodies:
                found += self._operators(_Wired(body, self._tensor_names, f"{name}/"))
        return found


_NO_OPERATORS: Final = frozenset({"Const", "Parameter", "Result"})


class _Wired:
    """A net with its edges resolved; tensors are called as their layers, those at the ends as the file calls them."""

    def __init__(self, net: _Net, names: Names, prefix: str) -> None:
        self.prefix = prefix
        self.layers = {layer.number: layer for layer in net.layers}
        self.ports = {(layer.number, port.number): port for layer in net.layers for port in layer.ports}
        if len(self.layers) < len(net.layers):
            raise Broken("two layers have one number")
        self.sources = {(reader, to): (layer, port) for layer, port, reader, to in net.edges}
        for (reader, _), place in self.sources.items():
            if reader not in self.layers or place not in self.ports:
                raise Broken("an edge leads to or from what is not there")
        self.results = [layer.number for layer in net.layers if layer.kind == "Result"]
        if any((result, 0) not in self.sources for result in self.results):
            raise Broken("a result of nothing")
        ends = {self.sources[result, 0] for result in self.results}
        self.tensors: dict[tuple[int, int], str] = {}
        for (number, port), made in self.ports.items():
            layer = self.layers[number]
            outward = made.names.partition(",")[0] if layer.kind == "Parameter" or (number, port) in ends else ""
            self.tensors[number, port] = names.unique(prefix + (outward or layer.name or layer.kind))
        self.inputs: dict[int, list[str]] = {}
        """Layer -> the tensors that it reads, but for constants."""
        for (reader, _), place in sorted(self.sources.items()):
            if self.layers[place[0]].kind != "Const":
                self.inputs.setdefault(reader, []).append(self.tensors[place])


def _spec(wired: _Wired, layer: int, port: int) -> TensorSpec:
    made = wired.ports[layer, port]
    layout = wired.layers[layer].layout
    return TensorSpec(
        name=wired.tensors[layer, port],
        shape=tuple(made.dims),
        dtype=_dtype(made.precision),
        layout=layout if layout in {"NCHW", "NHWC"} else "",  # type: ignore[arg-type]  # one of these
    )


def _dtype(precision: str) -> str:
    short = precision.lower().replace("fp", "f")
    return _DTYPES.get(short, short)


def _opset(version: str) -> int:
    number = version.removeprefix("opset")
    return int(number[:9]) if number.isdecimal() else 1


def _with_results(data: bytes, parser: _Parser, places: Sequence[tuple[_Layer, _Port]]) -> bytes:
    """The file with a layer that gives each of these ports out, and an edge to it."""
    free = max(layer.number for layer in parser.net.layers) + 1
    layers = edges = ""
    for number, (layer, port) in enumerate(places, free):
        dims = "".join(f"<dim>{dim}</dim>" for dim in port.dims)
        layers += (
            f'<layer id="{number}" name="tap {number}" type="Result" version="opset1">'
            f'<input><port id="0" precision={quoteattr(port.precision)}>{dims}</port></input></layer>\n'
        )
        edges += f'<edge from-layer="{layer.number}" from-port="{port.number}" to-layer="{number}" to-port="0" />\n'
    first, second = parser.ends["layers"], parser.ends["edges"]
    if first > second:
        raise Broken("edges stand before layers")
    return data[:first] + layers.encode() + data[first:second] + edges.encode() + data[second:]


# --- sizes


def _program(net: _Net, weights: Path | None, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    """The outermost graph; the bodies of loops and branches are left out."""
    wired = _Wired(net, Names(), "")
    wired_inputs: dict[int, list[str]] = {}
    for (reader, _), place in sorted(wired.sources.items()):
        wired_inputs.setdefault(reader, []).append(wired.tensors[place])
    parameters = [layer for layer in net.layers if layer.kind == "Parameter"]
    inputs = tuple(wired.tensors[layer.number, port.number] for layer in parameters for port in layer.ports[:1])
    resized(shapes, inputs)
    values, unset = {}, []
    for (number, port), made in wired.ports.items():
        name, kind = wired.tensors[number, port], wired.layers[number].kind
        if len(made.dims) > MOST_AXES or min(made.dims, default=1) < -1:
            raise Broken("a tensor is of no shape")
        shape = tuple(made.dims)
        if kind == "Parameter" and shapes.get(name, shape) != shape:
            raise ConfigError(f"the sizes of {name} are {shape} in the file", hint="export it anew for other sizes")
        unset += [name] if kind == "Parameter" and -1 in shape[1:] else []
        zero = kind == "Const" and max(shape, default=1) <= 1 and _is_zero(wired.layers[number], weights)
        values[name] = Value(name, shape, _dtype(made.precision), kind == "Const", zero)
    wanted = [layer for layer in wired.layers.values() if layer.kind not in _NO_OPERATORS]
    nodes = [
        Node(
            layer.kind,
            wired.tensors[layer.number, layer.ports[0].number] if layer.ports else layer.name,
            tuple(wired_inputs.get(layer.number, ())),
            tuple(wired.tensors[layer.number, port.number] for port in layer.ports),
            {"transpose_a": layer.data.get("transpose_a", "false").lower() == "true"},
        )
        for layer in wanted
    ]
    by_name = {node.name: node for node in nodes}
    order = ordered([Operator(kind=one.kind, name=one.name, inputs=one.inputs, outputs=one.outputs) for one in nodes])
    outputs = tuple(wired.tensors[wired.sources[result, 0]] for result in wired.results)
    return Program("openvino", values, tuple(by_name[one.name] for one in order), inputs, outputs, tuple(unset))


def _is_zero(layer: _Layer, weights: Path | None) -> bool:
    offset, size = _whole(layer.data, "offset"), _whole(layer.data, "size")
    if weights is None or not 0 < size <= 8:
        return False
    with weights.open("rb") as opened:
        opened.seek(offset)
        return not any(opened.read(size))


PLUGIN: Final[Format] = _OpenVINO()
