"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import chunkwise

PACKAGES = ("contract", "chunking", "safety", "sampling", "tasks", "processing")


def modules() -> Iterator[str]:
    """Every module of the packages whose examples need nothing but numpy."""
    for name in PACKAGES:
        package = importlib.import_module(f"chunkwise.{name}")
        yield package.__name__
        yield from (found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in modules() for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 3, chunkwise.__name__
