"""The shipped recipes and targets are found by name, a user's own by path."""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edgekd import converters, cost, datasets, engines, losses, students, tasks, teachers
from edgekd.agree import for_job, heads_of
from edgekd.errors import ConfigError
from edgekd.plugins import known
from edgekd.shipped import RECIPES, TARGETS, load_recipe, load_target, recipe_names, scaled, target_names

RECIPE = (RECIPES / "digits.toml").read_text(encoding="utf-8")


def test_names_are_sorted() -> None:
    assert list(recipe_names()) == sorted(recipe_names()) and "digits" in recipe_names()
    assert list(target_names()) == sorted(target_names()) and "raspberry-pi-4" in target_names()


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_target_is_called_as_its_file_and_names_its_sources(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target == load_target(TARGETS / f"{name}.toml")
    given = {field for field in target.device.__struct_fields__ if getattr(target.device, field)} - {"sources"}
    assert set(target.device.sources) == given
    for engine in target.engines:
        known(engines, engine)
    for export in target.exports:
        known(converters, export.rpartition("-")[0])
    known(cost, target.cost_profile)


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_called_as_its_file_and_names_plugins_of_ours(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe == load_recipe(str(RECIPES / f"{name}.toml"))
    for family, plugin in (
        (datasets, recipe.dataset.name),
        *((tasks, head.task) for head in heads_of(recipe).values()),
        (teachers, recipe.teacher.name),
        (students, recipe.student.name),
        *((losses, loss.name) for loss in recipe.losses),
    ):
        assert ":" not in plugin
        known(family, plugin)


@pytest.mark.parametrize(
    ("load", "name", "message", "hint"),
    [
        (load_recipe, "digit", "no recipe named 'digit'", "did you mean 'digits'?"),
        (load_target, "raspbery-pi-4", "no target named 'raspbery-pi-4'", "did you mean 'raspberry-pi-4'?"),
        (load_target, "zzz", "no target named 'zzz'", "shipped: android-high, "),
        (load_target, "", "no target named ''", "shipped: "),
        (load_target, "..", "no target named '..'", "shipped: "),
        (load_recipe, "no/digits", "no/digits: no such file", ""),
        (load_recipe, "digits.toml", "digits.toml: no such file", ""),
    ],
)
def test_an_unknown_name_has_its_nearest(
    load: object, name: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$") as error:
        load(name)  # type: ignore[operator]  # one of the two loaders
    assert error.value.hint.startswith(hint)


@dataclass(frozen=True)
class Case:
    """A name in a recipe of a user's own, and what it is once the recipe is read."""

    written: str
    found: str


CASES = (
    Case("mine:data", "{folder}/mine.py:data"),
    Case("mine.py:data", "{folder}/mine.py:data"),
    Case("below.deep:data", "{folder}/below/deep.py:data"),
    Case("./below/deep.py:data", "{folder}/below/deep.py:data"),
    Case("elsewhere:data", "elsewhere:data"),
    Case("/there/mine.py:data", "/there/mine.py:data"),
    Case("mnist_5k", "mnist_5k"),
    Case("mine", "mine"),
    Case("a" * 300 + ":data", "a" * 300 + ":data"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.written[:20])
def test_code_is_looked_for_beside_the_recipe(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes/below").mkdir(parents=True)
    for file in ("mine.py", "below/deep.py"):
        (tmp_path / "recipes" / file).touch()
    text = RECIPE.replace('"mnist_5k"', f'"{case.written}"').replace('"soft_targets"', f'"{case.written}"')
    (tmp_path / "recipes/mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    wanted = case.found.format(folder=tmp_path / "recipes")
    recipe = load_recipe("recipes/mine.toml")
    assert Path(recipe.dataset.name) == Path(wanted)
    assert Path(recipe.losses[0].name) == Path(wanted)
    shipped = load_recipe("digits")
    assert msgspec.structs.replace(recipe, dataset=shipped.dataset, losses=shipped.losses) == shipped


def test_a_scale_changes_what_it_names_and_nothing_else() -> None:
    recipe = load_recipe("digits")
    changed = {"student.training.epochs": 1, "dataset.options.size": 3, "student.space.width": [0.5]}
    small = scaled(msgspec.structs.replace(recipe, scales={"tiny": changed}), "tiny")
    assert small.name == "digits-tiny" and small.student.training.epochs == 1
    assert small.dataset.options == {"size": 3} and small.student.space["width"] == [0.5]
    assert small.teacher == recipe.teacher and small.student.space["depth"] == recipe.student.space["depth"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student.training.epoch": 1}, "unknown key 'epoch'"),
        ({"title.short": 1}, "'title.short' leads nowhere"),
        ({"seed": "x"}, "scale tiny of recipe digits"),
    ],
)
def test_a_scale_that_changes_what_is_not_there_is_refused(changed: dict[str, object], message: str) -> None:
    recipe = msgspec.structs.replace(load_recipe("digits"), scales={"tiny": changed})
    with pytest.raises(ConfigError, match=message):
        scaled(recipe, "tiny")


def test_a_scale_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="recipe digits has no scale 'huge'") as error:
        load_recipe("digits", "huge")
    assert error.value.hint == "its scales: small"


def test_a_recipe_may_have_limits_and_exports_of_its_own() -> None:
    recipe, target = load_recipe("distil-whisper"), load_target("raspberry-pi-4")
    wanted = for_job(recipe, target)
    assert wanted.exports == ("tflite-dynamic", "onnx-fp32")
    assert wanted.budget.file_bytes == recipe.budget["file_bytes"] != target.budget.file_bytes
    assert wanted.budget.accuracy_floor == target.budget.accuracy_floor
    assert for_job(load_recipe("digits"), target) == target
