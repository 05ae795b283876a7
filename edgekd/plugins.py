"""Plugin families: one file = one plugin, its name is the file's name, its object is `PLUGIN`.

Listing names imports nothing, so `edgekd --help` never loads torch, onnx or openvino. Packages add plugins by the
entry-point group `edgekd.<family>`; a user's own function or object is named `module:attribute` or `file.py:attribute`
and needs no package at all.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.errors import ConfigError, PluginUnavailable, UnknownPlugin
from edgekd.files import decode


def names(family: ModuleType) -> tuple[str, ...]:
    """Public files of the family's folder and what packages add, sorted; `_private.py` is for shared helpers."""
    files = {module.name for module in pkgutil.iter_modules(family.__path__) if not module.name.startswith("_")}
    return tuple(sorted(files | _added(family).keys()))


def known(family: ModuleType, name: str) -> None:
    """Raise UnknownPlugin, with the nearest name as its hint, unless there is such a plugin; imports nothing."""
    if ":" in name or name in names(family):
        return
    close = difflib.get_close_matches(name, names(family), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names(family))}"
    raise UnknownPlugin(f"no {_singular(family)} named {name!r}", hint=hint)


def find(family: ModuleType, name: str) -> Any:
    """The plugin of that name.

    A name with a colon is a user's own: what it names is passed through the family's `wrap(object)`.

    Raises:
        UnknownPlugin: there is none; the hint has the nearest name.
        PluginUnavailable: a package that it needs is not installed; the hint has the command.
        ConfigError: a user's module or attribute is not there.
    """
    if ":" in name:
        return family.wrap(find_object(name))
    known(family, name)
    added = _added(family).get(name)
    try:
        if added:
            return added.load()
        return importlib.import_module(f"{family.__name__}.{name}").PLUGIN
    except ModuleNotFoundError as missing:
        extra = getattr(family, "EXTRAS", {}).get(name, name)
        raise PluginUnavailable(
            f"{_singular(family)} {name!r} needs the package {missing.name!r}", hint=f"pip install 'edgekd[{extra}]'"
        ) from missing


def find_object(name: str) -> Any:
    """What a `module:attribute` or `file.py:attribute` names.

    Raises:
        ConfigError: the module or the attribute is not there.
    """
    module_name, _, attribute = name.rpartition(":")
    module = _own_module(module_name)
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, vars(module), n=1)
        raise ConfigError(f"{module_name} has no {attribute!r}", hint=f"did you mean {close[0]!r}?" if close else "")
    return getattr(module, attribute)


def options(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    """A plugin's own frozen `Options`, decoded from a recipe's table."""
    return decode(kind, table, where)


def called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What a user's function returns for the options of a recipe.

    Raises:
        ConfigError: these are not its arguments; the hint says which they are.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise ConfigError(f"{name}: {error}", hint=f"options are its arguments: {name}{signature}") from error
    return function(**arguments)


def fingerprint(name: str) -> str:
    """SHA-256 of the source of a user's own plugin, so that a step is redone when it changes; "" for ours."""
    if ":" not in name:
        return ""
    file = getattr(_own_module(name.rpartition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def reference(value: str | Callable[..., Any]) -> str:
    """The `module:function` of a function, so that a worker process finds it again; text is returned as it is.

    Raises:
        ConfigError: a lambda, a local function or one typed at a prompt: no other process can find it.
    """
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    if not name.isidentifier():
        raise ConfigError(f"{value!r} is not a function at the top of a module", hint="move it there")
    if module != "__main__":
        return f"{module}:{name}"
    script = getattr(sys.modules["__main__"], "__file__", None)
    if not script:
        raise ConfigError(
            f"{name} was typed at a prompt, where worker processes cannot find it", hint="put it in a file"
        )
    return f"{Path(script).resolve()}:{name}"


def _singular(family: ModuleType) -> str:
    name = family.__name__.rpartition(".")[2]
    return name.removesuffix("es") if name.endswith("sses") else name.removesuffix("s")


@cache
def _added(family: ModuleType) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=family.__name__)}


@cache
def _own_module(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _from_file(Path(name))
    here = str(Path.cwd())
    if here not in sys.path:  # the console script has the folder of the script there, `python -m` this one
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        wanted = missing.name or name
        if name == wanted or name.startswith(f"{wanted}."):
            raise ConfigError(
                f"no module named {name!r}", hint="name it as `module:function`, or its file as `path/file.py:function`"
            ) from missing
        raise PluginUnavailable(f"{name} needs the package {wanted!r}", hint=f"pip install {wanted}") from missing
    except Exception as error:
        raise _cannot_import(name, error) from error


def _from_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises on a long name
        raise ConfigError(f"{path}: no such file")
    path = path.resolve()
    name = f"edgekd_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            f"{path} needs the package {missing.name!r}", hint=f"pip install {missing.name}"
        ) from missing
    except Exception as error:
        raise _cannot_import(str(path), error) from error
    return module


def _cannot_import(name: str, error: Exception) -> ConfigError:
    first_line = next(iter(str(error).strip().splitlines()), "")
    return ConfigError(f"{name} cannot be imported: {type(error).__name__}: {first_line}")
