"""Write down what a teacher says about every view of the training split: each answer is computed once, whoever asks.

What is said about a view is an entry of the store, with a column for each output and each layer: a student that looks
at another layer adds a column, a run that was killed goes on after its last shard, and a run of another student, target
or seed of the student finds all of it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekd import heads, store, topk
from edgekd.columns import Column, shards_of
from edgekd.errors import ConfigError, StorageError
from edgekd.files import digest, link
from edgekd.fronts import seen
from edgekd.layers import Tap, shapes_of
from edgekd.nets import Net
from edgekd.objectives import example_of
from edgekd.oracles import identity, trained
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Data, Said, Subject, Teacher, Told, Views
from edgekd.training import BATCH_OF_INFERENCE, predicting
from edgekd.views import Viewer
from edgekd.workers import call

VERSION = 3

TIMEOUT_S: Final = 86_400.0
LAYERS_BYTES: Final = 4 * 10**9
"""Room that a teacher's layers may take; above it they are asked for again in every epoch."""
BATCH_BYTES: Final = 2**26
"""Of a batch's answers in float32, about."""
TRIES: Final = 3

Answers = tuple[NDArray[np.float32], ...]


def know(
    work: Work,
    teacher: Teacher,
    data: Data,
    outputs: tuple[int, ...],
    layers: tuple[str, ...],
    views: Views,
    seed: int,
    top_k: int,
    source: str,
    threads: int,
) -> Told:
    """What the teacher and some layers of it say about each seeded view of the training split.

    Of outputs of more than 1000 classes the `top_k` largest logits are kept, or all where that is 0; `source` is the
    fingerprint of a user's own code.

    Raises:
        ConfigError: it answers NaN.
        StorageError: the disk is full; what was said before is kept.
    """
    log = work.out / "worker.log"
    given = (teacher, data, outputs, layers, views, seed, top_k, source)
    return call(_know, work, *given, threads=threads, log=log, timeout_s=TIMEOUT_S)


@dataclass(frozen=True)
class _Asked:
    """A teacher, what it is shown, and what is kept of its answers."""

    module: nn.Module
    viewer: Viewer
    shards: Sequence[range]
    parts: int
    """Shards of all views."""
    tap: Tap
    batch: int
    wanted: dict[str, Callable[[Answers], NDArray[Any]]]
    """Column -> what it gets of the answers to a batch."""
    view_bytes: int
    """Of all columns of a view."""


def _know(
    work: Work,
    teacher: Teacher,
    data: Data,
    outputs: tuple[int, ...],
    layers: tuple[str, ...],
    views: Views,
    seed: int,
    top_k: int,
    source: str,
) -> Told:
    subject = heads.restricted(data.subject, outputs)
    net = trained(work, teacher, subject)
    shapes = shapes_of(net.module, layers, *example_of(net, subject))
    who = digest([teacher.weights.sha256, source, identity(teacher.choice, net)])
    said = []
    with seen(work, data, "train", net, views, seed) as (module, viewer):
        room = 2 * len(viewer) * views.count * sum(map(prod, shapes.values()))
        kept = layers if room <= LAYERS_BYTES else ()
        asked = _asked(module, net, viewer, views.count, subject, {path: shapes[path] for path in kept}, top_k)
        for view in range(views.count):
            folder = work.out / f"view-{view:03}"
            if not folder.exists():  # a killed try's finished views are kept
                what = f"{teacher.choice.name} of {data.name}, view {view}"
                with store.entry(_key(who, net, subject, data, views, seed, view), "knowledge", what) as shelf:
                    _take(asked, shelf, view, folder)
            files = [work.keep(folder / name) for name in _names(len(outputs), len(kept))]
            said.append(Said(outputs=tuple(files[: len(outputs)]), layers=tuple(files[len(outputs) :])))
        tell("asking the teacher", asked.parts, asked.parts)
        asked.tap.close()
    store.make_room()
    return Told(teacher=teacher, outputs=outputs, views=tuple(said), layers=layers, kept=kept == layers)


def _key(who: str, net: Net, subject: Subject, data: Data, views: Views, seed: int, view: int) -> str:
    """Everything that an answer depends on, but the number of threads, whose last bits float16 hides.

    Where all views are the same picture they are one.
    """
    how = msgspec.structs.replace(views, count=1)
    if net.preprocessing is None or how == Views():
        how, seed, view = Views(), 0, 0
    asked = [[output.name, output.task, output.shape, output.classes] for output in subject.outputs]
    return digest(["knowledge", VERSION, who, asked, [file.sha256 for file in data.inputs("train")], how, seed, view])


def _asked(
    module: nn.Module,
    net: Net,
    viewer: Viewer,
    views: int,
    subject: Subject,
    layers: dict[str, tuple[int, ...]],
    top_k: int,
) -> _Asked:
    tap = Tap(net.module, list(layers))
    wanted: dict[str, Callable[[Answers], NDArray[Any]]] = {}
    sizes = []
    for index, output in enumerate(subject.outputs):
        if output.is_choice and topk.applies(top_k, output.shape[0]):
            wanted[f"output-{index}.top-{top_k}"] = partial(_largest, index, top_k)
            sizes.append(topk.record_bytes(top_k, output.shape))
        else:
            wanted[f"output-{index}"] = partial(_output, index)
            sizes.append(2 * prod(output.shape))
    for path, shape in layers.items():
        wanted[f"layer-{digest(path)[:16]}"] = partial(_layer, tap, path)
        sizes.append(2 * prod(shape))
    one = 4 * sum(map(prod, [*layers.values(), *(output.shape for output in subject.outputs)]))
    batch = max(1, min(BATCH_OF_INFERENCE, BATCH_BYTES // one))
    shards = shards_of(len(viewer), BATCH_OF_INFERENCE)
    return _Asked(module, viewer, shards, views * len(shards), tap, batch, wanted, len(viewer) * sum(sizes))


def _output(index: int, answers: Answers) -> NDArray[np.float16]:
    return _half(answers[index])


def _largest(index: int, k: int, answers: Answers) -> NDArray[Any]:
    return topk.pack(_numbers(answers[index]), k)


def _layer(tap: Tap, path: str, answers: Answers) -> NDArray[np.float16]:
    return _half(tap.found[path].float().numpy())


def _half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    return np.clip(_numbers(values), -topk.LARGEST, topk.LARGEST).astype("<f2")  # masks of attention lie below it


def _numbers(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if np.isnan(values).any():
        raise ConfigError("the teacher answers NaN", hint="train it longer, or at a lower learning rate")
    return values


def _names(outputs: int, layers: int) -> list[str]:
    """Of a view's files in a run."""
    return [*(f"output-{index}.npy" for index in range(outputs)), *(f"layer-{index}.npy" for index in range(layers))]


def _take(asked: _Asked, shelf: Path, view: int, folder: Path) -> None:
    """A view's files from its entry, where they are completed; the folder is there when it is whole."""
    columns = {name: Column(shelf, name, asked.shards) for name in asked.wanted}
    _complete(asked, view, columns)
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(exist_ok=True)
    layers = sum(name.startswith("layer-") for name in columns)
    for column, name in zip(columns.values(), _names(len(columns) - layers, layers), strict=True):
        link(column.path, part / name)
    part.replace(folder)


def _complete(asked: _Asked, view: int, columns: dict[str, Column]) -> None:
    """Ask for what is missing or damaged, and for nothing else."""
    for _ in range(TRIES):
        missing = {name: column for name, column in columns.items() if not column.intact()}
        if not missing:
            return
        store.make_room(asked.view_bytes)
        for number, rows in enumerate(asked.shards):
            lacking = {name: column for name, column in missing.items() if number in column.lacks()}
            if lacking:
                tell("asking the teacher", view * len(asked.shards) + number, asked.parts)
                _ask(asked, view, rows, number, lacking)
        for column in missing.values():
            column.seal()
    raise StorageError(
        f"the disk of {store.root()} does not keep what is written to it", hint="let EDGEKD_KNOWLEDGE name another"
    )


def _ask(asked: _Asked, view: int, rows: range, number: int, columns: dict[str, Column]) -> None:
    for indices, answers in predicting(asked.module, asked.viewer, view, np.asarray(rows), asked.batch):
        for name, column in columns.items():
            column.write(int(indices[0]), asked.wanted[name](answers))
    for column in columns.values():
        column.finish(number)
