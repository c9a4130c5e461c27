"""Imports point down: a package imports from its own layer or a lower one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "chunkwise"
LAYERS = (
    {"contract"},
    {"chunking", "safety", "sampling", "tasks", "plugins", "options", "memory", "heap", "processing"},
    {"wires"},
    {"robots", "policies", "engines", "workers", "recording", "transports"},
    {"runtime"},
    {"server", "chaos", "cluster"},
    {"cli", "testing"},
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def imported(path: Path) -> set[str]:
    """Packages of chunkwise that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "chunkwise" and len(parts) > 1 and parts[1] in LEVEL:
                found.add(parts[1])
    return found


def test_every_package_has_a_layer() -> None:
    there = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__main__", "__pycache__", "py.typed"} == set(LEVEL)


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_imports_point_down(package: str) -> None:
    files = [ROOT / f"{package}.py"] if (ROOT / f"{package}.py").exists() else (ROOT / package).rglob("*.py")
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in files
        for other in imported(path)
        if LEVEL[other] > LEVEL[package]
    ]
    assert not wrong, "see ARCHITECTURE.md, invariant 1"
