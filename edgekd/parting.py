"""Where two sides part, looked for in a process of its own, since a side may be somebody's torch module."""

from pathlib import Path

from edgekd import parity, sources
from edgekd.divergence import Divergence, first
from edgekd.errors import EdgekdError
from edgekd.executions import FileSide, TorchSide
from edgekd.files import dumps, write_text
from edgekd.runs import Work
from edgekd.sides import TORCH, Side
from edgekd.specs import Spec, TensorSpec
from edgekd.tensors import Tensors, first_examples, fitted, read_arrays, write_inputs
from edgekd.workers import call

EXAMPLES = 4
TIMEOUT_S = 300.0


class Found(Spec, frozen=True, kw_only=True):
    """What was found; None where no single operator is to blame, or none could be told."""

    divergence: Divergence | None


def part(artifact: Side, reference: Side, inputs: Tensors, scratch: Path) -> Divergence | None:
    """The first operator of the artifact that is further off than its precision explains; None where none is told."""
    some = first_examples(inputs, EXAMPLES)
    write_inputs(scratch / "given.npz", *some.arrays)
    work = Work(run_folder=str(scratch), name="", out_folder=str(scratch))
    try:
        log = scratch / "worker.log"
        return call(_part, work, artifact, reference, some.specs, threads=1, log=log, timeout_s=TIMEOUT_S).divergence
    except EdgekdError as error:  # an explanation that fails must not hide what it was to explain
        write_text(scratch / "unexplained.json", dumps(str(error)))
        return None


def _part(work: Work, artifact: Side, reference: Side, specs: tuple[TensorSpec, ...]) -> Found:
    given = Tensors(specs, read_arrays(work.out / "given.npz"))
    if reference.engine == TORCH:
        model = sources.open_model(reference.model, reference.shapes)
        other: FileSide | TorchSide = TorchSide(model.module)
        wanted = model.inputs
    else:
        other = FileSide.of(Path(reference.model), reference.engine)
        wanted = other.graph.inputs
    taken = fitted(given, wanted, reference.name)
    least = parity.least_db(artifact.precision, reference.precision)
    file = FileSide.of(Path(artifact.model), artifact.engine)
    return Found(divergence=first(file, other, taken.arrays, work.out, least_db=least))
