"""Where examples come from; each plugin reads a data set into arrays, once a run.

To add one, write `edgekd/datasets/<name>.py` that ends in `PLUGIN: Dataset = ...`. tests/contracts/test_datasets.py
finds it. A user's own is a function, named `module:function` in the recipe, that returns `Arrays` or a dict of
their fields; the recipe's options are its keyword arguments.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ConfigError
from edgekd.plugins import called


@dataclass(frozen=True)
class Beside:
    """A further input, of shape (examples, ...) in both splits: tokens are int32, anything else is float32."""

    train: NDArray[Any]
    test: NDArray[Any]
    prompt: int = 0
    """Tokens that are given where a net writes the others itself; 0 where all are given."""


@dataclass(frozen=True)
class Arrays:
    """A data set in memory.

    Images are (examples, channels, height, width) uint8, tokens (examples, length) int32, padded with 0 at the end;
    anything else is float32 of any shape.
    """

    train_inputs: NDArray[Any]
    train_labels: "NDArray[Any] | Mapping[str, NDArray[Any]]"
    """Of shape (examples, ...), as the task has them: of a classification whole numbers, each the index of its class.
    By head where the recipe has several. -1, or NaN in floats, is what has no label."""
    test_inputs: NDArray[Any]
    test_labels: "NDArray[Any] | Mapping[str, NDArray[Any]]"
    classes: "tuple[str, ...] | Mapping[str, tuple[str, ...]]"
    """Names of the classes; by head where the recipe has several."""
    licence: str = "unknown"
    vocabulary: tuple[str, ...] = ()
    """What tokens stand for; the first is padding."""
    end: int = 0
    """The token that ends a text which a net goes on with; 0 where texts end with their padding."""
    beside: Mapping[str, Beside] = field(default_factory=dict)
    """Further inputs by name, in the order in which nets take them."""


class Dataset(Protocol):
    """A source of examples."""

    @property
    def Options(self) -> type[Any]:
        """The frozen msgspec Struct that the recipe's options are decoded into."""

    licence: str
    needs: str
    """What a fresh machine must get first, as one line for people; "" where nothing."""

    def here(self) -> bool:
        """Whether it can be loaded on this machine with its default options."""

    def load(self, options: Any) -> Arrays:
        """Read everything.

        Raises:
            PluginUnavailable: a package or a file that holds the data is not there.
        """


def wrap(own: Any) -> Dataset:
    """A user's function as a data set."""
    if isinstance(own, type) or hasattr(own, "load"):
        return own  # type: ignore[no-any-return]  # a plugin object of the user's
    if not callable(own):
        raise ConfigError(f"{own!r} is not a function", hint="a data set is a function that returns its arrays")
    return _Function(own)


class _Function:
    Options = dict[str, Any]  # keyword arguments of the function, whatever they are
    licence = "yours"
    needs = ""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def here(self) -> bool:
        return True

    def load(self, options: Mapping[str, Any]) -> Arrays:
        made = called(self._function, options)
        if isinstance(made, Arrays):
            return made
        known = {one.name for one in fields(Arrays)}
        needed = {one.name for one in fields(Arrays) if one.default is MISSING and one.default_factory is MISSING}
        if not isinstance(made, Mapping) or not needed <= set(made) <= known:
            raise ConfigError(
                f"{self._function.__name__} returned {_outline(made)}",
                hint=f"return a dict of {', '.join(sorted(known))}",
            )
        arrays = {name: _array(made[name]) for name in _SPLITS}
        return Arrays(**{**made, **arrays, "classes": _named(made["classes"])})


_SPLITS: Final = ("train_inputs", "train_labels", "test_inputs", "test_labels")


def _array(given: Any) -> Any:
    """An array, or one a head; lists and tensors are taken as well."""
    return {str(head): _array(one) for head, one in given.items()} if isinstance(given, Mapping) else np.asarray(given)


def _named(classes: Any) -> Any:
    if isinstance(classes, Mapping):
        return {str(head): _named(names) for head, names in classes.items()}
    return tuple(map(str, classes))


def _outline(value: Any) -> str:
    return f"a dict of {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__


def split(labels: NDArray[Any], test_share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of train and test, both sorted; each class gives the same share to the test split."""
    random = np.random.default_rng(seed)
    test = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test.append(members[: max(1, round(test_share * len(members)))])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
