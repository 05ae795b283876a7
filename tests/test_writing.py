"""Nets that write texts: what they write, what is computed once for it, and who learns from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import fronts, nets, run
from edgekd.data import examine
from edgekd.datasets import Arrays, Beside
from edgekd.decoding import unrolled, written
from edgekd.errors import ConfigError, Disagreement
from edgekd.fronts import Fronted, seen
from edgekd.nets import Net
from edgekd.rows import Rows
from edgekd.runs import Work
from edgekd.specs import Data
from edgekd.tensors import write_array
from edgekd.views import Viewer
from edgekd.whisper import executed_by_steps, transcriber
from edgekd.writing import drafted, saying, settle, written_by
from tests import spoken, toys
from tests.spoken import END, LENGTH, START, SUBJECT, VOCABULARY
from tests.subjects import subject

RECIPE = """
schema = 1
name = "spoken"
title = "Four words"
task = "transcription"
prefer = "most capable within the budget"
top_k = 0
instead = {{ tflite-int8 = "onnx-fp32", onnx-int8 = "onnx-fp32", tflite-fp32 = "onnx-fp32" }}
budget = {{ latency_ms = 500 }}
dataset = {{ name = "{here}:requests", options = {{ count = 160, wrong = 20 }} }}
pseudo_labels = {{ least = 0.9 }}
losses = [{{ name = "soft_targets" }}, {{ name = "labels" }}]

[teacher]
name = "{here}:teacher"
training = {{ epochs = 15, batch = 16, learning_rate = 3e-3, optimiser = "adamw" }}

[student]
name = "whisper"
options = {{ width = 32, heads = 2, feed_forward = 64, encoder_layers = 1, decoder_layers = 1 }}
training = {{ epochs = 10, batch = 16, learning_rate = 3e-3, optimiser = "adamw" }}
initialise = {{ layers = [
    {{ teacher = "front", student = "front" }},
    {{ teacher = "rest.words", student = "rest.words" }},
    {{ teacher = "rest.layers.*", student = "rest.layers.*", map = "last" }},
] }}
"""


@pytest.fixture
def net() -> Fronted:
    torch.manual_seed(3)
    return spoken.teacher(0.3)


@pytest.fixture
def viewer() -> Viewer:
    made = spoken.arrays(4, 30)
    return Viewer(made.test_inputs, None, beside=[made.beside["text"].test])


def step_by_step(net: nn.Module, sound: Tensor) -> list[int]:
    """The likeliest token behind those so far, up to the end or the last place."""
    text = [START]
    while len(text) < LENGTH and text[-1] not in {END, 0}:
        row = torch.tensor([text + [0] * (LENGTH - len(text))])
        text.append(int(net(sound[None], row)[0, :, len(text) - 1].argmax()))
    return text + [0] * (LENGTH - len(text))


def test_a_text_is_what_one_token_after_another_would_have_come_to(net: Fronted, viewer: Viewer) -> None:
    sounds, texts = viewer.inputs(np.arange(30))
    found = drafted(texts.numpy(), written_by(net, viewer, SUBJECT), SUBJECT)
    with torch.no_grad():
        expected = [step_by_step(net.eval(), sound) for sound in sounds]
    assert found.tolist() == expected
    assert len({tuple(row) for row in expected}) > 5  # or nothing was shown


def test_any_draft_comes_to_the_same_text_and_only_what_is_open_is_asked(net: Fronted, viewer: Viewer) -> None:
    sounds, texts = viewer.inputs(np.arange(30))
    asked: list[int] = []

    def ask(drafts: NDArray[Any], which: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        asked.append(len(which))
        with torch.no_grad():
            return (net.eval()(sounds[torch.from_numpy(which)], torch.from_numpy(drafts)).numpy(),)

    noise = texts.numpy().copy()
    noise[:, 1:] = np.random.default_rng(0).integers(0, len(VOCABULARY), (30, LENGTH - 1))
    from_noise = drafted(noise, settle(ask, noise, SUBJECT), SUBJECT)
    rounds = len(asked)
    right = settle(ask, from_noise, SUBJECT)
    assert np.array_equal(drafted(texts.numpy(), right, SUBJECT), from_noise)
    assert np.array_equal(drafted(texts.numpy(), [saying(from_noise, SUBJECT)], SUBJECT), from_noise)
    assert rounds > 1 and asked[rounds:] == [30] and asked[rounds - 1] < 30


def test_the_whole_net_and_what_is_behind_its_front_write_the_same(net: Fronted, viewer: Viewer) -> None:
    sounds, texts = viewer.inputs(np.arange(30))
    with torch.no_grad():
        states = net.front(sounds).numpy()
    behind = Viewer(states, None, beside=[texts.numpy().astype(np.int32)])
    np.testing.assert_allclose(
        written_by(net.rest, behind, SUBJECT)[0], written_by(net, viewer, SUBJECT)[0], rtol=0, atol=1e-5
    )


def test_a_step_writes_what_the_whole_net_does(net: Fronted, viewer: Viewer) -> None:
    """With what listens to the sound once: as devices execute it."""
    devices = executed_by_steps(spoken.SIZE, net.eval(), SUBJECT)
    assert devices.step is not None and devices.context is not None
    sounds, texts = viewer.inputs(np.arange(30))
    with torch.no_grad():
        context = devices.context(sounds)
        expected, found = net(sounds, texts), unrolled(devices.step, texts, context)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        free = written(devices.step, texts, torch.ones(30, dtype=torch.int64), END, context=context)
    assert [tuple(one.shape) for one in context] == [(30, *one.shape[1:]) for one in devices.step.context]
    free[(free == 0).cumsum(1) > 0] = 0  # padding ends a text too
    assert torch.equal(free, torch.from_numpy(drafted(texts.numpy(), written_by(net, viewer, SUBJECT), SUBJECT)))
    whole, executed = nets.examine(devices, SUBJECT), nets.anatomy_executed(devices, SUBJECT)
    assert executed.parameters == whole.parameters and executed.macs < whole.macs


def test_a_front_is_never_trained_and_computed_once(
    net: Fronted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_KNOWLEDGE", str(tmp_path / "store"))
    work, data = kept(tmp_path)
    shown = []
    net.front.register_forward_hook(lambda *_: shown.append(1))
    assert not any(parameter.requires_grad for parameter in net.front.parameters())
    for _ in range(2):
        with seen(work, data, "train", Net(net)) as (module, viewer):
            assert module is net.rest
            found = viewer.inputs(np.arange(7))[0]
        assert not list(work.out.glob("front-*"))
    assert len(shown) == -(-120 // fronts.AT_ONCE)
    with torch.no_grad():
        expected = net.eval().front(torch.from_numpy(Rows(work.path(data.train_inputs))[np.arange(7)]))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    nn.init.zeros_(net.front.norm.weight)  # type: ignore[arg-type,union-attr]  # torch
    with seen(work, data, "train", Net(net)) as (_, viewer):
        assert not torch.equal(viewer.inputs(np.arange(7))[0], found)


def kept(folder: Path) -> tuple[Work, Data]:
    """Toy speech in a run."""
    (folder / "data").mkdir()
    work = Work(str(folder), "data", str(folder / "data"))
    made = spoken.arrays()
    subject, train, test = examine(made, spoken.HEADS, "spoken")

    def keep(name: str, array: NDArray[Any]) -> Any:
        write_array(work.out / f"{name}.npy", array)
        return work.keep(work.out / f"{name}.npy")

    text = made.beside["text"]
    data = Data(
        name="spoken",
        licence="CC0-1.0",
        subject=subject,
        train_inputs=keep("x", made.train_inputs),
        train_labels=(keep("y", train["logits"]),),
        test_inputs=keep("x-test", made.test_inputs),
        test_labels=(keep("y-test", test["logits"]),),
        train_beside=(keep("text", text.train),),
        test_beside=(keep("text-test", text.test),),
    )
    return work, data


def test_what_a_teacher_writes_is_learned_where_it_is_near_the_labels(tmp_path: Path) -> None:
    recipe = tmp_path / "spoken.toml"
    recipe.write_text(RECIPE.format(here=spoken.__file__))
    made = run(recipe, "raspberry-pi-4", out=tmp_path / "run", until="verify").made
    (agreement,), student = made.agreements, made.student
    assert student is not None and made.teacher.metrics["wer"] < 0.4
    assert agreement.ok and agreement.sqnr_db > 80
    (artifact,) = made.artifacts
    assert artifact.context is not None and artifact.steps == LENGTH
    assert artifact.file_bytes == sum(path.stat().st_size for path in (tmp_path / "run").glob("*/3-export/*/*.onnx"))
    assert agreement.metrics == pytest.approx(student.metrics)
    assert student.metrics["wer"] == pytest.approx(1 - student.metrics["word_accuracy"])
    labels, given = (np.load(tmp_path / f"run/pseudo-labels/{name}.npy") for name in ("labels", "given"))
    left_out = (labels < 0).all(axis=1)
    assert left_out[:20].mean() > 0.5 > left_out[20:].mean()
    assert np.array_equal(left_out, (given < 0).all(axis=1))
    assert (labels[~left_out] >= 0).any(axis=1).all()


def test_what_makes_no_further_input_is_said() -> None:
    made = spoken.arrays(8, 4)
    text = made.beside["text"]
    for beside, message in (
        (Beside(text.train[:7], text.test), "train is of shape \\(7, 6\\)"),
        (Beside(text.train, text.test[:, :5]), "test is of shape \\(4, 5\\)"),
        (Beside(text.train + 3, text.test), "tokens run from 3"),
        (Beside(np.zeros((8, 3, 4, 4), np.uint8), np.zeros((4, 3, 4, 4), np.uint8)), "images are a first input"),
        (Beside(np.full((8, 2), np.nan, np.float32), np.zeros((4, 2), np.float32)), "NaN"),
    ):
        with pytest.raises(ConfigError, match=message):
            examine(Arrays(**{**vars(made), "beside": {"text": beside}}), spoken.HEADS, "spoken")


def test_a_net_that_transcribes_refuses_other_subjects() -> None:
    with pytest.raises(Disagreement, match="reads sound"):
        transcriber(spoken.SIZE, subject((1, 32, 49), kind="numbers"))


def test_pseudo_labels_are_of_texts(tmp_path: Path) -> None:
    recipe = tmp_path / "toys.toml"
    recipe.write_text(
        RECIPE.format(here=toys.__file__)
        .replace(":requests", ":pictures")
        .replace(", wrong = 20", "")
        .replace("transcription", "classification")
        .replace("epochs = 15", "epochs = 1")
        .partition("[student]")[0]
        + f'[student]\nname = "{toys.__file__}:student"\ntraining = {{ epochs = 1 }}\n'
    )
    with pytest.raises(ConfigError, match="nets write no texts"):
        run(recipe, "raspberry-pi-4", out=tmp_path / "run", until="teach")
