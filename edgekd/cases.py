"""Finds what an artifact is held against.

A file of a run: the student that it was made from, on the run's test data. A file from anywhere: a float file of the
same net, in any format, or nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd import heads, sources
from edgekd.divergence import explained_db
from edgekd.errors import ConfigError, EdgekdError
from edgekd.executions import FileSide, Side, TorchSide
from edgekd.files import decode_json, read_text
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.parity import least_db
from edgekd.runs import Run, Work
from edgekd.sides import is_artifact
from edgekd.specs import Artifact, Data, Seed, Spec, Student, Target, TensorSpec
from edgekd.tensors import drawn, first_examples, fitted, given_inputs
from edgekd.training import in_layouts, labels_of, viewer_of
from edgekd.verify import engine_for

EXAMPLES: Final = 64
"""Of a run's test data, or random ones, where nobody asks for another number."""
FEW: Final = 4
"""Random examples where there is nothing to compare."""
MOST_ELEMENTS: Final = 5e8
"""Of an input."""

Array = NDArray[Any]


class Request(Spec, frozen=True, kw_only=True):
    """What to blame."""

    artifact: str
    """A model file, a folder of a finished export, or an export by name in a run folder: "runs/digits/tflite-int8"."""
    against: str = ""
    """A float model of the same net, in any format, or as `module:function`; "" takes the run's student, or nothing."""
    engine: str = ""
    """That executes the artifact; "" takes the first that can."""
    inputs: str = ""
    """A .npz or .npy file, or a `module:function` that returns an array for each input, of shape (examples, *input
    shape); "" takes the run's test data, or random numbers."""
    examples: int = EXAMPLES
    seed: Seed = 0
    least_db: float | None = None
    """Below which two executions have parted; None takes what the artifact's precision explains."""
    timed: bool = True


@dataclass
class Case:
    """An artifact with everything to hold it against."""

    name: str
    side: FileSide
    reference: Side | None
    against: str
    takes: tuple[TensorSpec, ...]
    """Inputs of the reference, or of the artifact where there is none."""
    inputs: list[Array]
    told: str
    """Where the inputs are from."""
    least_db: float
    twin: FileSide | None = None
    """A float file of the same net, to hold times against."""
    metric: str = ""
    score: Callable[[list[Array]], float] | None = None
    notes: tuple[str, ...] = ()


def find_case(request: Request, scratch: Path) -> Case:
    """The artifact that is meant, and everything to hold it against.

    Raises:
        ConfigError: there is no such artifact, it is damaged, or a user's function does not give inputs.
        CorruptStep: a finished step of the run was changed.
    """
    path, where = _resolved(request.artifact)
    case = _of_file(request, path) if where is None else _of_run(request, path, where, scratch)
    if request.least_db is not None:
        case.least_db = request.least_db
    if request.inputs:
        given = first_examples(given_inputs(request.inputs), request.examples)
        case.inputs = list(fitted(given, case.takes, case.name).arrays)
        case.told, case.score, case.metric = request.inputs, None, ""
    return case


@dataclass
class _Where:
    """A place in a run folder."""

    run: Run
    target: str
    artifact: Artifact | None
    """None for a file that is not the artifact of a finished export."""


def _resolved(text: str) -> tuple[Path, _Where | None]:
    """The model file that is meant, and where it stands in a run folder if it does.

    Raises:
        ConfigError: there is none.
    """
    path = Path(text)
    if not path.exists():
        return _by_name(path)
    folder = _run_folder(path)
    if folder is None:
        return path, None
    run = Run(folder)
    parts = path.resolve().relative_to(run.folder).parts
    if not parts:
        raise ConfigError(f"{path} is a run folder", hint=f"name an export in it: {path / 'tflite-int8'}")
    step = next((one for one in (path, *path.parents) if (one / "result.json").is_file()), None)
    if step is not None and step.parent.name == "3-export":
        artifact = run.result(step.resolve().relative_to(run.folder).as_posix(), Artifact)
        return run.folder / artifact.model.path, _Where(run, parts[0], artifact)
    if not path.is_file() and path.suffix != ".mlpackage":
        raise ConfigError(f"{path} is no model file", hint="name a file, or a folder in 3-export")
    return path, _Where(run, parts[0], None)


def _by_name(path: Path) -> tuple[Path, _Where]:
    """An export by its name in a run folder, or in a target's folder there."""
    folder = _run_folder(path.parent) if path.parent.is_dir() else None
    if folder is None:
        raise ConfigError(f"{path}: no such file", hint="a model file, or RUN/EXPORT such as runs/digits/tflite-int8")
    inside = path.parent.resolve().relative_to(folder.resolve()).parts
    steps = sorted(folder.glob(f"{inside[0] if inside else '*'}/3-export/*/result.json"))
    names = [step.parent.name for step in steps]
    if path.name not in names:
        raise ConfigError(f"{folder} has no export {path.name!r}", hint=f"it has {', '.join(dict.fromkeys(names))}")
    return _resolved(str(steps[names.index(path.name)].parent))  # type: ignore[return-value]  # it is in a run


def _run_folder(path: Path) -> Path | None:
    around = (path.resolve(), *path.resolve().parents)
    return next((one for one in around if (one / "inputs" / "recipe.json").is_file()), None)


def _of_file(request: Request, path: Path) -> Case:
    side = FileSide.of(path, request.engine)
    reference, takes = _against(request.against) if request.against else (None, side.graph.inputs)
    examples = request.examples if reference else FEW
    notes = () if reference else ("there is no float model to compare with: --against FILE",)
    described = [{"name": one.name, "shape": one.shape, "dtype": one.dtype} for one in takes]
    if any(np.prod([examples, *map(abs, one.shape)], dtype=np.float64) > MOST_ELEMENTS for one in takes):
        raise ConfigError(f"{path} takes inputs that are too large to draw", hint="give smaller ones with --inputs")
    return Case(
        name=str(path),
        side=side,
        reference=reference,
        against=request.against,
        takes=takes,
        inputs=list(drawn(described, examples, request.seed).arrays),
        told=f"random numbers, seed {request.seed}",
        least_db=explained_db(side.graph),
        twin=reference if isinstance(reference, FileSide) else None,
        notes=notes,
    )


def _against(name: str) -> tuple[Side, tuple[TensorSpec, ...]]:
    """A float model, and what it takes: a file of a device's format, or anything that becomes a torch module."""
    if is_artifact(name):
        side = FileSide.of(Path(name))
        return side, side.graph.inputs
    model = sources.open_model(name)
    return TorchSide(model.module), model.inputs


def _of_run(request: Request, path: Path, where: _Where, scratch: Path) -> Case:
    run, artifact = where.run, where.artifact
    data = run.result("data", Data)
    student = run.result(f"{where.target}/2-distil", Student)
    work = Work(str(run.folder), "blame", str(scratch))
    net = build(student.choice, data.subject)
    load(net.module, work.path(student.weights))
    viewer = viewer_of(work, data, "test", student.preprocessing)
    chosen = np.linspace(0, len(viewer) - 1, min(request.examples, len(viewer))).round().astype(np.int64)
    labels, subject = labels_of(work, data, "test", chosen), data.subject
    if artifact and artifact.steps:
        raise ConfigError(
            f"{artifact.export} is one step of a net that writes, and what it hands to the next is not followed",
            hint="`edgekd verify RUN` leads it through whole texts",
        )
    side = FileSide.of(path, request.engine or _engine(where))
    against = _against(request.against)[0] if request.against else None
    examples = in_layouts(viewer.inputs(chosen), student.inputs)
    return Case(
        name=artifact.export if artifact else str(path),
        side=side,
        reference=against or TorchSide(net.module.eval()),
        against=request.against or "student",
        takes=tuple(TensorSpec(name="", shape=one.shape[1:]) for one in examples),
        inputs=list(examples),
        told="test data of the run",
        least_db=least_db(artifact.precision) if artifact else explained_db(side.graph),
        twin=against if isinstance(against, FileSide) else _twin(run, where, side),
        metric=subject.metric,
        score=lambda outputs: heads.score(subject, heads.counts(subject, [one[:, 0] for one in outputs], labels)),
    )


def _engine(where: _Where) -> str:
    """The engine that the run's target has for the artifact; "" where it is not here."""
    file = where.run.folder / "inputs" / f"target-{where.target}.json"
    if where.artifact is None or not file.is_file():
        return ""
    target = decode_json(Target, read_text(file), str(file))
    return engine_for(where.artifact, target.engines) or ""


def _twin(run: Run, where: _Where, side: FileSide) -> FileSide | None:
    """The export of the same format in float32, where the run has one that is another."""
    for step in sorted(run.folder.glob(f"{where.target}/3-export/*-fp32/result.json")):
        try:
            artifact = run.result(step.parent.relative_to(run.folder).as_posix(), Artifact)
            if artifact.format == side.graph.format and run.folder / artifact.model.path != side.path:
                return FileSide.of(run.folder / artifact.model.path, side.engine)
        except EdgekdError:
            continue
    return None
