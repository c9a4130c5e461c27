"""``chunkwise export --policy flow``: a velocity field of torch and its vector-Jacobian product, without torch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.cli.exporting import (
    RANDOM_FRAMES,
    Job,
    Measured,
    checked,
    copy_processors,
    described,
    measure,
    stage,
)
from chunkwise.engines import TensorSpec
from chunkwise.engines import _conversion as conversion
from chunkwise.engines._comparison import Tensors, random_inputs
from chunkwise.engines._exported import FORMATS, Exported
from chunkwise.engines._families import ACTION, DELAY, NOISE, PREFIX, PREFIX_WEIGHTS
from chunkwise.engines._torch import import_torch
from chunkwise.engines._vjp import flat_program
from chunkwise.options import UsageError
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._flow_exported import ENCODE, GIVEN, MADE, POLICY_TYPE, PULL, VELOCITY, ExportedVelocity
from chunkwise.policies._flow_network import FlowNetwork
from chunkwise.policies._flow_sampling import GuidedFlow, Velocity
from chunkwise.policies._flow_torch import TorchVelocity, encoded, pull
from chunkwise.policies._flow_velocity import velocity_of

Array = NDArray[Any]
TO = ("onnx", "openvino", "torch")


def export_flow(job: Job, folder: Path) -> tuple[Exported, list[Measured]]:
    """Two networks into an empty directory, or three where the field encodes its observation.

    Returns:
        What the directory holds, and how plain and guided chunks compare with the original's.

    Raises:
        DiffersError: they do not agree to within the tolerance.
        UsageError: the options do not say which field, or the format is none for it.
    """
    path, field = (job.options.get(name, "") for name in ("path", "field"))
    if not path or not field:
        raise UsageError("a flow is exported from --policy.path DIR and --policy.field module:name; give both")
    if job.to not in TO:
        raise UsageError(f"a flow is exported --to {', '.join(TO)}, not to {job.to!r}")
    checkpoint = open_checkpoint(path)
    copy_processors(checkpoint.folder, folder)
    velocity = velocity_of(checkpoint, field, device="cpu", threads=job.threads)
    if isinstance(velocity, ExportedVelocity):
        raise UsageError(f"{path} is exported already")
    inputs = {name: TensorSpec((1, *spec.shape[1:]), spec.dtype) for name, spec in velocity.inputs.items()}
    suffix = Path(FORMATS[job.to]).suffix
    for name, (program, given, made) in _programs(velocity, inputs).items():
        with stage(f"making {name}{suffix}"):
            _write(program(), folder / f"{name}{suffix}", job.to, given, made)
    outputs = {ACTION: TensorSpec((1, velocity.rows, velocity.dim), "float32")}
    exported = described(job, folder, POLICY_TYPE, inputs, outputs, file=f"{VELOCITY}{suffix}")
    measured: list[Measured] = []
    for what, guided in (("plain chunk", False), ("guided chunk", True)):
        pair = {
            f"{what} (torch)": _network(velocity_of(checkpoint, field, device="cpu", threads=job.threads)),
            f"{what} ({job.to})": _network(ExportedVelocity(folder, threads=job.threads)),
        }
        measured += measure(pair, _frames(inputs, velocity, guided))
    worst = float(np.max([one.difference for one in measured]))
    return checked(job, exported, worst, {}, {"path": str(folder), "field": ""}), measured


def _programs(
    velocity: TorchVelocity, inputs: dict[str, TensorSpec]
) -> dict[str, tuple[Callable[[], Any], list[str], list[str]]]:
    """The networks by name: what makes the program, and the names of what it takes and answers."""
    call = velocity.call
    assert call is not None
    tree = import_torch().utils._pytree
    rng = np.random.default_rng(0)
    seen = [*random_inputs(inputs, rng).values()]
    names = list(inputs)
    with velocity.computing():
        known, shape = tree.tree_flatten(encoded(call, dict(zip(names, map(_tensor, seen), strict=True))))
    encodes = hasattr(call, "encode")
    kept = [f"known{place}" for place in range(len(known))] if encodes else names
    chunk, times = (1, velocity.rows, velocity.dim), (1, velocity.rows if velocity.row_times else 1)
    drawn = {
        "x": rng.standard_normal(chunk),
        "t": rng.random(times),
        "target": rng.standard_normal(chunk),
        "weights": rng.random(chunk[:2]),
    }

    def encode(*observation: Any) -> Any:
        return tuple(tree.tree_leaves(encoded(call, dict(zip(names, observation, strict=True)))))

    def plain(x: Any, t: Any, *leaves: Any) -> Any:
        return call(x, t, tree.tree_unflatten(leaves, shape))

    def pulling(x: Any, t: Any, target: Any, weights: Any, *leaves: Any) -> Any:
        return pull(call, x, t, target, weights, tree.tree_unflatten(leaves, shape))

    def program(run: Callable[..., Any], before: Sequence[str], after: Sequence[Array]) -> Callable[[], Any]:
        example = [*(drawn[name].astype(np.float32) for name in before), *after]
        return lambda: flat_program(run, example)

    leaves = [leaf.numpy() for leaf in known]
    programs = {
        name: (program(run, GIVEN[name], leaves), [*GIVEN[name], *kept], [*MADE[name]])
        for name, run in ((VELOCITY, plain), (PULL, pulling))
    }
    return {ENCODE: (program(encode, (), seen), names, kept), **programs} if encodes else programs


def _tensor(array: Array) -> Any:
    return import_torch().tensor(array)


def _write(program: Any, path: Path, to: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if to == "torch":
        conversion.write_torch(program, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        onnx = Path(scratch) / FORMATS["onnx"]
        conversion.write_onnx(program, onnx, inputs=inputs, outputs=outputs)
        if to == "onnx":
            shutil.copyfile(onnx, path)
        else:
            conversion.write_openvino(onnx, path)


def _network(velocity: Velocity) -> FlowNetwork:
    return FlowNetwork(GuidedFlow(velocity))


def _frames(inputs: dict[str, TensorSpec], velocity: Velocity, guided: bool) -> list[Tensors]:
    """Random observations and noise, and a plan where the chunk is to be guided."""
    rng = np.random.default_rng(1)
    chunk = (1, velocity.rows, velocity.dim)
    frames: list[Tensors] = []
    for _ in range(RANDOM_FRAMES):
        frame = {**random_inputs(inputs, rng), NOISE: rng.standard_normal(chunk, dtype=np.float32)}
        if guided:
            frame[PREFIX] = rng.standard_normal(chunk, dtype=np.float32)
            frame[PREFIX_WEIGHTS] = np.sort(rng.random(chunk[:2], dtype=np.float32))[:, ::-1].copy()
            frame[DELAY] = np.ones(1, np.int64)
        frames.append(frame)
    return frames
