"""The demo, for a moment of each strategy; its pictures are tested beside the code that draws them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkwise.cli import demo, main, pictures


def test_where_nothing_can_be_drawn_the_table_still_comes_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot(*_: Any) -> Iterator[pictures.Scene]:
        raise RuntimeError("no EGL here: apt-get install libegl1")

    monkeypatch.setattr(demo, "_scenes", cannot)
    assert main(["demo", "--seconds", "0.3", "--strategies", "switch,rtc", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "control rate" in said.out
    assert "no moving picture: no EGL here: apt-get install libegl1" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "timeline.png"]
    reports = json.loads((tmp_path / "report.json").read_text())
    assert list(reports) == ["switch", "rtc"]
    assert reports["rtc"]["setup"]["latency_ms"] == 100.0
    assert {"passed", "hits", "failed"} <= set(reports["rtc"]["score"])


def test_an_unknown_strategy_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--strategies", "switch,rct", "--out", str(tmp_path / "demo")]) == 2
    assert "did you mean 'rtc'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
