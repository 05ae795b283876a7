"""A model that a file holds, as a frozen teacher: ONNX, Keras, SavedModel, .pt2, or TFLite executed by LiteRT.

Every value that the model computes is a layer: `values.NAME`, by the file's name, in which dots and colons are `_`.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import torch
from torch import Tensor, nn

from edgekd import sources
from edgekd.errors import ConfigError, Disagreement
from edgekd.nets import Anatomy, Net
from edgekd.sources import Model
from edgekd.specs import Preprocessing, Subject, TensorSpec
from edgekd.teachers import TeacherSource
from edgekd.teachers._litert import open_tflite

SMALLEST: Final = 1e-7
"""Probability that a logarithm is taken of."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which file, and what its inputs and outputs mean."""

    file: Annotated[str, msgspec.Meta(min_length=1)]
    """Path of the file, or of a SavedModel's folder."""
    sha256: str = ""
    """Of the file; another one is refused where it is given."""
    mean: tuple[float, ...] = ()
    """Of the pixels 0..255, a value a channel, where the model takes images and its file does not say."""
    std: tuple[float, ...] = ()
    outputs: tuple[int, ...] = ()
    """Which of the model's outputs answer the subject's, in their order; the first ones by default."""
    probabilities: bool = False
    """Outputs are probabilities; their logarithms stand for the logits."""


class _ModelFile:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        path = Path(options.file)
        if options.sha256 and hashlib.sha256(_content(path)).hexdigest() != options.sha256:
            raise ConfigError(f"{path} is another file than the recipe means: its SHA-256 differs")
        model = open_tflite(path) if path.suffix.lower() == ".tflite" else _imported(path, subject)
        if len(model.inputs) != 1:
            raise Disagreement(f"{path} takes {len(model.inputs)} inputs, the data have one", hint="cut the model")
        return Net(_Frozen(model, options, len(subject.outputs)), _preprocessing(model, options, subject))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _imported(path: Path, subject: Subject) -> Model:
    return sources.open_model(str(path), _shapes(path, subject))


def _shapes(path: Path, subject: Subject) -> dict[str, tuple[int, ...]]:
    """Sizes of an input that leaves them open: an example's, where it is no image."""
    if subject.kind == "images":
        return {}
    taken = sources.open_model(str(path)).inputs
    return {taken[0].name: (1, *subject.shape)} if len(taken) == 1 else {}


def _preprocessing(model: Model, options: Options, subject: Subject) -> Preprocessing | None:
    if not subject.images:
        return None
    said = model.properties.get("edgekd.preprocessing")
    if said and not options.mean:
        return msgspec.json.decode(said, type=Preprocessing)
    spec = model.inputs[0]
    if len(spec.shape) != 4:
        raise Disagreement(
            f"{options.file} takes {spec.shape}, and the data are images {subject.shape}", hint="a model of images"
        )
    if not options.mean or not options.std:
        raise Disagreement(
            f"{options.file} takes {spec.shape} and does not say how it wants images",
            hint="give the teacher's options `mean` and `std`, a value for each channel",
        )
    height, width = spec.shape[1:3] if spec.layout == "NHWC" else spec.shape[2:]
    return Preprocessing(size=(height, width), mean=options.mean, std=options.std)


class _Frozen(nn.Module):
    """Examples as edgekd has them to the answers of a model that is not trained."""

    def __init__(self, model: Model, options: Options, answers: int) -> None:
        super().__init__()
        self.model = model.module.requires_grad_(False)
        self._names = {_plain(name): name for name in getattr(model.module, "values", ())}
        self.values = nn.ModuleDict({plain: nn.Identity() for plain in self._names})
        self._input: TensorSpec = model.inputs[0]
        self._chosen = options.outputs or tuple(range(answers))
        if isinstance(model.module.__dict__.get("anatomy"), Anatomy):
            self.anatomy = self._of_chosen(model.module.__dict__["anatomy"])
        self._probabilities = options.probabilities
        if max(self._chosen, default=0) >= len(model.outputs) or len(self._chosen) != answers:
            raise Disagreement(
                f"{options.file} has {len(model.outputs)} outputs, the data want {answers}",
                hint="name them in the teacher's option `outputs`",
            )

    def _of_chosen(self, whole: Anatomy) -> Anatomy:
        outputs = tuple(whole.outputs[index] for index in self._chosen if index < len(whole.outputs))
        return msgspec.structs.replace(whole, outputs=outputs)

    def train(self, mode: bool = True) -> "_Frozen":
        """Stay as it is: batch norms keep the file's statistics."""
        return super().train(False)

    def forward(self, examples: Tensor) -> tuple[Tensor, ...] | Tensor:
        if self._input.layout == "NHWC":
            examples = examples.permute(0, 2, 3, 1)
        given = examples.to(_DTYPES.get(self._input.dtype, torch.float32))
        watched = [plain for plain, value in self.values.items() if value._forward_hooks]
        if self._names:
            self.model.watch([self._names[plain] for plain in watched])  # type: ignore[operator]  # it has names
        found, seen = [], []
        for index in range(len(given)):  # files are written for a batch of one, and may say so anywhere within
            answer = self.model(given[index : index + 1].contiguous())
            found.append((answer,) if isinstance(answer, Tensor) else tuple(answer))
            seen.append([self.model.seen[self._names[plain]] for plain in watched])  # type: ignore[index]
        for plain, tensors in zip(watched, zip(*seen, strict=True), strict=True):
            self.values[plain](torch.cat(tensors))
        answers = tuple(self._logits(torch.cat([row[index] for row in found])) for index in self._chosen)
        return answers[0] if len(answers) == 1 else answers

    def _logits(self, answer: Tensor) -> Tensor:
        return answer.clamp_min(SMALLEST).log() if self._probabilities else answer


def _plain(name: str) -> str:
    return re.sub(r"[.:]", "_", name)


_DTYPES: Final = {"int32": torch.int32, "int64": torch.int64, "float32": torch.float32}

PLUGIN: Final[TeacherSource] = _ModelFile()
