"""Let the teacher write the labels of the training split, and keep those that are not too far from the given ones."""

from typing import Final

import msgspec
import numpy as np

from edgekd import heads, store
from edgekd.columns import Column, shards_of
from edgekd.errors import ConfigError
from edgekd.files import digest
from edgekd.fronts import seen
from edgekd.oracles import identity, trained
from edgekd.runs import Work
from edgekd.specs import Data, PseudoLabels, Spec, Teacher
from edgekd.tensors import Array, following, write_array
from edgekd.training import labels_of
from edgekd.workers import call
from edgekd.writing import AT_ONCE, drafted, saying, writing

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
    return call(_relabel, work, teacher, data, wanted, source, threads=threads, log=log, timeout_s=TIMEOUT_S)


def _relabel(work: Work, teacher: Teacher, data: Data, wanted: PseudoLabels, source: str) -> Relabelled:
    subject = data.subject
    if subject.written is None or len(subject.outputs) != 1:
        raise ConfigError(
            f"the recipe wants pseudo labels, and nets write no texts about {data.name}",
            hint="leave pseudo_labels out: what a teacher says of classes is a loss, soft_targets",
        )
    (given,) = labels_of(work, data, "train")
    texts = np.load(work.path(data.train_beside[subject.written]), allow_pickle=False)
    written = _written(work, teacher, data, source)
    labels = np.full_like(given, UNLABELLED)
    for start in range(0, len(texts), AT_ONCE):
        some = np.arange(start, min(start + AT_ONCE, len(texts)))
        counts = heads.counts(subject, [saying(written[some], subject)], [given[some]])
        scores = [heads.score(subject, tuple(one[[row]] for one in counts)) for row in range(len(some))]
        kept = some[np.array(scores) >= wanted.least]
        texts[kept] = written[kept]
        labels[kept] = following(written[kept], subject.beside[subject.written].prompt)
        given[np.setdiff1d(some, kept)] = UNLABELLED
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


def _written(work: Work, teacher: Teacher, data: Data, source: str) -> Array:
    """What the teacher writes about each training example, (examples, length), by the store: a killed try goes on, and
    another share of it can be learned without asking again."""
    subject, net = data.subject, trained(work, teacher, data.subject)
    assert subject.written is not None
    asked = [[file.sha256 for file in data.inputs("train")], msgspec.to_builtins(subject)]
    key = digest(["texts", VERSION, teacher.weights.sha256, source, identity(teacher.choice, net), asked])
    drafts = np.load(work.path(data.train_beside[subject.written]), allow_pickle=False)
    with store.entry(key, "texts", f"{teacher.choice.name} of {data.name}") as shelf:
        column = Column(shelf, "texts", shards_of(len(drafts), AT_ONCE))
        if not column.intact():
            with seen(work, data, "train", net) as (module, viewer):

                def write(rows: range) -> None:
                    for indices, answers in writing(module, viewer, subject, np.asarray(rows)):
                        column.write(int(indices[0]), drafted(drafts[indices], answers, subject))

                column.complete("the teacher writes labels", write)
        return np.array(np.load(column.path, allow_pickle=False))
