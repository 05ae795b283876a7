"""A format that cannot express a module says which operator, in which line, and what to write instead."""

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.converters._advice import ADVICE, advice
from edgekd.converters._unsupported import blame_operator, export_program, refuse_sizes_from_data
from edgekd.errors import ConvertError, UnsupportedOperator
from edgekd.workers import call

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
conversions: Any = importlib.import_module("conversions")


def line_of(text: str) -> str:
    """As errors name the line of conversions.py that has this text."""
    lines = Path(conversions.__file__).read_text(encoding="utf-8").splitlines()
    return f"conversions.py:{1 + next(i for i, line in enumerate(lines) if text in line)}"


CALLED = line_of("the line that errors name")
REFUSED = {
    "tflite": {
        "inverse": ("aten.linalg_inv", CALLED, "inverse before export"),
        "spectrum": ("aten.complex", CALLED, "two real tensors"),
        "sorted": ("aten.sort", CALLED, "max or argmax"),
        "found": ("aten.nonzero", CALLED, "multiply by a mask"),
        "numpy": ("numpy", line_of('"numpy"'), "torch operators"),
        "gamma": ("aten.lgamma", CALLED, "polynomial"),
        "branch": ("aten.item", line_of("a branch that data choose"), "torch.where"),
    },
    "onnx": {
        "inverse": ("aten.linalg_inv", CALLED, "inverse before export"),
        "gamma": ("aten.lgamma", CALLED, "polynomial"),
        "branch": ("aten.item", line_of("a branch that data choose"), "torch.where"),
    },
}
CASES = [
    pytest.param(name, function, marks=pytest.mark.xdist_group(f"unsupported {name}"))
    for name, functions in REFUSED.items()
    for function in functions
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def made(name: str) -> dict[str, Any]:
        pytest.importorskip({"tflite": "litert_torch", "onnx": "onnxscript"}[name])
        folder = tmp_path_factory.mktemp(name)
        functions = (*REFUSED[name], "wrong")
        return call(conversions.refusals, name, functions, str(folder), threads=1, log=folder / "log")

    return made


@pytest.mark.parametrize(("name", "function"), CASES)
def test_operator_module_line_format_and_advice_are_named(name: str, function: str, refusals: Any) -> None:
    refusal = refusals(name)[function]
    operator, line, instead = REFUSED[name][function]
    assert refusal.kind == "UnsupportedOperator"
    format_name = {"tflite": "TFLite", "onnx": "ONNX"}[name]
    for part in (format_name, operator, "module 'part'", line):
        assert part in refusal.message
    assert instead in refusal.hint
    assert "\n" not in refusal.message + refusal.hint


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"unsupported {name}")) for name in REFUSED]
)
def test_a_module_that_fails_by_itself_is_told_from_one_that_a_format_cannot_express(name: str, refusals: Any) -> None:
    refusal = refusals(name)["wrong"]
    assert refusal.kind == "ConvertError"
    assert f"module 'part' ({line_of('a mistake')} in _wrong) fails: RuntimeError" in refusal.message


def test_it_ends_the_command_line_with_eight() -> None:
    assert UnsupportedOperator.exit_code == 8


# --- texts of libraries


class Net(nn.Module):
    """Two convolutions and an inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.second(self.first(image))
        return torch.linalg.inv(features)


@pytest.fixture(scope="module")
def program() -> Any:
    return export_program(Net().eval(), [torch.rand(1, 1, 3, 3)], "any")


@pytest.mark.parametrize(
    "text",
    [
        "Lowering not found: aten.linalg_inv_ex.default",
        "No ONNX function found for <OpOverload(op='aten.linalg_inv_ex', overload='default')>",
        "Error when translating node %linalg_inv_ex : [num_users=2] = call_function[target=...](args = (%conv2d,))",
        "Check failed: No conversion rule found for operations: aten.linalg_inv_ex.default",
        "PyTorch convert function for op 'linalg_inv_ex' not implemented.",
        "Unsupported: aten::linalg_inv_ex\nWhile executing the graph with conv2d and add",
    ],
)
def test_the_operator_is_found_in_what_a_library_says(program: Any, text: str) -> None:
    error = blame_operator(program, RuntimeError(text), "Some format")
    assert isinstance(error, UnsupportedOperator)
    assert "aten.linalg_inv_ex of the module (test_unsupported.py:" in str(error)
    assert "in forward" in str(error)


def test_the_innermost_error_of_a_chain_counts(program: Any) -> None:
    try:
        try:
            raise ValueError("no kernel for aten.linalg_inv.default")
        except ValueError as inner:
            raise RuntimeError("failed while lowering aten.conv2d.default") from inner
    except RuntimeError as error:
        assert "aten.linalg_inv of" in str(blame_operator(program, error, "Some format"))


def test_the_second_call_of_an_operator_is_told_from_the_first(program: Any) -> None:
    error = blame_operator(program, RuntimeError("cannot translate node %conv2d_1"), "Some format")
    assert "aten.conv2d of module 'second'" in str(error)


def test_where_no_operator_is_named_it_says_that_it_guesses(program: Any) -> None:
    error = blame_operator(program, AssertionError("1 is not 0"), "Some format")
    assert isinstance(error, UnsupportedOperator)
    assert "probably for aten.linalg_inv of" in str(error) and "1 is not 0" in str(error)
    plain = export_program(nn.Conv2d(1, 1, 1).eval(), [torch.rand(1, 1, 3, 3)], "any")
    error = blame_operator(plain, AssertionError("1 is not 0"), "Some format")
    assert type(error) is ConvertError
    assert str(error) == "Some format cannot express this module: AssertionError: 1 is not 0"


def test_sizes_that_are_fixed_are_not_refused(program: Any) -> None:
    refuse_sizes_from_data(program, "any")


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in ADVICE])
def test_each_advice_can_be_reached(pattern: str) -> None:
    instead = dict(ADVICE)[pattern]
    words = pattern.replace(r"\b", "").split("|")
    assert any(advice(f"aten.{word}") == instead for word in words)


def test_there_is_advice_for_everything() -> None:
    assert "convolutions" in advice("mine.odd")
