"""The files of an IGRIS robot, in a folder of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from chunkwise.testing.world import SimulatedClock

EXAMPLE = Path(__file__).parents[3] / "examples" / "igris_b"


class Files:
    """Both JSON files of the example, to be changed.

    Attributes:
        path: their folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._params = json.loads((EXAMPLE / "inference_runtime_params.json").read_text(encoding="utf-8"))
        self._topics = json.loads((EXAMPLE / "inference_runtime_topics.json").read_text(encoding="utf-8"))

    def params(self, **changes: Any) -> Path:
        """The runtime parameters with changes; a key whose value is `...` is left out."""
        return self._write("params.json", self._params, changes)

    def topics(self, change: Callable[[dict[str, Any]], object] | None = None, **changes: Any) -> Path:
        """The topics with changes; `change` is given the mapping ``topics`` of the file."""
        tree = deepcopy(self._topics)
        if change is not None:
            change(tree["topics"])
        return self._write("topics.json", tree, changes)

    def _write(self, name: str, tree: dict[str, Any], changes: dict[str, Any]) -> Path:
        kept = {key: value for key, value in (tree | changes).items() if value is not ...}
        (self.path / name).write_text(json.dumps(kept), encoding="utf-8")
        return self.path / name


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(100.0)
