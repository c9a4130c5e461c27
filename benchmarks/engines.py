"""What an ACT costs on each engine, on one thread, side by side in one run.

    python benchmarks/engines.py            # prints, and writes docs/benchmarks/engines.md; about five minutes

Needs lerobot, onnxruntime, openvino and, for `aoti`, a C++ compiler.  The weights are random: what a network costs
does not depend on them, and whether the engines agree is seen on the same random inputs.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.engines import Engine, TensorSpec
from chunkwise.engines import _conversion as conversion
from chunkwise.engines._comparison import largest_difference, random_inputs, side_by_side_s
from chunkwise.engines._exported import Exported
from chunkwise.engines._lerobot import import_lerobot

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "engines.md"
EAGER = "torch, eager (lerobot)"
GOAL = 0.6
"""Of eager's time, what onnxruntime and OpenVINO in float32 may take at most."""


@dataclass(frozen=True)
class Size:
    """An ACT to measure."""

    about: str
    camera: tuple[int, int, int]
    settings: dict[str, Any]


SMALL = {"chunk_size": 50, "n_action_steps": 50, "dim_model": 128, "dim_feedforward": 512, "n_encoder_layers": 2}
SIZES = (
    Size(
        "LeRobot's default size, one camera of 480 x 640, 14 joints, 100 rows",
        (3, 480, 640),
        {"chunk_size": 100, "n_action_steps": 100},
    ),
    Size(
        "a small one, one camera of 224 x 224, 14 joints, 50 rows",
        (3, 224, 224),
        SMALL,
    ),
    Size(
        "a small one, one camera of 96 x 96, 14 joints, 50 rows",
        (3, 96, 96),
        SMALL,
    ),
)


def save_checkpoint(size: Size, folder: Path) -> float:
    """An ACT with random weights, saved by LeRobot; returns its parameters, in millions."""
    factory = import_lerobot("lerobot.policies.factory")
    torch, types = import_lerobot("torch"), import_lerobot("lerobot.configs.types")
    kinds, feature = types.FeatureType, types.PolicyFeature
    config = factory.make_policy_config(
        "act",
        device="cpu",
        input_features={
            "observation.state": feature(kinds.STATE, (14,)),
            "observation.images.top": feature(kinds.VISUAL, size.camera),
        },
        output_features={"action": feature(kinds.ACTION, (14,))},
        pretrained_backbone_weights=None,
        **size.settings,
    )
    torch.manual_seed(0)
    policy = factory.get_policy_class("act")(config)
    policy.save_pretrained(folder)
    return sum(weight.numel() for weight in policy.parameters()) / 1e6


def make_engines(folder: Path, threads: int, aoti: bool) -> dict[str, Engine]:
    """The checkpoint in `folder` on every engine, the original first."""
    eager = plugins.load("engines", "lerobot")(threads=threads)
    eager.load(str(folder))
    example = random_inputs(eager.inputs, np.random.default_rng(0))
    program = conversion.program_of(eager.network(), example)
    onnx, xml = folder / "model.onnx", folder / "model.xml"
    conversion.write_onnx(program, onnx, inputs=[*eager.inputs], outputs=[*eager.outputs])
    conversion.write_openvino(onnx, xml)
    engines: dict[str, Engine] = {EAGER: eager}
    for label, name, path, options in (
        ("onnxruntime", "onnx", onnx, {}),
        ("openvino, float32", "openvino", xml, {}),
        ("openvino, bfloat16", "openvino", xml, {"dtype": "bfloat16"}),
    ):
        engines[label] = plugins.load("engines", name)(threads=threads, **options)
        engines[label].load(str(path))
    if aoti:
        package = folder / "aoti"
        package.mkdir()
        conversion.write_aoti(program, package / "model.pt2", threads=threads)
        inputs = {name: TensorSpec(array.shape, str(array.dtype)) for name, array in example.items()}
        outputs = {name: TensorSpec((1, *spec.shape[1:]), spec.dtype) for name, spec in eager.outputs.items()}
        Exported(package, "aoti", "model.pt2", "act", inputs, outputs, device="cpu").write()
        engines["torch, ahead of time (aoti)"] = plugins.load("engines", "aoti")(threads=threads)
        engines["torch, ahead of time (aoti)"].load(str(package))
    return engines


def measure(size: Size, *, rounds: int, threads: int, aoti: bool) -> list[str]:
    """A section of the page."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"making {size.about}", file=sys.stderr)
        millions = save_checkpoint(size, folder)
        engines = make_engines(folder, threads, aoti)
        rng = np.random.default_rng(1)
        frames = [random_inputs(engines[EAGER].inputs, rng) for _ in range(4)]
        print(f"measuring {rounds} rounds", file=sys.stderr)
        took = side_by_side_s(engines, frames[0], rounds=rounds)
        lines = [
            f"## {size.about[0].upper()}{size.about[1:]}: {millions:.1f} million parameters",
            "",
            "| engine | p50 ms | p10 to p90 ms | x eager | cores used | max difference |",
            "|---|---|---|---|---|---|",
        ]
        for name, engine in engines.items():
            wall, busy = took[name].T
            ratio = float(np.median(wall / took[EAGER][:, 0]))
            low, middle, high = (1e3 * np.percentile(wall, share) for share in (10, 50, 90))
            apart = largest_difference(engines[EAGER], engine, frames)
            lines.append(
                f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {ratio:.2f} | "
                f"{np.sum(busy) / np.sum(wall):.2f} | {apart:.1e} |"
            )
            if name in ("onnxruntime", "openvino, float32") and ratio > GOAL:
                print(f"{name}: {ratio:.2f} x eager, the goal is {GOAL}", file=sys.stderr)
        for engine in engines.values():
            engine.close()
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-aoti", action="store_true", help="save the minute that compiling takes")
    parser.add_argument("--no-page", action="store_true", help="print only")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("lerobot", "torch", "onnxruntime", "openvino"))
    lines = [
        "# What an ACT costs on each engine",
        "",
        f"`make bench-engines`. {options.threads} thread, {options.rounds} rounds; every round asks each engine once, one "
        "after the other, on the same random inputs,",
        "so what else the machine does meets all of them alike. *x eager* is the median, over the rounds, of an engine's "
        "time to eager's in the same round;",
        "*cores used* is processor time to time by the clock; *max difference* is from eager's actions, normalised, over "
        "4 random frames.",
        f"The goal is at most {GOAL} x eager for onnxruntime and for OpenVINO in float32. Weights are random.",
        f"{versions}; Python {platform.python_version()}, {processor()}.",
        "",
    ]
    for size in SIZES:
        lines += measure(size, rounds=options.rounds, threads=options.threads, aoti=not options.no_aoti)
    lines += [
        "What there is to gain is all that eager does beside its matrix products: batch norms, sums and poolings that pass",
        "over memory alone, and laying out the convolutions' weights anew in every call. So small pictures gain most. With",
        "large ones nearly all of the time is products of float32 numbers, "
        f"which this processor does at {products_per_s() / 1e9:.0f} billion a",
        "second on one thread (a product of two matrices of 2048 x 2048), whoever asks it to; from there on only a lower",
        "precision helps. OpenVINO left to itself would compute in bfloat16 here; it does so only when `dtype` asks for it.",
        "What `aoti` makes is for the processor that it was compiled on; the other files run anywhere.",
    ]
    page = "\n".join(lines) + "\n"
    print(page)
    if not options.no_page:
        PAGE.write_text(page, encoding="utf-8")


def products_per_s() -> float:
    """Products of float32 numbers that torch does in a second on one thread."""
    torch = import_lerobot("torch")
    torch.set_num_threads(1)
    matrix = torch.ones(2048, 2048)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        matrix @ matrix
        took.append(time.perf_counter() - began)
    return 2048**3 / float(np.median(took))


def processor() -> str:
    """What /proc says it is, or what Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} seen)" if names else platform.machine()


if __name__ == "__main__":
    main()
