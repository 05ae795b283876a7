"""One training by several processes, on GPUs where there are some: each takes its part of every batch, and all learn
from the mean of their gradients (data parallelism; Li et al. 2020, arXiv:2006.15704).

Accelerate starts them and brings their numbers together: by NCCL on GPUs, by gloo on processors. The first one keeps
checkpoints, tells how far it is and answers; what the others write goes into a folder that is thrown away. Batch norms
see the part of their own process, as in DistributedDataParallel.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd import progress, workers
from edgekd.errors import ConfigError, WorkerDied

if TYPE_CHECKING:
    import torch

CHECKPOINTS: Final = ("*.checkpoint", "checkpoint.safetensors")
"""What a training goes on from."""
_OF_A_LAUNCHER: Final = frozenset(
    {
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
        *(
            "TORCHELASTIC_USE_AGENT_STORE",
            "TORCHELASTIC_RESTART_COUNT",
            "TORCHELASTIC_MAX_RESTARTS",
            "TORCHELASTIC_RUN_ID",
        ),
    }
)
"""Variables by which its processes find each other; a crew has its own."""


@dataclass(frozen=True)
class Crew:
    """The processes of one training, as one of them sees them; the default is a training on its own."""

    accelerator: Any = None
    """Of Accelerate."""

    @property
    def size(self) -> int:
        """How many they are."""
        return int(self.accelerator.num_processes) if self.accelerator else 1

    @property
    def rank(self) -> int:
        """Which this one is; 0 is the first."""
        return int(self.accelerator.process_index) if self.accelerator else 0

    @property
    def device(self) -> Any:
        """Where this one computes."""
        return self.accelerator.device if self.accelerator else "cpu"

    def part(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """This one's examples of a batch; all parts are as large."""
        return indices[self.rank :: self.size]

    def check(self, batch: int, what: str) -> None:
        """Raise ConfigError where a batch cannot be divided into equal parts."""
        if batch % self.size:
            raise ConfigError(
                f"{what}: a batch of {batch} cannot be divided among {self.size} processes",
                hint="choose `batch` and --processes so that one is a multiple of the other",
            )

    def mean(self, value: "torch.Tensor") -> "torch.Tensor":
        """Of a number of all processes."""
        return self._mean(value.detach()) if self.accelerator else value

    def average(self, parameters: "Iterable[torch.nn.Parameter]") -> None:
        """Give each parameter the mean of all processes' gradients, by one message."""
        if self.size == 1:
            return
        import torch

        gradients = [one.grad for one in parameters if one.grad is not None]
        mean = self._mean(torch.cat([one.flatten() for one in gradients]))
        for gradient, part in zip(gradients, torch.split(mean, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _mean(self, values: "torch.Tensor") -> "torch.Tensor":
        try:
            mean: torch.Tensor = self.accelerator.reduce(values, "mean")
        except RuntimeError as error:
            raise WorkerDied("another process of this training ended", hint="the log says why") from error
        return mean


_joined = [Crew()]


def joined() -> Crew:
    """The crew that this process belongs to."""
    return _joined[-1]


def launched() -> int:
    """How many processes `accelerate launch` started this one among, where it is the first of them; 0 without it.

    The others have nothing to do, and leave: a crew is started for each training.

    Raises:
        ConfigError: they are on several machines.
    """
    count = int(os.environ.get("WORLD_SIZE", "0"))
    if not count or "RANK" not in os.environ:
        return 0
    if os.environ["RANK"] != "0":
        raise SystemExit(0)
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        raise ConfigError("a training has the processes of one machine", hint="`edgekd sweep --ray` is for several")
    for name in _OF_A_LAUNCHER.intersection(os.environ):
        del os.environ[name]
    return count


# --- what the processes of a crew execute


def lead(processes: int) -> None:
    """Start the others with the request on standard input, and leave when they have ended."""
    import torch
    from accelerate.commands.accelerate_cli import main

    with os.fdopen(os.dup(0), "rb", buffering=0) as unbuffered:  # nothing more is taken from the others
        request = unbuffered.readline()
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory(prefix="edgekd-crew-") as folder:
        file = Path(folder) / "request.json"
        file.write_bytes(request)
        several = ["--multi_gpu"] if processes > 1 else []
        count = ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
        plain = ["--mixed_precision", "no", "--dynamo_backend", "no"]
        sys.argv = ["accelerate", "launch", *several, *count, *plain, "-m", "edgekd.crew", str(file)]
        main()


def serve(file: Path) -> None:
    """Execute a request as one of a crew; the first one answers."""
    replies = os.fdopen(os.dup(1), "w")
    request: dict[str, Any] = json.loads(file.read_bytes())
    workers.print_into(request["log"])
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    from accelerate import Accelerator

    accelerator = Accelerator()
    _joined.append(Crew(accelerator))

    def reply(message: dict[str, Any]) -> None:
        if accelerator.is_main_process:
            replies.write(json.dumps(message) + "\n")
            replies.flush()

    with _apart(request, accelerator.is_main_process), progress.listening(lambda *parts: reply({"progress": parts})):
        accelerator.wait_for_everyone()  # the first one may write its checkpoints now
        reply(workers.execute(request))
    accelerator.end_training()


@contextmanager
def _apart(request: dict[str, Any], is_first: bool) -> Iterator[None]:
    """Have all but the first write into a folder of their own, which begins with the first one's checkpoints."""
    if is_first:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-crew-") as folder:
        work = request["arguments"][0]
        for pattern in CHECKPOINTS:
            for checkpoint in Path(work["out_folder"]).glob(pattern):
                shutil.copy(checkpoint, folder)
        work["out_folder"] = folder
        os.environ["EDGEKD_KNOWLEDGE"] = str(Path(folder) / "knowledge")
        yield


def _leave_with_the_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    # the module that a training imports, not this copy of it
    importlib.import_module("edgekd.crew").serve(Path(sys.argv[1]))
