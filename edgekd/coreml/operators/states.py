"""What a model keeps from one call to the next."""

from typing import Final

from torch import Tensor

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table


def _read_state(given: Given) -> Tensor:
    return given.state("input").value


def _write_state(given: Given) -> tuple[()]:
    state, data = given.state("input"), given.tensor("data")
    if data.shape != state.value.shape or data.dtype != state.value.dtype:
        raise ValueError(f"{tuple(data.shape)} into a state of {tuple(state.value.shape)}")
    state.value = data
    return ()


OPERATORS: Final[Table] = {"read_state": _read_state, "write_state": _write_state}
SINCE: Final = {8: ("read_state", "write_state")}
