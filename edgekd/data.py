"""Read a data set once, check it, and keep it as arrays that every later step maps into memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd import datasets, tasks
from edgekd.datasets import Arrays
from edgekd.errors import ConfigError
from edgekd.plugins import find, options
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Choice, Data, File
from edgekd.tensors import write_array
from edgekd.workers import call

VERSION = 1


def load(work: Work, dataset: Choice, task: str, source: str) -> Data:
    """The data set as .npy files; `source` is the fingerprint of a user's own code.

    Raises:
        ConfigError: shapes, labels and classes do not fit together, or a split is empty.
    """
    return call(_load, work, dataset, task, threads=1, log=work.out / "worker.log")


def _load(work: Work, dataset: Choice, task: str) -> Data:
    tell("reading the data", 0, 1)
    plugin = find(datasets, dataset.name)
    arrays = plugin.load(options(plugin.Options, dataset.options, f"options of data set {dataset.name}"))
    check(arrays, dataset.name)
    labels = np.concatenate([arrays.train_labels, arrays.test_labels]).astype(np.int64)
    find(tasks, task).check(labels, arrays.classes)
    images = arrays.train_inputs.dtype == np.uint8 and arrays.train_inputs.ndim == 4
    keep = np.uint8 if images else np.float32
    return Data(
        name=dataset.name,
        licence=arrays.licence,
        classes=tuple(arrays.classes),
        train_inputs=_keep(work, "train-inputs", arrays.train_inputs, keep),
        train_labels=_keep(work, "train-labels", arrays.train_labels, np.int64),
        test_inputs=_keep(work, "test-inputs", arrays.test_inputs, keep),
        test_labels=_keep(work, "test-labels", arrays.test_labels, np.int64),
        shape=tuple(arrays.train_inputs.shape[1:]),
        images=images,
    )


def check(arrays: Arrays, name: str) -> None:
    """Raise ConfigError when the arrays do not make a data set; `name` is for the message."""
    for split in ("train", "test"):
        inputs, labels = np.asarray(getattr(arrays, f"{split}_inputs")), np.asarray(getattr(arrays, f"{split}_labels"))
        if not len(inputs):
            raise ConfigError(f"{name}: the {split} split is empty")
        if len(inputs) != len(labels) or labels.ndim != 1:
            raise ConfigError(f"{name}: {split} has {len(inputs)} inputs and labels of shape {labels.shape}")
        if not np.issubdtype(labels.dtype, np.integer):
            raise ConfigError(f"{name}: {split} labels are {labels.dtype}", hint="labels are whole numbers from 0")
        if inputs.dtype == object or not (np.issubdtype(inputs.dtype, np.number) or inputs.dtype == bool):
            raise ConfigError(f"{name}: {split} inputs are {inputs.dtype}", hint="inputs are arrays of numbers")
        if np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(inputs).all():
            raise ConfigError(f"{name}: {split} inputs hold NaN or infinity", hint="clean the data first")
    if arrays.train_inputs.shape[1:] != arrays.test_inputs.shape[1:]:
        raise ConfigError(
            f"{name}: train is of shape {arrays.train_inputs.shape[1:]}, test of {arrays.test_inputs.shape[1:]}"
        )


def _keep(work: Work, name: str, array: NDArray[Any], kind: Any) -> File:
    path = work.out / f"{name}.npy"
    write_array(path, np.ascontiguousarray(array, dtype=kind))
    return work.keep(path)
