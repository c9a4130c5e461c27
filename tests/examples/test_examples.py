"""Every example runs as it stands, without arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
SAID = {
    "01_sync_inference.py": "chunks of 10: 4 inferences",
    "02_async_inference.py": "errors that cost no step: [PolicyFailed('Swing.infer() raised OSError",
    "06_async_inference_with_rtc.py": "with hints: 0 jumps",
}


def test_the_six_are_there_under_their_names() -> None:
    assert [path.stem for path in EXAMPLES][:6] == [
        "01_sync_inference",
        "02_async_inference",
        "03_data_collection",
        "04_replay_collected_data",
        "05_profile_inference_latency",
        "06_async_inference_with_rtc",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-W", "error", str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    assert SAID.get(path.name, "") in made.stdout and made.stdout.strip()
