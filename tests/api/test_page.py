"""Every difference that a page for those who come from elsewhere lists is held by a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"from-inferaxis.md": (7, 40), "from-igris.md": (12, 25), "from-ib-robot.md": (18, 50)}
"""Modules of tests that a page names, and at least so many tests."""


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_the_page_names_are_there(page: str) -> None:
    text = text_of(page)
    modules = dict(re.findall(r"^\| `(\w+)` \| `(tests/[\w/]+\.py)` \|$", text, re.MULTILINE))
    named = re.findall(r"`(\w+)::(test_\w+)`", text)
    assert len(modules) >= PAGES[page][0] and len(named) > PAGES[page][1]
    missing = [
        f"{module}::{test}"
        for module, test in named
        if f"def {test}(" not in (ROOT / modules[module]).read_text(encoding="utf-8")
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_a_table_of_differences_names_one(page: str) -> None:
    begins = "## Where text" if page == "from-inferaxis.md" else "## What went wrong"
    tables = text_of(page).partition(begins)[2].partition("## What there is besides")[0]
    rows = [line for line in tables.splitlines() if line.startswith("| ") and "held by" not in line]
    assert rows and all("::test_" in row for row in rows if not set(row) <= set("|- "))
