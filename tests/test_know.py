"""What a teacher says is asked for once: shared, gone on with, mended, and thrown away when there is no room."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgekd import know, store, topk
from edgekd.columns import Column
from edgekd.errors import ConfigError, StorageError
from edgekd.files import dumps
from edgekd.nets import save
from edgekd.oracles import Oracle, trained
from edgekd.runs import Work
from edgekd.specs import Knowledge, Told, Views
from edgekd.training import Shown
from tests import toys
from tests.asked import EXAMPLES, VIEWS, begun, wide

SHARD = 200
LAYER, OTHER = ("features",), ("features", "more")

Ask = Callable[..., Told]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """How many examples the teacher was asked about, a line a batch."""
    monkeypatch.setenv("TOYS_LOG", str(tmp_path / "asked.txt"))
    return tmp_path / "asked.txt"


@pytest.fixture
def ask(tmp_path: Path, log: Path) -> Ask:
    """Ask in a run of its own, in this process."""

    def asking(run: str, layers: tuple[str, ...] = (), views: Views = VIEWS, top_k: int = 0, seed: int = 0) -> Told:
        work, teacher, data = begun(tmp_path / run)
        return know._know(work, teacher, data, (0,), layers, views, seed, top_k, "")

    return asking


def asked(log: Path) -> int:
    """Examples since the last time."""
    found = sum(map(int, log.read_text(encoding="ascii").split())) if log.exists() else 0
    log.unlink(missing_ok=True)
    return found


def answers(run: Path, told: Told) -> list[NDArray[Any]]:
    return [np.load(run / file.path) for said in told.views for file in (*said.outputs, *said.layers)]


def entry_files(pattern: str) -> list[Path]:
    return sorted(store.root().glob(f"*/{pattern}"))


def damage(path: Path, example: int) -> None:
    """A bit of what is said about an example (3 logits); whoever had it keeps what he had."""
    whole = bytearray(path.read_bytes())
    whole[128 + example * 6] ^= 1
    path.unlink()
    path.write_bytes(whole)


# --- shared


def test_a_second_run_asks_nothing_and_has_the_same_files(ask: Ask, log: Path, tmp_path: Path) -> None:
    first = ask("a", LAYER)
    assert asked(log) == VIEWS.count * EXAMPLES
    assert answers(tmp_path / "a", first)[0].shape == (EXAMPLES, 3)
    second = ask("b", LAYER)
    assert asked(log) == 0 and second == first
    path = first.views[1].layers[0].path
    assert (tmp_path / "a" / path).samefile(tmp_path / "b" / path)


def test_what_is_kept_is_what_the_teacher_says(ask: Ask, tmp_path: Path) -> None:
    from edgekd.oracles import build_teacher
    from edgekd.training import predict, viewer_of

    told = ask("a")
    work, teacher, data = begun(tmp_path / "b")
    torch.manual_seed(0)
    net = build_teacher(teacher.choice, data.subject)
    for view, said in enumerate(answers(tmp_path / "a", told)):
        (expected,) = predict(net.module, viewer_of(work, data, "train", net.preprocessing, VIEWS, 0), view)
        assert np.array_equal(said, expected.astype(np.float16))


def test_a_new_layer_adds_a_column_and_touches_no_other(ask: Ask, log: Path, tmp_path: Path) -> None:
    first = ask("a", LAYER)
    before = {path: path.stat().st_ino for path in entry_files("*.npy")}
    asked(log)
    second = ask("b", OTHER)
    assert asked(log) == VIEWS.count * EXAMPLES
    assert before.items() <= {path: path.stat().st_ino for path in entry_files("*.npy")}.items()
    assert len(entry_files("layer-*.npy")) == 2 * VIEWS.count
    assert answers(tmp_path / "b", second)[2].shape == (EXAMPLES, 2, 4, 4)
    assert second.views[0].outputs[0].sha256 == first.views[0].outputs[0].sha256
    assert ask("c", LAYER) == first and asked(log) == 0


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"views": Views(count=3, shift=0.1)}, 1),  # the third alone
        ({"seed": 1}, 2),
        ({"views": Views(count=2, shift=0.2)}, 2),
        ({"views": Views(count=2)}, 1),  # both are the same picture
    ],
    ids=str,
)
def test_views_are_asked_for_where_they_are_others(ask: Ask, log: Path, changes: dict[str, Any], again: int) -> None:
    ask("a")
    asked(log)
    ask("b", **changes)
    assert asked(log) == again * EXAMPLES


def test_another_teacher_is_asked(ask: Ask, log: Path, tmp_path: Path) -> None:
    ask("a")
    asked(log)
    work, teacher, data = begun(tmp_path / "b")
    module = toys.patient()
    save(module, work.out / "other.safetensors")
    other = msgspec.structs.replace(teacher, weights=work.keep(work.out / "other.safetensors"))
    know._know(work, other, data, (0,), (), VIEWS, 0, 0, "")
    assert asked(log) == VIEWS.count * EXAMPLES


def test_a_file_that_the_teacher_s_options_name_counts_by_its_content(log: Path, tmp_path: Path) -> None:
    for run, content, again in (("a", "one", VIEWS.count), ("b", "one", 0), ("c", "other", VIEWS.count)):
        work, teacher, data = begun(tmp_path / run)
        (tmp_path / "weights").write_text(content, encoding="ascii")
        choice = msgspec.structs.replace(teacher.choice, options={"weights": str(tmp_path / "weights")})
        know._know(work, msgspec.structs.replace(teacher, choice=choice), data, (0,), (), VIEWS, 0, 0, "")
        assert asked(log) == again * EXAMPLES


def test_where_links_cannot_be_there_are_copies(
    ask: Ask, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    first, second = ask("a"), ask("b")
    assert first == second and asked(log) == VIEWS.count * EXAMPLES
    path = first.views[0].outputs[0].path
    assert not (tmp_path / "a" / path).samefile(tmp_path / "b" / path)


# --- mended


def test_a_damaged_shard_is_asked_for_again_it_alone(ask: Ask, log: Path) -> None:
    first = ask("a", LAYER)
    asked(log)
    damage(entry_files("output-0.npy")[0], 3 * SHARD + 5)
    assert ask("b", LAYER) == first
    assert asked(log) == SHARD
    assert ask("c", LAYER) == first and asked(log) == 0


def test_a_teacher_that_answers_nan_is_refused(log: Path, tmp_path: Path) -> None:
    work, teacher, data = begun(tmp_path / "a")
    module = toys.patient()
    torch.nn.init.constant_(module.more.weight, torch.nan)
    save(module, work.out / "nan.safetensors")
    broken = msgspec.structs.replace(teacher, weights=work.keep(work.out / "nan.safetensors"))
    with pytest.raises(ConfigError, match="the teacher answers NaN"):
        know._know(work, broken, data, (0,), (), VIEWS, 0, 0, "")
    assert asked(log) == SHARD and not entry_files("*.npy")


def test_a_full_disk_is_told_and_nothing_is_lost(
    ask: Ask, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask("whole")
    for one in store.entries():
        assert store.remove(one.key)
    asked(log)
    write = Column.write

    def full(self: Column, first_row: int, values: NDArray[Any]) -> None:
        if first_row == 2 * SHARD:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, first_row, values)

    with monkeypatch.context() as patched:
        patched.setattr(Column, "write", full)
        with pytest.raises(StorageError, match="no space left") as error:
            ask("a")
    assert "edgekd cache clear" in error.value.hint and asked(log) == 3 * SHARD
    again = ask("b")
    assert asked(log) == 2 * EXAMPLES - 2 * SHARD and again == whole


def test_a_disk_that_keeps_nothing_is_told(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Column, "_sum", lambda *_: "")
    with pytest.raises(StorageError, match="does not keep what is written"):
        ask("a")


# --- processes

CHILD = """
    import sys
    import torch
    from pathlib import Path
    from edgekd import know
    from edgekd.specs import Views
    from tests.asked import VIEWS, begun
    torch.set_num_threads(1)
    work, teacher, data = begun(Path(sys.argv[1]), float(sys.argv[2]))
    know._know(work, teacher, data, (0,), ("features",), VIEWS, 0, 0, "")
"""


def child(run: Path, wait_s: float) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(run), str(wait_s)]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1])


@pytest.fixture
def children() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()


def test_kill_9_in_the_middle_of_a_view_loses_one_shard_at_most(
    children: list["subprocess.Popen[bytes]"], tmp_path: Path, log: Path
) -> None:
    """And what is there in the end is the same to the bit."""
    children.append(child(tmp_path / "killed", 0.5))
    while not any(len(path.read_text(encoding="ascii").split()) >= 6 for path in entry_files("output-0.sha256")):
        assert children[0].poll() is None
        time.sleep(0.01)
    os.kill(children[0].pid, signal.SIGKILL)
    assert children[0].wait() == -signal.SIGKILL
    before = asked(log)
    assert 2 * SHARD <= before < EXAMPLES and not entry_files("*.npy")

    work, teacher, data = begun(tmp_path / "next", 0.5)
    told = know._know(work, teacher, data, (0,), LAYER, VIEWS, 0, 0, "")
    assert before + asked(log) <= VIEWS.count * EXAMPLES + SHARD
    for one in store.entries():
        assert store.remove(one.key)
    work, teacher, data = begun(tmp_path / "whole", 0.0)
    whole = know._know(work, teacher, data, (0,), LAYER, VIEWS, 0, 0, "")
    assert whole.views == told.views


def test_two_processes_at_once_ask_everything_once(
    children: list["subprocess.Popen[bytes]"], tmp_path: Path, log: Path
) -> None:
    children += [child(tmp_path / name, 0.05) for name in ("a", "b")]
    assert [one.wait(240) for one in children] == [0, 0]
    assert asked(log) == VIEWS.count * EXAMPLES
    for name in ("output-0.npy", "layer-0.npy"):
        files = [tmp_path / run / "knowledge" / "view-001" / name for run in ("a", "b")]
        assert files[0].samefile(files[1])


# --- room


def test_what_was_not_used_for_the_longest_time_goes_first(
    ask: Ask, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_view = Views(shift=0.1)
    told = [ask(f"run-{seed}", views=one_view, seed=seed) for seed in range(3)]
    for age, one in enumerate(store.entries()):
        os.utime(store.root() / f"{one.key}.lock", (1000 + age, 1000 + age))
    ask("again", views=one_view, seed=0)  # the oldest is used, so it is the newest
    kept = store.entries()
    assert len(kept) == 3 and asked(log) == 3 * EXAMPLES
    monkeypatch.setenv("EDGEKD_KNOWLEDGE_BYTES", str(sum(one.size_bytes for one in kept[1:])))
    store.make_room()
    assert [one.key for one in store.entries()] == [one.key for one in kept[1:]]
    assert ask("b", views=one_view, seed=0) == told[0] and asked(log) == 0
    assert ask("c", views=one_view, seed=1) == told[1] and asked(log) == EXAMPLES
    for seed, one in enumerate(told):  # what a run has it keeps
        assert answers(tmp_path / f"run-{seed}", one)[0].shape == (EXAMPLES, 3)


def test_what_a_process_holds_stays(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("a", views=Views())
    (there,) = store.entries()
    monkeypatch.setenv("EDGEKD_KNOWLEDGE_BYTES", "0")
    with store.entry(there.key, "knowledge", "held") as folder:
        store.make_room()
        assert (folder / "output-0.npy").exists() and not store.remove(there.key)
        assert store.entries()[0].in_use
    store.make_room()
    assert not store.entries() and not list(store.root().iterdir())


def test_without_any_room_a_run_still_gets_what_it_needs(
    ask: Ask, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_KNOWLEDGE_BYTES", "0")
    told = ask("a")
    assert not store.entries() and answers(tmp_path / "a", told)[1].shape == (EXAMPLES, 3)


def test_a_budget_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_KNOWLEDGE_BYTES", "20GB")
    with pytest.raises(ConfigError, match="EDGEKD_KNOWLEDGE_BYTES is '20GB'"):
        store.budget_bytes()


def test_a_folder_that_cannot_be_made_is_told(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKD_KNOWLEDGE", str(tmp_path / "file" / "below"))
    with pytest.raises(StorageError) as error:
        ask("a")
    assert "EDGEKD_KNOWLEDGE names" in error.value.hint


# --- heard


def oracle_of(run: Path, told: Told) -> Oracle:
    _, _, data = begun(run / "again")
    return Oracle(Work(str(run), "x", str(run)), data, Knowledge(told=(told,)), VIEWS, 0)


INDICES = np.array([3, 250, 999])


def shown(epoch: int) -> Shown:
    return Shown((torch.zeros(3, 1, 16, 16),), INDICES, epoch, 0.0)


def test_a_student_hears_what_was_said_of_the_view_that_it_sees(ask: Ask, tmp_path: Path) -> None:
    told = ask("a", LAYER)
    oracle, said = oracle_of(tmp_path / "a", told), answers(tmp_path / "a", told)
    for epoch, view in ((1, 1), (2, 0), (5, 1)):
        (logits,) = oracle.outputs(shown(epoch))
        assert np.array_equal(logits, said[2 * view][INDICES].astype(np.float32))
        layer = oracle.layers(shown(epoch))["features"]
        assert np.array_equal(layer, said[2 * view + 1][INDICES].astype(np.float32))


def test_the_largest_logits_come_back_dense(
    ask: Ask, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three classes two; the third alone is "the rest", so hardly anything is lost."""
    monkeypatch.setattr(topk, "TOP_K_ABOVE", 2)
    told = ask("a", top_k=2)
    packed = answers(tmp_path / "a", told)[0]
    assert packed["values"].shape == packed["indices"].shape == (EXAMPLES, 2)
    (found,) = oracle_of(tmp_path / "a", told).outputs(shown(0))
    (exact,) = oracle_of(tmp_path / "b", ask("b")).outputs(shown(0))
    assert found is not None and exact is not None
    assert found.shape == (3, 3) and torch.allclose(found, exact, atol=2e-3) and not torch.equal(found, exact)
    assert asked(log) == 2 * VIEWS.count * EXAMPLES, "both ways of keeping an output are kept"


@pytest.mark.parametrize(("autocast", "least", "most"), [(False, 0.0, 1e-3), (True, 1e-3, 2e-2)])
def test_layers_that_were_not_kept_are_asked_for(
    ask: Ask, tmp_path: Path, autocast: bool, least: float, most: float
) -> None:
    told = ask("a", LAYER)
    work, teacher, data = begun(tmp_path / "again")
    asked_again = trained(work, teacher, data.subject).module
    knowledge = Knowledge(told=(told,))
    oracle = Oracle(work, data, knowledge, VIEWS, 0, asked_again, autocast=autocast)
    found = oracle.layers(shown(1))["features"]
    kept = torch.from_numpy(answers(tmp_path / "a", told)[3][INDICES].astype(np.float32))
    assert found.dtype == torch.float32
    assert least <= (found - kept).abs().max() <= most


# --- memory

HUNGRY = """
    import json, re, sys
    from pathlib import Path
    import msgspec
    import numpy as np
    import torch
    from edgekd import know
    from edgekd.oracles import Oracle
    from edgekd.rows import Rows
    from edgekd.runs import Work
    from edgekd.specs import Data, Knowledge, Teacher, Views
    from edgekd.training import Shown
    torch.set_num_threads(1)

    def peak():  # ru_maxrss would be that of the process that started this one, where that is larger
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    given = zip(json.loads(sys.argv[1]), (Work, Teacher, Data), strict=True)
    work, teacher, data = (msgspec.convert(plain, kind) for plain, kind in given)
    before = peak()
    told = know._know(work, teacher, data, (0,), ("0",), Views(), 0, 0, "")
    oracle = Oracle(work, data, Knowledge(told=(told,)), Views(), 0)
    inputs = Rows(work.path(data.train_inputs))
    for indices in np.random.default_rng(0).permutation(len(inputs)).reshape(-1, 16):
        shown = Shown((torch.from_numpy(inputs[indices]),), indices, 0, 0.0)
        assert (oracle.layers(shown)["0"][:, 0] == torch.from_numpy(indices % 251)).all()
    print(peak() - before, told.views[0].layers[0].size_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """A layer of 420 MB is written and read, of inputs of 840 MB; with batches of 128 MB, and as much of each file."""
    given = dumps(wide(tmp_path / "run"))
    command = [sys.executable, "-c", textwrap.dedent(HUNGRY), given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    grown, layer = map(int, done.stdout.split())
    assert layer > 400 * 2**20
    assert grown < 900 * 2**20, f"{grown / 2**20:.0f} MiB"
