"""The promise itself: a new strategy or robot is one new file, and the kits find it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a pytest of its own for every adapter

HERE = Path(__file__).parent

STRATEGY = '''
"""Like switch, asking every third step."""

from dataclasses import dataclass

from chunkwise.chunking.strategy import Strategy

__all__ = ["EveryThird"]


@dataclass(frozen=True)
class EveryThird(Strategy):
    execution_horizon: int = 3
'''

ROBOT = '''
"""A robot of one joint."""

import numpy as np

from chunkwise.contract import ComponentSpec, Frame, RobotSpec

__all__ = ["OneJoint"]


class OneJoint:
    def __init__(self):
        arm = ComponentSpec("arm", "arm", 1, ["joint_position"], lower=[-1.0], upper=[1.0])
        self.spec = RobotSpec("one_joint", [], [arm])
        self._at = np.zeros(1)

    def connect(self):
        pass

    def observe(self):
        return Frame(state={"arm": self._at})

    def act(self, action):
        self._at = action.commands["arm"].value.copy()
        return action

    def close(self):
        pass
'''

BROKEN_ROBOT = ROBOT.replace("self._at = action", "self._at[:] = action")
BROKEN_STRATEGY = (
    STRATEGY
    + """
    def join(self, plan, chunk, step, layout):
        from dataclasses import replace

        return replace(chunk, first_step=step)
"""
)


@pytest.mark.parametrize(
    ("kind", "name", "file", "broken", "check"),
    [
        ("strategies", "every_third", STRATEGY, BROKEN_STRATEGY, "test_aligned_rows_run_at_their_own_step"),
        ("robots", "one_joint", ROBOT, BROKEN_ROBOT, "test_arrays_handed_out_are_not_written_again"),
    ],
)
def test_a_new_adapter_is_one_new_file_and_the_kits_find_it(
    kind: str, name: str, file: str, broken: str, check: str, tmp_path: Path
) -> None:
    (tmp_path / kind).mkdir()
    adapter = tmp_path / kind / f"{name}.py"

    adapter.write_text(file, encoding="utf-8")
    whole = _conformance(kind, name, tmp_path)
    assert whole.returncode == 0, whole.stdout
    assert re.search(rf"::{check}\[{name}\] .*PASSED", whole.stdout), whole.stdout

    adapter.write_text(broken, encoding="utf-8")
    failed = _conformance(kind, name, tmp_path)
    assert failed.returncode == 1, failed.stdout
    assert re.search(rf"::{check}\[{name}\] .*FAILED", failed.stdout), failed.stdout


def _conformance(kind: str, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The conformance tests of `kind` as they stand, with `folder` beside the package's own."""
    command = [sys.executable, "-B", "-m", "pytest", "-vv", "-p", "no:cacheprovider", "--tb=no", "-k", f"[{name}]"]
    return subprocess.run(
        [*command, str(HERE / f"test_{kind}.py")],
        env=os.environ | {"CHUNKWISE_TEST_FOLDER": str(folder), "COLUMNS": "200"},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
