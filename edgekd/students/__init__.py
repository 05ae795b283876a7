"""Families of students: each makes a net for a point in its space of options.

To add one, write `edgekd/students/<name>.py` that ends in `PLUGIN: StudentFamily = ...`. tests/contracts/
test_students.py finds it. What its nets are put together of is made by functions that are `repeated`
(edgekd/repeats.py), so that a search looks at each part once: a thousand candidates a second, and not a hundred.

A user's own is a function, named `module:function` in the recipe, that returns a torch.nn.Module mapping (batch,
*shape) to logits (batch, classes), or to a tuple of one tensor a head; options and space are its keyword arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgekd.errors import ConfigError
from edgekd.nets import Net
from edgekd.nets import wrap as net_of
from edgekd.plugins import called
from edgekd.specs import Subject

EXTRAS = {
    "mobile": "train",
    "multitask_mobile": "train",
    "ds_cnn": "train",
    "encoder": "train",
    "decoder": "train",
    "whisper": "train",
}


class StudentFamily(Protocol):
    """Makes nets of one kind, small and large."""

    @property
    def Options(self) -> type[Any]:
        """The frozen msgspec Struct that the recipe's options are decoded into."""

    def build(self, options: Any, subject: Subject) -> Net:
        """An untrained net that answers what the subject wants: a tensor, or a tuple of one for each output.

        Only images are preprocessed; floats and tokens are taken as they are.

        Raises:
            Disagreement: this family does not make nets for such a subject.
        """

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        """All that is worth considering for a subject: option -> values, small ones first; every combination builds."""


def wrap(own: Any) -> StudentFamily:
    """A user's function as a family of students."""
    if hasattr(own, "build"):
        return own  # type: ignore[no-any-return]  # a plugin object of the user's
    if not callable(own):
        raise ConfigError(f"{own!r} is not a function", hint="a student is a function that returns a torch.nn.Module")
    return _Function(own)


class _Function:
    Options = dict[str, Any]  # keyword arguments of the function, whatever they are

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def build(self, options: Mapping[str, Any], subject: Subject) -> Net:
        return net_of(called(self._function, options), f"student {self._function.__name__}")

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        raise ConfigError(
            f"nobody knows the whole space of {self._function.__name__}",
            hint="list values of its arguments in the recipe's [student.space]",
        )
