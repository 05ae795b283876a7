"""Sources of teachers.

To add one, write `edgekd/teachers/<name>.py` that ends in `PLUGIN: TeacherSource = ...`. tests/contracts/
test_teachers.py finds it. A user's own is a function, named `module:function` in the recipe, that returns a
torch.nn.Module mapping (batch, *shape) to logits (batch, classes), or to a tuple of one tensor a head; the recipe's
options are its keyword arguments. The module may carry `classes` and `preprocessing` as attributes: they are checked
against the data before any work.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from edgekd.errors import ConfigError
from edgekd.nets import Net
from edgekd.nets import wrap as net_of
from edgekd.plugins import called
from edgekd.specs import Subject

EXTRAS = {
    "family": "train",
    "timm": "train",
    "residual": "train",
    "unet": "train",
    "efficientnet_lite": "teachers",
    "minilm": "text",
    "whisper": "speech",
    "smollm": "chatbot",
    "model_file": "train",
    "dlib_faces": "faces",
    "transformers": "transformers",
}


class TeacherSource(Protocol):
    """Makes a net to be adapted to the data."""

    @property
    def Options(self) -> type[Any]:
        """The frozen msgspec Struct that the recipe's options are decoded into."""

    def build(self, options: Any, subject: Subject) -> Net:
        """A net that answers what the subject wants, its pretrained weights loaded.

        It answers a tensor, or a tuple of one for each output.

        Only images are preprocessed; floats and tokens are taken as they are.

        Raises:
            Disagreement: this source has no nets for such a subject.
            PluginUnavailable: a package that holds code or weights is not installed.
        """


def wrap(own: Any) -> TeacherSource:
    """A user's function as a source of teachers."""
    if hasattr(own, "build"):
        return own  # type: ignore[no-any-return]  # a plugin object of the user's
    if not callable(own):
        raise ConfigError(f"{own!r} is not a function", hint="a teacher is a function that returns a torch.nn.Module")
    return _Function(own)


class _Function:
    Options = dict[str, Any]  # keyword arguments of the function, whatever they are

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def build(self, options: Mapping[str, Any], subject: Subject) -> Net:
        return net_of(called(self._function, options), f"teacher {self._function.__name__}")
