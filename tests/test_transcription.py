"""Word error rates, texts as pieces, and Whisper base as it was published."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekd import tasks, teachers
from edgekd.datasets import spoken_requests
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.pieces import END, spelled
from edgekd.plugins import find
from edgekd.specs import Input, Output, Subject
from edgekd.views import Viewer
from edgekd.writing import drafted, written_by

WORDS = ("<|padding|>", "<|endoftext|>", "ĠPlay", "Ġplay", "Ġten", "Ġ10", "Ġsongs", ".", "Ġjazz", "ĠcafÃ©")
TASK = find(tasks, "transcription")
RECORDING = Path("/usr/share/pocketsphinx/test/data/goforward.raw")
SECONDS, LENGTH = 5, 24


def rows(*texts: str, length: int = 8) -> NDArray[np.int32]:
    """Numbers of pieces, each text with its end."""
    made = np.full((len(texts), length), -1, np.int32)
    for row, text in zip(made, texts, strict=True):
        pieces = [WORDS.index(piece) for piece in text.split()] + [1]
        row[: len(pieces)] = pieces
    return made


def outputs(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """What a net answers that writes these tokens, and nonsense where there is none."""
    made = np.zeros((len(tokens), len(WORDS), tokens.shape[1]), np.float32)
    for row, written in zip(made, tokens, strict=True):
        row[np.where(written < 0, 8, written), np.arange(len(written))] = 1
    return made


@pytest.mark.parametrize(
    ("said", "written", "wrong", "words"),
    [
        ("ĠPlay Ġten Ġsongs .", "ĠPlay Ġten Ġsongs .", 0, 3),
        ("ĠPlay Ġten Ġsongs .", "Ġplay Ġ10 Ġsongs", 0, 3),  # capitals, figures and dots are no words
        ("Ġplay Ġten Ġsongs", "Ġplay Ġten Ġjazz", 1, 3),
        ("Ġplay Ġten Ġsongs", "Ġplay Ġsongs", 1, 3),
        ("Ġplay Ġjazz", "Ġplay Ġjazz Ġsongs ĠcafÃ©", 2, 2),
        ("Ġplay", "", 1, 1),
    ],
)
def test_words_are_compared_up_to_the_end(said: str, written: str, wrong: int, words: int) -> None:
    counts = TASK.counts(outputs(rows(written)), rows(said), WORDS)
    assert counts.tolist() == [[wrong, words]]
    assert TASK.metrics(counts) == {"wer": wrong / words, "word_accuracy": max(0, 1 - wrong / words)}


def test_rates_add_up_words_not_texts() -> None:
    said, written = rows("Ġplay", "Ġplay Ġten Ġsongs"), rows("Ġjazz", "Ġplay Ġten Ġsongs")
    assert TASK.metrics(TASK.counts(outputs(written), said, WORDS))["wer"] == 0.25


def test_what_comes_before_the_first_label_is_a_prompt() -> None:
    said = np.concatenate([np.full((1, 3), -1, np.int32), rows("Ġplay Ġjazz")], axis=1)
    written = outputs(np.concatenate([rows("Ġsongs Ġsongs", length=3), rows("Ġplay Ġjazz")], axis=1))
    assert TASK.counts(written, said, WORDS).tolist() == [[0, 2]]


def test_a_vocabulary_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="endoftext"):
        TASK.check(rows("Ġplay"), ("a", "b"))


def test_pieces_spell_bytes() -> None:
    assert spelled(["<|endoftext|>", "ĠcafÃ©", "Ċ", "ł", "!"]) == " caf\u00e9\n\ufffd!"


def test_whisper_hears_what_somebody_said() -> None:
    """A recording of Debian's pocketsphinx-testdata, by the weights as they are taken over here."""
    if not RECORDING.is_file():
        pytest.skip(f"{RECORDING} is not there: apt-get install pocketsphinx-testdata")
    pytest.importorskip("transformers", reason="transformers, which makes planes of sounds, is not installed")
    try:
        pieces = spoken_requests.vocabulary([" Go forward ten meters."])
        drafts = np.zeros((1, LENGTH), np.int32)
        drafts[0, : len(spoken_requests.PROMPT)] = [pieces.index(piece) for piece in spoken_requests.PROMPT]
        subject = hearing(pieces)
        net = find(teachers, "whisper").build(None, subject)
    except PluginUnavailable as missing:
        pytest.skip(str(missing))
    sound = np.fromfile(RECORDING, "<i2").astype(np.float32) / 2**15
    (plane,) = spoken_requests.log_mel([sound], SECONDS)
    answers = written_by(net.module, Viewer(plane[None], None, beside=[drafts]), subject)
    (text,) = drafted(drafts, answers, subject)
    assert spelled(pieces[token] for token in text) == " Go forward 10 meters."


def hearing(pieces: tuple[str, ...]) -> Subject:
    """Sounds of some seconds, and texts of these pieces."""
    text = Input(name="tokens", shape=(LENGTH,), kind="tokens", prompt=4)
    answer = Output(
        name="logits", task="transcription", shape=(len(pieces), LENGTH), classes=pieces, metric="word_accuracy"
    )
    return Subject(
        shape=(80, 100 * SECONDS),
        kind="numbers",
        outputs=(answer,),
        vocabulary=pieces,
        end=pieces.index(END),
        beside=(text,),
    )
