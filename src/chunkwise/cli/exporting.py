"""The work of ``chunkwise export``: make the files, compare them with the original, measure both."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, connect
from chunkwise.engines import Engine, TensorSpec
from chunkwise.engines import _conversion as conversion
from chunkwise.engines._comparison import Tensors, largest_difference, medians_s, random_inputs
from chunkwise.engines._exported import FORMATS, Exported
from chunkwise.engines._lerobot import checkpoint_folder
from chunkwise.options import UsageError, chosen, options_of
from chunkwise.policies import BoundPolicy, Policy
from chunkwise.recording import EpisodeReader

RANDOM_FRAMES = 16
RECORDED_FRAMES = 64
ROUNDS = 15
PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
MIGRATION = "python -m lerobot.processor.migrate_policy_normalization --pretrained-path"
PACKAGES = ("chunkwise", "lerobot", "torch", "onnx", "onnxscript", "onnxruntime", "openvino")


class DiffersError(RuntimeError):
    """The exported network answers otherwise than the original."""


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for: the command's arguments, and the policy's further options as texts."""

    policy: str
    to: str
    out: Path
    recording: EpisodeReader | None
    tolerance: float
    threads: int
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine beside the original.

    Attributes:
        name: for people.
        difference: the largest one of any number that it answered.
        median_s: of one call.
        ratio: of that to the original's.
    """

    name: str
    difference: float
    median_s: float
    ratio: float


def export(job: Job, folder: Path) -> tuple[Exported, list[Measured]]:
    """A policy's network or networks into an empty directory.

    Returns:
        What the directory holds, and how the engines compare, the original first.

    Raises:
        DiffersError: it does not agree with the original to within the tolerance.
        UsageError: this policy cannot be exported so.
        FileNotFoundError: a part of the policy is missing.
    """
    if job.policy == "flow":
        from chunkwise.cli.exporting_flow import export_flow  # which is made of what is here

        return export_flow(job, folder)
    if job.policy in plugins.names("policies"):
        return _networks(job, folder)
    return _checkpoint(job, folder)


def _checkpoint(job: Job, folder: Path) -> tuple[Exported, list[Measured]]:
    """The network of a LeRobot checkpoint, and what LeRobot keeps beside it."""
    source = checkpoint_folder(job.policy)
    copy_processors(source, folder)
    eager = plugins.load("engines", "lerobot")(threads=job.threads)
    with stage(f"reading {source}"):
        eager.load(str(source))
        network = eager.network()
    inputs, outputs = _one_at_a_time(eager.inputs), _one_at_a_time(eager.outputs)
    frames = _random_frames(inputs)
    with tempfile.TemporaryDirectory() as scratch:
        onnx = Path(scratch) / FORMATS["onnx"]
        with stage(f"making {FORMATS[job.to]} from {eager.policy_type}"):
            program = conversion.program_of(network, frames[0])
            _convert(program, job, folder / FORMATS[job.to], onnx, ([*inputs], [*outputs]))
        device = "cpu" if job.to == "aoti" else ""
        exported = described(job, folder, eager.policy_type, inputs, outputs, file=FORMATS[job.to], device=device)
        others = _engines_for(onnx, job) if onnx.is_file() else {}
        made = _engine(job.to, folder, job)
        measured = measure({"lerobot (torch, eager)": eager, job.to: made, **others}, frames)
    exported = checked(job, exported, measured[1].difference, {"path": str(source)}, {"path": str(folder)})
    return exported, measured


def _networks(job: Job, folder: Path) -> tuple[Exported, list[Measured]]:
    """The networks of a policy that keeps them as ONNX files; the first is the one that is asked first."""
    networks: Mapping[str, Path] = getattr(plugins.load("policies", job.policy), "networks", {})
    if not networks:
        raise UsageError(f"policy {job.policy!r} has no networks to export; demo and LeRobot checkpoints have")
    if job.to not in ("onnx", "openvino"):
        raise UsageError(f"policy {job.policy!r} is made of ONNX files: --to onnx or --to openvino")
    suffix = Path(FORMATS[job.to]).suffix
    measured: list[Measured] = []
    specs: list[tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]] = []
    for name, source in networks.items():
        path = folder / f"{name}{suffix}"
        with stage(f"making {path.name}"):
            if job.to == "onnx":
                shutil.copyfile(source, path)
            else:
                conversion.write_openvino(source, path)
        original, made = _engine("onnx", source, job), _engine(job.to, path, job)
        specs.append((original.inputs, original.outputs))
        pair = {f"{name} as it ships (onnx)": original, f"{name} ({job.to})": made}
        measured += measure(pair, _random_frames(original.inputs))
    exported = described(job, folder, job.policy, *specs[0], file=f"{next(iter(networks))}{suffix}")
    worst = float(np.max([one.difference for one in measured]))
    return checked(job, exported, worst, {}, {"model": str(folder)}), measured


def _convert(program: Any, job: Job, path: Path, onnx: Path, names: tuple[list[str], list[str]]) -> None:
    """A program of torch's into `path`; by way of `onnx` where that is the way."""
    if job.to in ("onnx", "openvino"):
        conversion.write_onnx(program, onnx, inputs=names[0], outputs=names[1])
    if job.to == "onnx":
        shutil.copyfile(onnx, path)
    elif job.to == "openvino":
        conversion.write_openvino(onnx, path)
    elif job.to == "aoti":
        conversion.write_aoti(program, path, threads=job.threads)
    else:
        conversion.write_torch(program, path)


def copy_processors(source: Path, folder: Path) -> None:
    """LeRobot's configuration and processors, as they are."""
    for name in PROCESSORS:
        if not (source / f"{name}.json").is_file():
            raise FileNotFoundError(
                f"{source} has no {name}.json; checkpoints from before LeRobot 0.4 get one by {MIGRATION} {source}"
            )
        for path in source.glob(f"{name}*"):
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(source / "config.json", folder / "config.json")


def described(
    job: Job,
    folder: Path,
    policy_type: str,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    *,
    file: str,
    device: str = "",
) -> Exported:
    """The manifest, written; what is not known yet is added by writing it again."""
    versions = {name: found for name in PACKAGES if (found := _version(name))}
    exported = Exported(folder, job.to, file, policy_type, inputs, outputs, device=device, made_with=versions)
    exported.write()
    return exported


def checked(
    job: Job, exported: Exported, random: float, original: Mapping[str, str], made: Mapping[str, str]
) -> Exported:
    """The manifest with how far the network is from the original, on random frames and on recorded ones.

    Args:
        job: what was asked for.
        exported: the manifest as it is.
        random: the largest difference on random frames, normalised.
        original: options that make the original's policy.
        made: options that make the exported one's.
    """
    found = {"random": _agreed(random, RANDOM_FRAMES, "random frames", job)}
    if job.recording is not None:
        name = job.policy if job.policy in plugins.names("policies") else "lerobot"
        with stage(f"comparing on {job.recording.path}"):
            difference, frames = _on_recording(job, job.recording, name, original, made)
        found["recorded"] = _agreed(difference, frames, f"frames of {job.recording.path}", job)
    checked = replace(exported, parity=found)
    checked.write()
    return checked


def _agreed(difference: float, frames: int, what: str, job: Job) -> dict[str, float]:
    print(f"{frames} {what}: max |difference| {difference:.2g}, tolerance {job.tolerance:.2g}")
    if not difference <= job.tolerance:
        raise DiffersError(f"on {what} it differs by {difference:.2g}, more than --tolerance {job.tolerance:.2g}")
    return {"max_difference": difference, "frames": frames}


def _on_recording(
    job: Job, reader: EpisodeReader, name: str, original: Mapping[str, str], made: Mapping[str, str]
) -> tuple[float, int]:
    """The largest difference of any command on recorded frames, in the robot's units, and on how many frames."""
    robot = reader.header.robot
    if robot is None:
        raise UsageError(f"{reader.path} does not say of what robot it is")
    answers = []
    for options in (original, made):
        policy = _policy(job, name, options)
        meet = getattr(policy, "meet", None)
        if meet is not None:
            meet(robot)
        bound = BoundPolicy(policy, connect(robot, policy.spec))  # type: ignore[attr-defined]
        whole = (record for record in reader.frames() if not record.dropped)
        some = [record for _, record in zip(range(RECORDED_FRAMES), whole, strict=False)]
        answers.append([bound(record.frame, ChunkRequest(step)).rows for step, record in enumerate(some)])
        close = getattr(policy, "close", None)
        if close is not None:
            close()
    if not answers[0]:
        raise UsageError(f"{reader.path} has no frame with all its images")
    return float(np.max(np.abs(np.array(answers[0]) - np.array(answers[1])))), len(answers[0])


def _policy(job: Job, name: str, given: Mapping[str, str]) -> Policy:
    maker = plugins.load("policies", name)
    wanted = {"threads": str(job.threads), "seed": "0"}
    defaults = {option: text for option, text in wanted.items() if option in options_of(maker)}
    policy: Policy = maker(**chosen(maker, {**defaults, **job.options, **given}, f"policy {name}"))
    return policy


def _engine(name: str, path: Path, job: Job, **options: Any) -> Engine:
    engine: Engine = plugins.load("engines", name)(threads=job.threads, **options)
    engine.load(str(path))
    return engine


def _engines_for(onnx: Path, job: Job) -> dict[str, Engine]:
    """The other engines that can run an ONNX file, where they are installed."""
    found: dict[str, Engine] = {}
    for label, name, options in (
        ("onnx", "onnx", {}),
        ("openvino", "openvino", {}),
        ("openvino, bfloat16", "openvino", {"dtype": "bfloat16"}),
    ):
        try:
            if label != job.to:
                found[label] = _engine(name, onnx, job, **options)
        except plugins.MissingExtra as missing:
            print(f"not measured: {label}: {missing}", file=sys.stderr)
    return found


def measure(engines: Mapping[str, Engine], frames: list[Tensors]) -> list[Measured]:
    """Every engine beside the first one; they are closed."""
    original = next(iter(engines.values()))
    with stage(f"comparing and timing {len(engines)} engines"):
        differences = {name: largest_difference(original, engine, frames) for name, engine in engines.items()}
        took = medians_s(engines, frames[0], rounds=ROUNDS)
    for engine in engines.values():
        engine.close()
    first = next(iter(took.values()))
    return [Measured(name, differences[name], took[name], took[name] / first) for name in engines]


def _one_at_a_time(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The same with a batch of 1."""
    return {name: replace(spec, shape=(1, *spec.shape[1:])) for name, spec in specs.items()}


def _random_frames(inputs: Mapping[str, TensorSpec]) -> list[Tensors]:
    rng = np.random.default_rng(0)
    return [random_inputs(inputs, rng) for _ in range(RANDOM_FRAMES)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say what goes on, and when it is done how long it took: some of it takes half a minute."""
    print(f"{what} ...", end=" ", flush=True, file=sys.stderr)
    began = time.perf_counter()
    try:
        yield
    except BaseException:
        print("failed", file=sys.stderr)
        raise
    print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
