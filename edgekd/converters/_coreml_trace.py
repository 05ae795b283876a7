"""Traces of torch modules as coremltools can read them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

INNER: Final = "inner"


def trace(module: "nn.Module", inputs: "Sequence[Tensor]", program: "ExportedProgram") -> tuple[Any, str]:
    """A traced module, and where in it the module lies: INNER, or "" where it is the module itself."""
    import torch

    shared = _shared_outputs(program)
    traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
        _apart(module, shared) if shared else module, tuple(inputs), check_trace=False
    )
    return traced, INNER if shared else ""


def _shared_outputs(program: "ExportedProgram") -> set[int]:
    """Positions of outputs that are inputs, constants or earlier outputs; coremltools has one name for each tensor."""
    signature = program.graph_signature
    taken = {given.arg.name for given in signature.input_specs if hasattr(given.arg, "name")}
    shared = set()
    for position, name in enumerate(signature.user_outputs):
        if name in taken:
            shared.add(position)
        taken.add(str(name))
    return shared


def _apart(module: "nn.Module", shared: set[int]) -> "nn.Module":
    import torch
    from torch import nn

    class Apart(nn.Module):
        """Gives outputs that are shared out as tensors of their own."""

        def __init__(self) -> None:
            super().__init__()
            self.add_module(INNER, module)

        def forward(self, *inputs: "Tensor") -> "tuple[Tensor, ...]":
            made = module(*inputs)
            outputs = made if isinstance(made, tuple | list) else (made,)
            return tuple(
                torch.maximum(output, output) if position in shared else output  # which no pass takes for nothing
                for position, output in enumerate(outputs)
            )

    return Apart().eval()
