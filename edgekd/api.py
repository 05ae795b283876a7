"""edgekd from Python: what the command line does, as functions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekd.errors import ConfigError
from edgekd.files import decode, decode_json, read_text
from edgekd.pipeline import Made, Step, build
from edgekd.plugins import reference
from edgekd.runs import Run
from edgekd.shipped import load_recipe, load_target
from edgekd.specs import (
    Choice,
    LossChoice,
    Mode,
    Prefer,
    Recipe,
    StudentChoice,
    Target,
    TeacherChoice,
    Training,
    Verdict,
    Views,
)

T = TypeVar("T", Recipe, Target)


class Result(msgspec.Struct, frozen=True):
    """What a run made for a target."""

    folder: Path
    """The run folder."""
    made: Made
    """Everything, as nouns; what was not asked for is None."""

    @property
    def ok(self) -> bool:
        """True when the artifact holds every limit of the budget."""
        return self.made.report is not None and self.made.report.ok

    @property
    def artifact(self) -> Path | None:
        """The file to put on the device: the best one in the target's order; None before the report."""
        if self.made.report is None:
            return None
        chosen = self.made.report.artifact
        return next(self.folder / one.model.path for one in self.made.artifacts if one.export == chosen)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Each limit held against what was found."""
        return self.made.report.verdicts if self.made.report else ()

    @property
    def report(self) -> Path | None:
        """The page to open in a browser; None before the report."""
        return self.folder / self.made.report.html.path if self.made.report else None

    def summary(self) -> dict[str, Any]:
        """What `edgekd run --json` prints: the documented keys of report.json; {} before the report."""
        if self.made.report is None:
            return {}
        plain: dict[str, Any] = json.loads((self.folder / self.made.report.json.path).read_text(encoding="utf-8"))
        return plain


def run(
    recipe: str | Path | Recipe,
    target: str | Path | Target,
    *,
    out: str | Path | None = None,
    until: Step = "report",
    mode: Mode | None = None,
) -> Result:
    """Take a recipe to a target: a student that fits it, in its formats, with the evidence.

    `recipe` and `target` are names of shipped ones, paths of .toml files, or nouns. `out` is the run folder, by default
    runs/<recipe>; a run that was stopped goes on from there. `until` stops after a step.

    Raises:
        EdgekdError: with a hint of what to do.
    """
    return run_all(recipe, [target], out=out, until=until, mode=mode)[0]


def run_all(
    recipe: str | Path | Recipe,
    targets: Sequence[str | Path | Target],
    *,
    out: str | Path | None = None,
    until: Step = "report",
    mode: Mode | None = None,
) -> list[Result]:
    """As `run`, for several targets that share one teacher."""
    wanted = _checked(recipe) if isinstance(recipe, Recipe) else load_recipe(recipe)
    aims = [_checked(one) if isinstance(one, Target) else load_target(one) for one in targets]
    if not aims:
        raise ConfigError("no target", hint="name one with --target; `edgekd targets` lists the shipped ones")
    if len({aim.name for aim in aims}) < len(aims):
        raise ConfigError("two targets have the same name", hint="give each its own `name`")
    folder = Run(Path(out) if out else Path("runs") / wanted.name)
    with folder.lock():
        return [Result(folder.folder, made) for made in build(folder, wanted, aims, until=until, mode=mode)]


def _checked(noun: T) -> T:
    """A noun made in Python, as if it had been read from a file: valid, and with 33.0 where somebody wrote 33."""
    kind = type(noun)
    return decode(kind, msgspec.to_builtins(noun), f"{kind.__name__.lower()} {noun.name}")


def resume(folder: str | Path, *, until: Step = "report", mode: Mode | None = None) -> list[Result]:
    """Go on with a run folder, up to a step, with the recipe and the targets that it was made with.

    Raises:
        ConfigError: it is not a run folder.
    """
    inputs = Path(folder) / "inputs"
    if not (inputs / "recipe.json").is_file():
        raise ConfigError(f"{folder} is not a run folder", hint="`edgekd run RECIPE --target T -o FOLDER` makes one")
    recipe = decode_json(Recipe, read_text(inputs / "recipe.json"), str(inputs / "recipe.json"))
    targets = [decode_json(Target, read_text(path), str(path)) for path in sorted(inputs.glob("target-*.json"))]
    return run_all(recipe, targets, out=folder, until=until, mode=mode)


def own_recipe(
    name: str,
    *,
    dataset: str | Callable[..., Any],
    teacher: str | Callable[..., Any],
    student: str | Callable[..., Any] = "mobile",
    epochs: int = 20,
    teacher_epochs: int = 0,
    space: dict[str, list[Any]] | None = None,
    views: Views | None = None,
    prefer: Prefer = "most capable within the budget",
    accuracy_floor: float = 0.0,
    learning_rate: float = 0.1,
    batch: int = 64,
    temperature: float = 4.0,
    seed: int = 0,
) -> Recipe:
    """A recipe of your own functions, with soft targets mixed with labels; every other choice as in a shipped recipe.

    `teacher_epochs` 0 takes the teacher as it is.

    Raises:
        ConfigError: a value out of its range, or a function that no other process can find.
    """

    def training(epochs: int) -> Training:
        return Training(epochs=epochs, batch=batch, learning_rate=learning_rate)

    plain = {
        "schema": 1,
        "name": name,
        "title": name,
        "task": "classification",
        "dataset": Choice(name=reference(dataset)),
        "teacher": TeacherChoice(name=reference(teacher), training=training(teacher_epochs)),
        "student": StudentChoice(name=reference(student), training=training(epochs), space=space or {}),
        "losses": (
            LossChoice(name="soft_targets", weight=0.9, options={"temperature": temperature}),
            LossChoice(name="labels", weight=0.1),
        ),
        "prefer": prefer,
        "accuracy_floor": accuracy_floor,
        "views": views or Views(count=1),
        "seed": seed,
    }

    return decode(Recipe, msgspec.to_builtins(plain), f"recipe {name}")
