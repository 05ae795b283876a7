"""What stands in OpenVINO files that are written here: names, metadata, integers where they are wanted."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgekd.converters import openvino as converter
from edgekd.specs import Quantization
from edgekd.workers import call

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
conversions: Any = importlib.import_module("conversions")
odd_nets: Any = importlib.import_module("odd_nets")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it reports over the network
openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")
pytest.importorskip("onnxscript")

pytestmark = [pytest.mark.xdist_group("openvino"), pytest.mark.timeout(900)]

WAYS = (
    Quantization(),
    Quantization(ranges="percentile"),
    Quantization(in_float=("body", "more.3")),
    Quantization(bias_correction=True),
    Quantization(in_float=("bodi",)),
)
CASES = ("echo fp32", "echo int8", "tied int8 second", "dotted fp16", "alike fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Any, ...]:
    log = folder / "log"
    return call(conversions.quantize, "heads", "openvino", "int8", WAYS, str(folder), threads=1, log=log)


@pytest.fixture(scope="module")
def models(made: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(openvino.Core().read_model(one.file) for one in made[:4])


@pytest.fixture(scope="module")
def odd(folder: Path) -> dict[str, Any]:
    return call(odd_nets.convert, "openvino", CASES, str(folder), threads=1, log=folder / "odd")


def operations(model: Any, kind: str) -> dict[str, Any]:
    return {one.get_friendly_name(): one for one in model.get_ordered_ops() if one.get_type_name() == kind}


def ends(quantizer: Any) -> tuple[float, float]:
    low, high = (float(quantizer.input_value(index).get_node().data.reshape(-1)[0]) for index in (1, 2))
    return low, high


def source_of(value: Any) -> Any:
    """The constant that a value comes from, through what turns integers into floats again; None without one."""
    while value.get_node().get_type_name() in {"Convert", "Multiply", "Subtract"}:
        value = value.get_node().input_value(0)
    return value.get_node() if value.get_node().get_type_name() == "Constant" else None


def test_metadata_are_ours_and_those_of_open_model_zoo(made: tuple[Any, ...]) -> None:
    told = ElementTree.parse(made[0].file).getroot().find("rt_info")
    assert told is not None
    parts = {one.get("name") or one.tag: one for one in told}
    assert set(parts) == {"OpenVINO Runtime", "edgekd", "model_info"}, "and nothing of NNCF or of this machine"
    ours = {one.get("name") or one.tag: one.get("value") for one in parts["edgekd"]}
    assert {f"edgekd.{key}": value for key, value in ours.items()} == conversions.PROPERTIES
    assert {one.tag: one.get("value") for one in parts["model_info"]} == {
        "labels": "a b c d e f g h i j",
        "mean_values": "127.5 120.0 110.0",
        "scale_values": "58.0 57.0 56.5",
        "licence": "Apache-2.0",
    }


def test_operations_are_named_by_torch_modules_and_once(models: tuple[Any, ...]) -> None:
    zoo: Any = importlib.import_module("zoo")
    case = zoo.ZOO["heads"]()
    modules = {path for path, _ in case.module.named_modules()} - {""}
    names = [one.get_friendly_name() for one in models[0].get_ops()]
    assert len(set(names)) == len(names)
    at_ends = {spec.name for spec in (*case.inputs, *case.outputs)}
    assert {name.partition("/")[0].partition(":")[0] for name in names} <= modules | at_ends | {"model"}
    assert {name.partition(":")[0] for name in operations(models[0], "Convolution")} >= {"left.0", "right.0", "body.0"}
    assert {name.partition(":")[0] for name in operations(models[0], "MatMul")} >= {"numbers", "more.0", "more.7"}


def test_only_inputs_and_outputs_are_named_tensors(models: tuple[Any, ...]) -> None:
    zoo: Any = importlib.import_module("zoo")
    case = zoo.ZOO["heads"]()
    for ports, specs in ((models[0].inputs, case.inputs), (models[0].outputs, case.outputs)):
        assert [port.get_names() for port in ports] == [{spec.name} for spec in specs]
    named = {name for one in models[0].get_ops() for port in one.outputs() for name in port.get_names()}
    assert named == {spec.name for spec in (*case.inputs, *case.outputs)}
    assert [str(one.get_layout()) for one in models[0].get_parameters()] == ["[N,C,H,W]", "[N,C,H,W]", "[...]"]


def test_modules_stay_in_float_with_all_that_is_inside(models: tuple[Any, ...]) -> None:
    kinds: dict[str, set[str]] = {}
    for one in (*operations(models[2], "Convolution").values(), *operations(models[2], "MatMul").values()):
        constant = source_of(one.input_value(1))
        layer = one.get_friendly_name().partition(":")[0]
        kinds.setdefault(layer, set()).add(constant.get_element_type().get_type_name())
    assert kinds.pop("body.0") == {"f32"} and kinds.pop("more.3") == {"f32"}
    assert all(found == {"i8"} for found in kinds.values()) and len(kinds) > 8


@pytest.mark.parametrize("way", [0, 1])
def test_zero_is_one_of_the_integers_of_every_activation(models: tuple[Any, ...], way: int) -> None:
    for quantizer in operations(models[way], "FakeQuantize").values():
        low, high = ends(quantizer)
        assert low <= 0 < high
        position = -low * 255 / (high - low)
        assert math.isclose(position, round(position), abs_tol=0.01)


def test_a_rule_makes_ranges_narrower_and_keeps_them_common(models: tuple[Any, ...]) -> None:
    full, cut = (operations(models[way], "FakeQuantize") for way in (0, 1))
    assert full.keys() == cut.keys()
    widths = [(ends(cut[name])[1] - ends(cut[name])[0]) / (ends(full[name])[1] - ends(full[name])[0]) for name in full]
    assert max(widths) < 1.01 and min(widths) < 0.99
    (together,) = operations(models[1], "Concat").values()
    assert len({ends(value.get_node()) for value in together.input_values()}) == 1


def biases(model: Any) -> dict[str, Any]:
    found = {name: source_of(one.input_value(1)) for name, one in operations(model, "Add").items()}
    return {name: constant.data.copy() for name, constant in found.items() if constant is not None}


def test_biases_are_those_of_the_module(made: tuple[Any, ...], models: tuple[Any, ...]) -> None:
    """NNCF would correct them; who wants that gives a module of corrected ones."""
    zoo: Any = importlib.import_module("zoo")
    module = zoo.ZOO["heads"]().module
    found = [biases(models[0])[name] for name in biases(models[0]) if name.startswith("more.5:")]
    assert [one.reshape(-1).tolist() for one in found] == [module.more[5].bias.tolist()]
    assert made[3].sha256 == made[0].sha256


def test_weights_use_half_of_their_integers(models: tuple[Any, ...]) -> None:
    weights = [source_of(one.input_value(1)).data for one in operations(models[0], "MatMul").values()]
    assert len(weights) > 8 and all(abs(one.astype(int)).max() <= 64 for one in weights)


def test_a_module_that_is_not_there_is_said(made: tuple[Any, ...]) -> None:
    assert "in_float names 'bodi'" in made[4].error and "did you mean 'body'?" in made[4].error


def test_it_is_silent(made: tuple[Any, ...], folder: Path) -> None:
    assert made and "Statistics" not in (folder / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_inputs_that_are_outputs_and_outputs_that_are_one_keep_their_names(odd: dict[str, Any], precision: str) -> None:
    case = odd_nets.echo()
    compiled = openvino.Core().compile_model(odd[f"echo {precision}"].file, "CPU")
    assert [port.get_names() for port in compiled.inputs] == [{"numbers"}, {"ignored"}]
    assert [port.get_names() for port in compiled.outputs] == [{"once"}, {"same"}, {"twice"}]
    numbers, ignored = (array[0] for array in case.examples)
    once, same, twice = compiled([numbers, ignored]).values()
    assert np.array_equal(same, numbers) and np.array_equal(once, twice) and not np.array_equal(once, same)


def test_one_of_two_layers_with_one_weight_stays_in_float(odd: dict[str, Any]) -> None:
    model = openvino.Core().read_model(odd["tied int8 second"].file)
    kinds = {
        name.partition(":")[0]: source_of(one.input_value(1)).get_element_type().get_type_name()
        for name, one in operations(model, "MatMul").items()
    }
    assert kinds == {"first": "i8", "second": "f32"}


def test_half_precision_is_of_constants_alone(odd: dict[str, Any]) -> None:
    model = openvino.Core().read_model(odd["dotted fp16"].file)
    assert {port.get_element_type().get_type_name() for port in (*model.inputs, *model.outputs)} == {"f32"}
    assert {one.get_element_type().get_type_name() for one in operations(model, "Constant").values()} == {"f16"}
    assert [port.get_names() for port in (*model.inputs, *model.outputs)] == [{"my.numbers"}, {"out/0"}]


def test_an_output_named_as_an_input_is_refused(odd: dict[str, Any]) -> None:
    assert "OpenVINO cannot give 2 inputs and outputs the one name 'numbers'" in odd["alike fp32"].error


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('<"&>', None),
        ("line\nbreak\tand more", None),
        ("bell \x07 and \x00", "bell ? and ?"),
        ("\ud800", "?"),
        ("é𝄞", None),
    ],
)
def test_any_text_is_kept_as_far_as_xml_can(text: str, kept: str | None, tmp_path: Path) -> None:
    from openvino import opset13

    number = opset13.parameter([1], name="x")
    model = openvino.Model([opset13.relu(number)], [number], "m")
    converter._describe(model, {"edgekd.title": text, "edgekd.1 <odd> key": "x"})
    openvino.save_model(model, tmp_path / "m.xml")
    (ours,) = ElementTree.parse(tmp_path / "m.xml").getroot().iter("edgekd")
    assert {one.get("name") or one.tag: one.get("value") for one in ours} == {
        "title": kept or text,
        "1 <odd> key": "x",
    }


def test_applications_are_told_of_classes_and_preprocessing_only_where_there_are_any() -> None:
    assert converter._model_info({}) == {}
    assert converter._model_info({"edgekd.preprocessing": "null", "edgekd.classes": '["new york", "rome"]'}) == {
        "labels": "new_york rome"
    }
