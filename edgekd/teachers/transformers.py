"""Any net of Hugging Face's transformers that is on this machine: a language model, or a classifier of texts or images.

As which of these it is loaded, the data say: texts to go on with, texts of classes, or images of classes, where a head
for another number of classes is replaced by a new one. Of its vocabulary the pieces of the data are taken. Nothing is
downloaded.
"""

from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.nets import Net, planes, values
from edgekd.specs import Preprocessing, Subject
from edgekd.teachers import TeacherSource

UNSEEN: Final = -1e9
"""Added to scores of what is not to be seen. Masks are made here, for the library's own look at the numbers in them,
which a net that is only examined does not have."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which net."""

    model: str = ""
    """Folder that `save_pretrained` wrote, or the name of one in transformers' own cache."""


class _Transformers:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        if subject.kind == "numbers":
            raise Disagreement("transformers' nets take images or tokens, the data are numbers", hint="another teacher")
        if not options.model:
            raise ConfigError("the teacher transformers has no net", hint='options = { model = "FOLDER" }')
        library = _library()
        if subject.images:
            channels, _, _ = planes(subject)
            net = _loaded(library.AutoModelForImageClassification, options.model, values(subject))
            return Net(_Seeing(net), _preprocessing(library, options.model, channels))
        rows = _rows(library, options.model, subject.vocabulary)
        if [output.shape for output in subject.outputs] == [(len(subject.vocabulary), *subject.shape)]:
            return Net(_Writing(_loaded(library.AutoModelForCausalLM, options.model), rows))
        return Net(_Reading(_loaded(library.AutoModelForSequenceClassification, options.model, values(subject)), rows))


class _Writing(nn.Module):
    """Tokens (batch, length) to the logits of what comes next, (batch, pieces, length)."""

    def __init__(self, net: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        later = (places[None, :] > places[:, None]).float()[None, None] * UNSEEN
        logits: Tensor = self.net(
            input_ids=self.rows[tokens], attention_mask=later, position_ids=places[None], use_cache=False
        ).logits
        return logits[:, :, self.rows].transpose(1, 2)


class _Reading(nn.Module):
    """Tokens (batch, length), padded with 0, to logits (batch, classes)."""

    def __init__(self, net: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        padding = (tokens == 0).float()[:, None, None, :] * UNSEEN
        logits: Tensor = self.net(input_ids=self.rows[tokens], attention_mask=padding).logits
        return logits


class _Seeing(nn.Module):
    """Images (batch, channels, height, width) to logits (batch, classes)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(pixel_values=images).logits
        return logits


def _library() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            f"this teacher needs the package {missing.name!r}", hint="pip install 'edgekd[transformers]'"
        ) from missing
    return transformers


def _loaded(kind: Any, name: str, classes: int = 0) -> nn.Module:
    """The net in float32; its attention is computed in plain operations, which can be examined without numbers."""
    how: dict[str, Any] = {"num_labels": classes, "ignore_mismatched_sizes": True} if classes else {}
    try:
        net = kind.from_pretrained(name, local_files_only=True, dtype=torch.float32, attn_implementation="eager", **how)
    except (OSError, ValueError) as error:
        raise _not_there(name, error) from error
    assert isinstance(net, nn.Module)
    return net


def _rows(library: Any, name: str, vocabulary: tuple[str, ...]) -> Tensor:
    """The net's own number of each piece of the data."""
    try:
        known = library.AutoTokenizer.from_pretrained(name, local_files_only=True).get_vocab()
    except (OSError, ValueError) as error:
        raise _not_there(name, error) from error
    foreign = [piece for piece in vocabulary if piece not in known]
    if foreign:
        raise Disagreement(
            f"{name} does not know {foreign[0]!r} and {len(foreign) - 1} others of the data's vocabulary",
            hint="cut texts up by its tokenizer",
        )
    return torch.tensor([known[piece] for piece in vocabulary])


def _preprocessing(library: Any, name: str, channels: int) -> Preprocessing:
    try:
        said = library.AutoImageProcessor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _not_there(name, error) from error
    if len(said.image_mean) != channels:
        raise Disagreement(f"{name} takes {len(said.image_mean)} channels, the data has {channels}", hint="another net")
    edge = said.size.get("shortest_edge")
    return Preprocessing(
        size=(said.size.get("height", edge), said.size.get("width", edge)),
        mean=tuple(255 * one for one in said.image_mean),
        std=tuple(255 * one for one in said.image_std),
    )


def _not_there(name: str, error: Exception) -> PluginUnavailable:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return PluginUnavailable(
        f"{name} is no net that transformers can load here: {line}",
        hint="give the folder of one that is on this machine, of the right kind; nothing is downloaded",
    )


PLUGIN: Final[TeacherSource] = _Transformers()
