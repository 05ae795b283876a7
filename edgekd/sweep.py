"""Many runs, one table: recipes x targets x seeds x options, on Ray, on this machine or on a cluster."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edgekd import api
from edgekd.errors import ConfigError, EdgekdError, PluginUnavailable
from edgekd.files import decode_json, digest, dumps, load_toml, read_text, write_text
from edgekd.pipeline import Made, Step, environment
from edgekd.progress import tell
from edgekd.shipped import changed, load_recipe, load_target
from edgekd.specs import Count, Name, Seed, Size, Spec, Text

SCHEMA: Final = 1
MOST_CELLS: Final = 10_000
Seeded = Literal["everything", "student"]
"""What a seed is the start of."""


class Sweep(Spec, frozen=True, kw_only=True):
    """What is compared (one TOML file)."""

    schema: Literal[1]
    name: Name
    title: Text
    recipes: Annotated[tuple[Text, ...], Meta(min_length=1)]
    """Names of shipped ones, or paths beside the sweep's file."""
    targets: Annotated[tuple[Text, ...], Meta(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1)] = (0, 1, 2)
    seeded: Seeded = "everything"
    """"student" gives all seeds of a recipe the same teacher, which is trained and asked once."""
    scale: str = ""
    """Of the recipes: "small"."""
    options: dict[str, Annotated[list[Any], Meta(min_length=1)]] = {}
    """Path in a recipe -> values; every combination is run: {"losses.0.options.temperature" = [2.0, 4.0]}."""
    until: Step = "verify"
    cpus: Count = 2
    """That a run takes on a cluster."""


class Cell(Spec, frozen=True, kw_only=True):
    """One run: a recipe with its options and seed, for all targets, which share its teacher."""

    recipe: str
    targets: tuple[str, ...]
    seed: Seed
    seeded: Seeded
    scale: str
    options: dict[str, Any]
    until: Step
    folder: str
    """Of the run."""


class Row(Spec, frozen=True, kw_only=True):
    """What a run found for a target; all of it on the test split, `host`."""

    recipe: str
    target: str
    options: dict[str, Any]
    seed: Seed
    metric: str = ""
    teacher: float | None = None
    student: float | None = None
    twin: float | None = None
    """The same student without a teacher, at equal compute."""
    artifacts: dict[str, float] = {}
    """Export -> metric."""
    teacher_parameters: Size = 0
    student_parameters: Size = 0
    teacher_macs: Size = 0
    student_macs: Size = 0
    file_bytes: dict[str, Size] = {}
    error: str = ""
    """Why there is nothing."""
    exit_code: int = 0


class Swept(Spec, frozen=True, kw_only=True):
    """All rows of a sweep."""

    schema: Literal[1] = 1
    sweep: Sweep
    rows: tuple[Row, ...]
    environment: dict[str, str]


class _Kept(Spec, frozen=True, kw_only=True):
    """The rows of a cell, and what they are of."""

    key: str
    rows: tuple[Row, ...]


def load_sweep(path: Path) -> Sweep:
    """A sweep's file; recipes and targets that lie beside it are named by their paths.

    Raises:
        ConfigError: it is not valid, or a recipe, target, scale or option of it is not there.
    """
    sweep = load_toml(Sweep, path)
    folder = path.resolve().parent
    beside = {part: tuple(_beside(name, folder) for name in getattr(sweep, part)) for part in ("recipes", "targets")}
    sweep = msgspec.structs.replace(sweep, **beside)
    for cell in cells(sweep, Path()):
        _recipe(cell)
    for target in sweep.targets:
        load_target(target)
    return sweep


def cells(sweep: Sweep, out: Path) -> list[Cell]:
    """Every run of a sweep; its folder says what it is.

    Raises:
        ConfigError: there are more than 10,000.
    """
    points = [dict(zip(sweep.options, point, strict=True)) for point in itertools.product(*sweep.options.values())]
    count = len(sweep.recipes) * len(points) * len(sweep.seeds)
    if count > MOST_CELLS:
        raise ConfigError(f"the sweep has {count} runs, at most {MOST_CELLS}", hint="fewer values or seeds")
    return [
        Cell(
            recipe=recipe,
            targets=sweep.targets,
            seed=seed,
            seeded=sweep.seeded,
            scale=sweep.scale,
            options=options,
            until=sweep.until,
            folder=str(out / Path(recipe).stem / _label(options) / f"seed-{seed}"),
        )
        for recipe in sweep.recipes
        for options in points
        for seed in sweep.seeds
    ]


def run_sweep(sweep: Sweep, out: Path, ray: str = "local") -> Swept:
    """Run what is not done yet, and write `sweep.json` and `sweep.md` into `out`.

    `ray` is the address of a cluster, "local" for one that is started on this machine, or "none" to do without: one
    run after the other. A run that fails is a row with an error; the others go on.

    Raises:
        PluginUnavailable: Ray is not installed.
        StorageError: the folder cannot be written.
    """
    wanted = cells(sweep, out.resolve())
    out.mkdir(parents=True, exist_ok=True)
    done = {cell.folder: rows for cell in wanted if (rows := _kept(cell)) is not None}
    left = [cell for cell in wanted if cell.folder not in done]
    for number, (cell, rows) in enumerate(_executed(left, ray, sweep.cpus)):
        done[cell.folder] = rows
        tell(f"sweep {sweep.name}", len(wanted) - len(left) + number + 1, len(wanted))
    found = tuple(row for cell in wanted for row in done[cell.folder])
    swept = Swept(sweep=sweep, rows=found, environment=environment())
    write_text(out / "sweep.json", dumps(swept))
    write_text(out / "sweep.md", markdown(swept))
    return swept


def run_cell(cell: Cell) -> tuple[Row, ...]:
    """Do one run, or go on with it, and keep what it found beside it; an error of ours is a row."""
    recipe = _recipe(cell)
    try:
        results = api.run_all(recipe, list(cell.targets), out=cell.folder, until=cell.until)
        rows = tuple(_row(cell, recipe.name, result.made) for result in results)
    except EdgekdError as error:
        why, code = f"{type(error).__name__}: {error}", error.exit_code
        return tuple(
            Row(recipe=recipe.name, target=one, options=cell.options, seed=cell.seed, error=why, exit_code=code)
            for one in cell.targets
        )
    write_text(Path(cell.folder) / "row.json", dumps(_Kept(key=_key(cell), rows=rows)))
    return rows


def _recipe(cell: Cell) -> Any:
    recipe = load_recipe(cell.recipe, cell.scale)
    which = "seed" if cell.seeded == "everything" else "student_seed"
    recipe = msgspec.structs.replace(recipe, **{which: cell.seed})
    return changed(recipe, cell.options, f"sweep of {recipe.name}") if cell.options else recipe


def _kept(cell: Cell) -> tuple[Row, ...] | None:
    """What a finished cell found; None where it is to be done, or the recipe has changed."""
    file = Path(cell.folder) / "row.json"
    if not file.is_file():
        return None
    try:
        kept = decode_json(_Kept, read_text(file), str(file))
    except EdgekdError:
        return None
    return kept.rows if kept.key == _key(cell) else None


def _key(cell: Cell) -> str:
    targets = [load_target(target) for target in cell.targets]
    return digest([_recipe(cell), targets, cell.until])


def _row(cell: Cell, recipe: str, made: Made) -> Row:
    student, scores = made.student, {one.artifact: one.metrics for one in reversed(made.agreements)}
    teacher = made.teacher
    metric = student.subject.metric if student else next(iter(teacher.metrics), "") if teacher else ""
    return Row(
        recipe=recipe,
        target=made.target,
        options=cell.options,
        seed=cell.seed,
        metric=metric,
        teacher=teacher.metrics.get(metric) if teacher else None,
        student=student.metrics[metric] if student else None,
        twin=student.twin_metrics[metric] if student else None,
        artifacts={one.export: scores[one.export][metric] for one in made.artifacts if one.export in scores},
        teacher_parameters=teacher.parameters if teacher else 0,
        student_parameters=student.parameters if student else 0,
        teacher_macs=teacher.macs if teacher else 0,
        student_macs=student.macs if student else 0,
        file_bytes={one.export: one.file_bytes for one in made.artifacts},
    )


# --- where cells are executed


def _executed(wanted: Sequence[Cell], ray: str, cpus: int) -> Iterator[tuple[Cell, tuple[Row, ...]]]:
    """Each cell with its rows, as they are done."""
    if ray == "none" or not wanted:
        yield from ((cell, run_cell(cell)) for cell in wanted)
    else:
        yield from _on_ray(wanted, ray, cpus)


def _on_ray(wanted: Sequence[Cell], address: str, cpus: int) -> Iterator[tuple[Cell, tuple[Row, ...]]]:
    try:
        import ray
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            "a sweep runs on Ray, which is not installed", hint="pip install 'edgekd[cluster]', or --ray none"
        ) from missing
    local = address == "local"
    try:
        ray.init(address=None if local else address, include_dashboard=False, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster answers at {address}", hint="start one: ray start --head") from error
    try:
        available = int(ray.cluster_resources().get("CPU", 1))
        remote: Callable[..., Any] = ray.remote(num_cpus=min(cpus, available), max_retries=2)(_remotely)
        waiting = {remote.remote(dumps(cell)): cell for cell in wanted}  # type: ignore[attr-defined]  # of Ray
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready), msgspec.json.decode(ray.get(ready), type=tuple[Row, ...])
    finally:
        ray.shutdown()


def _remotely(cell: str) -> str:
    """On a worker of Ray: texts in, texts out."""
    return dumps(run_cell(decode_json(Cell, cell, "a cell of a sweep")))


# --- the table


class Group(Spec, frozen=True, kw_only=True):
    """The seeds of one recipe, target and choice of options."""

    recipe: str
    target: str
    options: dict[str, Any]
    rows: tuple[Row, ...]

    def values(self, what: str) -> list[float]:
        """Of each seed that has it: "teacher", "student", "twin", "gain", or an export."""
        if what == "gain":
            return [one.student - one.twin for one in self.rows if one.student is not None and one.twin is not None]
        found = [{**_scores(row), **row.artifacts}.get(what) for row in self.rows]
        return [value for value in found if value is not None]


def _of_seeds(sweep: Sweep) -> str:
    seeds = ", ".join(map(str, sweep.seeds))
    return f"the seeds {seeds}" if sweep.seeded == "everything" else f"students' seeds {seeds}, of one teacher"


def _scores(row: Row) -> dict[str, float | None]:
    return {"teacher": row.teacher, "student": row.student, "twin": row.twin}


def groups(swept: Swept) -> list[Group]:
    """Rows that differ by their seed alone, together; failed ones are left out."""
    together: dict[str, list[Row]] = defaultdict(list)
    for row in swept.rows:
        if not row.error:
            together[dumps([row.recipe, row.target, row.options])].append(row)
    return [
        Group(recipe=rows[0].recipe, target=rows[0].target, options=rows[0].options, rows=tuple(rows))
        for rows in together.values()
    ]


def verdict(gains: Sequence[float]) -> str:
    """What distillation did in the mean over seeds; in brackets where they disagree on it.

    >>> verdict([0.01, 0.02]), verdict([0.01, -0.03]), verdict([0.0])
    ('helped', '(hurt)', 'nothing')
    """
    mean = statistics.fmean(gains)
    word = "helped" if mean > 0 else "hurt" if mean < 0 else "nothing"
    one_sided = all(gain >= 0 for gain in gains) or all(gain <= 0 for gain in gains)
    return word if one_sided else f"({word})"


def spread(values: Sequence[float]) -> str:
    """Mean and deviation over seeds."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation}"


def markdown(swept: Swept) -> str:
    """The table that is published: means and deviations over seeds."""
    found = groups(swept)
    exports = list(dict.fromkeys(export for group in found for row in group.rows for export in row.artifacts))
    heads = ["recipe", "target", *swept.sweep.options, "metric", "teacher", "student", "same without teacher", "gain"]
    lines = [
        f"# {swept.sweep.title}",
        "",
        f"Metrics on the test split, provenance `host`; mean and deviation over {_of_seeds(swept.sweep)}; "
        f"{', '.join(f'{k} {v}' for k, v in swept.environment.items())}.",
        "",
        _line([*heads, "distillation", *exports, "parameters", "MACs"]),
        _line(["---"] * (len(heads) + len(exports) + 3)),
    ]
    for group in found:
        row = group.rows[0]
        gains = group.values("gain")
        cells = [group.recipe, group.target, *(str(value) for value in group.options.values()), row.metric]
        cells += [spread(group.values(what)) for what in ("teacher", "student", "twin", "gain")]
        cells += [verdict(gains) if gains else "", *(spread(group.values(export)) for export in exports)]
        cells += [_times(row.teacher_parameters, row.student_parameters), _times(row.teacher_macs, row.student_macs)]
        lines.append(_line(cells))
    failed = [row for row in swept.rows if row.error]
    lines += ["", *(f"- {row.recipe} for {row.target}, seed {row.seed}: {row.error}" for row in failed)]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _times(teacher: int, student: int) -> str:
    return f"{student:,} (1/{teacher / student:.1f})" if teacher and student else f"{student:,}"


def _label(options: dict[str, Any]) -> str:
    return digest(options)[:10] if options else "as-it-is"


def _beside(name: str, folder: Path) -> str:
    return str(folder / name) if name.endswith(".toml") and (folder / name).is_file() else name
