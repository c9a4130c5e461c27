"""A small flow-matching policy that steers both arms past the posts of the task "two belts".

It was trained by this repository, on the scripted expert's episodes; `demo_assets/record.json` says how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.contract.values import Array
from chunkwise.engines import Engine
from chunkwise.engines._exported import is_exported, read_exported
from chunkwise.sampling.flow import FlowSampler, Jacobian
from chunkwise.tasks.lanes import joints_to_lanes, lanes_to_joints
from chunkwise.tasks.two_belts import ARMS, features, policy_spec

__all__ = ["Demo"]

KNOTS = 16
"""Rows of the network's own chunk, per hand."""
KNOT_STEPS = 2
"""Control steps from knot to knot: 40 ms."""
ROWS = (KNOTS - 1) * KNOT_STEPS + 1
"""Rows of a chunk, 31: 0.62 s."""
LANE_SCALE = 0.1
"""A lane coordinate of this size is 1 to the network [m]."""
ASSETS = Path(__file__).parent / "demo_assets"
ENGINES = {".onnx": "onnx", ".xml": "openvino"}
"""What runs a network, by its file's suffix."""

Float32 = NDArray[np.float32]


class Demo:
    """Chunks of 31 rows at 50 Hz, sampled from a flow, guided by the running plan where the request shares it.

    It sees the 16 joints and the next two posts of each lane; no velocity, no last command, no side to pass on.
    So it must choose a side in every chunk anew, and only the running plan can tell it what it chose before.

    Args:
        seed: of the noise.  The noise of a request depends on the seed and on the request's step alone, so that
            calls may be skipped or repeated.
        jacobian: ``vjp`` for real-time chunking as published, ``identity`` for its cheaper form.
        beta: bound of the guidance weight.
        steps: Euler steps.
        model: folder with the networks ``velocity`` and ``pull``, both ``.onnx`` or both ``.xml``, as
            ``chunkwise export --policy demo`` makes it; None for the one that ships.

    Attributes:
        networks: the files of the one that ships.

    Raises:
        MissingExtra: onnxruntime, or openvino for ``.xml``, is not installed.
        FileNotFoundError: `model` lacks a file.
        InterfaceValidationError: `model` was exported, and a file is not what it was.
        ValueError: `jacobian`, `beta` or `steps` is out of range.
    """

    max_batch = 16
    networks: ClassVar[Mapping[str, Path]] = {name: ASSETS / f"{name}.onnx" for name in ("velocity", "pull")}

    def __init__(
        self,
        *,
        seed: int = 0,
        jacobian: Jacobian = "vjp",
        beta: float = 5.0,
        steps: int = 5,
        model: str | None = None,
    ) -> None:
        self.spec = policy_spec("demo", ROWS, supports_prefix=True)
        self._seed = seed
        self._sampler = FlowSampler(steps=steps, beta=beta, jacobian=jacobian)
        folder = ASSETS if model is None else Path(model)
        if is_exported(folder):
            read_exported(folder).check()
        self._velocity = _engine(folder, "velocity")
        self._pull = _engine(folder, "pull") if jacobian == "vjp" else None

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """Rows (31, 16) [rad] from the request's step on, in the order of the spec."""
        return self.infer_many([(frame, request)])[0]

    def infer_many(self, calls: Sequence[tuple[Frame, ChunkRequest]]) -> list[ActionChunk]:
        """The chunks of several requests, each as if it were alone; plain and guided ones go separately."""
        chunks: list[ActionChunk | None] = [None] * len(calls)
        for guided in (False, True):
            some = [index for index, (_, request) in enumerate(calls) if (request.prefix is not None) is guided]
            if not some:
                continue
            frames, requests = [calls[index][0] for index in some], [calls[index][1] for index in some]
            rngs = [np.random.default_rng((self._seed, abs(request.request_step))) for request in requests]
            rows = self.infer_batch(
                np.stack([np.concatenate([frame.state[key] for key in ARMS]) for frame in frames]),
                np.stack([frame.state["belts"].reshape(2, 2, 2) for frame in frames]),
                prefix=np.stack([_whole(request.prefix) for request in requests]) if guided else None,
                weights=np.stack([_whole(request.prefix_weights) for request in requests]) if guided else None,
                rng=rngs,
            )
            for index, made in zip(some, rows, strict=True):
                chunks[index] = ActionChunk(made)
        return [chunk for chunk in chunks if chunk is not None]

    def infer_batch(
        self,
        joints: Array,
        posts: Array,
        *,
        prefix: Array | None = None,
        weights: Array | None = None,
        rng: np.random.Generator | Sequence[np.random.Generator],
    ) -> Array:
        """Chunks (B, 31, 16) [rad] for B observations at once.

        Args:
            joints: measured positions (B, 16) [rad].
            posts: x, y (B, 2 lanes, 2 posts, 2) of the next two posts in the base frame [m].
            prefix: rows (B, L, 16) [rad] of the plans that are running; row 0 is the present step's.
            weights: how much each row must agree with the prefix, (B, L) in [0, 1]; without them, or without
                a prefix, the chunks are sampled alone.
            rng: draws the noise; a sequence has one for each observation.
        """
        known = features(joints_to_lanes(joints), posts).astype(np.float32)
        if isinstance(rng, np.random.Generator):
            noise = rng.standard_normal((len(joints), KNOTS, 2), dtype=np.float32)
        else:
            noise = np.stack([one.standard_normal((KNOTS, 2), dtype=np.float32) for one in rng])
        target = (
            None if prefix is None or weights is None else _knots(joints_to_lanes(prefix)) / np.float32(LANE_SCALE)
        )
        pull = None if weights is None else _knots(weights)
        chunk = self._sampler.sample(_Field(self._velocity, self._pull, known), noise, target, pull)
        return lanes_to_joints(_rows(chunk.astype(np.float64) * LANE_SCALE))

    def warmup(self) -> None:
        """One guided and one plain chunk, for the first call of an engine is slow."""
        joints, posts = lanes_to_joints(np.zeros((1, 2))), np.ones((1, 2, 2, 2))
        rng = np.random.default_rng(0)
        rows = self.infer_batch(joints, posts, rng=rng)
        self.infer_batch(joints, posts, prefix=rows, weights=np.ones((1, ROWS)), rng=rng)

    def reset(self, seed: int | None = None) -> None:
        """Forget nothing, for there is no memory; a new seed draws other noise."""
        if seed is not None:
            self._seed = seed

    def session(self) -> Demo:
        """Itself, for no call leaves anything behind."""
        return self

    def close(self) -> None:
        for engine in (self._velocity, self._pull):
            if engine is not None:
                engine.close()


class _Field:
    """The network conditioned on features (B, 2, 4): a `chunkwise.sampling.flow.Field`."""

    def __init__(self, velocity: Engine, pull: Engine | None, known: Float32) -> None:
        self._velocity, self._pull, self._known = velocity, pull, known

    def velocity(self, x: NDArray[Any], tau: float) -> NDArray[Any]:
        return self._velocity.run({"x": x, "tau": np.array([tau], np.float32), "features": self._known})[
            "velocity"
        ]

    def pull(
        self, x: NDArray[Any], tau: float, target: NDArray[Any], weights: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        assert self._pull is not None
        tensors = {"x": x, "tau": np.array([tau], np.float32), "features": self._known}
        out = self._pull.run({**tensors, "target": target, "weights": weights})
        return out["velocity"], out["error"], out["pulled"]


def _engine(folder: Path, network: str) -> Engine:
    paths = [folder / f"{network}{suffix}" for suffix in ENGINES]
    path = next((path for path in paths if path.is_file()), paths[0])
    engine: Engine = plugins.load("engines", ENGINES[path.suffix])()
    engine.load(str(path))
    return engine


def _whole(rows: Array | None) -> Array:
    """A prefix or its weights at a chunk's length; rows that are not there bind nothing."""
    made = np.zeros((ROWS, *(() if rows is None else rows.shape[1:])))
    if rows is not None:
        made[: len(rows)] = rows[:ROWS]
        if rows.ndim == 2 and len(rows):
            made[len(rows) :] = rows[-1]
    return made


def _knots(rows: Array) -> Float32:
    """Every KNOT_STEPS-th row of (B, L, ...), as float32 (B, KNOTS, ...); zero where there is no row."""
    given = rows[:, :ROWS:KNOT_STEPS]
    knots = np.zeros((len(rows), KNOTS, *rows.shape[2:]), dtype=np.float32)
    knots[:, : given.shape[1]] = given
    return knots


def _rows(knots: Array) -> Array:
    """Rows (B, ROWS, 2) that pass through knots (B, KNOTS, 2) in straight lines."""
    share = np.arange(KNOT_STEPS)[:, None] / KNOT_STEPS
    between = knots[:, :-1, None] + share * np.diff(knots, axis=1)[:, :, None]
    return np.concatenate([between.reshape(len(knots), ROWS - 1, 2), knots[:, -1:]], axis=1)
