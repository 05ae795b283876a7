"""Keras files and SavedModels as torch modules: they compute what TensorFlow computes, and execute nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("keras")

SCRIPT = Path(__file__).with_name("tensorflow_models.py")
EXACT_DB = 100.0

Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What the script found, in a process of its own: TensorFlow is slow to load."""
    folder = tmp_path_factory.mktemp("tensorflow")
    command = [sys.executable, str(SCRIPT), str(folder)]
    root = str(SCRIPT.parents[1])
    paths = {"PYTHONPATH": ":".join([root, *filter(None, sys.path)]), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=paths)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [line.removeprefix("FOUND ") for line in ended.stdout.splitlines() if line.startswith("FOUND ")]
    found: Findings = [json.loads(line) for line in lines]
    assert found[-1]["what"] == "end"
    return found


def of(findings: Findings, what: str) -> dict[str, dict[str, Any]]:
    """Name -> finding, of one kind."""
    return {finding["name"]: finding for finding in findings if finding["what"] == what}


def test_every_answer_is_tensorflows(findings: Findings) -> None:
    agreements = of(findings, "agreement")
    assert len(agreements) > 50
    assert {
        name: round(one["sqnr_db"]) for name, one in agreements.items() if one["sqnr_db"] < one.get("least", EXACT_DB)
    } == {}


@pytest.mark.parametrize("name", ["image.keras", "image.h5", "image"])
def test_an_image_keeps_its_order_of_axes(name: str, findings: Findings) -> None:
    assert of(findings, "model")[name]["inputs"] == [["image", [1, 20, 20, 3], "float32", "NHWC"]]


def test_inputs_and_outputs_are_named_as_in_the_file(findings: Findings) -> None:
    models = of(findings, "model")
    assert models["text.keras"]["inputs"] == [["ids", [1, 7], "int32", ""], ["scale", [1, 8], "float32", ""]]
    assert models["text"]["outputs"] == ["mean", "tokens"]
    assert models["image.keras"]["outputs"] == models["image.h5"]["outputs"]
    assert models["operators"]["inputs"] == [["image", [1, 6, 8, 4]], ["places", [3]], ["row", [1, 5]]]
    assert models["sound"]["properties"]["tensorflow.version"]


def test_weights_are_named_as_in_the_file_and_statistics_are_none(findings: Findings) -> None:
    names = of(findings, "model")["image.keras"]["parameters"]
    assert {"conv2d.kernel", "dense.kernel", "dense.bias", "batch_normalization.gamma"} <= set(names)
    assert not [name for name in names if "moving" in name]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("lambda.keras", "UnsupportedOperator", "a layer 'Lambda' holds code, which is not executed"),
        ("lambda.h5", "UnsupportedOperator", "a layer 'Lambda' holds code, which is not executed"),
        ("own layer.keras", "UnsupportedOperator", "'mine>Own' of "),
        ("own layer.h5", "UnsupportedOperator", "'mine>Own' of 'somebody' is not a part of Keras"),
        ("foreign module", "UnsupportedOperator", "'system' of 'os' is not a part of Keras"),
        ("saved model layer", "UnsupportedOperator", "a layer 'TFSMLayer' holds code, which is not executed"),
        ("not a model", "ConfigError", "Keras cannot read it: "),
        ("no weights", "ConfigError", "it has no model.weights.h5"),
        ("an asset", "UnsupportedOperator", "it holds 'assets/vocabulary.txt' beside the model"),
        ("link", "ConfigError", "weight 'more' is a link"),
        ("another file", "ConfigError", "weight 'more' is in another file"),
        ("huge", "ConfigError", "weight 'more' of shape (1099511627776,) is too large"),
        ("weights alone", "ConfigError", "it holds weights without a model"),
        ("saved spectrum", "UnsupportedOperator", "RFFT 'rfft' (TensorFlow): it is not known"),
        ("saved until", "UnsupportedOperator", "StatelessWhile 'while' (TensorFlow): its end depends on the data"),
        ("saved reads", "UnsupportedOperator", "Const 'ReadFile/filename' (TensorFlow): it is a text"),
        ("saved nothing", "ConfigError", "it has no signature"),
        ("saved no weights", "ConfigError", "its folder `variables` is not there"),
        ("asked", "ConfigError", "input 'image' is of shape (?, 6, 8, 4), not (1, 7, 8, 4)"),
        ("unknown input", "ConfigError", "it has no input 'picture'"),
    ],
)
def test_what_holds_code_or_lacks_something_is_refused(name: str, kind: str, message: str, findings: Findings) -> None:
    found = of(findings, "refused")[name]
    assert found["kind"] == kind
    assert f": {message}" in found["message"] and "\n" not in found["message"] + found["hint"]


def test_a_graph_that_writes_files_writes_none(findings: Findings) -> None:
    assert of(findings, "refused")["saved writes"]["kind"] == "", "its answer needs no file"
    assert not of(findings, "executed")["write_file"]["happened"]


def test_broken_files_are_read_or_refused_in_one_line(findings: Findings) -> None:
    outcomes = of(findings, "damage")["all"]
    assert outcomes["read"] + outcomes["refused"] == 48 and outcomes["refused"] > 20
