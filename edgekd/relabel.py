"""Let the teacher write the labels of the training split, and keep those that are not too far from the given ones."""

from typing import Final

import msgspec
import numpy as np

from edgekd import heads
from edgekd.errors import ConfigError
from edgekd.fronts import seen
from edgekd.oracles import trained
from edgekd.runs import Work
from edgekd.specs import Data, PseudoLabels, Spec, Teacher
from edgekd.tensors import Array, write_array
from edgekd.training import labels_of
from edgekd.workers import call
from edgekd.writing import PADDING, drafted, writing

VERSION: Final = 1

TIMEOUT_S: Final = 86_400.0
UNLABELLED: Final = -1


class Relabelled(Spec, frozen=True, kw_only=True):
    """What is learned from: by who hears of the teacher, and by who does not. Both have the same examples."""

    taught: Data
    given: Data


def relabel(work: Work, teacher: Teacher, data: Data, wanted: PseudoLabels, source: str, threads: int) -> Relabelled:
    """The data with the teacher's texts in the training split; examples whose text is not kept have no label.

    `source` is the fingerprint of a user's own code.

    Raises:
        ConfigError: nets write nothing here, or nothing that the teacher writes is kept.
    """
    log = work.out / "worker.log"
    return call(_relabel, work, teacher, data, wanted, threads=threads, log=log, timeout_s=TIMEOUT_S)


def _relabel(work: Work, teacher: Teacher, data: Data, wanted: PseudoLabels) -> Relabelled:
    subject = data.subject
    if subject.written is None or len(subject.outputs) != 1:
        raise ConfigError(
            f"the recipe wants pseudo labels, and nets write no texts about {data.name}",
            hint="leave pseudo_labels out: what a teacher says of classes is a loss, soft_targets",
        )
    net = trained(work, teacher, subject)
    (given,) = labels_of(work, data, "train")
    labels = np.full_like(given, UNLABELLED)
    texts = np.load(work.path(data.train_beside[subject.written]), allow_pickle=False)
    with seen(work, data, "train", net) as (module, viewer):
        for indices, answers in writing(module, viewer, subject, what="the teacher writes labels"):
            counts = heads.counts(subject, answers, [given[indices]])
            good = [heads.score(subject, tuple(one[[row]] for one in counts)) for row in range(len(indices))]
            kept = np.array(good) >= wanted.least
            written = drafted(texts[indices], answers, subject)
            given[indices[~kept]] = UNLABELLED
            texts[indices[kept]] = written[kept]
            labels[indices[kept]] = labels_from(written[kept], subject.beside[subject.written].prompt)
    if (labels == UNLABELLED).all():
        raise ConfigError(
            f"nothing that the teacher writes about {data.name} scores {wanted.least}", hint="lower pseudo_labels.least"
        )
    write_array(work.out / "texts.npy", texts)
    write_array(work.out / "labels.npy", labels)
    write_array(work.out / "given.npy", given)
    beside = list(data.train_beside)
    beside[subject.written] = work.keep(work.out / "texts.npy")
    labelled = (work.keep(work.out / "labels.npy"),)
    return Relabelled(
        taught=msgspec.structs.replace(data, train_beside=tuple(beside), train_labels=labelled),
        given=msgspec.structs.replace(data, train_labels=(work.keep(work.out / "given.npy"),)),
    )


def labels_from(tokens: Array, prompt: int) -> Array:
    """What is to be answered at each place: the token behind it, where that is one that is written."""
    labels = np.full_like(tokens, UNLABELLED)
    behind = tokens[:, prompt:]
    labels[:, prompt - 1 : -1] = np.where(behind == PADDING, UNLABELLED, behind)
    return labels
