"""One file is one plugin: found by name, imported late, and a user's own need no package."""

import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekd import losses
from edgekd.errors import ConfigError, EdgekdError, PluginUnavailable, UnknownPlugin
from edgekd.plugins import called, find, find_object, fingerprint, known, names, options, reference
from edgekd.specs import Views

FAMILY = {
    "__init__.py": 'EXTRAS = {"needs": "heavy"}\n\ndef wrap(own):\n    return ("wrapped", own)\n',
    "good.py": 'PLUGIN = "good"\n',
    "needs.py": "import no_such_package\nPLUGIN = 1\n",
    "needs_more.py": "import no_such_package.below\nPLUGIN = 1\n",
    "boom.py": 'raise RuntimeError("imported")\n',
    "_private.py": 'raise RuntimeError("imported")\n',
}


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A package of plugins, `<a name of its own>s`, and the entry point of another package that adds one."""
    name = f"made_up_{abs(hash(request.node.nodeid))}s"
    (tmp_path / name).mkdir()
    for file, text in FAMILY.items():
        (tmp_path / name / file).write_text(text, encoding="utf-8")
    (tmp_path / f"{name}_extension.py").write_text('ADDED = "added"\n', encoding="utf-8")
    meta = tmp_path / f"{name}_extension-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-extension\nVersion: 1.0\n", encoding="utf-8")
    (meta / "entry_points.txt").write_text(f"[{name}]\nextra = {name}_extension:ADDED\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


# --- ours


def test_names_are_those_of_public_files_and_of_packages(family: ModuleType) -> None:
    assert names(family) == ("boom", "extra", "good", "needs", "needs_more")
    assert [name for name in sys.modules if name.startswith(f"{family.__name__}.")] == []


def test_names_of_our_families_import_no_plugin() -> None:
    script = (
        "import sys, edgekd.engines, edgekd.datasets; from edgekd.plugins import known, names\n"
        "assert 'litert' in names(edgekd.engines) and '_guest' not in names(edgekd.engines)\n"
        "assert 'mnist_5k' in names(edgekd.datasets); known(edgekd.engines, 'litert')\n"
        "print([name for name in sys.modules if name.startswith(('edgekd.engines.', 'edgekd.datasets.', 'torch'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


@pytest.mark.parametrize(("name", "plugin"), [("good", "good"), ("extra", "added")])
def test_a_plugin_is_found_by_its_name(family: ModuleType, name: str, plugin: str) -> None:
    known(family, name)
    assert find(family, name) == plugin


@pytest.mark.parametrize(("name", "hint"), [("goood", "did you mean 'good'?"), ("extr", "did you mean 'extra'?")])
def test_an_unknown_plugin_has_its_nearest(family: ModuleType, name: str, hint: str) -> None:
    for look in (known, find):
        with pytest.raises(UnknownPlugin, match=f"^no {family.__name__[:-1]} named '{name}'$") as error:
            look(family, name)
        assert error.value.hint == hint
        assert error.value.exit_code == 4


@pytest.mark.parametrize("name", ["zzz", "", "_private", "a.b", "../good", "good\n", "__init__"])
def test_without_a_near_one_all_are_listed(family: ModuleType, name: str) -> None:
    with pytest.raises(UnknownPlugin) as error:
        find(family, name)
    assert error.value.hint in {"known: boom, extra, good, needs, needs_more", "did you mean 'good'?"}


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("needs", "no_such_package", "heavy"), ("needs_more", "no_such_package", "needs_more")],
)
def test_a_missing_package_is_said_with_its_command(family: ModuleType, name: str, package: str, extra: str) -> None:
    with pytest.raises(PluginUnavailable, match=f"'{name}' needs the package '{package}'$") as error:
        find(family, name)
    assert error.value.hint == f"pip install 'edgekd[{extra}]'"


def test_a_plugin_of_losses_is_a_loss() -> None:
    with pytest.raises(UnknownPlugin, match="^no loss named 'soft_target'$"):
        known(losses, "soft_target")


def test_options_that_are_no_arguments_of_a_users_function_are_refused() -> None:
    def net(width: int = 8) -> int:
        return width

    assert called(net, {"width": 4}) == 4
    with pytest.raises(ConfigError, match="^net: got an unexpected keyword argument 'wdith'$") as error:
        called(net, {"wdith": 4})
    assert error.value.hint == "options are its arguments: net(width: int = 8) -> int"


def test_options_are_decoded_strictly() -> None:
    assert options(Views, {"count": 2}, "options of it") == Views(count=2)
    with pytest.raises(ConfigError, match="^options of it: unknown key 'cuont'$") as error:
        options(Views, {"cuont": 2}, "options of it")
    assert error.value.hint == "did you mean 'count'?"


# --- a user's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a user's module in the working folder."""
    name = f"own_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text("def student():\n    return 1\n\nclass Net:\n    pass\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return name


def test_a_users_own_is_named_by_module_or_by_file(own: str, family: ModuleType) -> None:
    for name in (f"{own}:student", f"{own}.py:student", f"{Path(own).resolve()}.py:student"):
        assert find_object(name)() == 1
        wrapped, found = find(family, name)
        assert wrapped == "wrapped" and found() == 1
        known(family, name)  # told from a name of ours without importing it


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(f"NAME = {folder!r}\n", encoding="utf-8")
    assert [find_object(f"{tmp_path / folder}/net.py:NAME") for folder in ("a", "b")] == ["a", "b"]


def test_an_attribute_that_is_not_there_has_its_nearest(own: str) -> None:
    with pytest.raises(ConfigError, match=f"^{own} has no 'studnt'$") as error:
        find_object(f"{own}:studnt")
    assert error.value.hint == "did you mean 'student'?"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "no module named 'no_such_module'"),
        ("os.nowhere:f", "no module named 'os.nowhere'"),
        ("os..path:f", "no module named 'os..path'"),
        ("no_such_file.py:f", "no_such_file.py: no such file"),
        ("/:f", "/"),
        (":f", " cannot be imported"),
        (".own:f", ".own cannot be imported"),
        ("os:", "os has no ''"),
        ("os:path.join", "os has no 'path.join'"),
        ("a" * 300 + ".py:f", "a"),
        ("a" * 300 + ":f", "no module named 'aaa"),
        ("a\0b:f", "no module named 'a"),
        ("a\0b.py:f", "no such file"),
    ],
)
def test_a_name_that_leads_nowhere_is_said(name: str, message: str, own: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_object(name)


MISTAKES: dict[str, tuple[bytes, type[EdgekdError], str]] = {
    "syntax": (b"def f(:\n    pass\n", ConfigError, "cannot be imported: "),
    "encoding": (b"f = '\xff'\n", ConfigError, "cannot be imported: "),
    "zero byte": (b"f = 1\0\n", ConfigError, "cannot be imported: "),
    "missing package": (b"import no_such_package\n", PluginUnavailable, "needs the package 'no_such_package'"),
    "mistake": (b"f = 1 / 0\n", EdgekdError, "division by zero"),
    "missing name": (b"from os import nowhere\n", EdgekdError, "cannot import name 'nowhere'"),
}


@pytest.mark.parametrize("by", ["file", "module"])
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_users_module_is_said_in_one_line(case: str, by: str, own: str) -> None:
    content, kind, message = MISTAKES[case]
    Path(f"{own}.py").write_bytes(content)
    name = f"{own}.py:f" if by == "file" else f"{own}:f"
    for attempt in (find_object, fingerprint):
        with pytest.raises(kind, match=re.escape(message)) as error:
            attempt(name)
        assert "\n" not in str(error.value)


def test_a_missing_package_of_a_users_module_has_its_command(own: str) -> None:
    Path(f"{own}.py").write_text("import no_such_package.below\n", encoding="utf-8")
    with pytest.raises(PluginUnavailable) as error:
        find_object(f"{own}:student")
    assert error.value.hint == "pip install no_such_package"


# --- what a step's key holds of a user's own


def test_a_fingerprint_changes_with_the_source_and_with_nothing_else(own: str) -> None:
    before = [fingerprint(f"{own}:student"), fingerprint(f"{own}.py:student")]
    assert len(before[0]) == 64 and before[0] == before[1]
    assert fingerprint(f"{own}:Net") == before[0]
    with Path(f"{own}.py").open("a", encoding="utf-8") as opened:
        opened.write("# changed\n")
    assert fingerprint(f"{own}:student") != before[0]


def test_ours_have_no_fingerprint() -> None:
    assert fingerprint("mobile") == ""


def at_the_top() -> int:
    return 1


class Callable_:
    def __call__(self) -> int:
        return 1

    def method(self) -> int:
        return 1


def test_a_function_is_referred_to_by_its_module(own: str) -> None:
    assert reference(at_the_top) == f"{__name__}:at_the_top"
    assert reference("mobile") == "mobile"
    found = find_object(f"{own}:student")
    assert reference(found) == f"{own}:student" and find_object(reference(found)) is found


def test_a_function_that_no_other_process_finds_is_refused() -> None:
    def local() -> int:
        return 1

    homeless: list[Any] = [local, lambda: 1, functools.partial(at_the_top), Callable_(), Callable_().method]
    for function in homeless:
        with pytest.raises(ConfigError, match="is not a function at the top of a module$") as error:
            reference(function)
        assert error.value.hint == "move it there"


def test_a_function_of_a_script_is_referred_to_by_its_file(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from edgekd.plugins import reference\ndef mine(): pass\nif __name__ == '__main__': print(reference(mine))\n",
        encoding="utf-8",
    )
    assert subprocess.check_output([sys.executable, str(script)], text=True) == f"{script}:mine\n"


def test_a_function_typed_at_a_prompt_is_refused() -> None:
    script = "from edgekd.plugins import reference\ndef mine(): pass\nreference(mine)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ConfigError: mine was typed at a prompt, where worker processes cannot find it" in ended.stderr
