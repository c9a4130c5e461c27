"""The import rules of ARCHITECTURE.md, read off the source text, and what `import chunkwise` costs in modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import chunkwise

ROOT = Path(chunkwise.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

PURE = ("contract", "chunking", "safety", "sampling", "processing")
"""Packages of numpy and the standard library that know nothing of the world."""
WORLD = {
    *("asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random"),
    *("sched", "selectors", "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time"),
    "urllib",
}
"""Modules with a clock, thread, process, socket, file, log or hidden state behind them."""
EDGES = ("cli", "testing")
"""Nobody imports these."""
ADAPTERS = ("robots", "policies", "workers", "engines", "wires", "transports", "chunking.strategies")
"""Every other file in these packages is an adapter, but for those whose names begin with `_`: what several of them
share, or, as `_NAME_...`, a further part of the adapter NAME."""
FORBIDDEN_NAMES = ("utils", "helpers", "manager", "common", "impl", "bridge", "interface")


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, anywhere in it; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(path: Path) -> str:
    """The first folder or file below the package's root."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """The module's full name."""
    return ".".join(["chunkwise", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def within(module: str, parent: str) -> bool:
    """Whether `module` is `parent` or in it."""
    return module == parent or module.startswith(parent + ".")


def adapter_of(module: str) -> str | None:
    """The adapter that a module belongs to, `chunkwise.robots.mock` for one; None where it is none."""
    for port in ADAPTERS:
        parent = f"chunkwise.{port}"
        if module.startswith(parent + "."):
            name = module.removeprefix(parent + ".").partition(".")[0]
            folder = ROOT.joinpath(*port.split("."))
            there = (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()
            if there and not name.startswith("_"):
                return f"{parent}.{name}"
    return None


def _opened(files: Sequence[Path]) -> list[str]:
    """Modules that open a file or talk to a terminal."""
    return [
        dotted(path)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("open", "print", "input")
    ]


@pytest.mark.parametrize("name", PURE)
def test_pure_packages_import_only_the_contract_and_themselves(name: str) -> None:
    allowed = (f"chunkwise.{name}", "chunkwise.contract")
    wrong = [
        f"{dotted(path)} imports {module}"
        for path in FILES
        if package(path) == name
        for module in imports(path)
        if within(module, "chunkwise") and not any(within(module, parent) for parent in allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("name", PURE)
def test_pure_packages_touch_no_clock_thread_process_socket_file_or_log(name: str) -> None:
    known = sys.stdlib_module_names | {"numpy", "chunkwise"}
    wrong = [
        f"{dotted(path)} imports {module}"
        for path in FILES
        if package(path) == name
        for module in imports(path)
        if module.partition(".")[0] in WORLD or module.partition(".")[0] not in known
    ]
    assert not wrong
    assert not _opened([path for path in FILES if package(path) == name])


def test_wires_are_protocols_and_nothing_else() -> None:
    """No clock, thread, process, socket, file or log; third parties by `plugins.require`, when they are wanted."""
    ours = tuple(f"chunkwise.{name}" for name in ("wires", "contract", "chunking", "plugins", "processing"))
    harmless = ("urllib.parse", "io")  # texts, and bytes in memory
    known = sys.stdlib_module_names | {"numpy", "chunkwise"}
    wires = [path for path in FILES if package(path) == "wires"]
    wrong = [
        f"{dotted(path)} imports {module}"
        for path in wires
        for module in imports(path)
        if (module.startswith("chunkwise.") and not any(within(module, parent) for parent in ours))
        or (module.partition(".")[0] in WORLD and not any(within(module, parent) for parent in harmless))
        or module.partition(".")[0] not in known
    ]
    assert not wrong
    assert not _opened(wires)


def test_tasks_are_pure_numpy() -> None:
    allowed = sys.stdlib_module_names | {"numpy"}
    wrong = [
        f"{dotted(path)} imports {module}"
        for path in FILES
        if package(path) == "tasks"
        for module in imports(path)
        if module.partition(".")[0] not in allowed
        and not any(within(module, parent) for parent in ("chunkwise.tasks", "chunkwise.contract"))
    ]
    assert not wrong


def test_no_adapter_is_imported_by_name() -> None:
    wrong = [
        f"{dotted(path)} imports {adapter}"
        for path in FILES
        for module in imports(path)
        if (adapter := adapter_of(module)) is not None
        and not within(dotted(path), adapter)
        and not path.stem.startswith(f"_{adapter.rpartition('.')[2]}_")
    ]
    assert not wrong


def test_nobody_imports_the_edges() -> None:
    wrong = [
        f"{dotted(path)} imports {module}"
        for path in FILES
        for module in imports(path)
        for edge in EDGES
        if within(module, f"chunkwise.{edge}") and package(path) not in (edge, "__main__")
    ]
    assert not wrong


def test_no_pickle_is_imported() -> None:
    wrong = [dotted(path) for path in FILES if {"pickle", "marshal", "shelve", "dill"} & set(imports(path))]
    assert not wrong


def test_names_say_what_a_module_is() -> None:
    wrong = [
        dotted(path)
        for path in FILES
        for part in path.relative_to(ROOT).with_suffix("").parts
        if set(part.lower().split("_")) & set(FORBIDDEN_NAMES)
    ]
    assert not wrong


def test_import_chunkwise_costs_numpy_and_nothing_else_of_others() -> None:
    probe = (
        "import sys; before = set(sys.modules); import chunkwise, chunkwise.plugins, chunkwise.chunking\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    made = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    others = set(made.stdout.split()) - sys.stdlib_module_names - {"chunkwise", "numpy"}
    assert not {name for name in others if not name.startswith("_")}
