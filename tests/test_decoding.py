"""Nets that write: a step with its state answers as the net does at once, in torch and as artifacts; what it writes."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

import edgekd
from edgekd import decoding, students
from edgekd.decoding import Step, unrolled, written
from edgekd.errors import ConfigError, Disagreement
from edgekd.layers import Tap, copy_layers
from edgekd.llama import Size, WritingNet, WritingStep
from edgekd.nets import anatomy_executed, load, parameters
from edgekd.plugins import find
from edgekd.specs import Artifact, Budget, LayerMap, Measurement
from tests import talkers

TALKERS = Path(__file__).with_name("talkers.py")


def net(seed: int = 0, **sizes: Any) -> WritingNet:
    torch.manual_seed(seed)
    size = {"width": 32, "heads": 4, "groups": 2, "feed_forward": 48, "layers": 2, **sizes}
    return WritingNet(Size(**size), talkers.subject()).eval()


def tokens(count: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, len(talkers.PIECES), (count, talkers.LENGTH), generator=generator)


@pytest.mark.parametrize("sizes", [{}, {"groups": 4}, {"groups": 1, "layers": 3}])
def test_a_step_led_through_a_text_answers_as_the_net_at_once(sizes: dict[str, int]) -> None:
    whole, given = net(**sizes), tokens()
    with torch.no_grad():
        torch.testing.assert_close(unrolled(WritingStep(whole), given), whole(given), rtol=1e-5, atol=1e-5)


def test_what_stands_before_every_text_is_seen_and_not_answered() -> None:
    """Against a net that is told the same in its text."""
    told, given = net(), tokens()[:, :5]
    before = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = told(torch.cat([before.expand(5, -1), given], 1))[:, :, 3:]
        alone = told(given)
        told.decoder.place(told.decoder.embeddings(before)[0])
        torch.testing.assert_close(told(given), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(unrolled(WritingStep(told), given), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, alone, atol=1e-3)


def test_nothing_that_comes_later_is_seen() -> None:
    whole, given = net(), tokens()
    other = given.clone()
    other[:, 6:] = 0
    with torch.no_grad():
        torch.testing.assert_close(whole(given)[:, :, :6], whole(other)[:, :, :6])


def test_written_is_what_is_most_likely_token_after_token() -> None:
    """Against a search that asks the whole net anew for each token."""
    whole, given = net(), tokens()
    known = torch.tensor([2, 3, 4, 5, 12])
    expected = given.clone()
    with torch.no_grad():
        for row, count in zip(expected, known.tolist(), strict=True):
            for place in range(count, talkers.LENGTH):
                row[place] = 0 if talkers.END in row[count:place] else whole(row[None, :place])[0, :, -1].argmax()
    made = written(WritingStep(whole), given, known, talkers.END)
    assert torch.equal(made, expected)
    assert torch.equal(made[4], given[4])


def test_drawn_texts_follow_the_probabilities_and_the_generator() -> None:
    whole = net()
    given = torch.full((4000, 2), talkers.ASK)
    known = torch.ones(4000, dtype=torch.int64)

    def draw(seed: int, temperature: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return written(WritingStep(whole), given, known, talkers.END, generator, temperature)

    first = draw(0)
    assert torch.equal(first, draw(0)) and not torch.equal(first, draw(1))
    with torch.no_grad():
        logits = whole(given[:1, :1])[0, :, 0]
    for temperature in (1.0, 0.5):
        expected = (logits / temperature).softmax(0)
        found = torch.bincount(draw(2, temperature)[:, 1], minlength=len(expected)) / 4000
        assert (found - expected).abs().max() < 5 * (expected * (1 - expected) / 4000).sqrt().max()


def test_what_losses_look_at_is_what_modules_return() -> None:
    whole = net()
    tap = Tap(whole, ["decoder.embeddings", "decoder.layers.1", "decoder.layers.0.attention:1"])
    with torch.no_grad():
        whole(tokens())
    tap.close()
    assert tap.found["decoder.embeddings"].shape == tap.found["decoder.layers.1"].shape == (5, talkers.LENGTH, 32)
    probabilities = tap.found["decoder.layers.0.attention:1"]
    assert probabilities.shape == (5, 4, talkers.LENGTH, talkers.LENGTH)
    assert float(probabilities.triu(1).max()) < 1e-30, "what comes later is attended to"


def test_a_student_has_the_size_that_is_asked_for_and_starts_from_layers() -> None:
    family = find(students, "decoder")
    made = family.build(family.Options(width=32, heads=4, groups=2, layers=3, feed_forward=1.5), talkers.subject())
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert parameters(made.module) == len(talkers.PIECES) * 32 + 3 * layer + 32
    assert made.step is not None and parameters(made.step) == parameters(made.module)
    big = net(layers=6)
    assert copy_layers(big, made.module, [LayerMap(teacher="decoder.layers.*", student="decoder.layers.*")]) == 27
    assert torch.equal(made.module.decoder.layers[1].up.weight, big.decoder.layers[3].up.weight)


def test_a_device_executes_one_token() -> None:
    family = find(students, "decoder")
    made = family.build(family.Options(width=32, heads=4, groups=2, layers=3, feed_forward=1.5), talkers.subject())
    found = anatomy_executed(made, talkers.subject())
    products = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * talkers.LENGTH * 32
    assert found.macs == 3 * products + 32 * len(talkers.PIECES)
    assert found.arena_elements >= 3 * 2 * 16 * talkers.LENGTH, "the state is kept"


def test_sizes_that_do_not_go_together_are_refused() -> None:
    family = find(students, "decoder")
    with pytest.raises(ConfigError, match="3 heads do not divide a width of 32 into even parts"):
        family.build(family.Options(width=32), talkers.subject())
    with pytest.raises(ConfigError, match="2 groups do not divide 3 heads"):
        family.build(family.Options(groups=2), talkers.subject())
    pictures = msgspec.structs.replace(talkers.subject(), kind="numbers")
    with pytest.raises(Disagreement, match="reads tokens, the data are numbers"):
        family.build(family.Options(), pictures)
    tags = talkers.subject().outputs[0]
    tagged = msgspec.structs.replace(tags, task="tagging", shape=(3, talkers.LENGTH))
    with pytest.raises(Disagreement, match="which of 12 pieces comes next, the data want tagging"):
        family.build(family.Options(), msgspec.structs.replace(talkers.subject(), outputs=(tagged,)))


def test_examples_of_a_step_are_of_its_place_in_each_text() -> None:
    whole, given = net(), tokens()
    given[1, 7:] = 0
    step = WritingStep(whole)
    assert decoding.spread(given) == [0, 1, 2, 3, 4] and decoding.spread(given[1:2].expand(9, -1))[7:] == [0, 1]
    token, position, keys, *_ = decoding.examples(step, given, [0, 6, 3, 3, 11])
    assert token.dtype == position.dtype == np.int32 and keys.dtype == np.float32
    assert position[:, 0].tolist() == [0, 6, 3, 3, 11]
    assert token[:, 0, 0].tolist() == given[range(5), [0, 6, 3, 3, 11]].tolist()
    assert keys.shape == (5, 1, 2, talkers.LENGTH, 8)
    assert not keys[0].any() and keys[1, 0, :, :6].any() and not keys[1, 0, :, 6:].any()


def recipe(**training: Any) -> edgekd.Recipe:
    """A whole job that takes seconds."""
    how = {"batch": 32, "learning_rate": 3e-3, "optimiser": "adamw", "warmup": 0.1}
    return msgspec.convert(
        {
            "schema": 1,
            "name": "echoes",
            "title": "Says what was said",
            "task": "next_token",
            "prefer": "most capable within the budget",
            "accuracy_floor": 0.6,
            "dataset": {"name": f"{TALKERS}:echoes"},
            "teacher": {"name": f"{TALKERS}:teacher", "training": {"epochs": 30, **how}},
            "student": {
                "name": "decoder",
                "options": {"width": 32, "heads": 4, "groups": 2, "layers": 2},
                "training": {"epochs": 20, **how, **training},
            },
            "losses": [
                {"name": "divergence", "weight": 0.9, "options": {"temperature": 1.0}},
                {"name": "labels", "weight": 0.1},
            ],
            "instead": {"tflite-int8": "tflite-dynamic", "onnx-int8": "onnx-fp32"},
        },
        edgekd.Recipe,
    )


def test_a_net_that_writes_goes_all_the_way_to_a_device(tmp_path: Path) -> None:
    for package in ("litert_torch", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'edgekd[tflite,onnx]'")
    pi = msgspec.structs.replace(
        edgekd.load_target("raspberry-pi-4"),
        emulator="",
        exports=("tflite-int8", "onnx-int8", "tflite-fp32", "onnx-fp32"),
        engines=("litert", "onnxruntime"),
        budget=Budget(latency_ms=50, peak_memory_bytes=1e8, file_bytes=1e6, accuracy_floor=0.75),
    )
    found = edgekd.run(recipe(own_generations=0.5), pi, out=tmp_path / "run")
    made = found.made
    assert [one.export for one in made.artifacts] == ["tflite-dynamic", "onnx-fp32", "tflite-fp32"]
    assert made.student is not None and made.student.metrics["accuracy"] > 0.7
    assert all(one.ok for one in made.agreements), [one.reason for one in made.agreements]
    exact = [one for one in made.agreements if one.artifact.endswith("fp32")]
    assert len(exact) == 2 and all(one.sqnr_db > 100 and one.top1_agreement == 1 for one in exact)
    assert all(one.inputs[0].name == "token" and one.outputs[1].name == "next_keys_0" for one in made.artifacts)
    assert made.student.macs < 60_000, "of one token"
    floor = {one.limit: one.allowed for one in found.verdicts}["accuracy_floor"]
    assert floor == pytest.approx(0.6), "the recipe's own"
    family = find(students, "decoder")
    learned = family.build(family.Options(**made.student.choice.options), talkers.subject())
    load(learned.module.eval(), found.folder / made.student.weights.path)
    for measured in made.measurements:
        written_by(found.folder, measured, made.artifacts, learned.step)
        assert any(f"{measured.artifact} writes" in line and "[host]" in line for line in found.summary()["findings"])


def written_by(folder: Path, measured: Measurement, artifacts: tuple[Artifact, ...], step: Step) -> None:
    """What was measured is what the data allow, and what was written is what torch writes."""
    artifact = next(one for one in artifacts if one.export == measured.artifact)
    writing = measured.writing
    assert writing is not None and artifact.texts is not None and artifact.steps == talkers.LENGTH
    with np.load(folder / artifact.texts.path) as opened:
        given = opened["1"]
    assert writing.texts == len(given) == len(writing.text_ms)
    assert len(given) <= writing.tokens <= (talkers.LENGTH - given).sum()
    assert writing.tokens_s > 0 and 0 < writing.first_token_ms <= max(writing.text_ms)
    assert len(writing.question) == given[0] and writing.question[0] == talkers.ASK
    if measured.artifact.endswith("fp32"):
        text = torch.zeros(1, talkers.LENGTH, dtype=torch.int64)
        text[0, : given[0]] = torch.tensor(writing.question)
        (expected,) = written(step, text, torch.tensor(given[:1]), talkers.END)
        assert list(writing.answer) == expected[given[0] :][: len(writing.answer)].tolist()
