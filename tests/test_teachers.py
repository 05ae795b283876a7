"""Teachers that a file holds: what they answer, what of them can be looked at, and what is refused."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import teachers
from edgekd.api import export_model
from edgekd.errors import ConfigError, Disagreement
from edgekd.layers import Tap
from edgekd.nets import Net, save
from edgekd.plugins import find
from tests import toys
from tests.subjects import subject
from tests.test_ways import TOYS, made, recipe

for package in ("onnx", "litert_torch"):
    pytest.importorskip(package, reason=f"{package}, which writes the files, is not installed")

MEAN = {"mean": (127.5,), "std": (127.5,)}
EXAMPLES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The toys' teacher, untrained, as edgekd's own converters write it."""
    folder = tmp_path_factory.mktemp("files")
    made = export_model(f"{TOYS}:seeded_teacher", ["onnx-fp32", "tflite-fp32"], out=folder)
    assert not made.failed
    return {path.suffix[1:]: str(path) for path in folder.rglob("*.*") if path.suffix in {".onnx", ".tflite"}}


def teacher(**options: Any) -> Net:
    source = find(teachers, "model_file")
    net: Net = source.build(source.Options(**options), subject((1, 16, 16)))
    return net


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_file_answers_as_the_net_that_it_was_made_of(kind: str, files: dict[str, str]) -> None:
    net = teacher(file=files[kind])
    assert net.preprocessing == toys.seeded_teacher().preprocessing, "the file says how it wants images"
    with torch.no_grad():
        found, expected = net.module(EXAMPLES), toys.seeded_teacher()(EXAMPLES)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in net.module.parameters())


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_what_a_file_computes_on_the_way_is_a_layer_of_all_examples(kind: str, files: dict[str, str]) -> None:
    """Among them the last features before the classifier, which are known from the net."""
    net, original = teacher(file=files[kind]), toys.seeded_teacher()
    paths = [f"values.{name}" for name in net.module.get_submodule("values")._modules]
    tap = Tap(net.module, paths)
    with torch.no_grad():
        net.module(EXAMPLES)
        features = original[:6](EXAMPLES).flatten()
    alike = [
        path
        for path, value in tap.found.items()
        if value.numel() == features.numel() and torch.allclose(value.flatten(), features, atol=1e-4)
    ]
    assert alike, list(tap.found)


def test_probabilities_become_logits(files: dict[str, str]) -> None:
    net = teacher(file=files["onnx"], probabilities=True)
    with torch.no_grad():
        plain, logs = teacher(file=files["onnx"]).module(EXAMPLES), net.module(EXAMPLES)
    torch.testing.assert_close(logs, plain.clamp_min(1e-7).log())


def test_another_file_than_the_recipe_means_is_refused(files: dict[str, str]) -> None:
    sha256 = hashlib.sha256(Path(files["onnx"]).read_bytes()).hexdigest()
    assert teacher(file=files["onnx"], sha256=sha256)
    with pytest.raises(ConfigError, match="another file than the recipe means"):
        teacher(file=files["onnx"], sha256="0" * 64)
    with pytest.raises(ConfigError, match="cannot be read"):
        teacher(file="nothing.onnx", sha256="0" * 64)


def test_what_is_no_model_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"TFL3" * 9)
    with pytest.raises(ConfigError, match="LiteRT does not load it"):
        teacher(file=str(tmp_path / "broken.tflite"), **MEAN)
    with pytest.raises(Disagreement, match="has 1 outputs, the data want 1"):
        teacher(file=files["onnx"], outputs=(4,))


def test_a_student_learns_from_a_file_and_its_layers(tmp_path: Path, files: dict[str, str]) -> None:
    """A frozen teacher is taken as it is; with epochs it would have to be trained, which is refused."""
    net = teacher(file=files["tflite"])
    shapes = {}
    tap = Tap(net.module, [f"values.{name}" for name in net.module.get_submodule("values")._modules])
    with torch.no_grad():
        net.module(EXAMPLES[:1])
    shapes = {path: value.shape for path, value in tap.found.items()}
    convolved = next(path for path, shape in shapes.items() if tuple(shape) == (1, 4, 4, 32))
    choice = {"name": "model_file", "training": {"epochs": 0}, "options": {"file": files["tflite"]}}
    hint = {"name": "similarity", "layers": [{"teacher": convolved, "student": "more"}]}
    found = made(tmp_path, recipe(teacher=choice, losses=[*recipe_losses(), hint]))
    assert found.student is not None and found.student.metrics["accuracy"] > 0.3
    with pytest.raises(ConfigError, match="teacher model_file is frozen"):
        made(tmp_path / "trained", recipe(teacher={**choice, "training": {"epochs": 1}}))
    assert not list((tmp_path / "trained").glob("teacher*"))


def recipe_losses() -> list[dict[str, Any]]:
    return [{"name": "soft_targets"}, {"name": "labels"}]


def test_what_litert_executes_is_counted_from_its_file(files: dict[str, str]) -> None:
    """Weights and products as those of the net: batch norms are folded into the convolution before them."""
    from edgekd.nets import anatomy

    found = teacher(file=files["tflite"]).module.anatomy
    expected = anatomy(toys.seeded_teacher(), (1, 16, 16))
    assert isinstance(found, type(expected))
    assert found.macs == expected.macs and found.outputs == expected.outputs
    assert abs(found.parameters - expected.parameters) < 60


def test_a_net_of_a_students_family_begins_as_new_or_where_another_ended(tmp_path: Path) -> None:
    source, pictures = find(teachers, "family"), subject((1, 16, 16))
    of_toys = {"family": f"{TOYS}:student", "options": {"width": 4}}
    first = source.build(source.Options(**of_toys), pictures)
    save(first.module, tmp_path / "student.safetensors")
    again = source.build(source.Options(**of_toys, weights=str(tmp_path / "student.safetensors")), pictures)
    assert torch.equal(first.module.eval()(EXAMPLES), again.module.eval()(EXAMPLES))
    other = source.Options(family="mobile", weights=str(tmp_path / "student.safetensors"))
    with pytest.raises(ConfigError, match="not the weights of this net"):
        source.build(other, pictures)
