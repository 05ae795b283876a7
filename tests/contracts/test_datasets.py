"""Every file in edgekd/datasets is checked here; a new file needs no new test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import datasets
from edgekd.agree import heads_of
from edgekd.data import examine
from edgekd.datasets import split
from edgekd.errors import ConfigError
from edgekd.plugins import find, names
from edgekd.shipped import load_recipe, recipe_names
from edgekd.specs import Head
from tests.subjects import HEADS


def photos(folder: Path) -> dict[str, Any]:
    """Options of a folder of photos, made here."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / name / f"{index}.png")
    return {"path": str(folder), "size": 16}


def heads(dataset: str) -> dict[str, Head]:
    """Of a recipe that is about the data set."""
    recipes = [recipe for recipe in map(load_recipe, recipe_names()) if recipe.dataset.name == dataset]
    return heads_of(recipes[0]) if recipes else HEADS


def few(name: str, folder: Path) -> dict[str, Any]:
    """Options that make a data set small, where its default is not."""
    if name == "image_folder":
        return photos(folder)
    return {"frames": 12, "test_frames": 6} if name == "driving" else {}


@pytest.mark.parametrize("name", names(datasets))
def test_is_a_whole_data_set_that_is_always_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = find(datasets, name)
    assert plugin.licence and isinstance(plugin.needs, str)
    if not plugin.here():
        pytest.skip(f"{name} is not on this machine: {plugin.needs}")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    table = few(name, tmp_path)
    first, second = (plugin.load(plugin.Options(**table)) for _ in range(2))
    subject, train_labels, test_labels = examine(first, heads(name), name)
    for output in subject.outputs:
        if output.classes:
            assert set(np.unique(train_labels[output.name])) - {-1} == set(range(len(output.classes)))
    _, _, again = examine(second, heads(name), name)
    assert np.array_equal(first.train_inputs, second.train_inputs)
    assert all(np.array_equal(test_labels[head], again[head], equal_nan=True) for head in test_labels)
    train = {image.tobytes() for image in first.train_inputs}
    shared = sum(image.tobytes() in train for image in first.test_inputs)
    assert shared <= 0.01 * len(first.test_inputs), "test examples stand in the training split"


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    options = photos(tmp_path)
    (tmp_path / "cat" / "3.png").write_bytes(b"no image")
    plugin = find(datasets, "image_folder")
    with pytest.raises(ConfigError, match="3.png: not an image"):
        plugin.load(plugin.Options(**options))


def test_each_class_gives_its_share_to_the_test_split() -> None:
    labels = np.repeat([0, 1, 2], [50, 100, 10])
    train, test = split(labels, 0.2, seed=3)
    assert np.bincount(labels[test]).tolist() == [10, 20, 2]
    assert sorted([*train, *test]) == list(range(160))
