"""Quantization of a .tflite file whose tensors are named by torch modules, by AI Edge Quantizer."""

import re
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.converters import _tflite_model
from edgekd.ranges import Histogram
from edgekd.specs import Quantization

SAME_RANGE: Final = {
    "RESHAPE",
    "TRANSPOSE",
    "SQUEEZE",
    "EXPAND_DIMS",
    "SPLIT",
    "SLICE",
    "STRIDED_SLICE",
    "GATHER",
    "PACK",
    "UNPACK",
    "CONCATENATION",
}
"""Operators that move values about."""

_DEBUGGING: Final = "Warning: Enabling `experimental_preserve_all_tensors`"
"""How a warning of the interpreter begins that keeping all tensors takes memory."""

ACTIVATION_LEVELS: Final = {"int8": 256, "int16": 65536}


def quantize(
    content: bytes, precision: str, quantization: Quantization, examples: Iterator[list[NDArray[Any]]]
) -> bytes:
    """The file in another precision; `examples` are the inputs in the file's own order and layout.

    Raises:
        RuntimeError, ValueError: the library cannot do this.
    """
    from ai_edge_quantizer import quantizer

    recipe = _recipe(precision, quantization.in_float)
    job = quantizer.Quantizer(content)
    job.load_quantization_recipe(recipe)
    ranges = None
    if precision in ACTIVATION_LEVELS:
        ranges = _ranges(content, precision, quantization, examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, on constants of one value
        warnings.filterwarnings("ignore", _DEBUGGING, UserWarning)
        return bytes(job.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _recipe(precision: str, in_float: tuple[str, ...]) -> Any:
    """Everything as the precision says, but for the operators of some modules; weights by channel."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipes, every = RecipeManager(), TFLOperationName.ALL_SUPPORTED
    if precision == "fp16":
        recipes.add_weight_only_config(".*", every, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif precision == "dynamic":
        recipes.add_dynamic_config(".*", every, num_bits=8)
    else:
        bits = {"int8": 8, "int16": 16}[precision]
        recipes.add_static_config(".*", every, activation_num_bits=bits, weight_num_bits=8)
        recipes.add_static_config(
            ".*",
            TFLOperationName.BATCH_MATMUL,
            activation_num_bits=bits,
            weight_num_bits=8,
            weight_granularity=QuantGranularity.TENSORWISE,  # every runtime multiplies wrongly by channels' scales
        )
        # A static one leaves the table in float, which is most of a small net of text.
        recipes.add_dynamic_config(
            ".*", TFLOperationName.EMBEDDING_LOOKUP, num_bits=8, granularity=QuantGranularity.TENSORWISE
        )
    for module in in_float if precision != "fp16" else ():
        scope = rf"(^|;){re.escape(module)}[.:]"
        recipes.add_quantization_config(scope, every, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return recipes.get_quantization_recipe()


def _ranges(
    content: bytes, precision: str, quantization: Quantization, examples: Iterator[list[NDArray[Any]]]
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """For each activation's name its range, by the rule; outputs keep theirs, for the order of logits is the answer."""
    histograms = _watch(content, examples)
    model = _tflite_model.read(content)
    whole = {model.subgraphs[0].tensors[index].name.decode() for index in _feeding_outputs(model)}
    found = {}
    for name, histogram in histograms.items():
        rule = "full" if name in whole else quantization.ranges
        low, high = histogram.range(rule, ACTIVATION_LEVELS[precision], symmetric=precision == "int16")
        found[name] = {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
    return found


def _watch(content: bytes, examples: Iterator[list[NDArray[Any]]]) -> dict[str, Histogram]:
    """What each float tensor that is no constant holds while the model executes the examples."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _DEBUGGING, UserWarning)
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    interpreter.allocate_tensors()
    graph = _tflite_model.read(content).subgraphs[0]
    made = {index for operator in graph.operators for index in operator.outputs} | set(graph.inputs)
    watched = [
        detail
        for detail in interpreter.get_tensor_details()
        if detail["index"] in made and detail["dtype"] is np.float32
    ]
    histograms = {detail["name"]: Histogram() for detail in watched}
    for example in examples:
        for index, array in zip(graph.inputs, example, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        for detail in watched:
            histograms[detail["name"]].add(interpreter.get_tensor(detail["index"]))
    return histograms


def _feeding_outputs(model: Any) -> set[int]:
    """Tensors that are outputs, or become outputs by being moved about."""
    graph = model.subgraphs[0]
    found = set(graph.outputs)
    for operator in reversed(graph.operators):
        if _tflite_model.kind(model, operator) in SAME_RANGE and found & set(operator.outputs):
            found |= {index for index in operator.inputs if index >= 0}
    return found
