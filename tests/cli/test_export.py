"""``chunkwise export``: what it makes runs without torch and answers the same, or nothing is made."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.cli import main
from chunkwise.contract import ChunkRequest, Frame, robot_layout
from chunkwise.engines._comparison import random_inputs
from chunkwise.engines._exported import read_exported
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.recording import EpisodeWriter

TORCH_FREE = """
import sys
for blocked in ("torch", "torchvision", "lerobot", "transformers", "onnx", "safetensors", "huggingface_hub"):
    sys.modules[blocked] = None
import numpy as np
from chunkwise import plugins
folder, name, inputs, answer = sys.argv[1:]
engine = plugins.load("engines", name)()
engine.load(folder)
engine.warmup()
with np.load(inputs) as given:
    np.save(answer, engine.run(dict(given))["action"])
"""


def export(*words: object) -> int:
    return main(["export", *map(str, words)])


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeRobot's ACT with one camera and random weights, and its processors, saved by LeRobot."""
    factory = import_lerobot("lerobot.policies.factory")
    torch, types = import_lerobot("torch"), import_lerobot("lerobot.configs.types")
    sizes = {"observation.state": ("STATE", (8,)), "observation.images.head": ("VISUAL", (3, 32, 32))}
    features = {name: types.PolicyFeature(types.FeatureType[kind], shape) for name, (kind, shape) in sizes.items()}
    action = types.PolicyFeature(types.FeatureType.ACTION, (8,))
    config = factory.make_policy_config(
        "act",
        device="cpu",
        input_features=features,
        output_features={"action": action},
        chunk_size=5,
        n_action_steps=5,
        dim_model=16,
        n_heads=2,
        dim_feedforward=16,
        n_encoder_layers=1,
        use_vae=False,
        pretrained_backbone_weights=None,
    )
    folder = tmp_path_factory.mktemp("act")
    torch.manual_seed(0)
    factory.get_policy_class("act")(config).save_pretrained(folder)
    statistics = {
        name: {"mean": torch.full(shape, 0.5), "std": torch.full(shape, 0.25)}
        for name, shape in (("observation.state", (8,)), ("observation.images.head", (3, 1, 1)), ("action", (8,)))
    }
    for processor in factory.make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(act: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same, exported to a format; once to each."""

    @functools.cache
    def make(to: str) -> Path:
        out = tmp_path_factory.mktemp("exported") / to
        assert export("--policy", act, "--to", to, "--out", out) == 0
        return out

    return make


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Frames of a robot with one arm and a camera."""
    robot = plugins.load("robots", "mock")(arms=1, cameras=("head",))
    layout = robot_layout(robot.spec)
    path = tmp_path / "episode.mcap"
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, robot=robot.spec) as writer:
        for step in range(4):
            seen = robot.observe()
            state = {name: rng.uniform(0, 1, value.shape) for name, value in seen.state.items()}
            images = {"head": rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)}
            writer.frame(Frame(images, state, timestamp_ns=step, sequence_id=step), step=step)
            writer.action(layout.action(np.zeros(layout.width)), layout.action(np.zeros(layout.width)), step=step)
    return path


def answers(folder: Path, engine: str, tensors: dict[str, Any]) -> Any:
    made = plugins.load("engines", engine)()
    made.load(str(folder))
    answer = made.run(tensors)["action"]
    made.close()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_an_exported_act_answers_as_the_original(act, exported, to):
    out = exported(to)
    manifest = read_exported(out)
    assert manifest.parity["random"]["max_difference"] < 1e-4
    assert set(manifest.made_with) >= {"chunkwise", "torch", "lerobot"}
    assert {path.name for path in out.iterdir()} == {"chunkwise.json", *manifest.sha256}
    copied = {path.name for path in act.iterdir()} - {"model.safetensors", "README.md"}
    assert copied <= set(manifest.sha256)
    assert all((out / name).read_bytes() == (act / name).read_bytes() for name in copied)
    tensors = random_inputs(manifest.inputs, np.random.default_rng(7))
    np.testing.assert_allclose(answers(out, to, tensors), answers(act, "lerobot", tensors), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_an_exported_act_runs_where_there_is_no_torch(act, exported, to, tmp_path):
    out = exported(to)
    tensors = random_inputs(read_exported(out).inputs, np.random.default_rng(7))
    np.savez(tmp_path / "given.npz", **tensors)
    command = [sys.executable, "-c", TORCH_FREE, str(out), to]
    made = subprocess.run(
        [*command, str(tmp_path / "given.npz"), str(tmp_path / "answer.npy")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), answers(act, "lerobot", tensors), atol=1e-4)


@pytest.mark.slow
def test_recorded_frames_are_compared_through_the_whole_policy(act, tmp_path, recording, capsys):
    out = tmp_path / "out"
    options = ("--policy.control_hz", "50")
    assert export("--policy", act, "--to", "onnx", "--out", out, "--recording", recording, *options) == 0
    assert f"4 frames of {recording}: max |difference|" in capsys.readouterr().out
    recorded = read_exported(out).parity["recorded"]
    assert recorded["frames"] == 4
    assert recorded["max_difference"] < 1e-4


@pytest.mark.slow
def test_a_checkpoint_without_processors_is_refused_with_the_cure(act, tmp_path, capsys):
    source = shutil.copytree(act, tmp_path / "old")
    (source / "policy_preprocessor.json").unlink()
    assert export("--policy", source, "--to", "onnx", "--out", tmp_path / "out") == 2
    assert "has no policy_preprocessor.json" in (said := capsys.readouterr().err)
    assert "migrate_policy_normalization" in said


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo policy on OpenVINO."""
    out = tmp_path_factory.mktemp("demo") / "ov"
    assert export("--policy", "demo", "--to", "openvino", "--out", out) == 0
    return out


def test_the_demo_policy_runs_on_openvino_as_on_onnxruntime(demo):
    state = {name: np.zeros(width) for name, width in (("right_arm", 7), ("right_gripper", 1))}
    state |= {name: np.zeros(width) for name, width in (("left_arm", 7), ("left_gripper", 1))}
    frame = Frame({}, state | {"belts": np.arange(8.0) / 10})
    maker = plugins.load("policies", "demo")
    ships, exported = maker(), maker(model=str(demo))
    plan = ships.infer(frame, ChunkRequest(3)).rows
    for request in (ChunkRequest(3), ChunkRequest(4, prefix=plan[:20], prefix_weights=np.ones(20))):
        rows = [policy.infer(frame, request).rows for policy in (ships, exported)]
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
    for policy in (ships, exported):
        policy.close()


def test_a_demo_policy_whose_files_changed_is_refused(demo, tmp_path):
    folder = shutil.copytree(demo, tmp_path / "changed")
    (folder / "velocity.xml").write_text((folder / "velocity.xml").read_text() + "\n")
    with pytest.raises(ValueError, match=r"velocity\.xml is not the file that was exported"):
        plugins.load("policies", "demo")(model=str(folder))


def test_what_is_said_is_what_was_compared_and_how_long_it_took(tmp_path, capsys):
    assert export("--policy", "demo", "--to", "openvino", "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "16 random frames: max |difference|" in said.out
    assert [line.split()[0] for line in said.out.splitlines() if "(onnx)" in line] == ["velocity", "pull"]
    assert f"wrote {tmp_path / 'out'}" in said.out
    assert "making velocity.xml ..." in said.err


def test_a_network_that_differs_by_more_than_the_tolerance_is_not_written(demo, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--policy", "demo", "--to", "openvino", "--out", out, "--tolerance", "1e-12")
    assert export(*words) == 1
    assert "on random frames it differs by" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
    shutil.copytree(demo, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert export(*words, "--force") == 1
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert [*tmp_path.iterdir()] == [out]


def test_what_is_there_is_replaced_by_force_alone_and_only_if_it_was_exported(tmp_path, capsys):
    out = tmp_path / "ov"
    words = ("--policy", "demo", "--to", "onnx", "--out", out)
    assert export(*words) == 0
    assert export(*words) == 2
    assert "--force replaces it" in capsys.readouterr().err
    (out / "chunkwise.json").write_text("{}")
    assert export(*words, "--force") == 0
    assert json.loads((out / "chunkwise.json").read_text())["policy_type"] == "demo"
    (out / "chunkwise.json").unlink()
    assert export(*words, "--force") == 2
    assert "is no exported directory" in capsys.readouterr().err
    assert (out / "velocity.onnx").exists()
    assert [*tmp_path.iterdir()] == [out]


def test_the_default_name_stands_beside_the_policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export("--policy", "demo", "--to", "onnx") == 0
    assert (tmp_path / "demo-onnx" / "chunkwise.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--policy is missing"),
        (("--policy", "demo"), "--to is missing"),
        (("--policy", "demo", "--to", "onx"), "did you mean 'onnx'"),
        (("--policy", "demo", "--to", "aoti"), "made of ONNX files: --to onnx or --to openvino"),
        (("--policy", "wave", "--to", "onnx"), "policy 'wave' has no networks to export"),
        (("--policy", "/no/such", "--to", "onnx"), "there is no directory /no/such"),
        (("--policy", "demo", "--to", "onnx", "--tolerance", "x"), "--tolerance must be a number"),
        (("--policy", "demo", "--to", "onnx", "--tolerance", "nan"), "--tolerance must be a number"),
        (("--policy", "demo", "--to", "onnx", "--threads", "0"), "--threads must be a number of at least 1"),
        (("--policy", "demo", "--to", "onnx", "--recordng", "x"), "did you mean '--recording'"),
        (("--policy", "demo", "--to", "onnx", "--recording", "/no/such.mcap"), "/no/such.mcap"),
        (("--policy", "demo", "--to", "onnx", "--policy.sed", "1", "--recording", "{episode}"), "no option 'sed'"),
        (("--policy", "demo", "--to", "onnx", "--policy.seed", "1"), "--policy.seed is for --recording FILE"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    words, message, tmp_path, recording, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = {*tmp_path.iterdir()}
    assert export(*(word.format(episode=recording) for word in words)) == 2
    assert message in capsys.readouterr().err
    assert {*tmp_path.iterdir()} == before


def test_help_has_examples(capsys):
    assert export("--help") == 0
    assert "chunkwise export --policy demo --to openvino" in capsys.readouterr().out
