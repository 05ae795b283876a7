"""Makes TensorFlow models, opens them as sources, breaks their files; prints one line of JSON for each finding.

Executed as a program by tests/test_sources_tensorflow.py, for TensorFlow is slow to load and leaks.
"""

import io
import json
import os
import random
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
warnings.simplefilter("ignore")

import h5py  # noqa: E402 - the environment comes first
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402

from edgekd.errors import EdgekdError  # noqa: E402
from edgekd.sources import open_model  # noqa: E402
from tests.brought import flat, sqnr_db  # noqa: E402

layers = keras.layers


def tell(what: str, name: str, **more: Any) -> None:
    """One finding."""
    print("FOUND", json.dumps({"what": what, "name": name, **more}), flush=True)


# --- models


def image_net() -> Any:
    """Convolutions of all kinds, two answers."""
    image = keras.Input((20, 20, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    x = layers.Activation("hard_swish")(layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x))
    squeezed = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(squeezed)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.SeparableConv2D(12, 3)(x))
    x = layers.LayerNormalization()(layers.Conv2DTranspose(6, 3, 2, padding="same")(x))
    x = layers.ZeroPadding2D(((1, 0), (0, 2)))(layers.MaxPooling2D(3, 2, padding="same")(x))
    x = layers.PReLU(shared_axes=[1, 2])(layers.AveragePooling2D(3, 2, padding="same")(x))
    x = layers.GroupNormalization(3)(layers.Cropping2D(1)(x))
    answer = layers.Dense(5, activation="softmax")(layers.Flatten()(x))
    return keras.Model(image, [answer, layers.Conv2D(2, (1, 3), groups=2)(x)])


def sound_net() -> Any:
    """One-dimensional convolutions and recurrences."""
    sound = keras.Input((12, 2), name="sound")
    x = layers.BatchNormalization()(layers.Conv1D(6, 5, 2, padding="causal", activation="relu")(sound))
    x = layers.MaxPooling1D(2)(layers.Conv1DTranspose(4, 3, 2, padding="same")(x))
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(layers.LSTM(5, return_sequences=True)(x))
    return keras.Model(sound, layers.TimeDistributed(layers.Dense(2))(x))


def text_net() -> Any:
    """Attention; two inputs by name, and answers by name."""
    ids = keras.Input((7,), dtype="int32", name="ids")
    scale = keras.Input((8,), name="scale")
    x = layers.Embedding(20, 8)(ids)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
    x = layers.Dense(8, activation="gelu")(x) * scale[:, None]
    return keras.Model({"ids": ids, "scale": scale}, {"tokens": x, "mean": layers.GlobalMaxPooling1D()(x)})


MODELS: dict[str, Callable[[], Any]] = {"image": image_net, "sound": sound_net, "text": text_net}


def shake(model: Any) -> None:
    """Statistics and offsets away from their start, so that folding them wrongly is seen."""
    random_numbers = np.random.default_rng(0)
    for weight in model.variables:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(random_numbers.uniform(0.5, 2.0, weight.shape))
        elif weight.path.endswith(("beta", "bias", "moving_mean")):
            weight.assign(random_numbers.normal(0, 0.3, weight.shape))


def feeds_of(model: Any) -> list[Any]:
    """Seeded inputs."""
    random_numbers = np.random.default_rng(1)
    return [
        random_numbers.normal(size=spec.shape).astype(np.float32)
        if spec.dtype == "float32"
        else random_numbers.integers(0, 20, spec.shape).astype(spec.dtype)
        for spec in model.inputs
    ]


def compare(name: str, path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Agreement of a file with TensorFlow's own answer, output by output."""
    model = open_model(str(path))
    feeds = feeds_of(model)
    with torch.no_grad():
        found = flat(model.module(*map(torch.from_numpy, feeds)))
    expected = answer({spec.name: array for spec, array in zip(model.inputs, feeds, strict=True)})
    for spec, tensor in zip(model.outputs, found, strict=True):
        truth = np.asarray(expected[spec.name])
        same = truth.shape == tuple(tensor.shape) == spec.shape and str(tensor.dtype) == f"torch.{truth.dtype}"
        tell("agreement", f"{name}:{spec.name}", sqnr_db=sqnr_db(truth, tensor.detach().numpy()) if same else 0.0)
    tell(
        "model",
        name,
        inputs=[[spec.name, list(spec.shape), spec.dtype, spec.layout] for spec in model.inputs],
        outputs=[spec.name for spec in model.outputs],
        parameters=sorted(key for key, _ in model.module.named_parameters()),
        properties=model.properties,
    )


def check_keras(folder: Path) -> None:
    """Each model in each of the three forms."""
    for name, build in MODELS.items():
        keras.utils.set_random_seed(0)
        model = build()
        shake(model)

        def answer(feeds: dict[str, Any], model: Any = model) -> dict[str, Any]:
            given = list(feeds.values())
            packed = keras.tree.pack_sequence_as(model._inputs_struct, given) if len(given) > 1 else given[0]
            return dict(zip(model.output_names, keras.tree.flatten(model(packed, training=False)), strict=True))

        for suffix in (".keras", ".h5") if name == "image" else (".keras",):
            model.save(folder / f"{name}{suffix}")
            compare(f"{name}{suffix}", folder / f"{name}{suffix}", answer)
        model.export(folder / name, verbose=False)
        serve = tf.saved_model.load(str(folder / name)).signatures["serving_default"]
        compare(name, folder / name, lambda feeds, serve=serve: serve(**feeds))  # type: ignore[misc]  # mypy and defaults


class Operators(tf.Module):  # type: ignore[misc]  # TensorFlow ships no types
    """Single operators in forms that Keras does not write."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(tf.random.stateless_normal((6, 3), (1, 2)), name="table")

    @tf.function  # type: ignore[untyped-decorator]  # as above
    def run(self, image: Any, row: Any, places: Any) -> dict[str, Any]:
        """Image (1, 6, 8, 4), row (1, 5) and places (3,) to everything."""
        folded = tf.nn.space_to_depth(image, 2)
        quantized = tf.quantization.fake_quant_with_min_max_args(image, -2.0, 1.5)
        total = row * 0.0
        for turn in tf.range(4):
            total = tf.cond(turn % 2 == 0, lambda: total + row, lambda: total * 0.5)  # noqa: B023 - traced at once
        found = {
            "strided": image[:, ::-2, 1:-1:3, tf.newaxis, ..., 2],
            "reversed": tf.reverse(image, [1, 3]),
            "mirrored": tf.pad(image, [[0, 0], [2, 1], [0, 3], [0, 0]], "SYMMETRIC"),
            "reflected": tf.pad(
                tf.nn.relu(tf.nn.max_pool2d(image, 2, 1, "SAME")), [[0, 0], [2, 1], [0, 3], [0, 0]], "REFLECT"
            ),
            "valued": tf.pad(image, [[0, 0], [1, 0], [0, 0], [0, 2]], constant_values=0.5),
            "depth": tf.nn.depth_to_space(folded, 2) + folded[:, :1, :1, :4],
            "explicit": tf.nn.conv2d(image, tf.ones((2, 3, 4, 2)), [1, 2, 1, 1], [[0, 0], [1, 0], [2, 1], [0, 0]]),
            "atrous": tf.nn.atrous_conv2d(image, tf.ones((3, 3, 4, 2)), 2, "SAME"),
            "blocks": tf.batch_to_space(
                tf.space_to_batch(image, [2, 2], [[1, 1], [0, 2]]) * 2.0, [2, 2], [[0, 1], [1, 0]]
            ),
            "transposed": tf.transpose(tf.nn.avg_pool2d(image, 3, 2, "SAME"), [0, 3, 1, 2]),
            "means": tf.reduce_mean(tf.nn.avg_pool2d(image, 2, 1, "VALID"), [0, 2]),
            "most": tf.reduce_max(tf.nn.avg_pool2d(image, 2, 1, "VALID"), 1),
            "normal": tf.nn.softmax(tf.nn.avg_pool2d(image, 2, 1, "VALID")),
            "parts": tf.concat(tf.split(tf.nn.max_pool2d(image, 2, 2, "VALID"), [1, -1], 3)[::-1], 3),
            "response": tf.nn.local_response_normalization(image, 1, 1.5, 0.3, 0.6),
            "sums": tf.cumsum(row, 1, exclusive=True, reverse=True),
            "top": tf.math.top_k(row, 3).values,
            "where": tf.math.top_k(row, 3).indices,
            "largest": tf.argmax(image, 2),
            "hot": tf.one_hot(places, 4, 2.0, -1.0, axis=0),
            "rows": tf.gather(self.table, places),
            "columns": tf.gather(self.table, [2, 0], axis=1) @ tf.ones((2, 2)),
            "picked": tf.gather_nd(image, tf.stack([places * 0, places, places], 1)),
            "written": tf.tensor_scatter_nd_update(row, [[0, 1], [0, 4]], [9.0, 8.0]),
            "contracted": tf.einsum("bhwc,cd->bhwd", image, self.table[:4]),
            "attended": tf.einsum("abc,abd->acd", image[0], image[0]),
            "product": tf.matmul(row, row, transpose_a=True),
            "band": tf.linalg.band_part(tf.matmul(row, row, transpose_a=True), 1, 2),
            "divided": tf.math.divide_no_nan(row, row - row[:, :1]),
            "whole": tf.cast(row * 7, tf.int32) // 3 % 4,
            "clipped": tf.clip_by_value(row, -0.5, 0.5),
            "gelu": tf.nn.gelu(row) + tf.nn.gelu(row, approximate=True),
            "chosen": tf.where(row > 0, row, -2 * row),
            "rounded": quantized,
            "looped": total,
            "length": tf.shape(image)[1] * tf.ones((2,), tf.int32),
            "selu": tf.nn.selu(row) + tf.nn.elu(row) + tf.nn.leaky_relu(row, 0.3) + tf.math.softplus(row),
        }
        for half in (False, True):
            for method in ("bilinear", "nearest_neighbor", "bicubic"):
                resize = getattr(
                    tf.raw_ops,
                    {"bilinear": "ResizeBilinear", "bicubic": "ResizeBicubic"}.get(method, "ResizeNearestNeighbor"),
                )
                found[f"{method}_{half}"] = resize(
                    images=image, size=[9, 5], align_corners=False, half_pixel_centers=half
                )
        found["corners"] = tf.raw_ops.ResizeBilinear(images=image, size=[9, 5], align_corners=True)
        return found


def check_operators(folder: Path) -> None:
    """All of them in one SavedModel, whose sizes are open."""
    path, module = folder / "operators", Operators()
    given = (
        tf.TensorSpec((None, 6, 8, 4), name="image"),
        tf.TensorSpec((None, 5), name="row"),
        tf.TensorSpec((3,), tf.int32, name="places"),
    )
    tf.saved_model.save(module, str(path), signatures=module.run.get_concrete_function(*given))
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    model = open_model(str(path))
    feeds = {spec.name: array for spec, array in zip(model.inputs, feeds_of(model), strict=True)}
    feeds["places"] = np.array([2, 0, 5], np.int32)
    expected = serve(**feeds)
    with torch.no_grad():
        found = flat(model.module(*map(torch.from_numpy, feeds.values())))
    for spec, tensor in zip(model.outputs, found, strict=True):
        truth = expected[spec.name].numpy()
        same = truth.shape == tuple(tensor.shape) and str(tensor.dtype) == f"torch.{truth.dtype}"
        tell("agreement", f"operators:{spec.name}", sqnr_db=sqnr_db(truth, tensor.detach().numpy()) if same else 0.0)
    tell("model", "operators", inputs=[[spec.name, list(spec.shape)] for spec in model.inputs])
    refuse("asked", path, {"image": (1, 7, 8, 4)})
    refuse("unknown input", path, {"picture": (1, 6, 8, 4)})


# --- what is refused


def refuse(name: str, path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
    """How a file is refused; that it is read is a finding too."""
    try:
        open_model(str(path), shapes or {})
        tell("refused", name, kind="", message="")
    except EdgekdError as error:
        tell("refused", name, kind=type(error).__name__, message=str(error), hint=error.hint)


@keras.saving.register_keras_serializable("mine")  # type: ignore[untyped-decorator]  # Keras ships no types
class Own(keras.layers.Layer):  # type: ignore[misc]  # as above
    """A layer of a user's own."""

    def call(self, x: Any) -> Any:
        """Twice."""
        return 2 * x


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change what is packed in a .keras file."""
    with zipfile.ZipFile(path) as archive:
        packed = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(packed)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in packed.items():
            archive.writestr(name, content)


def in_weights(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    """A change of the weights in a .keras file."""

    def apply(packed: dict[str, bytes]) -> None:
        content = io.BytesIO(packed["model.weights.h5"])
        with h5py.File(content, "r+") as stored:
            change(stored)
        packed["model.weights.h5"] = content.getvalue()

    return apply


def replaced(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    """A change of the configuration in a .keras file."""

    def apply(packed: dict[str, bytes]) -> None:
        packed["config.json"] = packed["config.json"].replace(old.encode(), new.encode())

    return apply


def check_refusals(folder: Path) -> None:
    """Files that hold code, that point elsewhere, that are too large, that lack something."""
    inputs = keras.Input((3,))
    models = {
        "lambda": keras.Model(inputs, layers.Lambda(lambda x: 2 * x)(inputs)),
        "own layer": keras.Model(inputs, Own()(inputs)),
        "plain": keras.Model(inputs, layers.Dense(2)(inputs)),
    }
    for name, model in models.items():
        for suffix in (".keras", ".h5"):
            path = folder / f"{name}{suffix}"
            model.save(path)
    keras.saving.get_custom_objects().clear()  # as in a process that does not know the user's layers
    for name in models:
        for suffix in (".keras", ".h5"):
            path = folder / f"{name}{suffix}"
            if name != "plain":
                refuse(f"{name}{suffix}", path)
    plain = folder / "plain.keras"
    changes = {
        "foreign module": replaced(
            '"module": "keras.layers", "class_name": "Dense"', '"module": "os", "class_name": "system"'
        ),
        "saved model layer": replaced('"class_name": "Dense"', '"class_name": "TFSMLayer"'),
        "not a model": lambda packed: packed.update(
            {"config.json": b'{"module": "keras.layers", "class_name": "Dense", "config": {}}'}
        ),
        "no weights": lambda packed: packed.pop("model.weights.h5") and None,
        "an asset": lambda packed: packed.update({"assets/vocabulary.txt": b"a"}),
        "link": in_weights(lambda stored: stored.__setitem__("more", h5py.ExternalLink("/etc/passwd", "/"))),
        "another file": in_weights(
            lambda stored: stored.create_dataset("more", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        ),
        "huge": in_weights(lambda stored: stored.create_dataset("more", (2**40,), "f4", chunks=(1024,))),
    }
    for name, change in changes.items():
        path = folder / f"{name}.keras"
        shutil.copy(plain, path)
        rewrite(path, change)
        refuse(name, path)
    with h5py.File(folder / "weights alone.h5", "w") as stored:
        stored["a"] = np.zeros(3)
    refuse("weights alone", folder / "weights alone.h5")
    check_saved_refusals(folder)


def check_saved_refusals(folder: Path) -> None:
    """SavedModels that do what cannot be expressed."""

    class Module(tf.Module):  # type: ignore[misc]  # as above
        @tf.function(input_signature=[tf.TensorSpec((1, 4))])  # type: ignore[untyped-decorator]
        def spectrum(self, x: Any) -> Any:
            return tf.abs(tf.signal.rfft(x))

        @tf.function(input_signature=[tf.TensorSpec((1, 4))])  # type: ignore[untyped-decorator]
        def until(self, x: Any) -> Any:
            return tf.while_loop(lambda y: tf.reduce_sum(y) < 10.0, lambda y: (y * 2.0,), (x,))[0]

        @tf.function(input_signature=[tf.TensorSpec((1, 4))])  # type: ignore[untyped-decorator]
        def writes(self, x: Any) -> Any:
            with tf.control_dependencies([tf.io.write_file(str(folder / "executed"), "x")]):
                return tf.identity(x)

        @tf.function(input_signature=[tf.TensorSpec((1, 4))])  # type: ignore[untyped-decorator]
        def reads(self, x: Any) -> Any:
            return x + tf.strings.to_number(tf.io.read_file("/etc/hostname"))

    module = Module()
    for name in ("spectrum", "until", "writes", "reads"):
        path = folder / f"saved {name}"
        tf.saved_model.save(module, str(path), signatures=getattr(module, name))
        refuse(f"saved {name}", path)
    tf.saved_model.save(tf.Module(), str(folder / "saved nothing"))
    refuse("saved nothing", folder / "saved nothing")
    shutil.copytree(folder / "sound", folder / "saved no weights")
    shutil.rmtree(folder / "saved no weights/variables")
    refuse("saved no weights", folder / "saved no weights")
    tell("executed", "write_file", happened=(folder / "executed").exists())


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to three random accidents."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(found))
        if chance.random() < 0.6:
            found[at] ^= 1 << chance.randrange(8)
        else:
            found[at : at + chance.randint(0, 40)] = chance.randbytes(chance.randint(1, 20))
    return bytes(found)


def check_damage(folder: Path) -> None:
    """Broken files of every kind are read or refused in one line."""
    chance, outcomes = random.Random(0), {"read": 0, "refused": 0}
    whole = [
        folder / "image.keras",
        folder / "image.h5",
        folder / "text/saved_model.pb",
        folder / "text/variables/variables.index",
    ]
    for turn in range(48):
        source = whole[turn % len(whole)]
        if source.parent == folder:
            path = target = folder / f"broken{source.suffix}"
        else:
            path = folder / "broken"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(folder / "text", path)
            target = path / source.relative_to(folder / "text")
        target.write_bytes(damaged(source.read_bytes(), chance))
        try:
            open_model(str(path))
            outcomes["read"] += 1
        except EdgekdError as error:
            assert "\n" not in str(error) + error.hint and len(str(error)) < 600, str(error)
            outcomes["refused"] += 1
    tell("damage", "all", **outcomes)


def check_basic_pitch() -> None:
    """The SavedModel of PyPI's basic-pitch, against its ONNX file in ONNX Runtime."""
    found = [Path(folder) / "basic_pitch/saved_models/icassp_2022/nmp" for folder in sys.path]
    there = next((path for path in found if path.is_dir()), None)
    if there is None:
        return
    import onnxruntime

    model = open_model(str(there))
    (sound,) = feeds_of(model)
    session = onnxruntime.InferenceSession(f"{there}.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: sound})
    with torch.no_grad():
        outputs = flat(model.module(torch.from_numpy(sound)))
    for spec, tensor in zip(model.outputs, outputs, strict=True):
        best = max(sqnr_db(truth, tensor.detach().numpy()) for truth in expected if truth.shape == tuple(tensor.shape))
        tell("agreement", f"basic_pitch:{spec.name}", sqnr_db=best, least=80)


if __name__ == "__main__":
    here = Path(sys.argv[1])
    check_keras(here)
    check_operators(here)
    check_basic_pitch()
    check_refusals(here)
    check_damage(here)
    tell("end", "all")
