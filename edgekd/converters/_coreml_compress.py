"""Weights of few bits, and integers between operators, in an ML program; by coremltools, with ranges of our own.

coremltools calibrates activations on a Mac only, and then keeps the last example's range; it quantizes sums of token
ids, and puts integers between a convolution and its ReLU6. Here edgekd's interpreter of Core ML packages runs the
calibration examples, and `edgekd.ranges` makes the ranges. Activations have zero points: without, a MobileNetV3 has
18 dB in place of 23. None of this was timed on Apple's hardware.

Palettes are the best of one table a tensor, by Lloyd's iteration in place of coremltools' k-means, which is slow and
wants scikit-learn. Weights of few elements stay as they are: on the tests' mobile nets that is worth 6 dB of a palette,
for a tenth of the size.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd import coreml
from edgekd.converters import Source
from edgekd.converters._coreml_layers import spread
from edgekd.converters._modules import lies_below
from edgekd.ranges import Histogram

SMALLEST: Final = 1024
"""Elements of a weight that is compressed."""
PALETTE_BITS: Final = {"palette6": 6, "palette4": 4}
LARGEST_FP16: Final = 65504.0
LEAST_RANGE: Final = 255 * 2.0**-20
"""Smaller ones would have scales that float16 represents badly, or not at all."""


def compress(model: Any, modules: Mapping[str, str], source: Source, precision: str, scratch: Path) -> Any:
    """The MLModel in a precision; `modules` are those of its values."""
    in_float = _names_within(model, modules, source.quantization.in_float)
    if precision in PALETTE_BITS:
        return _with_palettes(model, PALETTE_BITS[precision], in_float)
    if precision == "int8":
        return _with_int8_weights(model, in_float)
    if precision == "w8a8":
        return _with_int8(model, source, in_float, scratch)
    return model


def _names_within(model: Any, modules: Mapping[str, str], in_float: tuple[str, ...]) -> set[str]:
    """Names of the operations of modules that stay in float, and of their constants."""
    program = model.get_spec().mlProgram
    layers = spread(program, modules)
    (block,) = program.functions["main"].block_specializations.values()
    constants = {operation.outputs[0].name for operation in block.operations if operation.type == "const"}
    found: set[str] = set()
    for operation in block.operations:
        outputs = [output.name for output in operation.outputs]
        if any(lies_below(layers.get(output, ""), in_float) for output in outputs):
            found.update(outputs)
            found |= constants & {one.name for given in operation.inputs.values() for one in given.arguments}
    return found


# --- weights


def _with_int8_weights(model: Any, in_float: Iterable[str]) -> Any:
    from coremltools import optimize

    return optimize.coreml.linear_quantize_weights(model, _linear(in_float, "linear_symmetric", SMALLEST))


def _linear(in_float: Iterable[str], mode: str, smallest: int) -> Any:
    from coremltools import optimize

    return _all_but(in_float, optimize.coreml.OpLinearQuantizerConfig(mode=mode, weight_threshold=smallest))


def _with_palettes(model: Any, bits: int, in_float: Iterable[str]) -> Any:
    from coremltools import optimize

    kind = optimize.coreml.OpPalettizerConfig(
        mode="custom", lut_function=lambda weights: palette(weights, bits), weight_threshold=SMALLEST
    )
    return optimize.coreml.palettize_weights(model, _all_but(in_float, kind))


def _all_but(in_float: Iterable[str], kind: Any) -> Any:
    from coremltools import optimize

    return optimize.coreml.OptimizationConfig(global_config=kind, op_name_configs=dict.fromkeys(sorted(in_float)))


def palette(values: NDArray[Any], bits: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """A table of 2**bits values, and for each element the index of the nearest, flat.

    Lloyd 1982, "Least squares quantization in PCM", begun at the density that is best for many levels (Panter and Dite
    1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels").
    """
    flat = values.reshape(-1).astype(np.float64)
    ordered = np.sort(flat)
    sums = np.append(0.0, np.cumsum(ordered))
    table = _first_table(ordered, 2**bits)
    for _ in range(100):
        ends = np.searchsorted(ordered, (table[1:] + table[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        counts = np.diff(ends)
        means = np.where(counts, np.diff(sums[ends]) / np.maximum(counts, 1), table)
        if np.array_equal(means, table):
            break
        table = means
    table = np.sort(table).astype(values.dtype)
    edges = (table[1:].astype(np.float64) + table[:-1]) / 2
    return table, np.searchsorted(edges, flat).astype(np.uint8)


def _first_table(ordered: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    counts, edges = np.histogram(ordered, 1024)
    share = np.append(0.0, np.cumsum(np.cbrt(counts)))
    table: NDArray[np.float64] = np.interp((np.arange(size) + 0.5) / size * share[-1], share, edges)
    return table


# --- activations


def _with_int8(model: Any, source: Source, in_float: set[str], scratch: Path) -> Any:
    """Of integers all weights, and with zero points what convolutions, products with weights, sums and pools read and
    make.
    """
    from coremltools import _SPECIFICATION_VERSION_IOS_17
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models.utils import _apply_graph_pass

    package = scratch / "float.mlpackage"
    model.save(str(package))
    program = coreml.open_package(package)
    ranges = _ranges(program, source)
    activations = _linear(in_float | _with_integers(program, ranges), "linear", 0)
    passes = [
        _relu6_pass(),
        _pass("compression::insert_prefix_quantize_dequantize_pair", config=activations, activation_stats=ranges),
        _pass("compression::insert_suffix_quantize_dequantize_pair", config=activations, activation_stats=ranges),
        _pass("common::dequantize_quantize_pair_elimination"),
        _pass("compression::linear_quantize_weights", config=_linear(in_float, "linear_symmetric", 0)),
    ]
    return _apply_graph_pass(
        model, passes, spec_version=_SPECIFICATION_VERSION_IOS_17, pymil_load_func=load, skip_model_load=True
    )


def _pass(name: str, **options: Any) -> Any:
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    found = PASS_REGISTRY[name]
    found.set_options([PassOption(key, value) for key, value in options.items()])
    return found


def _relu6_pass() -> Any:
    """Makes ReLU6 of what clips to 0 and 6, for the passes behind it know only that as part of a convolution."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

    class Relu6(AbstractGraphPass):  # type: ignore[misc]  # coremltools ships no types
        def apply(self, prog: Any) -> None:
            block = prog.functions["main"]
            for clip in block.find_ops(op_type="clip"):
                if (clip.alpha.val, clip.beta.val) == (0, 6):
                    with block:
                        relu6 = Builder.relu6(x=clip.x, name=clip.name, before_op=clip)
                    block.replace_uses_of_var_after_op(anchor_op=clip, old_var=clip.outputs[0], new_var=relu6)
                    relu6.name = clip.outputs[0].name
                    block.remove_ops([clip])

    return Relu6()


def _with_integers(program: coreml.Program, ranges: Mapping[str, Any]) -> set[str]:
    """Operations that read integers, such as sums of token ids."""
    return {
        operation.name
        for operation in program.operations
        for name in (*operation.inputs.get("x", ()), *operation.inputs.get("y", ()))
        if isinstance(name, str) and name not in ranges
    }


def _ranges(program: coreml.Program, source: Source) -> dict[str, dict[str, np.float16]]:
    """Of each float value the range that its integers span, as coremltools' passes want it."""
    taps = [
        output.name
        for operation in program.operations
        if operation.kind != "const"
        for output in operation.outputs
        if output.type.dtype in {"float16", "float32"}
    ]
    histograms: dict[str, Histogram] = {}
    for arrays in zip(*source.calibration, strict=True):
        feeds = {given.name: array for given, array in zip(program.inputs, arrays, strict=True)}
        floats = {name: array for name, array in feeds.items() if array.dtype.kind == "f"}
        found = coreml.execute(program, feeds, taps, round_fp16=False)
        for name, values in (floats | {name: found[name] for name in taps}).items():
            histograms.setdefault(name, Histogram()).add(values)
    ends = {name: histogram.range(source.quantization.ranges) for name, histogram in histograms.items()}
    _share(program, ends)
    return {name: _stored(low, high) for name, (low, high) in ends.items()}


def _share(program: coreml.Program, ends: dict[str, tuple[float, float]]) -> None:
    """Give what is concatenated one range, so that nothing need be computed for it."""
    groups: list[set[str]] = []
    for operation in program.operations:
        if operation.kind == "concat":
            names = {name for name in operation.inputs["values"] if isinstance(name, str)}
            names = {name for name in names | {operation.outputs[0].name} if name in ends}
            groups = [*(group for group in groups if not group & names), names.union(*(g for g in groups if g & names))]
    for group in filter(None, groups):
        whole = min(ends[name][0] for name in group), max(ends[name][1] for name in group)
        ends.update(dict.fromkeys(group, whole))


def _stored(low: float, high: float) -> dict[str, np.float16]:
    high = max(high, low + LEAST_RANGE)
    return {"rmin": np.float16(max(low, -LARGEST_FP16)), "rmax": np.float16(min(high, LARGEST_FP16))}
