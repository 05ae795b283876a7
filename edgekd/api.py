"""edgekd from Python: what the command line does, as functions."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekd.convert import Exported, Manifest, Order, changed, convert, listed, manifest_of, quantized_as
from edgekd.errors import ConfigError, CorruptStep
from edgekd.files import decode, decode_json, read_text
from edgekd.matrix import EXAMPLES, Matrix, Pair, matrix
from edgekd.pipeline import Made, Step, build
from edgekd.places import remembered
from edgekd.plugins import reference
from edgekd.runs import Run
from edgekd.shipped import load_recipe, load_target, recipe_names
from edgekd.sides import Side, able, sides_of
from edgekd.specs import (
    Choice,
    LossChoice,
    Mode,
    Prefer,
    Recipe,
    Required,
    StudentChoice,
    Target,
    TeacherChoice,
    Training,
    Verdict,
    Views,
)
from edgekd.tensors import Tensors, first_examples, given_inputs
from edgekd.verdicts import shipped_file

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
        chosen = next(one for one in self.made.artifacts if one.export == self.made.report.artifact)
        firmware = next((one for one in self.made.firmware if one.artifact == chosen.export), None)
        return self.folder / shipped_file(chosen, firmware).path

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
    on: Sequence[str] = (),
    require: Required | None = None,
    rounds: int = 1,
) -> Result:
    """Take a recipe to a target: a student that fits it, in its formats, with the evidence.

    `recipe` and `target` are names of shipped ones, paths of .toml files, or nouns. `out` is the run folder, by default
    runs/<recipe>; a run that was stopped goes on from there. `until` stops after a step.

    `on` are devices to measure on, such as "ssh://pi@kitchen" or "host". Without it artifacts are timed on this
    machine, and counted on the target's emulator where that is prepared. With `require`, latency and memory of less
    provenance break the budget. A student that a device shows to break its budget, or to take less than half of it, is
    planned and made anew at most `rounds` times.

    Raises:
        EdgekdError: with a hint of what to do; a device that does not answer is known before any long work.
    """
    return run_all(recipe, [target], out=out, until=until, mode=mode, on=on, require=require, rounds=rounds)[0]


def run_all(
    recipe: str | Path | Recipe,
    targets: Sequence[str | Path | Target],
    *,
    out: str | Path | None = None,
    until: Step = "report",
    mode: Mode | None = None,
    crosswise: bool = False,
    on: Sequence[str] = (),
    require: Required | None = None,
    rounds: int = 1,
) -> list[Result]:
    """As `run`, for several targets that share one teacher.

    A device in `on` is for all of them, or for one: "raspberry-pi-4=ssh://pi@kitchen".
    """
    return _run(
        recipe,
        targets,
        out,
        until=until,
        mode=mode,
        crosswise=crosswise,
        on=on,
        require=require,
        afresh=True,
        rounds=rounds,
    )


def plan_all(
    recipe: str | Path | Recipe,
    targets: Sequence[str | Path | Target] = (),
    *,
    out: str | Path | None = None,
    on: Sequence[str] = (),
    whole: bool = False,
    probe: bool = False,
    scale: str = "",
) -> list[Result]:
    """The student to make for each target, in `made.plan`; or of a run folder, where there are no targets.

    `whole` searches all of the family's space, `probe` ranks by short distillations. Nothing else is trained.

    Raises:
        BudgetInfeasible: nothing fits a target; says by how much.
        EdgekdError: as `run`.
    """
    if not targets:
        if isinstance(recipe, Recipe) or _names_a_recipe(recipe) or whole or probe or out or scale:
            raise ConfigError("no target", hint="name one with --target; `edgekd targets` lists the shipped ones")
        return resume(recipe, until="plan", on=on)
    wanted = _checked(recipe) if isinstance(recipe, Recipe) else load_recipe(recipe, scale)
    if whole:
        wanted = msgspec.structs.replace(wanted, student=msgspec.structs.replace(wanted.student, space="whole"))
    if probe:
        wanted = msgspec.structs.replace(wanted, prefer="best by probes within the budget")
    return run_all(wanted, targets, out=out, until="plan", on=on)


def _names_a_recipe(text: str | Path) -> bool:
    return str(text) in recipe_names() or Path(text).suffix == ".toml"


def plans(results: Sequence[Result]) -> dict[str, Any]:
    """What `edgekd plan --json` prints: {targets: [{target, student, predicted, considered, fitting, front ...}]}."""
    return {
        "schema": 1,
        "run": str(results[0].folder),
        "targets": [
            {**msgspec.to_builtins(result.made.plan), "limits": _limits(result), "provenance": "estimated"}
            for result in results
        ],
    }


def _limits(result: Result) -> dict[str, float]:
    """The finite limits of a target, as the run keeps them."""
    path = result.folder / "inputs" / f"target-{result.made.target}.json"
    budget = msgspec.to_builtins(decode_json(Target, read_text(path), str(path)).budget)
    return {name: limit for name, limit in budget.items() if math.isfinite(limit)}


def _run(
    recipe: str | Path | Recipe,
    targets: Sequence[str | Path | Target],
    out: str | Path | None,
    *,
    until: Step,
    mode: Mode | None,
    crosswise: bool,
    on: Sequence[str],
    require: Required | None,
    afresh: bool,
    rounds: int,
) -> list[Result]:
    if require and until != "report":
        raise ConfigError("only a report has verdicts that could be required", hint="leave `until` out")
    wanted = _checked(recipe) if isinstance(recipe, Recipe) else load_recipe(recipe)
    aims = [_checked(one) if isinstance(one, Target) else load_target(one) for one in targets]
    if not aims:
        raise ConfigError("no target", hint="name one with --target; `edgekd targets` lists the shipped ones")
    if len({aim.name for aim in aims}) < len(aims):
        raise ConfigError("two targets have the same name", hint="give each its own `name`")
    folder = Run(Path(out) if out else Path("runs") / wanted.name)
    with folder.lock():
        return [
            Result(folder.folder, made)
            for made in build(
                folder,
                wanted,
                aims,
                until=until,
                mode=mode,
                crosswise=crosswise,
                on=on,
                required=require,
                afresh=afresh,
                rounds=rounds,
            )
        ]


def _checked(noun: T) -> T:
    """A noun made in Python, as if it had been read from a file: valid, and with 33.0 where somebody wrote 33."""
    kind = type(noun)
    return decode(kind, msgspec.to_builtins(noun), f"{kind.__name__.lower()} {noun.name}")


def resume(
    folder: str | Path,
    *,
    until: Step = "report",
    mode: Mode | None = None,
    crosswise: bool = False,
    on: Sequence[str] = (),
    require: Required | None = None,
) -> list[Result]:
    """Go on with a run folder, up to a step, with the recipe, the targets and the devices that it was made with.

    Devices in `on` take the place of those, and what failed on them is tried again; the rest is as in `run_all`.

    `crosswise` verifies on every engine that is installed here, each execution against each.

    Raises:
        ConfigError: it is not a run folder.
    """
    inputs = Path(folder) / "inputs"
    if not (inputs / "recipe.json").is_file():
        raise ConfigError(f"{folder} is not a run folder", hint="`edgekd run RECIPE --target T -o FOLDER` makes one")
    recipe = decode_json(Recipe, read_text(inputs / "recipe.json"), str(inputs / "recipe.json"))
    targets = [decode_json(Target, read_text(path), str(path)) for path in sorted(inputs.glob("target-*.json"))]
    devices = on or remembered(Path(folder), targets)
    return _run(
        recipe,
        targets,
        folder,
        until=until,
        mode=mode,
        crosswise=crosswise,
        on=devices,
        require=require,
        afresh=bool(on),
        rounds=0,
    )


class Export(msgspec.Struct, frozen=True):
    """A model in the formats of devices."""

    folder: Path
    artifacts: tuple[Exported, ...]
    parity: dict[str, Pair]
    """Export -> how close the file, on the first engine that executes it here, is to the model in PyTorch."""

    @property
    def failed(self) -> tuple[str, ...]:
        """Exports that could not be written."""
        return tuple(one.export for one in self.artifacts if one.error)

    @property
    def ok(self) -> bool:
        """True when all were written and fit the target, and those that could be executed agree with the model."""
        fit = not any(one.unfit for one in self.artifacts)
        return fit and not self.failed and all(pair.ok for pair in self.parity.values())

    def summary(self) -> dict[str, Any]:
        """What `edgekd export MODEL --json` prints."""
        artifacts = [
            {**msgspec.to_builtins(one), "parity": msgspec.to_builtins(self.parity.get(one.export))}
            for one in self.artifacts
        ]
        return {"schema": 1, "ok": self.ok, "folder": str(self.folder), "artifacts": artifacts}


def export_model(
    model: str | Callable[..., Any],
    to: Sequence[str],
    *,
    target: str | Path | Target | None = None,
    calibration: str | Callable[..., Any] = "",
    out: str | Path = "exports",
    shapes: dict[str, tuple[int, ...]] | None = None,
    ranges: str = "full",
    licence: str = "",
    labels: Sequence[str] = (),
) -> Export:
    """Write a model that you have in the formats of devices, and hold every file against it.

    `model` is a function that returns a torch module, its `module:function`, or the path of a .pt2, .onnx, .keras, .h5
    or SavedModel. `calibration` gives examples for int8: a .npz, .npy or a function that returns arrays of (examples,
    *shape), by input name where there are several inputs. Without `to`, the exports of `target` are written.

    Raises:
        EdgekdError: before any work; an export that fails is in `failed`, and says why.
    """
    aim = None if target is None else _checked(target) if isinstance(target, Target) else load_target(target)
    exports = listed(to) or (aim.exports if aim else ())
    if not exports:
        raise ConfigError("nothing to export to", hint="--to tflite-int8,onnx-fp32, or --target raspberry-pi-4")
    properties = {"edgekd.licence": licence, "edgekd.classes": json.dumps(list(labels)) if labels else ""}
    order = Order(
        model=reference(model),
        exports=exports,
        shapes=shapes or {},
        calibration=reference(calibration),
        properties={key: value for key, value in properties.items() if value},
        quantization=quantized_as(ranges),
    )
    examples = first_examples(given_inputs(order.calibration), EXAMPLES) if order.calibration else None
    folder = Path(out)
    made = convert(order, folder, aim)
    return Export(folder, made.artifacts, _held_against_the_model(made, folder, examples))


def _held_against_the_model(made: Manifest, folder: Path, examples: Tensors | None) -> dict[str, Pair]:
    """Each file on the first engine that executes it here against the model in PyTorch."""
    model = sides_of(made.model, shapes=made.shapes)[0]
    files = {one.export: sides_of(str(folder / one.file))[:1] for one in made.artifacts if one.file and able(one.file)}
    sides = [model, *(side for found in files.values() for side in found)]
    pairs = {pair.b: pair for pair in matrix(sides, examples).pairs if pair.a == model.name}
    return {export: pairs[found[0].name] for export, found in files.items() if found and found[0].name in pairs}


def verify_models(
    models: Sequence[str | Path],
    *,
    inputs: str | Callable[..., Any] = "",
    engines: Sequence[str] = (),
    examples: int = EXAMPLES,
    on: str = "",
) -> Matrix:
    """Execute models, each on every engine that is installed here, on the same inputs, and hold each against each.

    With `on`, a device such as "ssh://me@mac", files are executed there too.

    A folder that `export` wrote stands for its files and for the model that they were made of. Without `inputs` the
    examples are seeded random numbers.

    Raises:
        EdgekdError: a model cannot be read; one that cannot be executed is in the matrix, and says why.
    """
    sides = [side for model in models for side in _sides(str(model), engines, on)]
    if len(sides) < 2:
        raise ConfigError("one execution alone agrees with everything", hint="name another model, or a folder of them")
    given = given_inputs(reference(inputs)) if inputs else None
    return matrix(sides, given, examples)


def _sides(model: str, engines: Sequence[str], on: str) -> list[Side]:
    made = manifest_of(Path(model)) if Path(model).is_dir() else None
    if made is None:
        return sides_of(model, engines, on=on)
    folder = Path(model)
    files = [one for one in made.artifacts if not one.error]
    damaged = [why for one in files if (why := changed(folder, one))]
    if damaged:
        raise CorruptStep(damaged[0], hint="export it again")
    listed = [side for one in files for side in sides_of(str(folder / one.file), engines, one.export, on=on)]
    return [*sides_of(made.model, shapes=made.shapes), *listed]


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
