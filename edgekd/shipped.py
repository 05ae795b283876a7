"""The recipes and targets that come with edgekd, and a user's own, by name or by path."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from edgekd.errors import ConfigError
from edgekd.files import decode, load_toml
from edgekd.specs import LossChoice, Recipe, Target

T = TypeVar("T", Recipe, Target)

_HERE: Final = Path(__file__).parent
RECIPES: Final = _HERE / "recipes"
SUITES: Final = _HERE / "_suites" if (_HERE / "_suites").is_dir() else _HERE.parent / "benchmarks" / "suites"
TARGETS: Final = _HERE / "_targets" if (_HERE / "_targets").is_dir() else _HERE.parent / "targets"
"""In the wheel beside the code; in a checkout at its top."""


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted."""
    return _names(RECIPES)


def target_names() -> tuple[str, ...]:
    """Names of the shipped targets, sorted."""
    return _names(TARGETS)


def suite_names() -> tuple[str, ...]:
    """Names of the shipped suites, sorted."""
    return _names(SUITES)


def suite_file(wanted: str | Path) -> Path:
    """The file of a shipped suite by name, or of anyone's by path.

    Raises:
        ConfigError: none is shipped under that name.
    """
    return _locate(wanted, SUITES, "suite")


def load_recipe(wanted: str | Path, scale: str = "") -> Recipe:
    """A shipped recipe by name, or anyone's by path; at another scale where it names that.

    In a file of yours, `module:function` and `file.py:function` are looked for beside that file first.

    Raises:
        ConfigError: there is none, it is not valid, or it has no such scale.
    """
    path = _locate(wanted, RECIPES, "recipe")
    recipe = load_toml(Recipe, path)
    recipe = recipe if path.parent == RECIPES else _beside(recipe, path.resolve().parent)
    return scaled(recipe, scale) if scale else recipe


def scaled(recipe: Recipe, scale: str) -> Recipe:
    """A recipe at one of its scales, with the scale in its name.

    Raises:
        ConfigError: it has no such scale, or what the scale changes is not there.
    """
    if scale not in recipe.scales:
        scales = ", ".join(recipe.scales) or "none"
        raise ConfigError(f"recipe {recipe.name} has no scale {scale!r}", hint=f"its scales: {scales}")
    small = msgspec.structs.replace(recipe, name=f"{recipe.name}-{scale}", scales={})
    return changed(small, recipe.scales[scale], f"scale {scale} of recipe {recipe.name}")


def changed(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """A recipe with other values at some paths: {"student.training.epochs": 2, "losses.0.weight": 0.5}.

    Raises:
        ConfigError: a path leads nowhere, or the value cannot stand there; `where` is for the message.
    """
    plain = msgspec.json.decode(msgspec.json.encode(recipe))  # with lists, which can be changed
    for path, value in changes.items():
        *above, last = path.split(".")
        table: Any = plain
        for part in above:
            table = _inside(table, part, f"{where}: {path!r}")
        _inside(table, last, f"{where}: {path!r}")
        table[int(last) if isinstance(table, list) else last] = value
    return decode(Recipe, plain, where)


def load_target(wanted: str | Path) -> Target:
    """A shipped target by name, or anyone's by path.

    Raises:
        ConfigError: there is none, or it is not valid.
    """
    return load_toml(Target, _locate(wanted, TARGETS, "target"))


def _inside(table: Any, part: str, where: str) -> Any:
    """The value of a table, made where it is not there, or of a list."""
    if isinstance(table, list) and part.isdecimal() and int(part) < len(table):
        inside = table[int(part)]
    elif isinstance(table, dict):
        inside = table.setdefault(part, {})
    else:
        raise ConfigError(f"{where} leads nowhere", hint="a path is of keys and of places in lists: losses.0.weight")
    return inside


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def _locate(wanted: str | Path, folder: Path, kind: str) -> Path:
    path = Path(wanted)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    names = _names(folder)
    if str(wanted) not in names:
        close = difflib.get_close_matches(str(wanted), names, n=1)
        hint = (
            f"did you mean {close[0]!r}?" if close else f"shipped: {', '.join(names)}; or give the path of a .toml file"
        )
        raise ConfigError(f"no {kind} named {str(wanted)!r}", hint=hint)
    return folder / f"{wanted}.toml"


def _beside(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its own modules named by their files, so that they are found from any working folder."""
    changes: dict[str, Any] = {
        part: msgspec.structs.replace(getattr(recipe, part), name=beside(getattr(recipe, part).name, folder))
        for part in ("dataset", "teacher", "student")
    }

    def named(part: Any) -> Any:
        return msgspec.structs.replace(part, name=beside(part.name, folder))

    def taught(losses: tuple[LossChoice, ...]) -> tuple[LossChoice, ...]:
        return tuple(map(named, losses))

    return msgspec.structs.replace(
        recipe,
        task=beside(recipe.task, folder),
        heads={
            name: msgspec.structs.replace(head, task=beside(head.task, folder)) for name, head in recipe.heads.items()
        },
        teachers={name: named(teacher) for name, teacher in recipe.teachers.items()},
        losses=taught(recipe.losses),
        stages=tuple(msgspec.structs.replace(stage, losses=taught(stage.losses)) for stage in recipe.stages),
        **changes,
    )


def beside(name: str, folder: Path) -> str:
    """A `module:function` or a file, by its place in a folder where it is there; else as it is."""
    module, colon, attribute = name.rpartition(":")
    if not colon:
        return str(folder / name) if name and os.path.exists(folder / name) else name  # noqa: PTH110 - as below
    file = folder / (module if module.endswith(".py") else f"{module.replace('.', '/')}.py")
    return f"{file}:{attribute}" if os.path.isfile(file) else name  # noqa: PTH113 - Path.is_file raises on a long name
