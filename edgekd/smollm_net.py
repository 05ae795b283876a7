"""SmolLM2-135M-Instruct as a net: its weights in four bits (GGUF, Q4_1), read as the numbers that they stand for."""

from typing import Final

import torch
from torch import Tensor

from edgekd import smollm
from edgekd.errors import Disagreement
from edgekd.llama import Size, WritingNet, WritingStep, length_of
from edgekd.specs import Output, Subject

SIZE: Final = Size(width=576, heads=9, groups=3, feed_forward=1536, layers=30, base=100_000.0)
PLACES: Final = 8192

_LAYER: Final = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""Part of a layer here -> in the file."""


def told(instructions: str) -> Tensor:
    """What the table has for the tokens of instructions, (tokens, width); none of "".

    Raises:
        PluginUnavailable: a package is not installed.
    """
    numbers = smollm.tokenizer().encode(smollm.turn("system", instructions)).ids if instructions else []
    return _read("token_embd")[torch.tensor(numbers, dtype=torch.int64)]


def weights(vocabulary: tuple[str, ...]) -> dict[str, Tensor]:
    """Of a `Decoder` of SIZE, by their names there; of the table the rows of a vocabulary.

    Raises:
        Disagreement: it has a piece that the model does not.
    """
    known = {word: row for row, word in enumerate(smollm.pieces()[0])}
    foreign = [word for word in vocabulary if word not in known]
    if foreign:
        raise Disagreement(
            f"SmolLM2 does not know {foreign[0]!r} and {len(foreign) - 1} others of the data's vocabulary",
            hint="cut texts up by SmolLM2's vocabulary, as edgekd/datasets/chat.py does",
        )
    rows = torch.tensor([known[word] for word in vocabulary])
    found = {"embeddings.weight": _read("token_embd")[rows], "norm.weight": _read("output_norm")}
    for layer in range(SIZE.layers):
        for ours, theirs in _LAYER.items():
            found[f"layers.{layer}.{ours}.weight"] = _read(f"blk.{layer}.{theirs}")
        for part, heads in (("query", SIZE.heads), ("key", SIZE.groups)):
            name = f"layers.{layer}.attention.{part}.weight"
            found[name] = _halves(found[name], heads)
    return found


def _read(name: str) -> Tensor:
    from gguf.quants import dequantize

    one = next(one for one in smollm.opened().tensors if one.name == f"{name}.weight")
    return torch.from_numpy(dequantize(one.data, one.tensor_type).copy()).float()


def net_of(subject: Subject, instructions: str) -> WritingNet:
    """The whole model, for the pieces of a vocabulary, behind its instructions.

    Raises:
        Disagreement: the subject is no text to go on with, or too long.
    """
    length = length_of(subject)
    if length > PLACES // 2:
        raise Disagreement(f"SmolLM2 reads {PLACES} tokens, an example has {length}", hint="shorter texts")
    given, before = weights(subject.vocabulary), told(instructions)
    with torch.device("meta"):  # numbers that would be drawn for nothing
        made = WritingNet(SIZE, subject)
    made.decoder.load_state_dict(given, assign=True)
    made.decoder.place(before)
    return made


def step_of(length: int, instructions: str) -> WritingStep:
    """It writes texts of at most so many tokens, behind its instructions, in its whole vocabulary."""
    vocabulary = smollm.pieces()[0]
    output = Output(name="logits", task="next_token", shape=(len(vocabulary), length), metric="accuracy")
    subject = Subject(shape=(length,), kind="tokens", outputs=(output,), vocabulary=vocabulary)
    return WritingStep(net_of(subject, instructions).eval())


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head as `llama._turned` pairs them, halves apart; the file has pairs side by side."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
