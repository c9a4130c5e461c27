"""Every difference that docs/from-inferaxis.md lists is held by a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-inferaxis.md").read_text(encoding="utf-8")


def test_the_tests_that_the_page_names_are_there() -> None:
    modules = dict(re.findall(r"^\| `(\w+)` \| `(tests/[\w/]+\.py)` \|$", PAGE, re.MULTILINE))
    named = re.findall(r"`(\w+)::(test_\w+)`", PAGE)
    assert len(modules) == 7 and len(named) > 40
    missing = [
        f"{module}::{test}"
        for module, test in named
        if f"def {test}(" not in (ROOT / modules[module]).read_text(encoding="utf-8")
    ]
    assert not missing


def test_every_row_of_a_table_of_differences_names_one() -> None:
    tables = PAGE.partition("## Where text")[2].partition("## What there is besides")[0]
    rows = [line for line in tables.splitlines() if line.startswith("| ") and "held by" not in line]
    assert rows and all("::test_" in row for row in rows if not set(row) <= set("|- "))
