"""Exports of one net as their library's own documentation writes them, each from the start.

usage: python by_hand.py NET FOLDER EXPORT..., all of one library
"""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import torch

Examples = list[tuple[Any, ...]]


def tflite(module: Any, examples: Examples, precision: str, out: Path) -> None:
    """LiteRT Torch, then AI Edge Quantizer's recipes."""
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    made = litert_torch.convert(module, tuple(torch.from_numpy(one) for one in examples[0]))
    made.export(str(out))
    if precision == "fp32":
        return
    recipes = {"dynamic": recipe.dynamic_wi8_afp32, "int8": recipe.static_wi8_ai8}
    job = quantizer.Quantizer(str(out))
    if precision == "fp16":
        job.update_quantization_recipe(
            regex=".*", operation_name=recipe.qtyping.TFLOperationName.ALL_SUPPORTED, op_config=_fp16(),
            algorithm_key=recipe.AlgorithmName.FLOAT_CASTING,
        )  # fmt: skip
    else:
        job.load_quantization_recipe(recipes[precision]())
    ranges = None
    if precision == "int8":
        feeds = [{f"args_{i}": _narrow(one) for i, one in enumerate(example)} for example in examples]
        ranges = job.calibrate({"serving_default": feeds})
    job.quantize(ranges).export_model(str(out), overwrite=True)


def _fp16() -> Any:
    from ai_edge_quantizer import qtyping

    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
    )


def _narrow(array: Any) -> Any:
    return array.astype(np.int32) if array.dtype == np.int64 else array


def onnx(module: Any, examples: Examples, precision: str, out: Path) -> None:
    """torch.onnx, then ONNX Runtime's static quantization with its defaults."""
    inputs = tuple(torch.from_numpy(one) for one in examples[0])
    torch.onnx.export(module, inputs, dynamo=True, verbose=False).save(str(out), external_data=False)
    if precision == "int8":
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, quantize_static

        names = [given.name for given in onnxruntime.InferenceSession(str(out)).get_inputs()]

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            feeds = iter([dict(zip(names, example, strict=True)) for example in examples])

            def get_next(self) -> Any:
                return next(self.feeds, None)

        quantize_static(str(out), str(out), Reader())
    if precision == "fp16":
        import onnx as library
        from onnxruntime.transformers.float16 import convert_float_to_float16

        library.save(convert_float_to_float16(library.load(out), keep_io_types=True), out)


def openvino(module: Any, examples: Examples, precision: str, out: Path) -> None:
    """OpenVINO's converter, then NNCF's post-training quantization."""
    import nncf
    import openvino as ov

    model = ov.convert_model(module, example_input=tuple(torch.from_numpy(one) for one in examples[0]))
    for given, array in zip(model.inputs, examples[0], strict=True):
        given.get_node().set_partial_shape(ov.PartialShape(array.shape))
    model.validate_nodes_and_infer_types()
    if precision == "int8":
        model = nncf.quantize(model, nncf.Dataset(examples))
    ov.save_model(model, str(out), compress_to_fp16=precision == "fp16")


def coreml(module: Any, examples: Examples, precision: str, out: Path) -> None:
    """Core ML Tools by jit.trace, then its weight quantization."""
    import coremltools as ct
    from coremltools.optimize import coreml as smaller

    inputs = tuple(torch.from_numpy(one) for one in examples[0])
    traced = torch.jit.trace(module, inputs)
    kinds = [ct.TensorType(shape=one.shape, dtype=_narrow(one).dtype.type) for one in examples[0]]
    model = ct.convert(
        traced,
        inputs=kinds,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    if precision == "int8":
        config = smaller.OptimizationConfig(smaller.OpLinearQuantizerConfig(mode="linear_symmetric"))
        model = smaller.linear_quantize_weights(model, config)
    model.save(str(out))


FORMATS: dict[str, Callable[[Any, Examples, str, Path], None]] = {
    "tflite": tflite,
    "onnx": onnx,
    "openvino": openvino,
    "coreml": coreml,
}

SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml", "coreml": ".mlpackage"}


def main(net: str, folder: Path, exports: list[str]) -> None:
    """Write each export; one that fails leaves no file, and its traceback."""
    found = getattr(nets, f"{net}_inputs")()
    arrays = tuple(found.values()) if isinstance(found, dict) else (found,)
    examples = list(zip(*arrays, strict=True))
    for export in exports:
        name, _, precision = export.rpartition("-")
        out = folder / f"{net}-{export}{SUFFIXES[name]}"
        try:
            FORMATS[name](getattr(nets, net)(), examples, precision, out)
        except Exception:  # noqa: BLE001 - of whatever kind: it is the library's own
            traceback.print_exc()
            out.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
