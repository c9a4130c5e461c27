"""Examples 03 and 04: an episode is collected, and replayed to the last bit."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_collect_then_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "episode.mcap"
    for name in ("03_data_collection.py", "04_replay_collected_data.py"):
        monkeypatch.setattr(sys, "argv", [name, str(path)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    said = capsys.readouterr().out
    assert "100 frames and 100 actions" in said and "cut off: False" in said
    assert "100 commands sent, 0 not those that were recorded" in said
    assert "equal to the last bit: True" in said
