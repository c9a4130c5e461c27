"""Every adapter that is found is tested; one whose extra is not installed is skipped by name."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import robot_layout
from chunkwise.recording import EpisodeWriter
from chunkwise.server import Listen, Server
from chunkwise.transports import Address

EXTRA_FOLDER = "CHUNKWISE_TEST_FOLDER"
"""A folder with folders named as in `plugins.KINDS`, whose adapters are tested as well."""

APART = {("workers", "ray"), ("policies", "replicas")}
"""Those that need a cluster; tests/cluster runs the kits with it."""
_folders = ExitStack()


def pytest_configure() -> None:
    extra = os.environ.get(EXTRA_FOLDER)
    for folder in sorted(Path(extra).iterdir()) if extra else []:
        _folders.enter_context(plugins.folder(folder.name, folder))


def pytest_unconfigure() -> None:
    _folders.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kind = getattr(metafunc.cls, "kind", None)
    if "adapter" in metafunc.fixturenames and kind is not None:
        names = [name for name in plugins.names(kind) if (kind, name) not in APART]
        metafunc.parametrize("adapter", names, indirect=True)


@contextmanager
def recording(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A short episode of the mock robot."""
    robot = plugins.load("robots", "mock")(arms=1, cameras=("head",))
    layout = robot_layout(robot.spec)
    path = folder / "episode.mcap"
    with EpisodeWriter(path, robot=robot.spec) as writer:
        for step in range(5):
            writer.frame(robot.observe(), step=step)
            action = layout.action(np.full(layout.width, 0.01 * step))
            writer.action(action, robot.act(action), step=step)
    yield {"path": str(path)}


@contextmanager
def served(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A server with a policy that asks for nothing but joints."""
    with serving(folder, plugins.load("policies", "wave")) as url:
        yield {"url": url}


@contextmanager
def serving(folder: Path, make: Callable[[], Any]) -> Iterator[str]:
    """A server, and where a client reaches it."""
    loop, address = asyncio.new_event_loop(), Address("unix", str(folder / "policy.sock"))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Server(make, [Listen("native", plugins.load("wires", "native")(), address)])

    async def begin() -> None:
        await server.start()
        await server.service.loaded

    def run(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30)

    try:
        run(begin())
        yield f"native+unix://{address.path}"
    finally:
        run(server.stop(drain_s=0.0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def fake_node(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A node of Dora without Dora."""
    path = Path(__file__).parents[1] / "dora" / "fake_node.py"
    yield {"node_factory": plugins.load("robots", f"{path}:FakeNode")}


def simulated_arm(folder: Path) -> AbstractContextManager[Mapping[str, Any]]:
    """An arm of LeRobot's own class, on simulated servos."""
    path = Path(__file__).parents[1] / "robots" / "simulated_servos.py"
    made: AbstractContextManager[Mapping[str, Any]] = plugins.load("robots", f"{path}:so101")(folder)
    return made


def topics_bench(folder: Path) -> AbstractContextManager[Mapping[str, Any]]:
    """A robot behind ROS 2 topics, without ROS 2."""
    path = Path(__file__).parents[1] / "robots" / "ros2" / "fake_graph.py"
    made: AbstractContextManager[Mapping[str, Any]] = plugins.load("robots", f"{path}:bench")(folder)
    return made


@contextmanager
def simulated_igris_b(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A simulated body behind the topics of the robot."""
    yield {"simulated": True}


def simulated_igris_c(folder: Path) -> AbstractContextManager[Mapping[str, Any]]:
    """The same, of a robot that its file describes."""
    path = Path(__file__).parents[1] / "robots" / "igris" / "igris_c_files.py"
    made: AbstractContextManager[Mapping[str, Any]] = plugins.load("robots", f"{path}:described")(folder)
    return made


@contextmanager
def two_policies(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Policies that ask for nothing but joints."""
    yield {"policies": ("wave", "wave")}


@contextmanager
def tiny_network(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A network of one matrix, a state of one number and a camera of the kit's size."""
    yield {"path": str(_tiny(folder / "policy"))}


@contextmanager
def served_network(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The same on a server, and a robot's part that needs no weights."""
    path = _tiny(folder / "policy")
    with serving(folder, lambda: plugins.load("policies", "network")(path=str(path))) as url:
        yield {"path": str(path), "network": url, "state": ("arm",), "actions": ("arm:1",)}


def _tiny(folder: Path) -> Path:
    path = Path(__file__).parents[1] / "policies" / "tiny_checkpoint.py"
    inputs = {"observation.state": (1,), "observation.images.head": (3, 48, 64)}
    plugins.load("policies", f"{path}:write")(folder, inputs, 1, rows=8)
    return folder


@contextmanager
def igris_policy(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The example's policy without its cameras, on the mock robot's components."""
    example = Path(__file__).parents[2] / "examples" / "igris_policy"
    params = json.loads((example / "inference_runtime_params.json").read_text(encoding="utf-8"))
    path = folder / "params.json"
    path.write_text(json.dumps(params | {"camera_names": []}), encoding="utf-8")
    parts = ("right_arm:7", "left_arm:7", "right_gripper:1", "left_gripper:1")
    yield {"config": example / "your_policy.yaml", "params": path, "state_keys": parts, "action_keys": parts}


@contextmanager
def exported(folder: Path) -> Iterator[Mapping[str, Any]]:
    """An exported policy of one small matrix, for one arm of two joints."""
    path = Path(__file__).parents[1] / "policies" / "tiny_checkpoint.py"
    plugins.load("policies", f"{path}:write")(folder, {"observation.state": (2,)}, 2)
    yield {"path": str(folder), "state": ("arm",), "actions": ("arm:2",)}


@contextmanager
def pieces(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The same, by its pieces."""
    with exported(folder) as arguments:
        path = arguments["path"]
        yield {"processors": path, "model": f"{path}/model.onnx", "state": ("arm",), "actions": ("arm:2",)}


@contextmanager
def flowing(folder: Path) -> Iterator[Mapping[str, Any]]:
    """An exported flow, written by hand, for one arm of two joints."""
    path = Path(__file__).parents[1] / "policies" / "tiny_exported_flow.py"
    plugins.load("policies", f"{path}:write")(folder, 2)
    yield {"path": str(folder), "state": ("arm",), "actions": ("arm:2",)}


ARGUMENTS: Mapping[tuple[str, str], Callable[[Path], AbstractContextManager[Mapping[str, Any]]]] = {
    ("policies", "flow"): flowing,
    ("policies", "igris"): igris_policy,
    ("policies", "lerobot"): exported,
    ("policies", "pipeline"): pieces,
    ("policies", "distributed"): served_network,
    ("policies", "fallback"): two_policies,
    ("policies", "network"): tiny_network,
    ("policies", "remote"): served,
    ("policies", "replay"): recording,
    ("robots", "dora"): fake_node,
    ("robots", "igris_b"): simulated_igris_b,
    ("robots", "igris_c"): simulated_igris_c,
    ("robots", "lerobot"): simulated_arm,
    ("robots", "replay"): recording,
    ("robots", "ros2"): topics_bench,
}
"""What an adapter that cannot be made without arguments is made with."""


@pytest.fixture
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The class of the adapter, with its arguments where it needs some; the test's instance gets it too."""
    kind, name = request.cls.kind, request.param
    try:
        made = plugins.load(kind, name)
    except plugins.MissingExtra as missing:
        pytest.skip(f"{name}: {missing}")
    with ARGUMENTS.get((kind, name), lambda folder: nullcontext({}))(tmp_path) as arguments:
        request.instance.adapter = functools.partial(made, **arguments) if arguments else made
        yield request.instance.adapter
