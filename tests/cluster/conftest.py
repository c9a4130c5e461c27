"""A Ray cluster of two nodes on this computer; the second one has the resource `inference_pc`.

Ray has an environment of its own, `make ray-env`; elsewhere nothing here is collected.
"""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("ray") else ["test_*.py"]

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # clusters of this process; whose user may have a token for others
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PATIENCE_S = 30.0
STORE_BYTES = 80 << 20  # the least is 75 MiB


class TwoNodes:
    """The cluster.

    Args:
        other: the resource of its second node.

    Attributes:
        address: of its head.
    """

    def __init__(self, other: str = "inference_pc") -> None:
        from ray.cluster_utils import Cluster

        head: dict[str, Any] = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        # A node that is killed is missed after ten seconds; fifteen else.  One may be slow to start.
        head["_system_config"] = {"health_check_period_ms": 500, "health_check_failure_threshold": 20}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.add(other)

    def add(self, resource: str, cores: int = 1) -> Any:
        """Another node, with one of this resource."""
        return self._cluster.add_node(num_cpus=cores, resources={resource: 1}, object_store_memory=STORE_BYTES)

    def remove(self, node: Any) -> None:
        """Pull a node's plug."""
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Pull the plug of the head, with the cluster's own book-keeping."""
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

    def close(self) -> None:
        """End every process of it."""
        self._cluster.shutdown()


@contextmanager
def nothing_left() -> Iterator[None]:
    """What is started meanwhile, by whomever, has ended afterwards, and has left no memory behind.

    Ray's agents outlive a node that is killed for a while; they are ended here.
    """
    mark, before = uuid.uuid4().hex, set(os.listdir("/dev/shm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHUNKWISE_TESTS_MARK", mark)
        yield
    left = {pid: command for pid, command in marked(mark).items() if not ends(pid, command)}
    assert not left
    shared = set(os.listdir("/dev/shm")) - before
    assert not {name for name in shared if name.startswith(("sem.", "plasma", "ray"))}


def marked(mark: str) -> dict[int, str]:
    """The processes that have this in their environment, and their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends meanwhile
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text(encoding="utf-8").replace("\0", " ")
    return found


def ends(pid: int, command: str) -> bool:
    """Whether a process ends, an agent of Ray's by force."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if command.startswith(AGENTS):
            os.kill(pid, signal.SIGKILL)
        return bool(select.select([fd], [], [], PATIENCE_S)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)


@pytest.fixture(scope="session")
def cluster() -> Iterator[TwoNodes]:
    with nothing_left():
        made = TwoNodes()
        yield made
        made.close()


@pytest.fixture(scope="session")
def bench(cluster: TwoNodes) -> None:
    """A node for robots, and for nothing else."""
    cluster.add("bench", cores=0)


@pytest.fixture
def own_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    """One that a test may break; its nodes and drivers go on without a head for two seconds, or as it asks."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", getattr(request, "param", "2"))
    with nothing_left():
        made = TwoNodes("bench")
        yield made
        made.close()


@pytest.fixture
def elsewhere() -> Path:
    """Policies for other processes."""
    return Path(__file__).parents[1] / "workers" / "elsewhere.py"
