"""The data set `driving`: its labels against geometry that is worked out here, its frames the same at any time."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import edgekd
from edgekd.datasets import Arrays
from edgekd.datasets.driving import CLASSES, PLUGIN, Options
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.plugins import options
from edgekd.shipped import load_recipe
from edgekd.specs import Recipe

pytest.importorskip("pybullet", reason="pip install 'edgekd[driving]', which draws the scenes")

from edgekd.datasets import _scenes
from edgekd.datasets._scenes import Frame

HEIGHT, WIDTH = 96, 160
FEW = Options(frames=5, test_frames=3, height=32, width=48)
Draw = Callable[[int], Frame]


@pytest.fixture(scope="module")
def draw() -> Iterator[Draw]:
    with _scenes.drawing(HEIGHT, WIDTH) as drawn:
        yield lambda seed: drawn(np.random.default_rng(seed))


@pytest.fixture(scope="module")
def frames(draw: Draw) -> list[Frame]:
    return [draw(seed) for seed in range(30)]


def test_a_frame_is_its_seeds_whatever_was_drawn_before(draw: Draw, frames: list[Frame]) -> None:
    for seed in (7, 3):
        for first, second in zip(frames[seed], draw(seed), strict=True):
            assert np.array_equal(first, second, equal_nan=True)
    assert not np.array_equal(frames[3].image, frames[7].image)


def test_what_is_seen_is_what_roads_have(frames: list[Frame]) -> None:
    shares = np.bincount(np.concatenate([frame.mask.ravel() for frame in frames]), minlength=len(CLASSES))
    shares = shares / shares.sum()
    named = dict(zip(CLASSES, shares.tolist(), strict=True))
    assert all(named[name] > 0.15 for name in ("sky", "ground", "road"))
    assert all(named[name] > 0.001 for name in ("marking", "vehicle", "pedestrian", "tree"))
    for frame in frames:
        assert frame.image.shape == (3, HEIGHT, WIDTH) and frame.image.dtype == np.uint8
        assert (frame.mask[0] == 0).mean() > 0.3, "the sky is above"
        assert np.isnan(frame.depth).tolist() == (frame.mask == 0).tolist()
        assert np.nanmin(frame.depth) > 0.3 and np.nanmax(frame.depth) < 150


def test_ground_is_as_far_as_a_camera_1_3_m_above_it_sees(frames: list[Frame]) -> None:
    """On a plane 1 / z is linear in the row, with a slope of cos(pitch) / (focal length x height), in each column."""
    focal = HEIGHT / 2 / 2 / math.tan(math.radians(25))  # in rows of labels, of which there are half as many
    for frame in frames[:10]:
        rows, _ = np.nonzero(frame.mask == 2)
        nearness = 1 / frame.depth[frame.mask == 2]
        slope, offset = np.polyfit(rows, nearness, 1)
        assert np.abs(nearness - slope * rows - offset).max() < 0.01
        assert slope == pytest.approx(1 / (focal * 1.3), rel=0.03)


def test_the_nearest_obstacle_is_in_the_mask_and_as_near_as_its_depth(frames: list[Frame]) -> None:
    for frame in frames:
        seen = frame.depth[(frame.mask == 4) | (frame.mask == 5)]
        if math.isnan(frame.obstacle):
            assert len(seen) <= 2
        elif len(seen):
            assert 0 <= seen.min() - frame.obstacle < 0.05 * frame.obstacle + 1, "labels skip three of four pixels"


def test_boxes_are_around_what_the_mask_shows(frames: list[Frame]) -> None:
    for frame in frames:
        boxes = frame.boxes[np.isfinite(frame.boxes[:, 1])]
        covered = np.zeros((2, *frame.mask.shape), bool)
        for kind, x, y, w, h in boxes.tolist():
            left, right = (x - w / 2) * WIDTH / 2, (x + w / 2) * WIDTH / 2
            top, bottom = (y - h / 2) * HEIGHT / 2, (y + h / 2) * HEIGHT / 2
            inside = np.s_[math.floor(top + 1e-3) : math.ceil(bottom), math.floor(left + 1e-3) : math.ceil(right)]
            for index in range(2) if kind < 0 else [int(kind)]:
                covered[index][inside] = True
            if kind >= 0:
                seen = frame.mask[inside] == 4 + kind
                assert seen.any(), "a box around nothing"
                if w * h * frame.mask.size > 40:
                    for axis in range(2):
                        places = np.flatnonzero(seen.any(axis=1 - axis))
                        assert places[0] <= 1 and places[-1] >= seen.shape[axis] - 2, "a box too large"
        for index in range(2):
            assert covered[index][frame.mask == 4 + index].all(), "something that no box is around"


@pytest.mark.parametrize("goal", [(12.0, 1.5), (10.0, -2.0), (11.0, 0.0)])
def test_who_holds_the_wheel_there_arrives(goal: tuple[float, float]) -> None:
    """A bicycle whose rear wheel is at the camera: it turns by tan(steering) / wheelbase a metre."""
    steering = _scenes._steering((*goal, 0.0), (0.0, 0.0), 0.0)
    x = y = heading = 0.0
    nearest = math.inf
    for _ in range(20_000):
        x, y = x + 0.001 * math.cos(heading), y + 0.001 * math.sin(heading)
        heading += 0.001 * math.tan(math.radians(steering)) / 2.7
        nearest = min(nearest, math.dist((x, y), goal))
    assert nearest < 0.01


def test_steering_keeps_to_the_right_lane(frames: list[Frame]) -> None:
    angles = [frame.steering for frame in frames]
    assert abs(np.mean(angles)) < 2.5 and 2 < np.std(angles) < 8


# --- kept frames


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_CACHE", str(folder))
        PLUGIN.load(FEW)
        yield folder


def same(first: Arrays, second: Arrays) -> bool:
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [(first.train_inputs, second.train_inputs)]
    pairs += [(first.test_inputs, second.test_inputs)]
    for split in ("train_labels", "test_labels"):
        one, other = getattr(first, split), getattr(second, split)
        pairs += [(one[name], other[name]) for name in one]
    return all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)


def test_frames_are_drawn_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.datasets._drawn.call", None)  # nothing is drawn any more
    monkeypatch.setattr("edgekd.datasets.driving.importlib.util.find_spec", lambda name: None)  # pybullet is gone
    arrays = PLUGIN.load(FEW)
    assert arrays.train_inputs.shape == (5, 3, 32, 48) and arrays.test_inputs.shape == (3, 3, 32, 48)
    assert isinstance(arrays.train_labels, dict)
    shapes = {name: labels.shape[1:] for name, labels in arrays.train_labels.items()}
    assert shapes == {"mask": (16, 24), "depth": (16, 24), "steering": (), "obstacle": (), "boxes": (8, 5)}


def test_whoever_has_no_pybullet_is_told(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.datasets.driving.importlib.util.find_spec", lambda name: None)
    with pytest.raises(PluginUnavailable, match="pybullet") as raised:
        PLUGIN.load(Options(frames=2, test_frames=2))
    assert "edgekd[driving]" in raised.value.hint


@pytest.mark.parametrize("damage", ["changed", "gone", "unmarked", "marker"])
def test_damaged_frames_are_drawn_again_to_the_bit(damage: str, kept: Path) -> None:
    before = PLUGIN.load(FEW)
    copies = Arrays(**{name: _copied(getattr(before, name)) for name in Arrays.__dataclass_fields__})
    (folder,) = [one for one in (kept / "driving").iterdir() if one.is_dir()]
    depth, marker = folder / "train-depth.npy", folder / "edgekd.json"
    if damage == "changed":
        content = bytearray(depth.read_bytes())
        content[-7] ^= 4
        depth.write_bytes(content)
    elif damage == "gone":
        depth.unlink()
    elif damage == "unmarked":
        marker.unlink()
    else:
        marker.write_text("{", encoding="utf-8")
    assert same(PLUGIN.load(FEW), copies)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    return np.array(value) if isinstance(value, np.ndarray) else value


def test_splits_and_seeds_are_different_roads_and_fewer_frames_are_the_first(kept: Path) -> None:
    arrays = PLUGIN.load(FEW)
    seen = {image.tobytes() for image in [*arrays.train_inputs, *arrays.test_inputs]}
    assert len(seen) == 8
    other = PLUGIN.load(Options(frames=2, test_frames=1, height=32, width=48, seed=1))
    assert not seen & {image.tobytes() for image in other.train_inputs}
    fewer = PLUGIN.load(Options(frames=2, test_frames=1, height=32, width=48))
    assert np.array_equal(fewer.train_inputs, arrays.train_inputs[:2])


@pytest.mark.parametrize(
    ("table", "message"), [({"height": 31}, "multiple"), ({"frames": 0}, "frames"), ({"fps": 3}, "fps")]
)
def test_options_that_make_no_frames_are_refused(table: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(Options, table, "options of data set driving")


# --- the recipe


def small(recipe: Recipe) -> Recipe:
    """The recipe with so few frames and epochs that nothing is learned, but all is made."""
    return msgspec.structs.replace(
        recipe,
        dataset=msgspec.structs.replace(recipe.dataset, options={"frames": 64, "test_frames": 32}),
        teacher=_once(msgspec.structs.replace(recipe.teacher, options={"widths": [8, 8, 8, 8]})),
        student=_once(msgspec.structs.replace(recipe.student, space={"width": [0.25]})),
        accuracy_floor=0.0,
    )


def _once(choice: Any) -> Any:
    return msgspec.structs.replace(choice, training=msgspec.structs.replace(choice.training, epochs=1))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_heads_come_through_to_the_device(tmp_path: Path) -> None:
    result = edgekd.run(small(load_recipe("driving")), "raspberry-pi-4", out=tmp_path / "run")
    artifacts = result.summary()["artifacts"]
    assert {one["export"] for one in artifacts} >= {"tflite-int8", "onnx-int8"}
    for artifact in artifacts:
        assert all(pair["ok"] for pair in artifact["parity"]), artifact
        assert {"mask.miou", "depth.delta1", "steering.r2", "obstacle.delta1"} <= set(artifact["metrics"])


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_a_student_of_a_tenth_of_the_cost_sees_as_its_teacher(tmp_path: Path) -> None:
    result = edgekd.run("driving", "raspberry-pi-4", out=tmp_path / "run")
    summary = result.summary()
    teacher, *artifacts = summary["teacher"], *summary["artifacts"]
    for artifact in artifacts:
        assert artifact["metrics"]["mask.miou"] >= teacher["metrics"]["mask.miou"] - 0.03
        assert all(pair["ok"] for pair in artifact["parity"])
    assert result.ok, summary["verdicts"]
