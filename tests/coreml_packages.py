"""Writes the packages that the tests of edgekd.coreml read: `python coreml_packages.py FOLDER [slow]`.

A process of its own, for coremltools takes seconds to import, warns of much, and so on. It leaves out what coremltools
would import and does not need here.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

for unneeded in ("tensorflow", "sklearn", "torchao", "xgboost", "transformers"):
    sys.modules[unneeded] = None  # type: ignore[assignment]  # the way to make an import fail
sys.modules["coremltools.optimize.torch"] = ModuleType("coremltools.optimize.torch")
warnings.simplefilter("ignore")

import coremltools as ct  # noqa: E402 - after the above
import coremltools.optimize.coreml as smaller  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from coreml_cases import CASES, Case  # noqa: E402
from coreml_nets import Counter, Wide, nets  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry  # noqa: E402

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
TARGETS = {5: ct.target.iOS15, 6: ct.target.iOS16, 7: ct.target.iOS17, 8: ct.target.iOS18}
DTYPES = {"float32": types.fp32, "int32": types.int32}
FP32, FP16 = ct.precision.FLOAT32, ct.precision.FLOAT16


def save(model: Any, name: str) -> Any:
    """Write a package."""
    model.save(str(OUT / f"{name}.mlpackage"))
    return model


# --- operators


def program(arrays: list[Any], opset: int, body: Callable[..., Any]) -> Any:
    """A program of a body that takes a list of variables; the builder wants a function with a name for each."""
    names = ", ".join(f"x{at}" for at in range(len(arrays)))
    made: dict[str, Any] = {"body": body}
    exec(f"def function({names}): return body([{names}])", made)
    specs = [mb.TensorSpec(shape=array.shape, dtype=DTYPES[array.dtype.name]) for array in arrays]
    return mb.program(input_specs=specs, opset_version=TARGETS[opset])(made["function"])


def converted(made: Any, opset: int) -> Any:
    """A program as it is: no pass changes it."""
    return ct.convert(
        made, convert_to="mlprogram", minimum_deployment_target=TARGETS[opset], compute_precision=FP32,
        pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
    )  # fmt: skip


def operators(opset: int, cases: list[Case]) -> None:
    """A package of all cases of an op set."""

    def body(variables: list[Any]) -> tuple[Any, ...]:
        rest, outputs = iter(variables), []
        for number, one in enumerate(cases):
            made = one.build(mb, *(next(rest) for _ in one.arrays))
            for at, output in enumerate(made if isinstance(made, tuple | list) else (made,)):
                outputs.append(mb.identity(x=output, name=f"case{number}_{at}"))
        return tuple(outputs)

    save(converted(program([array for one in cases for array in one.arrays], opset, body), opset), f"operators-{opset}")


def tiny() -> None:
    """Small enough to be read hundreds of times, with something of most that a package can hold."""
    random = np.random.default_rng(0)
    weight, codes = random.normal(size=(4, 2, 3, 3)).astype(np.float32), random.integers(-128, 128, (4, 4, 1, 1))

    def body(variables: list[Any]) -> Any:
        (x,) = variables
        x = mb.relu(x=mb.conv(x=x, weight=weight, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2]))
        small = mb.constexpr_affine_dequantize(
            quantized_data=codes.astype(np.int8), zero_point=np.int8(3), scale=np.float32(0.01), axis=0
        )
        x = mb.concat(values=(x, mb.conv(x=x, weight=small)), axis=1)
        x = mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False)
        x = mb.while_loop(
            _cond=lambda i, value: mb.less(x=i, y=2),
            _body=lambda i, value: (mb.add(x=i, y=1), mb.mul(x=value, y=1.5)),
            loop_vars=(0, x),
        )[1]
        return mb.softmax(x=mb.reshape(x=x, shape=[2, -1]), name="answer")

    save(converted(program([np.zeros((1, 2, 6, 6), np.float32)], 6, body), 6), "tiny")


# --- nets


def net(name: str, precision: Any, opset: int, *, exported: bool = False) -> Any:
    """A net of coreml_nets, traced or exported by torch."""
    module, examples, inputs, outputs = nets()[name]
    options: dict[str, Any] = {}
    if exported:
        source = torch.export.export(module, examples).run_decompositions({})
    else:
        source = torch.jit.trace(module, examples)
        kinds = [np.int32 if one.dtype == torch.int32 else np.float32 for one in examples]
        options["inputs"] = [
            ct.TensorType(name=name, shape=one.shape, dtype=kind)
            for name, one, kind in zip(inputs, examples, kinds, strict=True)
        ]
    return ct.convert(
        source, outputs=[ct.TensorType(name=name) for name in outputs], compute_precision=precision,
        minimum_deployment_target=TARGETS[opset], convert_to="mlprogram", skip_model_load=True, **options,
    )  # fmt: skip


def quantized(model: Any, **options: Any) -> Any:
    """With linear weights of eight or four bits."""
    config = smaller.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=64, **options)
    return smaller.linear_quantize_weights(model, smaller.OptimizationConfig(config))


def palettized(model: Any, bits: int, **options: Any) -> Any:
    """With weights from tables."""
    config = smaller.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=64, **options)
    return smaller.palettize_weights(model, smaller.OptimizationConfig(config))


def references() -> None:
    """What torch says of each net, beside the packages."""
    for name, (module, examples, inputs, outputs) in nets().items():
        with torch.no_grad():
            answers = module(*examples)
        answers = answers if isinstance(answers, tuple) else (answers,)
        given = {f"in {key}": value.numpy() for key, value in zip(inputs, examples, strict=True)}
        np.savez(OUT / f"{name}.npz", **given, **{f"out {k}": v.numpy() for k, v in zip(outputs, answers, strict=True)})


def some_nets() -> None:
    """Each net in a precision or two, and each precision with a net."""
    for name in ("mobile", "encoder", "heads"):
        save(net(name, FP32, 5), f"{name}-fp32")
    for name in ("mobile", "encoder", "decoder"):
        half = save(net(name, FP16, 7), f"{name}-fp16")
        if name == "mobile":
            save(quantized(half), "mobile-int8")
            save(palettized(half, 6), "mobile-lut6")
    save(quantized(net("quantized", FP16, 7)), "quantized-w8a8")
    references()


def other_nets() -> None:
    """Each net in the precisions that are left, and as torch.export gives it."""
    save(net("decoder", FP32, 5), "decoder-fp32")
    for name in ("encoder", "decoder", "heads"):
        half = net(name, FP16, 7)
        save(quantized(half), f"{name}-int8")
        save(palettized(half, 6), f"{name}-lut6")
        save(half, f"{name}-fp16")
    exported = save(net("mobile", FP16, 8, exported=True), "mobile-fp16-exported")
    save(palettized(exported, 4, granularity="per_grouped_channel", group_size=4), "mobile-lut4-exported")
    save(quantized(exported, dtype="int4", granularity="per_block", block_size=8), "mobile-int4-exported")
    references()


# --- what else a package can be


def others() -> None:
    """A classifier of images, a state, any width, several functions, metadata."""
    module, examples, _, _ = nets()["mobile"]
    traced = torch.jit.trace(torch.nn.Sequential(module, torch.nn.Softmax(1)), examples)
    classifier = ct.convert(
        traced, convert_to="mlprogram", skip_model_load=True, compute_precision=FP32,
        inputs=[ct.ImageType(name="image", shape=(1, 3, 32, 32), scale=1 / 64, bias=[-1, -2, -1.5])],
        classifier_config=ct.ClassifierConfig([f"class {at} é" for at in range(10)], "label"),
    )  # fmt: skip
    pixels = np.random.default_rng(1).uniform(0, 255, (1, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        shifted = torch.from_numpy(pixels) / 64 + torch.tensor([-1, -2, -1.5])[:, None, None]
        np.savez(OUT / "classifier.npz", image=pixels, probabilities=traced(shifted).numpy())
    classifier.author, classifier.license, classifier.version = "A. Author", "CC0-1.0", "3.1"
    classifier.short_description = "Ten classes"
    classifier.user_defined_metadata["edgekd.layers"] = '{"label": "0.head", "no value": "0"}'
    save(classifier, "classifier")
    counter = ct.convert(
        torch.jit.trace(Counter().eval(), torch.zeros(3)), convert_to="mlprogram", skip_model_load=True,
        inputs=[ct.TensorType(name="x", shape=(3,), dtype=np.float16)],
        outputs=[ct.TensorType(name="twice", dtype=np.float16)],
        states=[ct.StateType(wrapped_type=ct.TensorType(shape=(3,), dtype=np.float16), name="total")],
        minimum_deployment_target=ct.target.iOS18,
    )  # fmt: skip
    save(counter, "counter")
    torch.manual_seed(0)
    wide, image = Wide().eval(), torch.zeros(1, 1, 8, 8)
    ranged = ct.TensorType(name="image", shape=(1, 1, 8, ct.RangeDim(4, 20, default=8)))
    save(ct.convert(
        torch.jit.trace(wide, image), inputs=[ranged], outputs=[ct.TensorType(name="y")], convert_to="mlprogram",
        skip_model_load=True, compute_precision=FP32,
    ), "wide")  # fmt: skip
    with torch.no_grad():
        np.savez(OUT / "wide.npz", image=np.ones((1, 1, 8, 19), np.float32), y=wide(torch.ones(1, 1, 8, 19)).numpy())
    several = ct.utils.MultiFunctionDescriptor()
    several.add_function(str(OUT / "tiny.mlpackage"), "main", "first")
    several.add_function(str(OUT / "mobile-fp32.mlpackage"), "main", "second")
    several.default_function_name = "second"
    ct.utils.save_multifunction(several, str(OUT / "several.mlpackage"))


def main() -> None:
    """Write them all, or those of the slow tests."""
    if "slow" in sys.argv:
        other_nets()
        return
    for opset in TARGETS:
        operators(opset, [one for one in CASES if one.opset == opset])
    tiny()
    some_nets()
    others()
    (OUT / "known.txt").write_text("\n".join(SSAOpRegistry.core_ops), encoding="utf-8")


if __name__ == "__main__":
    main()
