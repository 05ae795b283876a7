"""Artifacts against the runtimes of devices: what the tables say, and that they are read rightly."""

import importlib.util
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import compat, formats
from edgekd.compat import failures_of, newest_ir, newest_set, problems, release_of, runtimes_of
from edgekd.errors import ConfigError
from edgekd.shipped import load_target, target_names
from edgekd.specs import Operator
from tests import models

FORMATS = sorted(path.stem for path in compat.FOLDER.glob("*.toml") if not path.stem.endswith("-failures"))


def of(
    kind: str,
    version: int = 1,
    *,
    count: int = 1,
    inputs: int = 1,
    dtype: str = "float32",
    by_channel: bool = False,
) -> list[Operator]:
    """Operators of a kind."""
    one = Operator(
        kind=kind,
        name=kind,
        version=version,
        inputs=tuple(f"x{index}" for index in range(inputs)),
        dtype=dtype,
        by_channel=by_channel,
    )
    return [msgspec.structs.replace(one, name=f"{kind}:{index}") for index in range(count)]


# --- TFLite


def test_an_operator_version_that_an_old_runtime_has_not_is_named() -> None:
    model = [*of("CONV_2D", 3), *of("GATHER_ND", 5, count=2)]
    assert problems(model, "tflite", "fp32", "tflite_runtime", "2.14.0") == (
        "GATHER_ND version 5, 2 times: tflite_runtime 2.14.0 goes up to 4; litert 1.0.1 has it",
    )
    assert problems(model, "tflite", "fp32", "litert", "1.0.1") == ()
    assert problems(of("GATHER_ND", 6), "tflite", "fp32", "litert", "1.4.0") == (
        "GATHER_ND version 6: litert 1.4.0 goes up to 5; litert 2.2.0 has it",
    )
    assert problems(of("GATHER_ND", 99), "tflite", "fp32", "litert", "2.3.0") == (
        "GATHER_ND version 99: litert 2.3.0 goes up to 6; no known release has it",
    )


def test_an_operator_that_a_runtime_has_not_at_all_is_named() -> None:
    found = problems(of("STABLEHLO_SHIFT_LEFT"), "tflite", "fp32", "tflite_runtime", "2.14.0")
    assert found == ("STABLEHLO_SHIFT_LEFT version 1: tflite_runtime 2.14.0 does not have it; litert 1.1.2 has it",)
    assert len(problems(of("CUSTOM:Mine"), "tflite", "fp32", "litert", "2.3.0")) == 1


@pytest.mark.parametrize("kind", ["FULLY_CONNECTED", "EMBEDDING_LOOKUP", "BATCH_MATMUL"])
def test_what_is_silently_wrong_is_named(kind: str) -> None:
    (line,) = problems(of(kind, 1, by_channel=True), "tflite", "dynamic", "tflite_runtime", "2.14.0")
    assert line.startswith(f"dynamic {kind}: tflite_runtime 2.14.0 is silently wrong (0.")
    assert line.endswith("litert 1.3.0 is right" if kind == "BATCH_MATMUL" else "litert 1.0.1 is right")
    for precision in ("fp32", "fp16", "int8", "int16"):
        assert problems(of(kind, 1, inputs=2), "tflite", precision, "tflite_runtime", "2.14.0") == ()
    assert problems(of(kind, 1, inputs=2), "tflite", "dynamic", "litert", "2.3.0") == ()


def test_a_product_with_scales_by_channel_is_wrong_and_with_one_scale_right() -> None:
    def product(by_channel: bool) -> list[Operator]:
        return [Operator(kind="BATCH_MATMUL", name="x", inputs=("a",), dtype="int8", by_channel=by_channel)]

    (line,) = problems(product(True), "tflite", "int8", "litert", "2.3.0")
    assert line.startswith("int8 BATCH_MATMUL: litert 2.3.0 is silently wrong (")
    assert problems(product(False), "tflite", "int8", "litert", "2.3.0") == ()


def test_what_is_right_beside_it_is_not_named() -> None:
    """The same runtime and precision: convolutions are right, and products of two activations are not quantized."""
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "SOFTMAX"):
        assert problems(of(kind), "tflite", "dynamic", "tflite_runtime", "2.14.0") == ()
    assert problems(of("BATCH_MATMUL", inputs=2), "tflite", "dynamic", "tflite_runtime", "2.14.0") == ()


def test_a_runtime_in_between_is_wrong_where_older_and_newer_ones_are_right() -> None:
    (line,) = problems(of("CONV_2D"), "tflite", "fp16", "litert", "1.2.0")
    assert "silently wrong (-68.2 dB)" in line and line.endswith("litert 1.4.0 is right")
    assert problems(of("CONV_2D"), "tflite", "fp16", "litert", "1.0.1") == ()
    assert problems(of("CONV_2D"), "tflite", "fp16", "litert", "2.3.0") == ()


def test_what_is_refused_in_a_precision_is_named_with_the_runtimes_words() -> None:
    (line,) = problems(of("TRANSPOSE_CONV", 3), "tflite", "dynamic", "tflite_runtime", "2.14.0")
    assert "refuses it (weights->type != input->type (INT8 != FLOAT32))" in line
    (line,) = problems(of("DIV", dtype="int8"), "tflite", "int8", "tflite_runtime", "2.14.0")
    assert "refuses it (Div only supports" in line and line.endswith("litert 1.4.0 is right")
    assert problems(of("DIV", dtype="float32"), "tflite", "int8", "tflite_runtime", "2.14.0") == (), "left in float"


# --- formats with operator sets


def test_an_operator_set_that_is_too_new_is_said_once() -> None:
    model = [*of("Conv", 22, count=30), *of("Relu", 22)]
    assert problems(model, "onnx", "fp32", "onnxruntime", "1.17.1") == (
        "operator set 22: onnxruntime 1.17.1 goes up to 20; onnxruntime 1.21.1 reads it",
    )
    assert problems(of("Conv", 20, count=3), "onnx", "fp32", "onnxruntime", "1.17.1") == ()


def test_releases_that_are_only_documented_are_held_against_their_sets() -> None:
    assert problems(of("Conv", 20), "onnx", "fp32", "onnxruntime", "1.10.0") == (
        "operator set 20: onnxruntime 1.10.0 goes up to 15; onnxruntime 1.17.1 reads it",
    )
    assert problems(of("Conv", 15), "onnx", "fp32", "onnxruntime", "1.10.0") == ()


def test_an_operator_without_a_kernel_is_named() -> None:
    (line,) = problems(of("com.microsoft:NoSuchThing"), "onnx", "fp32", "onnxruntime", "1.32.0")
    assert "com.microsoft:NoSuchThing version 1: onnxruntime 1.32.0 does not have it" in line
    (line,) = problems(of("pkg:Mine", 3), "onnx", "fp32", "onnxruntime", "1.32.0")
    assert line == "pkg:Mine version 3: onnxruntime 1.32.0 does not have it; no known release has it"
    assert problems(of("RoiAlign", 21), "onnx", "fp32", "onnxruntime", "1.32.0") == ()
    (line,) = problems(of("RoiAlign", 22), "onnx", "fp32", "onnxruntime", "1.32.0")
    assert line == "RoiAlign version 22: onnxruntime 1.32.0 goes up to 21; no known release has it"
    assert len(problems(of("RoiAlign", 22), "onnx", "fp32", "onnxruntime", "1.14.0")) == 1, "the set is too new"


def test_core_ml_goes_by_the_version_of_ios() -> None:
    model = [*of("conv", 18, count=9), *of("relu", 18)]
    assert problems(model, "coreml", "fp16", "coreml", "17.4") == (
        "operator set 18: coreml 17.4 goes up to 17; coreml 18.0 reads it",
    )
    assert problems(model, "coreml", "fp16", "coreml", "26.1") == ()
    assert problems(of("conv", 15), "coreml", "fp16", "coreml", "14.0") == (
        "operator set 15: coreml 14.0 does not have it; coreml 15.0 reads it",
    )


def test_openvino_goes_by_set_and_kind() -> None:
    assert problems(of("Convolution", 1), "openvino", "fp16", "openvino", "2023.0.2") == ()
    assert problems([*of("ISTFT", 16), *of("Relu", 1)], "openvino", "fp16", "openvino", "2024.6.0") == (
        "ISTFT version 16: openvino 2024.6.0 does not have it; openvino 2025.1.0 has it",
    )
    assert problems(of("ISTFT", 16), "openvino", "fp16", "openvino", "2025.1.0") == (), "before its set is complete"
    (line,) = problems(of("extension:Mine", 0), "openvino", "fp16", "openvino", "2026.4.1")
    assert "does not have it" in line


# --- files


PACKAGES = {"tflite": "ai_edge_litert", "onnx": "onnx", "openvino": "openvino", "coreml": "coremltools"}
RUNTIMES = {
    "tflite": [("litert", "2.3.0"), ("tflite_runtime", "2.14.0")],
    "onnx": [("onnxruntime", "1.32.0")],
    "openvino": [("openvino", "2026.4.1")],
    "coreml": [("coreml", "26.0")],
}


@pytest.mark.parametrize("fmt", RUNTIMES)
def test_what_a_file_says_is_held_against_the_tables(fmt: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[fmt]) is None:
        pytest.skip(f"{PACKAGES[fmt]}, which makes the file, is not installed")
    graph = formats.read(models.MAKERS[fmt](tmp_path / f"small{models.SUFFIXES[fmt]}"))
    ours = [one for one in graph.operators if not one.kind.startswith("CUSTOM:")]
    assert ours
    for runtime, version in RUNTIMES[fmt]:
        assert problems(ours, fmt, "fp32", runtime, version) == ()
    newer = [msgspec.structs.replace(one, version=one.version + 50) for one in graph.operators]
    assert problems(newer, fmt, "fp32", *RUNTIMES[fmt][0])
    if fmt == "coreml":
        (line,) = problems(graph.operators, fmt, "fp32", "coreml", "14.0")
        assert line.startswith("operator set 1")


# --- versions


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("1.0.1", "1.0.1"),
        ("1.4.2", "1.4.0"),
        ("1.4", "1.4.0"),
        ("2.0.2", "1.4.0"),
        ("2.1.3", "2.1.0"),
        ("2.3.0", "2.3.0"),
        ("2.3.0rc1", "2.3.0"),
        ("99", "2.3.0"),
        ("1.0.0", None),
        ("0", None),
    ],
)
def test_a_version_is_taken_for_the_newest_known_before_it(version: str, release: str | None) -> None:
    assert release_of("tflite", "litert", version) == release


@pytest.mark.parametrize(
    ("fmt", "runtime", "version"),
    [
        ("tflite", "litert", "0.9"),
        ("tflite", "onnxruntime", "1.32.0"),
        ("tflite", "nobody", "1.0"),
        ("nothing", "litert", "2.3.0"),
        ("../runtimes/tflite", "litert", "2.3.0"),
        ("tflite-failures", "litert", "2.3.0"),
    ],
)
def test_where_nothing_is_known_the_line_says_so(fmt: str, runtime: str, version: str) -> None:
    found = problems(of("CONV_2D"), fmt, "fp32", runtime, version)
    assert found == (f"nothing is known of {runtime} {version} and {fmt}: verify on the device",)
    assert newest_set(fmt, runtime, version) is newest_ir(fmt, runtime, version) is None


@pytest.mark.parametrize("version", ["", "new", "v1.0", "-1", ".5", "٣.1"])
def test_what_is_no_version_is_an_error(version: str) -> None:
    with pytest.raises(ConfigError, match="is not a version of a runtime"):
        problems([], "tflite", "fp32", "litert", version)


def test_a_converter_can_ask_what_to_write() -> None:
    assert newest_set("onnx", "onnxruntime", "1.17.1") == 20 and newest_ir("onnx", "onnxruntime", "1.17.1") == 9
    assert newest_set("onnx", "onnxruntime", "1.10.0") == 15 and newest_ir("onnx", "onnxruntime", "1.10.0") == 8
    assert newest_set("coreml", "coreml", "17.0") == 17 and newest_ir("coreml", "coreml", "17.0") == 8
    assert newest_set("openvino", "openvino", "2024.6.0") == 15 and newest_ir("openvino", "openvino", "2024.6.0") == 11


# --- the tables


def test_there_is_a_table_for_each_format() -> None:
    assert FORMATS == ["coreml", "onnx", "openvino", "tflite"]


@pytest.mark.parametrize("path", sorted(compat.FOLDER.glob("*.toml")), ids=lambda path: path.name)
def test_a_table_says_how_it_was_made(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(("# How: benchmarks/fit/", "# From coremltools")) and tomllib.loads(text)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_table_is_in_order(fmt: str) -> None:
    for runtime in runtimes_of(fmt).values():
        order = [compat._order(release) for release in runtime.releases]
        assert order == sorted(set(order))
        assert set(runtime.sets_only) < set(runtime.releases)
        for points in (*runtime.operators.values(), *runtime.sets.values(), runtime.ir):
            listed = list(points)
            assert set(listed) <= set(runtime.releases)
            assert listed == sorted(listed, key=runtime.releases.index)
    for name, failures in failures_of(fmt).items():
        known = runtimes_of(fmt)[name]
        for failure in failures:
            assert failure.releases and set(failure.releases) <= set(known.releases)
            assert failure.kind in known.operators
            assert (failure.sqnr_db is None) == bool(failure.error)
            assert failure.error.isprintable()


def test_newer_releases_have_what_older_ones_had() -> None:
    """So "the first release that has it" means that later ones have it, too; exceptions would stand here."""
    lost = [
        (name, kind, release)
        for fmt in FORMATS
        for name, runtime in runtimes_of(fmt).items()
        for kind in runtime.operators
        for before, release in zip(runtime.releases, runtime.releases[1:], strict=False)
        if before not in runtime.sets_only
        and compat._newest(runtime, kind, release) < compat._newest(runtime, kind, before)
    ]
    assert lost == []


@pytest.mark.parametrize("name", target_names())
def test_the_runtimes_of_a_shipped_target_are_known(name: str) -> None:
    target = load_target(name)
    assert target.runtimes or target.device.flash_bytes, "a microcontroller's runtime is built into its firmware"
    for runtime, version in target.runtimes.items():
        assert any(release_of(fmt, runtime, version) for fmt in FORMATS), runtime


@given(
    st.lists(st.builds(Operator, kind=st.text(max_size=20), name=st.text(max_size=5), version=st.integers())),
    st.sampled_from([*FORMATS, "nothing"]),
    st.sampled_from(["tflite_runtime", "litert", "onnxruntime", "openvino", "coreml", "x"]),
    st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", fullmatch=True),
)
def test_any_graph_gets_an_answer(operators: list[Operator], fmt: str, runtime: str, version: str) -> None:
    for precision in ("fp32", "dynamic"):
        for line in problems(operators, fmt, precision, runtime, version):
            assert line.count(";") >= 1 or line.startswith("nothing is known")
