"""TFLite through LiteRT Torch, quantized by AI Edge Quantizer; images are NHWC, as TFLite's kernels want them."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekd.converters import Converter, Source
from edgekd.specs import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


class _TFLite:
    suffix = ".tflite"
    precisions: tuple[str, ...] = ("fp32", "int8")
    packages: tuple[str, ...] = ("litert-torch", "ai-edge-quantizer", "torch")

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        float_model = out if precision == "fp32" else out.with_suffix(".float")
        _convert(source, float_model)
        if precision == "int8":
            _quantize(source, float_model, out)
            float_model.unlink()
        return _described(source, out)


def _convert(source: Source, out: Path) -> None:
    import litert_torch
    import torch

    module = source.module
    examples = tuple(_tflite_order(given, torch.zeros(given.shape)) for given in source.inputs)
    images = [index for index, given in enumerate(source.inputs) if given.layout == "NCHW"]
    if images:
        module = litert_torch.to_channel_last_io(module, args=images).eval()
    litert_torch.convert(module, examples).export(str(out))
    _name_tensors(out, source)


def _name_tensors(path: Path, source: Source) -> None:
    """Name tensors as the torch module does: the converter's are call stacks, and fill a quarter of a small file."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    (graph,) = model.subgraphs
    names = [_module_path(tensor.name.decode()) for tensor in graph.tensors]
    for indices, given in ((graph.inputs, source.inputs), (graph.outputs, source.outputs)):
        for index, spec in zip(indices, given, strict=True):
            names[index] = spec.name
    seen: Counter[str] = Counter()
    for tensor, name in zip(graph.tensors, names, strict=True):
        tensor.name = (f"{name}:{seen[name]}" if seen[name] else name).encode()
        seen[name] += 1
    for maps, given in (
        (model.signatureDefs[0].inputs, source.inputs),
        (model.signatureDefs[0].outputs, source.outputs),
    ):
        for one, spec in zip(maps, given, strict=True):
            one.name = spec.name.encode()
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def _module_path(name: str) -> str:
    """The torch module in a converter's name for a tensor.

    >>> _module_path("a.Wrapper/a.Net_wrapped/nn.Sequential_blocks/nn.Linear_3;;a.Wrapper/...")
    'blocks.3'
    """
    parts = [part.rpartition("/")[2].rpartition("_")[2] for part in name.partition(";")[0].split("/")[1:]]
    return ".".join(part for part in parts if part != "wrapped") or "tensor"


def _quantize(source: Source, float_model: Path, out: Path) -> None:
    from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    # The library's own calibration averages minima and maxima over the examples, which cuts the tails of logits off.
    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(recipe.static_wi8_ai8())
    ranges = calibrator.Calibrator(str(float_model), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    signature, name = _signature(float_model)
    ranges.calibrate({signature: _examples(source, name)}, recipes)
    job = quantizer.Quantizer(str(float_model))
    job.load_quantization_recipe(recipe.static_wi8_ai8())
    job.quantize(ranges.get_model_qsvs()).export_model(str(out), overwrite=True)


def _examples(source: Source, name: str) -> list[dict[str, Any]]:
    import torch

    given, examples = source.inputs[0], source.calibration[0]
    return [{name: _tflite_order(given, torch.from_numpy(example)).numpy()} for example in examples]


def _tflite_order(given: TensorSpec, tensor: "Tensor") -> "Tensor":
    return tensor.permute(0, 2, 3, 1).contiguous() if given.layout == "NCHW" else tensor


def _signature(model: Path) -> tuple[str, str]:
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(model)).get_signature_list()
    name = next(iter(signatures))
    return name, str(signatures[name]["inputs"][0])


def _described(source: Source, model: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model))
    inputs = [
        _spec(detail, "NHWC" if given.layout == "NCHW" else "")
        for detail, given in zip(interpreter.get_input_details(), source.inputs, strict=True)
    ]
    outputs = [_spec(detail, "") for detail in interpreter.get_output_details()]
    return tuple(inputs), tuple(outputs)


def _spec(detail: dict[str, Any], layout: str) -> TensorSpec:
    plain = {
        "name": detail["name"],
        "shape": [int(size) for size in detail["shape"]],
        "dtype": detail["dtype"].__name__,
        "layout": layout,
    }
    return msgspec.convert(plain, TensorSpec)


PLUGIN: Final[Converter] = _TFLite()
