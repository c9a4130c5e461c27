"""Every worker there is keeps the contract of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from chunkwise.testing import WorkerConformance
from chunkwise.workers import Infer, Worker


@pytest.mark.usefixtures("adapter")
class TestWorkers(WorkerConformance):
    kind = "workers"
    adapter: Any

    def make_worker(self, infer: Infer) -> Worker:
        return self.adapter(infer)
