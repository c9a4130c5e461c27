"""What the stock clients' wires cost beside the servers that those clients were made for; a part of `wires.py`.

    python benchmarks/wires.py --only stock                        # measures
    python benchmarks/_stock_wires.py server openpi 8000           # a stock server
    python benchmarks/_stock_wires.py client openpi 127.0.0.1 8000 # a client: a count per line in, JSON per line out

The openpi pair is the genuine client, and a server to openpi's published recipe with that package's own msgpack_numpy
and `websockets`.  The GR00T pair is pyzmq and msgpack with msgpack_numpy's marks, a REQ and a REP socket, as N1.7
publishes it.  Neither recipe checks, limits or queues anything: an answer is made where the request was read.  The
LeRobot pair is its own classes, stubs, pickles and threads, without the robot at one end and at the other without the
sleep that makes every answer take 33 ms.  Clients and servers are processes of their own, so that the CPU of both ends is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from wires import Rounds

ROOT = Path(__file__).parents[1]
GENUINE = ROOT / ".venv-openpi" / "bin" / "python"
CAMERAS = ("high", "left", "right")
SHAPE = (50, 14)
TASK = "put the red cube into the bowl"
WARM = 20

Serve = Callable[[int], None]
Make = Callable[..., Callable[[], np.ndarray]]


def pictures() -> dict[str, np.ndarray]:
    """Three of 224 x 224, uint8 RGB."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (224, 224, 3), np.uint8) for name in CAMERAS}


# Stock servers ------------------------------------------------------------------------------------------------


def openpi_server(port: int) -> None:
    """What it has, then an answer for every observation, on the event loop."""
    import asyncio

    from openpi_client import msgpack_numpy
    from websockets.asyncio.server import ServerConnection, serve

    async def handler(connection: ServerConnection) -> None:
        packer = msgpack_numpy.Packer()
        await connection.send(packer.pack({}))
        total_s = None
        while True:
            began_s = time.monotonic()
            seen = msgpack_numpy.unpackb(await connection.recv())
            asked_s = time.monotonic()
            assert seen["arms"].shape == (14,)
            answer: dict[str, Any] = {"actions": np.zeros(SHAPE, np.float32)}
            answer["server_timing"] = {"infer_ms": 1e3 * (time.monotonic() - asked_s)}
            if total_s is not None:
                answer["server_timing"]["prev_total_ms"] = 1e3 * total_s
            await connection.send(packer.pack(answer))
            total_s = time.monotonic() - began_s

    async def run() -> None:
        async with serve(handler, "127.0.0.1", port, compression=None, max_size=None) as server:
            await server.serve_forever()

    asyncio.run(run())


def marked(value: Any) -> Any:
    """An array as msgpack_numpy writes it."""
    if isinstance(value, np.ndarray):
        data = value.data if value.flags.c_contiguous else value.tobytes()
        return {b"nd": True, b"type": value.dtype.str, b"kind": b"", b"shape": value.shape, b"data": data}
    raise TypeError(type(value).__name__)


def unmarked(found: dict[Any, Any]) -> Any:
    """The same, read."""
    if found.get(b"nd") is True:
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"type"]), shape=found[b"shape"])
    return found


def gr00t_server(port: int) -> None:
    """A REP socket that answers each request where it was read."""
    import msgpack
    import zmq

    replies = zmq.Context().socket(zmq.REP)
    replies.bind(f"tcp://127.0.0.1:{port}")
    while True:
        request = msgpack.unpackb(replies.recv(), object_hook=unmarked)
        assert request["data"]["observation"]["state"]["arms"].shape == (1, 1, 14)
        answer = [{"arms": np.zeros((1, *SHAPE), np.float32)}, {}]
        replies.send(msgpack.packb(answer, default=marked))


def lerobot_server(port: int) -> None:
    """LeRobot's own stubs, slices, pickles, queue of one and four threads; it neither filters nor sleeps."""
    import pickle
    import threading
    from concurrent.futures import ThreadPoolExecutor
    from queue import Empty, Queue

    import grpc

    from chunkwise.engines._lerobot import import_lerobot

    helpers = import_lerobot("lerobot.async_inference.helpers")
    import torch
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import receive_bytes_in_chunks

    class Stock(services_pb2_grpc.AsyncInferenceServicer):
        def __init__(self) -> None:
            self.seen: Queue[Any] = Queue(maxsize=1)
            self.over = threading.Event()

        def Ready(self, request: Any, context: Any) -> Any:
            return services_pb2.Empty()

        def SendPolicyInstructions(self, request: Any, context: Any) -> Any:
            return services_pb2.Empty()

        def SendObservations(self, messages: Any, context: Any) -> Any:
            self.seen.put(pickle.loads(receive_bytes_in_chunks(messages, None, self.over)))  # noqa: S301
            return services_pb2.Empty()

        def GetActions(self, request: Any, context: Any) -> Any:
            try:
                seen = self.seen.get(timeout=2.0)
            except Empty:
                return services_pb2.Actions()
            rows = torch.zeros(SHAPE)
            first, began_s = seen.get_timestep(), seen.get_timestamp()
            timed = [
                helpers.TimedAction(timestamp=began_s + index / 30, timestep=first + index, action=row)
                for index, row in enumerate(rows)
            ]
            return services_pb2.Actions(data=pickle.dumps(timed))

    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(Stock(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


# Clients ------------------------------------------------------------------------------------------------------


def openpi_client(host: str, port: str) -> Callable[[], np.ndarray]:
    """The genuine one."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy(host, int(port))
    seen = {"images": pictures(), "arms": np.zeros(14, np.float32), "prompt": TASK}
    return lambda: policy.infer(seen)["actions"]


def gr00t_client(host: str, port: str) -> Callable[[], np.ndarray]:
    """A REQ socket, as the recipe says."""
    import msgpack
    import zmq

    requests = zmq.Context().socket(zmq.REQ)
    requests.connect(f"tcp://{host}:{port}")
    video = {name: picture[None, None] for name, picture in pictures().items()}
    state = {"arms": np.zeros((1, 1, 14), np.float32)}
    observation = {"video": video, "state": state, "language": {"annotation.human.task_description": [[TASK]]}}

    def call() -> np.ndarray:
        data = {"observation": observation, "options": None}
        requests.send(msgpack.packb({"endpoint": "get_action", "data": data}, default=marked))
        return msgpack.unpackb(requests.recv(), object_hook=unmarked)[0]["arms"][0]

    return call


def lerobot_client(host: str, port: str) -> Callable[[], np.ndarray]:
    """LeRobot's own: one thread sends observations, another one asks for actions for ever."""
    import pickle
    import threading
    from queue import SimpleQueue

    import grpc

    from chunkwise.engines._lerobot import import_lerobot

    helpers = import_lerobot("lerobot.async_inference.helpers")
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks

    numbers = [f"joint_{index}.pos" for index in range(SHAPE[1])]
    features = {"observation.state": {"dtype": "float32", "shape": (len(numbers),), "names": numbers}}
    for name, picture in pictures().items():
        names = ["height", "width", "channels"]
        features[f"observation.images.{name}"] = {"dtype": "image", "shape": picture.shape, "names": names}
    stub = services_pb2_grpc.AsyncInferenceStub(grpc.insecure_channel(f"{host}:{port}", grpc_channel_options()))
    stub.Ready(services_pb2.Empty())
    setup = helpers.RemotePolicyConfig("act", "nobody/nothing", features, SHAPE[0])
    stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(setup)))
    answers: SimpleQueue[Any] = SimpleQueue()

    def receive() -> None:
        while True:
            chunk = stub.GetActions(services_pb2.Empty())
            if chunk.data:
                answers.put(pickle.loads(chunk.data))  # noqa: S301  as its receiver does

    threading.Thread(target=receive, daemon=True).start()
    pictures_now, step = pictures(), 0

    def call() -> np.ndarray:
        nonlocal step
        step += 1
        seen = {**dict.fromkeys(numbers, 0.0), **pictures_now, "task": TASK}
        timed = helpers.TimedObservation(timestamp=time.time(), timestep=step, observation=seen, must_go=True)
        stub.SendObservations(send_bytes_in_chunks(pickle.dumps(timed), services_pb2.Observation, silent=True))
        found = answers.get()
        assert found[0].get_timestep() == step
        return np.broadcast_to(found[0].get_action().numpy(), (len(found), SHAPE[1]))

    return call


def our_client(url: str) -> Callable[[], np.ndarray]:
    """A server as a policy of ours."""
    from chunkwise import plugins
    from chunkwise.contract import ChunkRequest, Frame

    remote = plugins.load("policies", "remote")(url=url)
    frame = Frame(pictures(), {"arms": np.zeros(14)}, {"prompt": TASK})
    return lambda: remote.infer(frame, ChunkRequest(0)).rows


SERVERS: dict[str, Serve] = {"openpi": openpi_server, "gr00t": gr00t_server, "lerobot": lerobot_server}
CLIENTS: dict[str, Make] = {
    "openpi": openpi_client,
    "gr00t": gr00t_client,
    "lerobot": lerobot_client,
    "ours": our_client,
}


def answer_counts(call: Callable[[], np.ndarray]) -> None:
    """So many calls for each count in a line; seconds of each, and CPU seconds of all, as JSON in a line."""
    for line in sys.stdin:
        assert call().shape == SHAPE
        for _ in range(WARM):
            call()
        spent: list[float] = []
        began_cpu_s = time.process_time()
        for _ in range(int(line)):
            began_s = time.perf_counter()
            call()
            spent.append(time.perf_counter() - began_s)
        print(json.dumps({"spent_s": spent, "cpu_s": time.process_time() - began_cpu_s}), flush=True)


# The measurement ----------------------------------------------------------------------------------------------


class Client:
    """A client's process, and the server's that it asks.

    Args:
        stack: ends the process.
        python: that runs it.
        words: which client, and of whom it asks.
        server: process id of the server.
    """

    def __init__(self, stack: ExitStack, python: str | Path, words: tuple[str, ...], server: int) -> None:
        self._process = subprocess.Popen(
            [str(python), __file__, "client", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)
        self._server = server

    def round(self, name: str, count: int, results: Rounds) -> None:
        """So many calls, and what they cost either end."""
        streams = self._process.stdin, self._process.stdout
        assert streams[0] is not None and streams[1] is not None
        before_s = cpu_s(self._server)
        streams[0].write(f"{count}\n")
        streams[0].flush()
        said = streams[1].readline()
        if not said:
            raise RuntimeError(f"{name}: the client has ended")
        found = json.loads(said)
        results.add(name, found["spent_s"])
        results.add(f"{name}, CPU of the client", [found["cpu_s"] / count])
        results.add(f"{name}, CPU of the server", [(cpu_s(self._server) - before_s) / (count + WARM + 1)])


def cpu_s(process: int) -> float:
    """Seconds that all threads of a process have run, in the kernel and out of it; to the nanosecond."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return 1e-9 * sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def measure_stock(rounds: int, count: int, results: Rounds) -> None:
    """Stock pairs, stock clients with our server, and both ends ours; one server of ours for all, in turns.

    Without the environment of the genuine openpi client (`make openpi-env`), or without lerobot, without their rows.
    """
    from wires import SERVED, port, process, serve, until_open

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    python = {"openpi": GENUINE, "gr00t": sys.executable, "lerobot": sys.executable}
    there = {"openpi": GENUINE.exists(), "gr00t": True, "lerobot": find_spec("lerobot") is not None}
    stocks = [name for name in SERVERS if there[name]]
    with ExitStack() as stack:
        ports = {name: port() for name in ("openpi", "gr00t", "lerobot", *(f"stock {name}" for name in stocks))}
        listens = {"openpi": "ws", "gr00t": "zmq", "lerobot": "grpc"}
        listening = [f"--listen={wire}={scheme}://127.0.0.1:{ports[wire]}" for wire, scheme in listens.items()]
        ours = stack.enter_context(serve("--policy", f"{SERVED}:Fourteen", *listening))
        clients: dict[str, Client] = {}
        for name in stocks:
            at = str(ports[f"stock {name}"])
            stock = stack.enter_context(process(str(python[name]), __file__, "server", name, at))
            until_open(("127.0.0.1", int(at)))
            until_open(("127.0.0.1", ports[name]))
            asked = {"stock pair": (at, stock.pid), "our server": (str(ports[name]), ours.pid)}
            for what, (number, pid) in asked.items():
                clients[f"{name}, {what}"] = Client(stack, python[name], (name, "127.0.0.1", number), pid)
        said = "?outputs=arms:joint_position:14"  # those protocols do not say what the policy is
        for wire, options in {
            "openpi": "",
            "gr00t": said,
            "lerobot": f"{said}&cameras={','.join(CAMERAS)}",
        }.items():
            until_open(("127.0.0.1", ports[wire]))
            scheme = "lerobot+grpc" if wire == "lerobot" else wire
            url = f"{scheme}://127.0.0.1:{ports[wire]}{options}"
            clients[f"{wire}, ours at both ends"] = Client(stack, sys.executable, ("ours", url), ours.pid)
        for _ in range(rounds):
            for name, client in clients.items():
                client.round(name, count, results)


def rows(results: Rounds) -> str:
    """The table, in Markdown."""
    lines = [
        "| | p50 us (rounds) | p99 us | to the stock pair | goal | CPU us per call: client | server |",
        "|---|---|---|---|---|---|---|",
    ]
    goals = {"our server": "<= 1", "ours at both ends": "<= 1"}
    for name in (name for name in results.medians if f"{name}, CPU of the client" in results.medians):
        wire, _, what = name.partition(", ")
        stock = f"{wire}, stock pair"
        ratio = f"{results.ratio(name, stock):.2f}" if stock in results.medians and name != stock else ""
        goal = "<= 3000 us" if name == "lerobot, our server" else goals.get(what, "")
        spread = results.medians[name]
        spent = [results.median(f"{name}, CPU of the {end}") for end in ("client", "server")]
        lines.append(
            f"| {name} | {results.median(name):.0f} ({min(spread):.0f} to {max(spread):.0f}) "
            f"| {results.p99(name):.0f} | {ratio} | {goal} | {spent[0]:.0f} | {spent[1]:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Be a stock server or a client, or measure this part alone."""
    if sys.argv[1:2] == ["server"]:
        SERVERS[sys.argv[2]](int(sys.argv[3]))
    elif sys.argv[1:2] == ["client"]:
        answer_counts(CLIENTS[sys.argv[2]](*sys.argv[3:]))
    else:
        from wires import Rounds

        results = Rounds()
        measure_stock(*map(int, sys.argv[1:3]), results)
        print(rows(results))


if __name__ == "__main__":
    main()
