"""Distilling one student of one teacher on one data set: edgekd and torchdistill in turn, in one run.

usage: python benchmarks/peers/distilling.py [EPOCHS [ROUNDS]]; wants `pip install --no-deps torchdistill torchvision`
beside edgekd, and photos of hand signs where EDGEKD_DATA says. Both have the same teacher, start, views, size of batch,
optimiser, loss and a single thread, and each round another start and order. Each goes its own way: torchdistill asks
the teacher in every step and gets its examples from torch's DataLoader; edgekd asks once for each view, keeps what was
said, and trains in a process of its own, as in every run.
"""

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler

from edgekd import datasets, students, teachers
from edgekd.nets import Net, load, save
from edgekd.plugins import find
from edgekd.specs import Output, Subject, Training, Views
from edgekd.training import Shown, fit, predict
from edgekd.views import Viewer
from edgekd.workers import call

VIEWS = Views(count=3, rotate_degrees=15.0, shift=0.1, scale=0.15, brightness=0.2)
SIZE, BATCH, RATE, DECAY, TEMPERATURE = 96, 32, 0.05, 1e-4, 4.0
TEACHING = Training(epochs=2, batch=32, learning_rate=0.02, weight_decay=1e-4)


class Ground:
    """Data, and a teacher that was adapted to them: now, or before, where its weights are given."""

    def __init__(self, weights: Path | None = None) -> None:
        plugin = find(datasets, "sign_digits")
        self.arrays = plugin.load(plugin.Options())
        names = self.arrays.classes
        output = Output(name="logits", task="classification", shape=(len(names),), classes=names, metric="accuracy")
        self.subject = Subject(shape=(3, 100, 100), kind="images", outputs=(output,))
        self.labels = torch.from_numpy(self.arrays.train_labels.astype(np.int64))
        self.teacher = self._build(teachers, "efficientnet_lite", variant="lite2", size=SIZE)
        if weights:
            load(self.teacher.module, weights)
        else:
            train(
                self, self.teacher, TEACHING, lambda logits, shown: F.cross_entropy(logits, self.labels[shown.indices])
            )
        self.teacher.module.eval()

    def _build(self, family: Any, name: str, seed: int = 0, **options: Any) -> Net:
        torch.manual_seed(seed)
        plugin = find(family, name)
        net: Net = plugin.build(plugin.Options(**options), self.subject)
        return net

    def student(self, seed: int) -> Net:
        """The same random start for both."""
        return self._build(students, "mobile", seed, width=0.5, depth=0.5, resolution=SIZE)

    def viewer(self, net: Net, split: str = "train") -> Viewer:
        """What a net is shown."""
        return Viewer(getattr(self.arrays, f"{split}_inputs"), net.preprocessing, VIEWS, seed=0)

    def accuracy(self, net: Net) -> float:
        """On the test split."""
        (answers,) = predict(net.module, self.viewer(net, "test"))
        return float(np.mean(answers.argmax(1) == self.arrays.test_labels))


def train(ground: Ground, net: Net, how: Training, loss: Any, seed: int = 0) -> float:
    """edgekd's training loop; seconds."""

    def objective(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        found: Tensor = loss(answers[0], shown)
        return found

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint"
        fit(net.module, ground.viewer(net), objective, how, views=VIEWS.count, seed=seed, checkpoint=file, what="net")
    return time.perf_counter() - start


def ours(weights: str, epochs: int, seed: int) -> tuple[float, float, float]:
    """Seconds to ask the teacher, whose weights these are, seconds to train, accuracy."""
    ground = Ground(Path(weights))
    net, start = ground.student(seed), time.perf_counter()
    said = [predict(ground.teacher.module, ground.viewer(ground.teacher), view)[0] for view in range(VIEWS.count)]
    kept = torch.from_numpy(np.stack(said).astype(np.float16).astype(np.float32))
    asking_s = time.perf_counter() - start

    def loss(logits: Tensor, shown: Shown) -> Tensor:
        teacher, labels = kept[shown.epoch % VIEWS.count, shown.indices], ground.labels[shown.indices]
        log_q, p = F.log_softmax(logits / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1)
        soft = F.kl_div(log_q, p, reduction="batchmean") * TEMPERATURE**2
        return 0.1 * F.cross_entropy(logits, labels) + 0.9 * soft

    how = Training(epochs=epochs, batch=BATCH, learning_rate=RATE, weight_decay=DECAY)
    return asking_s, train(ground, net, how, loss, seed), ground.accuracy(net)


class Photos(Dataset[tuple[Tensor, int]]):
    """The views of an epoch, example by example, as a DataLoader asks for them."""

    def __init__(self, ground: Ground, net: Net) -> None:
        self._viewer, self._labels = ground.viewer(net), ground.labels
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        view = self.epoch % VIEWS.count
        return self._viewer.batch(np.array([index]), view)[0], int(self._labels[index])


class Resized(nn.Module):
    """A teacher that is shown what the student is shown: both want 96 pixels, normalised each in its own way."""

    def __init__(self, teacher: Net, student: Net) -> None:
        super().__init__()
        self.teacher = teacher.module
        ours, theirs = student.preprocessing, teacher.preprocessing
        assert ours is not None and theirs is not None
        self.scale = ours.std[0] / theirs.std[0]
        self.shift = (ours.mean[0] - theirs.mean[0]) / theirs.std[0]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.teacher(images * self.scale + self.shift)
        return logits


def theirs(ground: Ground, epochs: int, seed: int) -> tuple[float, float]:
    """Seconds to train, accuracy."""
    from torchdistill.core.distillation import get_distillation_box

    net = ground.student(seed)
    photos = Photos(ground, net)
    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": 0.1,
            "reduction": "batchmean",
        },
    }
    loader = {
        "dataset_id": "photos",
        "sampler": {"class_or_func": RandomSampler},
        "kwargs": {"batch_size": BATCH, "num_workers": 0, "drop_last": True},
        "requires_supp": True,
    }
    optimiser = {"lr": RATE, "momentum": 0.9, "weight_decay": DECAY, "nesterov": True}
    config = {
        "num_epochs": epochs,
        "train_data_loader": loader,
        "val_data_loader": {},
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": optimiser},
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": epochs}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
    }
    teacher, cpu = Resized(ground.teacher, net), torch.device("cpu")
    box = get_distillation_box(teacher, net.module, {"photos": photos}, config, cpu, None, False, 1)
    start = time.perf_counter()
    for photos.epoch in range(epochs):
        box.pre_epoch_process(epoch=photos.epoch)
        for batch, labels, supplement in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(batch, labels, supplement)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
    seconds = time.perf_counter() - start
    box.clean_modules()
    return seconds, ground.accuracy(net)


def _without_compiled_operators() -> None:
    """Let torchvision be imported where its compiled part does not load: torchdistill wants its names alone."""
    library = torch.library.Library("torchvision", "DEF")
    while True:
        try:
            __import__("torchvision")
            return
        except RuntimeError as error:
            missing = re.search(r"torchvision::(\w+)", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]


def main(epochs: int, rounds: int) -> None:
    """Print seconds an epoch and the ratio."""
    torch.set_num_threads(1)
    _without_compiled_operators()
    ground = Ground()
    print(f"teacher {ground.accuracy(ground.teacher):.4f}; {epochs} epochs a round")
    print("| round | torchdistill s/epoch | accuracy | edgekd s/epoch | accuracy | asking the teacher s | ratio |")
    print("|---|---|---|---|---|---|---|")
    ratios, scores = [], []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        save(ground.teacher.module, weights)
        for number in range(rounds):
            their_s, their_accuracy = theirs(ground, epochs, number)
            log = Path(folder) / "log"
            asking_s, our_s, our_accuracy = call(ours, str(weights), epochs, number, threads=1, log=log)
            ratios.append(their_s / our_s)
            scores.append((their_accuracy, our_accuracy))
            print(
                f"| {number} | {their_s / epochs:.2f} | {their_accuracy:.4f} | {our_s / epochs:.2f} "
                f"| {our_accuracy:.4f} | {asking_s:.1f} | {ratios[-1]:.2f} |",
                flush=True,
            )
    for name, found in zip(("torchdistill", "edgekd"), zip(*scores, strict=True), strict=True):
        print(f"{name}: accuracy {np.mean(found):.4f}, deviation {np.std(found, ddof=1) if rounds > 1 else 0:.4f}")
    print(f"median ratio {np.median(ratios):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
