"""What is public says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import chunkwise

ROOT = Path(chunkwise.__file__).parent
PORTS = ("contract", "chunking", "safety", "sampling", "processing", "testing")
PORT_FILES = [ROOT / name / "__init__.py" for name in ("robots", "policies", "workers", "engines")]
FILES = sorted(path for name in PORTS for path in (ROOT / name).rglob("*.py")) + PORT_FILES


def undocumented(path: Path) -> Iterator[str]:
    """Public functions and classes of the file, and public methods of public classes, without a docstring.

    A method that an ancestor describes needs none, nor does a check of a kit, whose name is a sentence.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.name
        if isinstance(node, ast.ClassDef) and (not node.bases or _is_protocol(node)):
            for part in node.body:
                public = isinstance(part, ast.FunctionDef) and not part.name.startswith(("_", "test_"))
                if public and not ast.get_docstring(part) and not _answers_a_port(node, part):
                    yield f"{node.name}.{part.name}"


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(getattr(base, "id", "") == "Protocol" for base in node.bases)


def _answers_a_port(node: ast.ClassDef, method: ast.AST) -> bool:
    """Whether the method is one that a port describes."""
    ports = {"submit", "arrivals", "wait", "restart", "close", "infer", "connect", "observe", "act", "load", "run"}
    ports |= {"inverse", "describe"}  # of a step
    return not _is_protocol(node) and getattr(method, "name", "") in ports


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_everything_public_has_a_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module says what it is"
    assert not list(undocumented(path))
