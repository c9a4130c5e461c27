"""A policy in two places is the policy in one, to the last bit; and what goes wrong in between is said by name."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import options, plugins
from chunkwise.contract import (
    ChunkRequest,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    RobotSpec,
)
from chunkwise.policies import _apart
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._stages import TensorPreprocessor
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address

PATIENCE_S = 20.0
TINY = Path(__file__).with_name("tiny_checkpoint.py")
write = plugins.load("policies", f"{TINY}:write")
STATE, FRONT, SIDE = "observation.state", "observation.images.front", "observation.images.side"
INPUTS = {STATE: (6,), FRONT: (3, 8, 12), SIDE: (1, 4, 4)}
ROBOT = RobotSpec("robot", ["front", "side"], [ComponentSpec("arm", "arm", 6, ["joint_position"])])


def frame(seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    images = {
        "front": rng.integers(0, 256, (8, 12, 3), dtype=np.uint8),
        "side": rng.integers(0, 256, (4, 4, 1), dtype=np.uint8),
    }
    return Frame(images, {"arm": rng.normal(0.4, 0.3, 6)})


class Served:
    """A network behind the native wire, on a loop of its own."""

    def __init__(self, make: Callable[[], Any], port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        address = Address.parse(f"tcp://127.0.0.1:{port}")
        maker = plugins.load("wires", "native")
        listen = Listen("native", maker(**options.chosen(maker, {}, "native")), address)
        self.server = Server(make, [listen], Settings(strategy=plugins.load("strategies", "switch")()))

        async def begin() -> None:
            await self.server.start()
            await self.server.service.loaded

        self._run(begin())
        self.port = self.server.addresses[0].port
        self.url = f"native://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Twice is fine."""
        if self._loop.is_closed():
            return
        self._run(self.server.stop(0.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, doing: Any) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(PATIENCE_S)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write(tmp_path_factory.mktemp("tiny"), INPUTS, 6, rows=4)


@pytest.fixture
def near(tiny: Any, tmp_path: Path) -> Path:
    """The robot's copy: no weights."""
    folder = tmp_path / "near"
    shutil.copytree(tiny.folder, folder, ignore=shutil.ignore_patterns("*.onnx"))
    assert not list(folder.glob("*.onnx"))
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, folder: Path, **given: Any) -> Served:
    served = Served(lambda: plugins.load("policies", "network")(path=str(folder)), **given)
    stack.callback(served.close)
    return served


def connect(stack: ExitStack, near: Path, url: str) -> Any:
    policy = plugins.load("policies", "distributed")(path=str(near), network=url, timeout_s=PATIENCE_S)
    stack.callback(policy.close)
    policy.meet(ROBOT)
    return policy


def test_chunks_are_those_of_one_process_to_the_last_bit(tiny: Any, near: Path, stack: ExitStack) -> None:
    here = plugins.load("policies", "lerobot")(path=str(tiny.folder))
    here.meet(ROBOT)
    there = connect(stack, near, serve(stack, tiny.folder).url)
    assert there.spec.outputs == here.spec.outputs and there.spec.images == here.spec.images
    assert there.spec.normalisation == here.spec.normalisation
    for seed in range(20):
        one, other = (policy.infer(frame(seed), ChunkRequest(seed)) for policy in (here, there))
        assert np.array_equal(one.rows, other.rows)


@pytest.mark.parametrize("kind", ["diffusion"])
def test_a_history_crosses_over_as_it_is(tmp_path: Path, stack: ExitStack, kind: str) -> None:
    tiny = write(tmp_path / "tiny", INPUTS, 6, rows=4, kind=kind, n_obs_steps=2)
    here = plugins.load("policies", "lerobot")(path=str(tiny.folder))
    here.meet(ROBOT)
    there = connect(stack, tiny.folder, serve(stack, tiny.folder).url)
    for episode in range(2):
        here.reset()
        there.reset()
        for step in range(4):
            one, other = (policy.infer(frame(10 * episode + step), ChunkRequest(step)) for policy in (here, there))
            assert np.array_equal(one.rows, other.rows)


def test_pictures_cross_over_as_the_camera_gave_them(tiny: Any) -> None:
    checkpoint = open_checkpoint(str(tiny.folder))
    seen = frame(0)
    observation = {STATE: seen.state["arm"], FRONT: seen.images["front"], SIDE: seen.images["side"]}
    near = _apart.NearPreprocessor(checkpoint)(observation)
    whole = TensorPreprocessor(checkpoint)(observation)
    assert near[FRONT].dtype == np.uint8 and near[FRONT].nbytes == 8 * 12 * 3 == whole[FRONT].nbytes / 4
    far = _apart.FarPictures(checkpoint)({name: near[name] for name in (FRONT, SIDE)})
    assert far.keys() | {STATE} == whole.keys()
    for name, value in {**near, **far}.items():
        assert np.array_equal(value, whole[name]) and value.dtype == whole[name].dtype


def test_the_robots_side_needs_neither_torch_nor_the_weights(near: Path, tiny: Any, stack: ExitStack) -> None:
    url = serve(stack, tiny.folder).url
    program = (
        "import sys\n"
        "for name in ('torch', 'onnxruntime', 'lerobot', 'openvino'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from chunkwise import plugins\n"
        "from chunkwise.contract import ChunkRequest, Frame\n"
        f"policy = plugins.load('policies', 'distributed')(path={str(near)!r}, network={url!r}, "
        "state=('arm',), actions=('arm:6',))\n"
        "images = {'front': np.zeros((8, 12, 3), np.uint8), 'side': np.zeros((4, 4, 1), np.uint8)}\n"
        "print(policy.infer(Frame(images, {'arm': np.zeros(6)}), ChunkRequest(0)).rows.shape)\n"
        "policy.close()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.strip() == "(4, 6)", ran.stderr


def test_what_the_network_raises_reaches_the_robot_by_name(near: Path, tiny: Any, stack: ExitStack) -> None:
    network = plugins.load("policies", "network")(path=str(tiny.folder))
    served = Served(lambda: network)
    stack.callback(served.close)
    policy = connect(stack, near, served.url)
    policy.infer(frame(0), ChunkRequest(0))

    def broken(tensors: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    engine = network.network.engine
    working, engine.run = engine.run, broken
    with pytest.raises(PolicyFailed, match="CUDA out of memory"):
        policy.infer(frame(1), ChunkRequest(1))
    engine.run = working
    policy.infer(frame(2), ChunkRequest(2))


@pytest.mark.parametrize("missing", ["front", "arm"])
def test_what_is_missing_is_refused_by_name_on_the_robot(
    near: Path, tiny: Any, stack: ExitStack, missing: str
) -> None:
    policy = connect(stack, near, serve(stack, tiny.folder).url)
    seen = frame(0)
    seen.images.pop(missing, None)
    seen.state.pop(missing, None)
    with pytest.raises(InterfaceValidationError, match=f"'{missing}' is missing"):
        policy.infer(seen, ChunkRequest(0))


def test_two_robots_with_the_same_numbers_each_get_their_own(near: Path, tiny: Any, stack: ExitStack) -> None:
    url = serve(stack, tiny.folder).url
    here = plugins.load("policies", "lerobot")(path=str(tiny.folder))
    here.meet(ROBOT)
    wanted = [here.infer(frame(seed), ChunkRequest(0)).rows for seed in (1, 2)]
    robots = [connect(stack, near, url) for _ in range(2)]
    found: list[list[Any]] = [[], []]

    def ask(number: int) -> None:
        for _ in range(20):
            found[number].append(robots[number].infer(frame(number + 1), ChunkRequest(0)).rows)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for rows, wants in zip(found, wanted, strict=True):
        assert len(rows) == 20 and all(np.array_equal(one, wants) for one in rows)


def test_a_network_that_went_away_is_an_error_and_is_used_again_when_it_is_back(
    near: Path, tiny: Any, stack: ExitStack
) -> None:
    served = serve(stack, tiny.folder)
    policy = connect(stack, near, served.url)
    before = policy.infer(frame(0), ChunkRequest(0)).rows
    served.close()
    with pytest.raises(PolicyFailed):
        policy.infer(frame(0), ChunkRequest(1))
    serve(stack, tiny.folder, port=served.port)
    policy._far._policy._next_try_s = 0.0  # the back-off is the remote policy's own, and tested there
    assert np.array_equal(policy.infer(frame(0), ChunkRequest(2)).rows, before)


def test_a_network_behind_other_statistics_is_refused(near: Path, tmp_path: Path, stack: ExitStack) -> None:
    other = write(tmp_path / "other", INPUTS, 6, rows=4, seed=7)
    url = serve(stack, other.folder).url
    with pytest.raises(InterfaceValidationError, match="other statistics"):
        connect(stack, near, url)


def test_a_whole_policy_is_no_network(near: Path, tiny: Any, stack: ExitStack) -> None:
    whole = plugins.load("policies", "lerobot")
    served = Served(lambda: whole(path=str(tiny.folder), state=("arm",), actions=("arm:6",)))
    stack.callback(served.close)
    with pytest.raises(InterfaceValidationError, match="chunkwise engine"):
        connect(stack, near, served.url)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({FRONT: None}, "network's pictures are observation.images.front"),
        ({FRONT: np.zeros((1, 8, 12, 3), np.float32)}, "must be one uint8 picture"),
        ({FRONT: np.zeros((1, 8, 11, 3), np.uint8)}, "must have shape"),
        ({FRONT: np.zeros((8, 12, 3), np.uint8)}, "must be one uint8 picture"),
        ({"x": np.zeros((1, 8, 12, 3), np.uint8)}, "there came: .*x"),
    ],
)
def test_pictures_that_are_none_of_the_networks_are_refused(tiny: Any, change: Any, message: str) -> None:
    pictures: dict[str, Any] = {
        FRONT: np.zeros((1, 8, 12, 3), np.uint8),
        SIDE: np.zeros((1, 4, 4, 1), np.uint8),
    } | change
    far = _apart.FarPictures(open_checkpoint(str(tiny.folder)))
    with pytest.raises(InterfaceValidationError, match=message):
        far({name: value for name, value in pictures.items() if value is not None})
