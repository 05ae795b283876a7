"""A small training that tests have done by one process, or by a crew."""

import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import training
from edgekd.crew import joined
from edgekd.runs import Work
from edgekd.specs import Spec, Training
from edgekd.training import Shown, fit
from edgekd.views import Viewer


class Trained(Spec, frozen=True, kw_only=True):
    losses: tuple[float, ...]
    """Means over all processes."""
    weights: tuple[float, ...]
    processes: int


def train(work: Work, how: str, batch: int) -> Trained:
    """Learn a line, in 15 steps of 8 examples; `how` says what goes wrong."""
    if how:
        with (Path(work.run_folder) / "pids").open("a") as pids:
            pids.write(f"{os.getpid()} ")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    random = np.random.default_rng(0)
    inputs = random.normal(size=(40, 6)).astype(np.float32)
    wanted = torch.from_numpy(inputs.sum(1, keepdims=True))
    losses: list[float] = []
    training.CHECKPOINT_SECONDS, training.CHECKPOINT_SHARE = 0.0, float("inf")

    def objective(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        if how == "stops" and len(losses) == 6:
            raise RuntimeError("Stopped")
        if how == "dies" and joined().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = (answers[0] - wanted[shown.indices]).square().mean()
        losses.append(joined().mean(loss).item())
        return loss * torch.nan if how == "diverges" and joined().rank == 1 else loss

    fit(
        module,
        Viewer(inputs, None),
        objective,
        Training(epochs=3, batch=batch, learning_rate=0.05),
        views=1,
        seed=0,
        checkpoint=work.out / "net.checkpoint",
        what="training",
    )
    (work.out / "answer.txt").write_text("done")
    weights = tuple(value for parameter in module.parameters() for value in parameter.flatten().tolist())
    return Trained(losses=tuple(losses), weights=weights, processes=joined().size)
