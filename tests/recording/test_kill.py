"""A recording whose process is killed: for a few seconds what `benchmarks/recording.py` measures over a minute."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "recording.py"


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recording_benchmark", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_what_a_killed_process_recorded_reads_back_and_replays(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    made = benchmark()
    kept = made.kill_test(tmp_path, 3.0)
    assert kept.read > 100 and kept.truncated and not kept.differing
    assert kept.lost_s < made.LOST_S
    assert kept.commands == kept.replayed > 50
