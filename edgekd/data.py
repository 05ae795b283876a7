"""Read a data set once, check it, and keep it as arrays that every later step maps into memory."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekd import datasets, tasks
from edgekd.datasets import Arrays, Beside
from edgekd.errors import ConfigError
from edgekd.plugins import find, options
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Choice, Data, File, Head, Input, Output, Subject
from edgekd.tensors import write_array
from edgekd.training import labelled
from edgekd.workers import call

VERSION = 3

Array = NDArray[Any]


def load(work: Work, dataset: Choice, heads: dict[str, Head], source: str) -> Data:
    """The data set as .npy files, for a net with these outputs; `source` is the fingerprint of a user's own code.

    Raises:
        ConfigError: shapes, labels and classes do not fit together, or a split is empty.
    """
    return call(_load, work, dataset, heads, threads=1, log=work.out / "worker.log")


def _load(work: Work, dataset: Choice, heads: dict[str, Head]) -> Data:
    tell("reading the data", 0, 1)
    plugin = find(datasets, dataset.name)
    arrays = plugin.load(options(plugin.Options, dataset.options, f"options of data set {dataset.name}"))
    subject, train, test = examine(arrays, heads, dataset.name)
    keep = {"images": np.uint8, "tokens": np.int32, "numbers": np.float32}[subject.kind]
    return Data(
        name=dataset.name,
        licence=arrays.licence,
        subject=subject,
        train_inputs=_keep(work, "train-inputs", arrays.train_inputs, keep),
        train_labels=_keep_labels(work, "train", train),
        test_inputs=_keep(work, "test-inputs", arrays.test_inputs, keep),
        test_labels=_keep_labels(work, "test", test),
        train_beside=tuple(_keep_beside(work, "train", one, arrays.beside[one.name].train) for one in subject.beside),
        test_beside=tuple(_keep_beside(work, "test", one, arrays.beside[one.name].test) for one in subject.beside),
    )


def examine(arrays: Arrays, heads: Mapping[str, Head], name: str) -> tuple[Subject, dict[str, Array], dict[str, Array]]:
    """What a data set is about, and the labels of each head to train and to test on; `name` is for messages.

    Raises:
        ConfigError: the arrays do not make a data set of these heads.
    """
    train, test = (_by_head(labels, heads, name) for labels in (arrays.train_labels, arrays.test_labels))
    check(arrays.train_inputs, train, arrays.test_inputs, test, name)
    classes = _by_head(arrays.classes, heads, name)
    kind = _kind(np.asarray(arrays.train_inputs))
    if kind == "tokens":
        _check_tokens(arrays.vocabulary, (arrays.train_inputs, arrays.test_inputs), name)
    shape = tuple(arrays.train_inputs.shape[1:])
    outputs = tuple(_output(one, head, classes[one], train[one], test[one], shape, name) for one, head in heads.items())
    subject = Subject(
        shape=shape,
        kind=kind,
        outputs=outputs,
        vocabulary=tuple(arrays.vocabulary),
        end=arrays.end,
        beside=tuple(_input(one, given, arrays, name) for one, given in arrays.beside.items()),
    )
    return subject, train, test


def _input(name: str, given: Beside, arrays: Arrays, data: str) -> Input:
    for split, one, inputs in (("train", given.train, arrays.train_inputs), ("test", given.test, arrays.test_inputs)):
        if len(one) != len(inputs) or one.shape[1:] != given.train.shape[1:]:
            raise ConfigError(
                f"{data}, {name}: {split} is of shape {one.shape}, train of {given.train.shape}",
                hint="give each example one array of the same shape",
            )
        if one.dtype.kind == "f" and not np.isfinite(one).all():
            raise ConfigError(f"{data}, {name}: {split} holds NaN or infinity", hint="clean the data first")
    kind = _kind(given.train)
    if kind == "images":
        raise ConfigError(f"{data}, {name}: images are a first input", hint="give them as floats, or in front")
    if kind == "tokens":
        _check_tokens(arrays.vocabulary, (given.train, given.test), f"{data}, {name}")
    return Input(name=name, shape=tuple(given.train.shape[1:]), kind=kind, prompt=given.prompt)


def _by_head(given: Any, heads: Mapping[str, Head], name: str) -> dict[str, Any]:
    """What a data set gives by head, or for the only one."""
    if not isinstance(given, Mapping):
        if len(heads) > 1:
            raise ConfigError(
                f"{name} has labels for one head, the recipe has {len(heads)}: {', '.join(heads)}",
                hint="leave `heads` out and name a task",
            )
        return dict.fromkeys(heads, given)
    if len(heads) == 1 and len(given) == 1:
        return dict(zip(heads, given.values(), strict=True))
    missing = [head for head in heads if head not in given]
    if missing:
        raise ConfigError(f"{name} has no labels for the head {missing[0]!r}", hint=f"it has {', '.join(given)}")
    return {head: given[head] for head in heads}


def _kind(inputs: Array) -> Literal["images", "numbers", "tokens"]:
    if inputs.dtype == np.uint8 and inputs.ndim == 4:
        return "images"
    return "tokens" if inputs.dtype == np.int32 and inputs.ndim == 2 else "numbers"


def _output(
    name: str, head: Head, classes: tuple[str, ...], train: Array, test: Array, example: tuple[int, ...], data: str
) -> Output:
    task = find(tasks, head.task)
    try:
        task.check(np.concatenate([train, test]), classes)
        shape = task.output(train.shape[1:], classes, example)
    except ConfigError as error:
        raise ConfigError(f"{data}, {name}: {error}", hint=error.hint) from error
    try:
        if len(labelled([train])):  # what is of one class in train alone teaches nothing either
            task.check(train, classes)
    except ConfigError as error:
        raise ConfigError(f"{data}, {name}, train split: {error}", hint=error.hint) from error
    return Output(
        name=name,
        task=head.task,
        shape=tuple(shape),
        classes=tuple(classes),
        weight=head.weight,
        metric=task.metric,
    )


def check(
    train_inputs: Array, train: Mapping[str, Array], test_inputs: Array, test: Mapping[str, Array], name: str
) -> None:
    """Raise ConfigError when the arrays do not make a data set; `name` is for the message."""
    for split, given, by_head in (("train", train_inputs, train), ("test", test_inputs, test)):
        inputs = np.asarray(given)
        if not len(inputs):
            raise ConfigError(f"{name}: the {split} split is empty")
        for labels in map(np.asarray, by_head.values()):
            if labels.ndim < 1 or len(inputs) != len(labels):
                raise ConfigError(f"{name}: {split} has {len(inputs)} inputs and labels of shape {labels.shape}")
            if not (np.issubdtype(labels.dtype, np.integer) or np.issubdtype(labels.dtype, np.floating)):
                raise ConfigError(f"{name}: {split} labels are {labels.dtype}", hint="labels are numbers")
        if inputs.dtype == object or not (np.issubdtype(inputs.dtype, np.number) or inputs.dtype == bool):
            raise ConfigError(f"{name}: {split} inputs are {inputs.dtype}", hint="inputs are arrays of numbers")
        if np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(inputs).all():
            raise ConfigError(f"{name}: {split} inputs hold NaN or infinity", hint="clean the data first")
    if train_inputs.shape[1:] != test_inputs.shape[1:]:
        raise ConfigError(f"{name}: train is of shape {train_inputs.shape[1:]}, test of {test_inputs.shape[1:]}")
    if not any(len(labelled([labels])) for labels in train.values()):
        raise ConfigError(
            f"{name}: no example of the train split has a label",
            hint="label some: without any, nobody can tell what distillation brings",
        )
    for head, labels in train.items():
        if labels.shape[1:] != test[head].shape[1:]:
            raise ConfigError(
                f"{name}: train labels are of shape {labels.shape[1:]}, test labels of {test[head].shape[1:]}"
            )


def _check_tokens(vocabulary: Sequence[str], splits: Sequence[Array], name: str) -> None:
    if not vocabulary:
        raise ConfigError(f"{name} has tokens and no vocabulary", hint="give `vocabulary`, whose first is padding")
    words = len(vocabulary)
    for inputs in splits:
        if inputs.min() < 0 or inputs.max() >= words:
            raise ConfigError(
                f"{name}: tokens run from {inputs.min()} to {inputs.max()}, the vocabulary has {words}",
                hint="tokens are the numbers of the vocabulary's entries",
            )
        if not inputs.any(axis=1).all():
            raise ConfigError(f"{name}: an example has no word", hint="take it out: every token of it is padding")


def _keep_labels(work: Work, split: str, labels: Mapping[str, Array]) -> tuple[File, ...]:
    kept = []
    for index, array in enumerate(labels.values()):
        whole = np.issubdtype(np.asarray(array).dtype, np.integer)
        kind = np.float32 if not whole else np.int64 if array.ndim == 1 else np.int32
        kept.append(_keep(work, f"{split}-labels-{index}", array, kind))
    return tuple(kept)


def _keep_beside(work: Work, split: str, one: Input, array: Array) -> File:
    return _keep(work, f"{split}-{one.name}", array, np.int32 if one.kind == "tokens" else np.float32)


def _keep(work: Work, name: str, array: NDArray[Any], kind: Any) -> File:
    path = work.out / f"{name}.npy"
    write_array(path, np.ascontiguousarray(array, dtype=kind))
    return work.keep(path)
