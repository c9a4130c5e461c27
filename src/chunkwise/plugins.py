"""Names to classes: what there is of each kind, found in the folders, imported late.

An adapter is a file (or a package) in the folder of its kind whose ``__all__`` names one class.  Its name is
the file's name.  Packages elsewhere add theirs with entry points of the group ``chunkwise.<kind>``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from chunkwise.contract.errors import nearest

KINDS = {
    "robots": "chunkwise.robots",
    "policies": "chunkwise.policies",
    "strategies": "chunkwise.chunking.strategies",
    "workers": "chunkwise.workers",
    "engines": "chunkwise.engines",
    "wires": "chunkwise.wires",
    "transports": "chunkwise.transports",
}


class UnknownAdapter(LookupError):
    """No adapter of that name; the message lists those there are."""


class MissingExtra(ImportError):
    """An adapter needs a package that is not installed; the message says which ``pip install`` cures it."""


def names(kind: str) -> list[str]:
    """Adapters of `kind`, sorted, without importing any of them."""
    found = {module.name for module in pkgutil.iter_modules(_package(kind).__path__)}
    found |= {point.name for point in entry_points(group=f"chunkwise.{kind}")}
    return sorted(name for name in found if not name.startswith("_"))


def load(kind: str, name: str) -> Any:
    """The class behind a name, importing only that adapter.

    Args:
        kind: one of :data:`KINDS`.
        name: a name that :func:`names` lists, ``module:Class``, or ``path/to/file.py:Class``.

    Raises:
        UnknownAdapter: there is no such adapter, module, file or class.
        MissingExtra: it needs a package that is not installed.
    """
    if ":" in name:
        return _from_path(kind, name)
    package = _package(kind)
    if name in {module.name for module in pkgutil.iter_modules(package.__path__)} and name[:1] != "_":
        module = _import(f"{package.__name__}.{name}", kind, name)
        exported = getattr(module, "__all__", [])
        if len(exported) != 1:
            raise TypeError(f"{module.__name__}.__all__ must name exactly one class, has {exported}")
        return getattr(module, exported[0])
    for point in entry_points(group=f"chunkwise.{kind}"):
        if point.name == name:
            return point.load()
    known = names(kind)
    raise UnknownAdapter(
        f"no {kind} adapter {name!r}{nearest(name, known)}; there are: {', '.join(known) or 'none'}; "
        "module:Class and path/to/file.py:Class work too"
    )


def require(module: str, *, extra: str) -> Any:
    """Import a heavy package late.

    Raises:
        MissingExtra: it is not installed.  A fault inside an installed package is left as it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(f"{module} is not installed: {cure(extra)}") from error


def cure(extra: str) -> str:
    """The command that installs an extra; pip before 23.3 knows only the name with hyphens."""
    return f"pip install 'chunkwise[{extra.replace('_', '-')}]'"


def summary(kind: str, name: str) -> str:
    """The first line of an adapter's docstring, read without importing it; empty where there is none."""
    import ast

    found = next((m for m in pkgutil.iter_modules(_package(kind).__path__) if m.name == name), None)
    if found is None:
        return ""
    spec = found.module_finder.find_spec(name, None)
    if spec is None or spec.origin is None:
        return ""
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


@contextmanager
def folder(kind: str, path: Path) -> Iterator[None]:
    """Let the adapters of another folder count as `kind` while the context lasts."""
    package = _package(kind)
    package.__path__.append(str(path))
    try:
        yield
    finally:
        package.__path__.remove(str(path))
        for module in pkgutil.iter_modules([str(path)]):
            sys.modules.pop(f"{package.__name__}.{module.name}", None)


def _package(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise UnknownAdapter(f"no kind {kind!r}{nearest(kind, KINDS)}; there are: {', '.join(KINDS)}")
    return importlib.import_module(KINDS[kind])


def _import(module: str, kind: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("chunkwise"):
            raise
        raise MissingExtra(f"{kind} adapter {name!r} needs {error.name!r}: {cure(name)}") from error


def _from_path(kind: str, name: str) -> Any:
    where, _, attribute = name.rpartition(":")
    path = Path(where).expanduser()
    folder = str(path.resolve().parent if where.endswith(".py") else Path.cwd())
    if folder not in sys.path:  # last, to shadow nothing: a file may import its neighbours, as in `python file.py`
        sys.path.append(folder)
    if where.endswith(".py"):
        if not path.is_file():
            raise UnknownAdapter(f"no file {where!r} for {kind} {name!r}")
        unique = f"{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"  # two folders may have one name
        spec = importlib.util.spec_from_file_location(unique, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module  # dataclasses and pickle look their module up
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name != where:  # the module is there, something that it imports is not
                raise
            raise UnknownAdapter(f"no module {where!r} for {kind} {name!r}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        defined = [key for key in vars(module) if not key.startswith("_")]
        raise UnknownAdapter(f"{where} has no {attribute!r}{nearest(attribute, defined)}") from error
