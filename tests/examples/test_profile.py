"""Example 05 runs, says what it should and writes what it says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "05_profile_inference_latency.py"


def test_profile_inference_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](tmp_path)
    said = capsys.readouterr().out
    assert "chunks of 30: run ASYNC at 50 Hz" in said
    assert "H >= 2d + steps_before_request" in said
    assert "Chunks of H = 4 rows are too short" in said
    profile = json.loads((tmp_path / "inference_profile.json").read_text())
    assert profile["estimated_chunk_steps"] == 30
    assert profile["estimated_inference_time_s"] >= 0.04
    trace = json.loads((tmp_path / "async_buffer_trace.json").read_text())
    assert trace["latency_steps"] == profile["estimated_latency_steps"]
