"""Models that a user has: each becomes a torch module that computes what its own runtime computes."""

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ConfigError, EdgekdError
from edgekd.sources import kind_of, open_model
from tests.brought import arrays, assert_same, flat, make, outputs_of

# --- names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/b.onnx", "onnx"),
        ("A.ONNX", "onnx"),
        ("b.pt2", "exported_program"),
        ("b.keras", "keras"),
        ("b.h5", "keras"),
        ("package.module:function", "torch_module"),
        ("folder/file.py:function", "torch_module"),
    ],
)
def test_a_name_says_what_reads_it(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_folder_with_a_saved_model_is_one(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    assert kind_of(str(tmp_path)) == "saved_model"


@pytest.mark.parametrize("name", ["", ".", "model", "model.tflite", "a:b c", "a" * 5000, "a\0b", "/", "..", ":"])
def test_what_nothing_reads_is_refused_with_all_that_is_known(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a model that edgekd reads") as error:
        open_model(name)
    assert error.value.hint == (
        "known: .h5, .keras, .onnx, .pt2, a folder with saved_model.pb, module:function, file.py:function"
    )


# --- a user's own module


OWN = """
from dataclasses import dataclass
from typing import NamedTuple
import torch
from torch import nn
from edgekd import Preprocessing
from edgekd.nets import Net

class Plain(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, *, states, mask=None, flag=True):
        made = self.layer(states)
        return {"made": made if mask is None else made * mask, "more": (states, [mask, None])}

@dataclass
class Found:
    logits: torch.Tensor
    nothing: None
    values: tuple

class Two(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor

class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
    def forward(self, x, y=None):
        return self.function(x, y)

def by_name(): return ByName(), {"states": torch.ones(1, 3), "mask": torch.zeros(1, 2)}
def skipped(): return Returns(lambda x, y: x - y), {"y": torch.ones(2), "x": torch.zeros(2)}
def a_dataclass(): return Returns(lambda x, y: Found(x, None, (x, x))), torch.ones(1, 3)
def a_named_tuple(): return Returns(lambda x, y: Two(x, x)), torch.ones(1, 3)
def a_list(): return Returns(lambda x, y: [x]), (torch.ones(1, 3),)
def a_number(): return Returns(lambda x, y: (x, 3)), torch.ones(1, 3)
def nothing(): return Returns(lambda x, y: None), torch.ones(1, 3)
def not_tensors(): return Plain(), (3,)
def image():
    module = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten())
    module.example_inputs = (torch.zeros(1, 3, 8, 8),)
    module.classes = ("a", "b")
    return module
def net(): return Net(nn.Conv2d(1, 2, 3), Preprocessing(size=(5, 6), mean=(0.0,), std=(1.0,)))
def needs(width): return Plain()
def seven(): return 7
def on_meta(): return nn.Linear(2, 2, device="meta"), torch.ones(1, 2)
module = Plain().train()
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    """File of a user's own modules."""
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "shapes", "inputs", "outputs"),
    [
        ("Plain", {"input": (4, 3)}, ["input (4, 3)"], ["output (4, 2)"]),
        ("module", {"input": (4, 3)}, ["input (4, 3)"], ["output (4, 2)"]),
        (
            "by_name",
            {},
            ["states (1, 3)", "mask (1, 2)"],
            ["made (1, 2)", "more_0 (1, 3)", "more_1_0 (1, 2)"],
        ),
        (
            "by_name",
            {"states": (5, 3)},
            ["states (5, 3)", "mask (1, 2)"],
            ["made (5, 2)", "more_0 (5, 3)", "more_1_0 (1, 2)"],
        ),
        ("skipped", {}, ["y (2,)", "x (2,)"], ["output (2,)"]),
        ("a_dataclass", {}, ["x (1, 3)"], ["logits (1, 3)", "values_0 (1, 3)", "values_1 (1, 3)"]),
        ("a_named_tuple", {}, ["x (1, 3)"], ["first (1, 3)", "second (1, 3)"]),
        ("a_list", {}, ["x (1, 3)"], ["output_0 (1, 3)"]),
        ("image", {}, ["input (1, 3, 8, 8)"], ["output (1, 128)"]),
        ("net", {}, ["input (1, 1, 5, 6)"], ["output (1, 2, 3, 4)"]),
    ],
)  # fmt: skip
def test_a_module_of_ones_own_tells_what_it_takes(
    own: str, name: str, shapes: dict[str, tuple[int, ...]], inputs: list[str], outputs: list[str]
) -> None:
    model = open_model(f"{own}:{name}", shapes)
    assert [f"{spec.name} {spec.shape}" for spec in model.inputs] == inputs
    assert [f"{spec.name} {spec.shape}" for spec in model.outputs] == outputs
    assert not any(part.training for part in model.module.modules())
    made = outputs_of(model, tuple(torch.ones(spec.shape) for spec in model.inputs))
    assert name != "skipped" or torch.equal(made[0], torch.zeros(2))
    assert name != "by_name" or torch.equal(made[2], torch.ones(1, 2))


def test_random_weights_are_the_same_whenever_they_are_made(tmp_path: Path) -> None:
    (tmp_path / "random_net.py").write_text(
        "import random, numpy, torch\n"
        "def net():\n"
        "    layer = torch.nn.Linear(3, 2)\n"
        "    layer.bias.data[:] = torch.tensor([random.random(), numpy.random.normal()])\n"
        "    return layer, torch.ones(1, 3)\n",
        encoding="utf-8",
    )
    made = [open_model(f"{tmp_path}/random_net.py:net").module.state_dict() for _ in range(2)]
    assert all(torch.equal(one, made[1][name]) for name, one in made[0].items())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    open_model(f"{tmp_path}/random_net.py:net")
    assert torch.equal(torch.rand(1), expected), "the user's own random numbers go on"


def test_an_image_is_seen_through_what_keeps_it_one(own: str) -> None:
    model = open_model(f"{own}:image")
    assert model.inputs[0].layout == "NCHW"
    assert model.properties == {"edgekd.classes": '["a","b"]'}
    assert type(model.module) is nn.Sequential, "a module that fits is not wrapped"


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("Plain", {}, "the shapes of its inputs are not known"),
        ("Plain", {"x": (1, 3)}, "has no input 'x'"),
        (
            "Plain",
            {"input": (1, 4)},
            "does not take inputs of shapes (1, 4): mat1 and mat2 shapes cannot be multiplied",
        ),
        ("a_number", {}, "output 'output_1' is of type int"),
        ("nothing", {}, "the module returns no tensor"),
        ("not_tensors", {}, "example input 'input' is of type int"),
        ("needs", {}, "cannot be called without arguments: it needs width"),
        ("seven", {}, "gave int"),
        ("on_meta", {}, "its weights are on the meta device"),
        ("absent", {}, "has no 'absent'"),
    ],
)
def test_a_module_that_cannot_be_taken_says_why(
    own: str, name: str, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        open_model(f"{own}:{name}", shapes)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_module_of_transformers_needs_no_more_than_its_inputs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\n"
        "from transformers import BertConfig, BertModel\n"
        "def bert():\n"
        "    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,\n"
        "                        vocab_size=30, attn_implementation='eager')\n"
        "    return BertModel(config), {'input_ids': torch.zeros(1, 6, dtype=torch.int64),\n"
        "                               'attention_mask': torch.ones(1, 6, dtype=torch.int64)}\n",
        encoding="utf-8",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers imports what is deprecated
        model = open_model(f"{path}:bert")
    assert [(spec.name, spec.dtype) for spec in model.inputs] == [("input_ids", "int64"), ("attention_mask", "int64")]
    assert [spec.name for spec in model.outputs] == ["last_hidden_state", "pooler_output"]


# --- programs of torch.export


def save_program(module: nn.Module, examples: tuple[Tensor, ...], path: Path, **options: Any) -> Path:
    """As torch writes it."""
    torch.export.save(torch.export.export(module, examples, **options), path)
    return path


@pytest.mark.parametrize("name", ["mobilenet_v3", "bert", "heads"])
def test_an_exported_program_computes_the_same(name: str, tmp_path: Path) -> None:
    module, examples, names, _ = make(name)
    model = open_model(str(save_program(module, examples, tmp_path / "model.pt2")))
    assert [spec.name for spec in model.inputs] == list(names)
    with torch.no_grad():
        assert_same(arrays(flat(module(*examples))), arrays(outputs_of(model, examples)), 200)
    if name == "bert":
        assert [spec.name for spec in model.outputs] == ["last_hidden_state", "pooler_output"]
    else:
        assert model.inputs[0].layout == "NCHW"
    model.module.train().eval()  # converters do


def test_an_exported_program_with_open_sizes_takes_those_that_are_asked_for(tmp_path: Path) -> None:
    module, (ids, mask), _, _ = make("bert")
    batch, steps = torch.export.Dim("batch"), torch.export.Dim("steps", max=12)
    sizes = ({0: batch, 1: steps}, {0: batch, 1: steps})
    two = (ids.repeat(2, 1), mask.repeat(2, 1))
    path = save_program(module, two, tmp_path / "model.pt2", dynamic_shapes=sizes)
    model = open_model(str(path), {"input_ids": (3, 7), "attention_mask": (3, 7)})
    assert model.outputs[0].shape == (3, 7, 32)
    given = (ids[:, :7].repeat(3, 1), mask[:, :7].repeat(3, 1))
    with torch.no_grad():
        assert_same(arrays(flat(module(*given))), arrays(outputs_of(model, given)))
    with pytest.raises(ConfigError, match="has no input 'ids'") as error:
        open_model(str(path), {"ids": (1, 2)})
    assert error.value.hint == "its inputs: input_ids, attention_mask"


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Records of a small exported program with an open size."""
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    module = nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1))
    save_program(module, (torch.ones(4, 3),), path, dynamic_shapes=({0: torch.export.Dim("batch")},))
    with zipfile.ZipFile(path) as archive:
        return {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}


def pack(records: dict[str, bytes], path: Path) -> Path:
    """An archive of these records."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"model/{name}", content)
    return path


Change = Callable[[dict[str, bytes]], None]


def in_program(change: Callable[[dict[str, Any]], None]) -> Change:
    """A change of the program's JSON."""

    def apply(records: dict[str, bytes]) -> None:
        tree = json.loads(records["models/model.json"])
        change(tree)
        records["models/model.json"] = json.dumps(tree).encode()

    return apply


def nodes(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the program."""
    found: list[dict[str, Any]] = tree["graph_module"]["graph"]["nodes"]
    return found


def unpickled_weight(records: dict[str, bytes]) -> None:
    name = "data/weights/model_weights_config.json"
    table = json.loads(records[name])
    next(iter(table["config"].values()))["use_pickle"] = True
    records[name] = json.dumps(table).encode()
    records["data/weights/weight_0"] = pickle.dumps(Trap())


def unpickled_constant(records: dict[str, bytes]) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    records["data/constants/model_constants_config.json"] = json.dumps({"config": {"c": entry}}).encode()
    records["data/constants/opaque_obj_0"] = pickle.dumps(Trap())


def huge_weight(records: dict[str, bytes]) -> None:
    name = "data/weights/model_weights_config.json"
    table = json.loads(records[name])
    next(iter(table["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 2**40}]
    records[name] = json.dumps(table).encode()


def rename(tree: dict[str, Any]) -> None:
    nodes(tree)[0]["outputs"][0]["as_tensor"]["name"] = "x = __import__('os').mkdir('executed')"


def evaluate(tree: dict[str, Any]) -> None:
    size = {"as_expr": {"expr_str": "__import__('os').mkdir('executed')", "hint": {"as_int": 4}}}
    next(iter(tree["graph_module"]["graph"]["tensor_values"].values()))["sizes"][0] = size


def last_for_ever(tree: dict[str, Any]) -> None:
    size = {"as_expr": {"expr_str": "Pow(Integer(9), Integer(999999999))", "hint": {"as_int": 4}}}
    next(iter(tree["graph_module"]["graph"]["tensor_values"].values()))["sizes"][0] = size


def pickle_samples(records: dict[str, bytes]) -> None:
    written = io.BytesIO()
    torch.save(((Trap(),), {}), written)
    records["data/sample_inputs/model.pt"] = written.getvalue()


HOSTILE: dict[str, Change] = {
    "a weight that is unpickled": unpickled_weight,
    "a constant that is unpickled": unpickled_constant,
    "example inputs that are unpickled": pickle_samples,
    "a weight larger than memory": huge_weight,
    "a function of torch that is no operator": in_program(lambda tree: nodes(tree)[0].update(target="torch.os.mkdir")),
    "an operator that reads files": in_program(lambda tree: nodes(tree)[0].update(target="torch.ops.aten.from_file")),
    "a custom operator": in_program(lambda tree: nodes(tree)[0].update(target="torch.ops.mine.boom.default")),
    "a name that is a statement": in_program(rename),
    "a size that is a call": in_program(evaluate),
    "a size that takes for ever": in_program(last_for_ever),
    "no program": lambda records: records.pop("models/model.json") and None,
    "no weights": lambda records: records.pop("data/weights/weight_0") and None,
    "no example inputs": lambda records: records.pop("data/sample_inputs/model.pt") and None,
    "a program that is no JSON": lambda records: records.update({"models/model.json": b"{"}),
    "a program that is nested deeply": lambda records: records.update({"models/model.json": b"[" * 100_000}),
    "a newer version": in_program(lambda tree: tree["schema_version"].update(major=99)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_program_that_would_execute_is_refused(
    change: Change, program: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = dict(program)
    change(records)
    with pytest.raises(EdgekdError) as error:
        open_model(str(pack(records, tmp_path / "model.pt2")))
    assert "\n" not in str(error.value) + error.value.hint
    assert not (tmp_path / "executed").exists()


def test_code_beside_a_program_is_left_where_it_is(
    program: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = program | {"data/aotinductor/model/cpu.so": b"\x7fELF", "data/weights/model.pt": pickle.dumps(Trap())}
    records["models/model.json"] = json.dumps(
        json.loads(program["models/model.json"]) | {"guards_code": ["__import__('os').mkdir('executed')"]}
    ).encode()
    model = open_model(str(pack(records, tmp_path / "model.pt2")))
    assert torch.allclose(outputs_of(model, (torch.ones(4, 3),))[0].sum(-1), torch.ones(4))
    assert not (tmp_path / "executed").exists()
