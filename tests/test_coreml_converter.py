"""What stands in Core ML packages that are written here: names, metadata, few bits where they are wanted."""

import importlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekd
from edgekd import coreml, formats
from edgekd.converters._coreml_compress import palette
from edgekd.coreml import Constant, Operation, Program
from edgekd.files import members
from edgekd.specs import Quantization
from edgekd.workers import call

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
conversions: Any = importlib.import_module("conversions")
odd_nets: Any = importlib.import_module("odd_nets")
zoo: Any = importlib.import_module("zoo")

pytestmark = [pytest.mark.xdist_group("coreml"), pytest.mark.timeout(900)]

WAYS = (
    Quantization(),
    Quantization(ranges="percentile"),
    Quantization(in_float=("blocks.1", "classifier")),
    Quantization(in_float=("block.1",)),
)
CASES = (
    "echo fp32", "echo w8a8", "tied int8 second", "tied palette4 second", "tied w8a8 second", "dotted fp16",
    "alike fp32", "listed fp16", "chain int8 1", "chain palette4 1", "chain w8a8 1",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("coremltools")
    return tmp_path_factory.mktemp("coreml")


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Any, ...]:
    log = folder / "log"
    return call(conversions.quantize, "mobile_v2", "coreml", "w8a8", WAYS, str(folder), threads=1, log=log)


@pytest.fixture(scope="module")
def programs(made: tuple[Any, ...]) -> tuple[Program, ...]:
    return tuple(coreml.open_package(Path(one.file)) for one in made[:3])


@pytest.fixture(scope="module")
def read(folder: Path) -> tuple[Any, ...]:
    return call(odd_nets.convert_and_read, CASES, str(folder), threads=1, log=folder / "odd")


@pytest.fixture(scope="module")
def odd(read: tuple[Any, ...]) -> dict[str, Any]:
    return dict(read[0])


def of_kind(program: Program, *kinds: str) -> list[Operation]:
    return [one for one in program.operations if one.kind in kinds]


def makers(program: Program) -> dict[str, Operation]:
    return {output.name: one for one in program.operations for output in one.outputs}


def number(given: tuple[str | Constant, ...], made: dict[str, Operation]) -> Any:
    """The value of a constant parameter."""
    (one,) = given
    constant = one if isinstance(one, Constant) else made[one].inputs["val"][0]
    assert isinstance(constant, Constant)
    return constant.data


def test_metadata_are_ours_and_what_xcode_shows(programs: tuple[Program, ...]) -> None:
    told = dict(programs[0].metadata)
    assert {key: told[key] for key in conversions.PROPERTIES} == conversions.PROPERTIES
    assert told["license"] == "Apache-2.0" and told["short_description"] == "A net of the zoo"
    left = told.keys() - conversions.PROPERTIES.keys() - {"license", "short_description", coreml.LAYERS}
    assert not any("date" in key for key in left)


def test_every_value_of_a_module_is_named_by_it(programs: tuple[Program, ...]) -> None:
    case = zoo.ZOO["mobile_v2"]()
    modules = {path for path, _ in case.module.named_modules()} - {""}
    layers = coreml.layers(programs[0])
    told = {one.outputs[0].name: layers[one.outputs[0].name] for one in programs[0].operations if one.kind != "const"}
    assert set(told.values()) <= modules | {""}
    unknown = [makers(programs[0])[name].kind for name, layer in told.items() if not layer]
    assert set(unknown) == {"reduce_mean", "quantize", "dequantize"}, "of the mean that the outermost module takes"
    convolutions = {layers[one.outputs[0].name] for one in of_kind(programs[0], "conv")}
    assert convolutions == {path for path in modules if type(case.module.get_submodule(path)).__name__ == "Conv2d"}


def test_members_of_module_lists_have_their_whole_path(odd: dict[str, Any]) -> None:
    program = coreml.open_package(Path(odd["listed fp16"].file))
    layers = coreml.layers(program)
    assert [layers[one.outputs[0].name] for one in of_kind(program, "linear")] == ["first.0", "second.0", "second.0"]


def test_packages_are_a_manifest_a_model_and_weights(made: tuple[Any, ...]) -> None:
    package = Path(made[0].file)
    assert [str(one.relative_to(package)) for one in members(package)] == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    assert entries[manifest["rootModelIdentifier"]]["name"] == "model.mlmodel"
    assert all((package / "Data" / entry["path"]).exists() for entry in entries.values()) and len(entries) == 2


def test_coremltools_reads_what_was_written(read: tuple[Any, ...]) -> None:
    assert read[1:] == (("numbers", "ignored", "once", "same", "twice"), 7)


def test_integers_surround_convolutions_with_their_relu6(programs: tuple[Program, ...]) -> None:
    made = makers(programs[0])
    for one in of_kind(programs[0], "conv", "linear"):
        assert made[str(one.inputs["x"][0])].kind == "dequantize"
        assert made[str(one.inputs["weight"][0])].kind == "constexpr_affine_dequantize"
    kinds = Counter(made[str(one.inputs["x"][0])].kind for one in of_kind(programs[0], "relu6"))
    assert kinds == {"conv": 10}


def test_modules_stay_in_float_with_all_that_is_inside(programs: tuple[Program, ...]) -> None:
    made, layers = makers(programs[2]), coreml.layers(programs[2])
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for one in of_kind(programs[2], "conv", "linear"):
        layer = layers[one.outputs[0].name]
        weight = one.inputs["weight"][0]
        kind = made[weight].kind if isinstance(weight, str) else "const"
        kinds[layer.startswith("blocks.1.") or layer == "classifier"][kind] += 1
    assert kinds == {True: Counter(const=4), False: Counter(constexpr_affine_dequantize=11)}
    inside = [one for one in of_kind(programs[2], "quantize") if layers[one.outputs[0].name].startswith("blocks.1.")]
    assert len(inside) <= 1, "of what goes on to the next block"


def test_a_rule_makes_ranges_narrower(programs: tuple[Program, ...]) -> None:
    scales = []
    for program in programs[:2]:
        made = makers(program)
        scales.append([float(number(one.inputs["scale"], made)) for one in of_kind(program, "quantize")])
    ratios = [cut / full for full, cut in zip(*scales, strict=True)]
    assert max(ratios) < 1.05 and min(ratios) < 0.95


def test_scales_are_of_all_examples(programs: tuple[Program, ...]) -> None:
    """coremltools' own calibration keeps the range of the last one."""
    made = makers(programs[0])
    first = next(one for one in of_kind(programs[0], "quantize"))
    images = zoo.ZOO["mobile_v2"]().examples[0]
    width = 255 * float(number(first.inputs["scale"], made))
    assert width == pytest.approx(float(images.max() - images.min()), rel=0.02)


def test_a_module_that_is_not_there_is_said(made: tuple[Any, ...]) -> None:
    assert "in_float names 'block.1'" in made[3].error and "did you mean 'blocks.1'?" in made[3].error


def test_it_is_silent(made: tuple[Any, ...], folder: Path) -> None:
    assert made and "passes/s" not in (folder / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", ["fp32", "w8a8"])
def test_inputs_that_are_outputs_and_outputs_that_are_one_keep_their_names(odd: dict[str, Any], precision: str) -> None:
    program = coreml.open_package(Path(odd[f"echo {precision}"].file))
    numbers, ignored = (array[0] for array in odd_nets.echo().examples)
    found = coreml.execute(program, {"numbers": numbers, "ignored": ignored})
    assert list(found) == ["once", "same", "twice"]
    assert np.allclose(found["same"], numbers, atol=1e-3)
    assert np.array_equal(found["once"], found["twice"]) and not np.array_equal(found["once"], found["same"])
    assert coreml.layers(program)[of_kind(program, "linear")[0].outputs[0].name] == "linear"


@pytest.mark.parametrize("precision", ["int8", "palette4", "w8a8"])
def test_one_of_two_layers_with_one_weight_stays_in_float(odd: dict[str, Any], precision: str) -> None:
    made = odd[f"tied {precision} second"]
    assert not made.error
    program = coreml.open_package(Path(made.file))
    assert not of_kind(program, "constexpr_affine_dequantize", "constexpr_lut_to_dense"), "for it is stored once"


@pytest.mark.parametrize("precision", ["int8", "palette4", "w8a8"])
def test_what_a_layer_in_float_reads_may_be_integers(odd: dict[str, Any], precision: str) -> None:
    program = coreml.open_package(Path(odd[f"chain {precision} 1"].file))
    kinds = {one.kind for one in program.operations if one.kind.startswith("constexpr")}
    assert kinds == {"constexpr_lut_to_dense" if precision == "palette4" else "constexpr_affine_dequantize"}
    (compressed,) = of_kind(program, *kinds)
    assert coreml.layers(program)[compressed.outputs[0].name] == "0"
    assert len(of_kind(program, "quantize")) == (2 if precision == "w8a8" else 0)


def test_a_name_that_mil_has_not_is_refused(odd: dict[str, Any]) -> None:
    assert "Core ML cannot name a tensor 'my.numbers' (use letters" in odd["dotted fp16"].error
    assert "Core ML cannot give 2 inputs and outputs the one name 'numbers'" in odd["alike fp32"].error


# --- palettes


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_palettes_are_as_good_as_theory_has_it(kind: str, bits: int) -> None:
    """Least squares of Lloyd-Max quantizers: Panter and Dite's asymptote, within a tenth and a half for few levels."""
    values = getattr(np.random.default_rng(0), kind)(size=(64, 512)).astype(np.float32)
    table, indices = palette(values, bits)
    assert table.shape == (2**bits,) and table.dtype == np.float32 and np.all(np.diff(table) >= 0)
    assert indices.dtype == np.uint8 and indices.shape == (values.size,)
    error = np.mean((table[indices] - values.reshape(-1)) ** 2)
    asymptote = {"normal": np.sqrt(3) * np.pi / 2, "laplace": 9.0, "uniform": 1 / 12}[kind] / 4**bits
    assert error < 1.1 * asymptote


def test_an_index_is_that_of_the_nearest_entry() -> None:
    values = np.random.default_rng(1).normal(size=(10, 100)).astype(np.float16)
    table, indices = palette(values, 4)
    flat = values.reshape(-1).astype(np.float64)
    distances = np.abs(flat[:, None] - table.astype(np.float64))
    assert np.array_equal(distances[np.arange(len(flat)), indices], distances.min(1))


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.full((3, 3), -2.5), np.eye(40), np.arange(16.0)])
def test_few_values_are_kept_as_they_are(values: Any) -> None:
    table, indices = palette(values.astype(np.float16), 4)
    assert np.array_equal(table[indices].reshape(values.shape), values)


def test_one_weight_that_was_changed_fails_parity_in_integers_too(made: tuple[Any, ...], tmp_path: Path) -> None:
    """In small nets of integers it may not show in what they answer."""
    good, bad = Path(made[0].file), tmp_path / "bad.mlpackage"
    shutil.copytree(good, bad)
    weights = next(bad.rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert formats.read(good).doubt == "" != formats.read(bad).doubt
    (pair,) = edgekd.verify_models([good, bad], engines=["mil"]).pairs
    assert not pair.ok and "its weights are not those that were exported" in pair.reason
