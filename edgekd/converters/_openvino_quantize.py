"""Static int8 of an OpenVINO model by NNCF: it decides where integers are, `edgekd.ranges` which.

Activations are asymmetric and weights symmetric for each channel, in half of their integers: without VNNI an x86 core
adds two products in 16 bits, and full weights overflow there. That is 24 against 12 dB on a MobileNetV3 and 32 against
21 on a decoder, and costs a core that has VNNI about 1 dB. NNCF's defaults cut activations off at the mean of the
examples' extremes and correct biases unasked; here ranges are the rule's and biases are as the user wants them.

The rule "full" is NNCF's own. With any other, ranges that NNCF keeps for each channel (before depthwise convolutions)
stay full. Bias correction is NNCF's fast one, layer by layer, with full ranges.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.converters import Source
from edgekd.converters._modules import lies_below
from edgekd.converters._openvino_names import layers
from edgekd.ranges import Histogram, Rule

LEVELS: Final = 256


def quantize(model: Any, source: Source) -> Any:
    """A copy of a named ov.Model in int8, but for the modules that stay in float."""
    import nncf

    wanted = source.quantization
    examples = list(_examples(source))
    in_float = [name for name, layer in layers(model).items() if lies_below(layer, wanted.in_float)]
    made = nncf.quantize(
        model,
        nncf.Dataset(examples),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(examples),
        ignored_scope=nncf.IgnoredScope(names=sorted(in_float), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            disable_bias_correction=not wanted.bias_correction,
            activations_range_estimator_params=_whole_range(),
        ),
    )
    if wanted.ranges != "full":
        _set_ranges(made, model, wanted.ranges, examples)
    return made


def _whole_range() -> Any:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return RangeEstimatorParametersSet.MINMAX


def _examples(source: Source) -> Iterator[list[NDArray[Any]]]:
    for arrays in zip(*source.calibration, strict=True):
        yield [np.ascontiguousarray(array, given.dtype) for given, array in zip(source.inputs, arrays, strict=True)]


# --- ranges by a rule

_Tensor = tuple[str, int]
"""Name of the operation that makes it, and the port."""


def _set_ranges(quantized: Any, model: Any, rule: Rule, examples: list[list[NDArray[Any]]]) -> None:
    """Give activations that have one range for all channels that of the rule; those of one range keep one."""
    nodes = [node for node in quantized.get_ordered_ops() if _is_activation(node)]
    made = {node.get_friendly_name() for node in model.get_ops()}
    groups: dict[bytes, list[tuple[Any, _Tensor]]] = {}
    for node in nodes:
        tensor = _read_by(node)
        if tensor[0] in made:  # which it is not where NNCF added it as well
            groups.setdefault(_ends(node), []).append((node, tensor))
    histograms = _watch(model, {tensor for group in groups.values() for _, tensor in group}, examples)
    for group in groups.values():
        found = [histograms[tensor].range(rule, LEVELS) for _, tensor in group]
        low, high = _with_zero(min(low for low, _ in found), max(high for _, high in found))
        for node, _ in group:
            _set_ends(node, low, high)


def _is_activation(node: Any) -> bool:
    return (
        node.get_type_name() == "FakeQuantize"
        and node.input_value(0).get_node().get_type_name() != "Constant"
        and all(np.prod(list(node.input(index).get_shape())) == 1 for index in range(1, 5))
    )


def _read_by(node: Any) -> _Tensor:
    value = node.input_value(0)
    return value.get_node().get_friendly_name(), value.get_index()


def _watch(model: Any, tensors: set[_Tensor], examples: list[list[NDArray[Any]]]) -> dict[_Tensor, Histogram]:
    """What tensors hold while the model executes the examples."""
    import openvino
    from openvino import opset13

    copy = model.clone()
    made = {node.get_friendly_name(): node for node in copy.get_ops()}
    order = sorted(tensors)
    results = [opset13.result(made[name].output(port)) for name, port in order]
    watched = openvino.Model(results, copy.get_parameters(), "watched")
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(watched, "CPU", properties).create_infer_request()
    histograms = {tensor: Histogram() for tensor in order}
    for example in examples:
        request.infer(example)
        for index, tensor in enumerate(order):
            histograms[tensor].add(request.get_output_tensor(index).data)
    return histograms


def _ends(node: Any) -> bytes:
    return b"".join(node.input_value(index).get_node().data.tobytes() for index in range(1, 5))


def _set_ends(node: Any, low: float, high: float) -> None:
    from openvino import opset13

    for index, end in ((1, low), (2, high), (3, low), (4, high)):
        old = node.input_value(index).get_node()
        constant = opset13.constant(np.full(old.data.shape, end, np.float32))
        node.input(index).replace_source_output(constant.output(0))


def _with_zero(low: float, high: float) -> tuple[float, float]:
    """The least range that holds this one, and zero as one of its levels.

    >>> _with_zero(-1.0, 253.9)
    (-1.0, 254.0)
    """
    if high <= low:
        return low, low + 1.0
    zero = round(-low * (LEVELS - 1) / (high - low))
    steps = [end / count for end, count in ((-low, zero), (high, LEVELS - 1 - zero)) if count]
    step = max(steps)
    return -step * zero, step * (LEVELS - 1 - zero)
