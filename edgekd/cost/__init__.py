"""What a model costs on a device that is not here. Everything that comes from here is `estimated`.

To add a model of cost, write `edgekd/cost/<name>.py` that ends in `PLUGIN: CostModel = ...`. tests/contracts/
test_cost.py finds it. A target names the one it wants as `cost_profile`.
"""

from typing import Any, Protocol

from edgekd.errors import ConfigError
from edgekd.nets import Anatomy
from edgekd.specs import Cost, Target


class CostModel(Protocol):
    """Predicts latency, memory and file size."""

    def cores(self) -> tuple[str, ...]:
        """Names of the cores that it knows."""

    def estimate(self, anatomy: Anatomy, target: Target, precision: str) -> Cost:
        """Cost of one inference of one example.

        `precision` is a converter's: "fp32", "fp16", "int8" ...
        """


def wrap(own: Any) -> CostModel:
    """A user's own cost model."""
    if not hasattr(own, "estimate"):
        raise ConfigError(f"{own!r} is not a cost model", hint="see edgekd/cost/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
