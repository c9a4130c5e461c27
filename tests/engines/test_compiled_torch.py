"""Compiled back ends beside torch: LeRobot's own ACT, and a small pi0.5 of two networks, give the same numbers.

The "compilers" here make ONNX of them, which the fakes of the vendors' runtimes compute; whatever goes into the
wrong place, in the wrong shape or as the wrong type comes out as other numbers.
"""

import json
import shutil
import sys

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import _conversion as conversion
from chunkwise.engines._comparison import random_inputs
from chunkwise.engines._compiled import BackendError
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.engines._resizing import bilinear, letterboxed
from chunkwise.engines._torch import import_torch
from chunkwise.policies._stages import PureInferenceEngine
from chunkwise.testing import EngineConformance

pytestmark = pytest.mark.slow
STATE, TOKENS, MASK = "observation.state", "observation.language.tokens", "observation.language.attention_mask"
CAMERAS = ("observation.images.top", "observation.images.wrist")
WORDS, STEPS, ROWS, WIDTH, DIM = 6, 10, 5, 8, 6
HIDDEN = -2.3819763e38
PICTURE = {"type": "VISUAL", "shape": [3, 16, 16]}


def load(name, path, **options):
    made = plugins.load("engines", name)(**options)
    made.load(str(path))
    return made


# ACT -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    """LeRobot's ACT with two cameras of one size and random weights, and the same as ONNX."""
    factory, types = import_lerobot("lerobot.policies.factory"), import_lerobot("lerobot.configs.types")
    feature, kinds = types.PolicyFeature, types.FeatureType
    config = factory.make_policy_config(
        "act",
        device="cpu",
        input_features={
            CAMERAS[1]: feature(kinds.VISUAL, (3, 32, 32)),
            STATE: feature(kinds.STATE, (DIM,)),
            CAMERAS[0]: feature(kinds.VISUAL, (3, 32, 32)),
        },
        output_features={"action": feature(kinds.ACTION, (DIM,))},
        chunk_size=ROWS,
        n_action_steps=ROWS,
        dim_model=16,
        n_heads=2,
        dim_feedforward=16,
        n_encoder_layers=1,
        use_vae=False,
        pretrained_backbone_weights=None,
    )
    folder = tmp_path_factory.mktemp("act")
    import_torch().manual_seed(0)
    factory.get_policy_class("act")(config).save_pretrained(folder)
    eager = load("lerobot", folder)
    frame = random_inputs(eager.inputs, np.random.default_rng(0))
    program = conversion.program_of(eager.network(), frame)
    conversion.write_onnx(program, folder / "model.rknn", inputs=[*eager.inputs], outputs=["action"])
    shutil.copy(folder / "model.rknn", folder / "policy.om")
    (folder / "config.om.json").write_text(json.dumps({"artifacts": {"policy": "policy.om"}}))
    yield folder, eager
    eager.close()


@pytest.mark.parametrize("name", ["ascend_om", "rknn"])
def test_lerobots_act_answers_as_on_torch(vendors, act, name):
    folder, eager = act
    made = load(name, folder)
    assert [*made.inputs] == [CAMERAS[1], STATE, CAMERAS[0]]
    assert made.outputs["action"].shape == (1, ROWS, DIM)
    rng = np.random.default_rng(1)
    for _ in range(3):
        frame = random_inputs(eager.inputs, rng)
        np.testing.assert_allclose(made.run(frame)["action"], eager.run(frame)["action"], atol=1e-5)
    made.close()


def test_pictures_of_another_size_are_stretched_as_torch_does_it(vendors, act):
    folder, eager = act
    torch = import_torch()
    rng = np.random.default_rng(2)
    made = load("rknn", folder)
    frame = random_inputs(eager.inputs, rng)
    large = {name: rng.random((1, 3, 48, 20)).astype(np.float32) for name in CAMERAS}
    fitted = {
        name: torch.nn.functional.interpolate(
            torch.tensor(image), (32, 32), mode="bilinear", align_corners=False
        ).numpy()
        for name, image in large.items()
    }
    answer = made.run(frame | large)["action"]
    np.testing.assert_allclose(answer, eager.run(frame | fitted)["action"], atol=1e-5)
    made.close()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 4), (16, 16), (31, 9)])
def test_stretching_is_torchs(size):
    torch = import_torch()
    images = np.random.default_rng(0).random((2, 3, 7, 5)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.tensor(images), size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(bilinear(images, *size), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 9), (9, 4), (8, 8), (24, 32)])
def test_letterboxing_is_lerobots(size):
    theirs = import_lerobot("lerobot.policies.pi0.modeling_pi0").resize_with_pad_torch
    torch = import_torch()
    images = np.random.default_rng(0).random((1, 3, 12, 16)).astype(np.float32)
    wanted = theirs(torch.tensor(images), *size).numpy()
    np.testing.assert_allclose(letterboxed(images, *size), wanted, atol=1e-6)


# pi0.5 ---------------------------------------------------------------------------------------------------------


def networks(half):
    """The two networks of a small pi0.5, as torch modules: attention over a prefix, and a flow that reads it."""
    torch = import_torch()
    nn = torch.nn
    inner = torch.float16 if half else torch.float32

    class Vlm(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.words = nn.Conv2d(3, WIDTH, 8, 8), nn.Embedding(32, WIDTH)
            self.places = nn.Parameter(torch.randn(8 + WORDS, WIDTH))
            self.queries, self.keys, self.values = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, top, wrist, tokens, masks, prefix):
            seen = [self.patches(image * 2 - 1).flatten(2).transpose(1, 2) for image in (top, wrist)]
            made = torch.cat([*seen, self.words(tokens)], 1) + self.places
            scores = self.queries(made) @ self.keys(made).transpose(1, 2) + prefix[:, 0]
            made = torch.softmax(scores, -1) @ self.values(made)
            there = torch.cat([torch.ones(1, 8, dtype=torch.bool), masks], 1)
            return made, made.flip(-1).to(inner), there

    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.moved, self.asked = nn.Linear(WIDTH, WIDTH), nn.Linear(1, WIDTH)
            self.out = nn.Linear(WIDTH, WIDTH)

        def forward(self, keys, time, values, x_t, there):
            asked = self.moved(x_t.float()) + self.asked(time.float()[:, None])[:, None]
            scores = torch.where(there[:, None], asked @ keys.transpose(1, 2), -1e9)
            flow = self.out(torch.tanh(asked + torch.softmax(scores, -1) @ values.float()))
            return (x_t.float() - flow / STEPS).to(inner)

    torch.manual_seed(3)
    return Vlm().eval(), Expert().eval()


def torch_run(vlm, expert, tensors, half):
    """As LeRobot's pi05 samples: the mask of the prefix, then Euler steps from time 1 to 0."""
    torch = import_torch()
    given = {name: torch.tensor(value) for name, value in tensors.items()}
    kind = torch.float16 if half else torch.float32
    there = torch.cat([torch.ones(1, 8, dtype=torch.bool), given[MASK]], 1)
    seen = there[:, None, :] * there[:, :, None]
    prefix = torch.where(seen[:, None], 0.0, HIDDEN)
    with torch.no_grad():
        keys, values, pads = vlm(*(given[name] for name in CAMERAS), given[TOKENS], given[MASK], prefix)
        x_t, dt, time = given["noise"].to(kind), -1.0 / STEPS, 1.0
        while time >= -dt / 2:
            x_t = expert(keys, torch.full((1,), time, dtype=kind), values, x_t, pads)
            time += dt
    return x_t.float().numpy()[:, :, :DIM]


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def pi05(request, tmp_path_factory):
    """A directory of a compiled pi0.5, and what torch computes with the same weights."""
    torch = import_torch()
    half = request.param
    vlm, expert = networks(half)
    kind = np.float16 if half else np.float32
    rng = np.random.default_rng(0)
    picture = rng.random((1, 3, 16, 16)).astype(np.float32)
    whole = 8 + WORDS
    first = {
        "image_top": picture,
        "image_wrist": picture,
        "tokens": np.zeros((1, WORDS), np.int64),
        "masks": np.ones((1, WORDS), bool),
        "prefix_att_2d_masks_4d": np.zeros((1, 1, whole, whole), np.float32),
    }
    second = {
        "keys": np.zeros((1, whole, WIDTH), np.float32),
        "time": np.ones(1, kind),
        "values": np.zeros((1, whole, WIDTH), kind),
        "x_t": np.zeros((1, ROWS, WIDTH), kind),
        "pads": np.ones((1, whole), bool),
    }
    folder = tmp_path_factory.mktemp("pi05")
    (folder / "om").mkdir()
    stages = (
        ("vlm", vlm, first, ["keys", "values", "pads"]),
        ("action_expert", expert, second, ["x_next"]),
    )
    for name, module, example, outputs in stages:
        program = conversion.program_of(module, example)
        conversion.write_onnx(program, folder / f"om/{name}.om", inputs=[*example], outputs=outputs)
    config = {
        "type": "pi05",
        "device": "cuda",
        "num_inference_steps": STEPS,
        "input_features": {
            CAMERAS[0]: PICTURE,
            STATE: {"type": "STATE", "shape": [DIM]},
            CAMERAS[1]: PICTURE,
        },
        "output_features": {"action": {"type": "ACTION", "shape": [DIM]}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    roles = {"vlm": "vlm.om", "action_expert": {"path": "action_expert.om"}}
    manifest = {"schema_version": 1, "policy_type": "pi05", "backend": "ascend_om", "artifact_dir": "om"}
    (folder / "config.om.json").write_text(
        json.dumps(manifest | {"artifacts": roles, "execution": ["vlm", "action_expert"]})
    )
    torch.set_num_threads(1)
    return folder, lambda tensors: torch_run(vlm, expert, tensors, half), half


def frame(seed=0, size=(16, 16)):
    rng = np.random.default_rng(seed)
    masks = np.arange(WORDS)[None] < 1 + seed % WORDS
    return {
        CAMERAS[0]: rng.random((1, 3, *size)).astype(np.float32),
        CAMERAS[1]: rng.random((1, 3, *size)).astype(np.float32),
        TOKENS: rng.integers(0, 32, (1, WORDS)),
        MASK: masks,
        "noise": rng.normal(size=(1, ROWS, WIDTH)).astype(np.float32),
    }


def test_pi05_in_two_stages_answers_as_on_torch(vendors, pi05):
    folder, expected, half = pi05
    made = load("ascend_om", folder)
    assert (made.policy_type, made.backend_type) == ("pi05", "ascend_om")
    assert [*made.inputs] == [*CAMERAS, TOKENS, MASK, "noise"]
    assert made.outputs["action"].shape == (1, ROWS, DIM)
    for seed in range(4):
        given = frame(seed)
        answer = made.run(given)["action"]
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected(given), atol=2e-3 if half else 1e-5)
    made.close()


def test_pi05_behind_lerobots_names_keeps_tokens_whole_and_reads_no_state(vendors, pi05):
    folder, expected, half = pi05
    network = PureInferenceEngine(folder, "ascend_om", seed=7)
    given = frame(3)
    noise = np.random.default_rng(7).standard_normal((1, ROWS, WIDTH)).astype(np.float32)
    wanted = expected(given | {"noise": noise})
    del given["noise"]
    result = network(given | {STATE: np.ones((1, DIM), np.float32)})
    np.testing.assert_allclose(result.action, wanted[0], atol=2e-3 if half else 1e-5)
    assert (result.chunk_size, result.policy_type, result.backend_type) == (ROWS, "pi05", "ascend_om")
    network.close()


def test_pi05s_pictures_of_another_size_are_letterboxed(vendors, pi05):
    folder, expected, half = pi05
    theirs = import_lerobot("lerobot.policies.pi0.modeling_pi0").resize_with_pad_torch
    given = frame(1, size=(20, 30))
    fitted = {name: theirs(import_torch().tensor(given[name]), 16, 16).numpy() for name in CAMERAS}
    made = load("ascend_om", folder)
    answer = made.run(given)["action"]
    np.testing.assert_allclose(answer, expected(given | fitted), atol=2e-3 if half else 1e-5)
    made.close()


def test_pi05s_noise_comes_from_the_seed_where_none_is_given(vendors, pi05):
    folder, expected, half = pi05
    given = frame()
    del given["noise"]
    made = load("ascend_om", folder, seed=7)
    first = made.run(given)["action"]
    np.testing.assert_array_equal(made.run(given)["action"], first)
    noise = np.random.default_rng(7).standard_normal((1, ROWS, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(first, expected(given | {"noise": noise}), atol=2e-3 if half else 1e-5)
    made.close()
    other = load("ascend_om", folder)
    assert not np.array_equal(other.run(given)["action"], other.run(given)["action"])
    other.close()


def test_pi05_goes_by_places_where_the_compiler_renamed_the_vlms_outputs(vendors, pi05, tmp_path):
    import onnx

    folder, expected, half = pi05
    shutil.copytree(folder, tmp_path / "renamed")
    path = tmp_path / "renamed/om/vlm.om"
    model = onnx.load(path)
    for place, output in enumerate(model.graph.output):
        node = onnx.helper.make_node("Identity", [output.name], [f"node_{place}:0"])
        model.graph.node.append(node)
        output.name = f"node_{place}:0"
    onnx.save(model, path)
    made = load("ascend_om", tmp_path / "renamed")
    np.testing.assert_allclose(made.run(frame(2))["action"], expected(frame(2)), atol=2e-3 if half else 1e-5)
    made.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_features": {STATE: {"type": "STATE", "shape": [6]}}}, "must define at least one VISUAL input"),
        (
            {"input_features": {CAMERAS[0]: PICTURE}},
            "VLM input count mismatch: OM expects 5, and the policy has 4",
        ),
        (
            {"input_features": {CAMERAS[0]: PICTURE, "observation.images.empty_camera_0": PICTURE}},
            "observation.images.empty_camera_0 is no camera",
        ),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number above 0"),
        ({"output_features": {"action": {"type": "ACTION", "shape": [9]}}}, r"with 9 columns at least, got 'x_t'"),
    ],
)
def test_a_pi05_that_does_not_fit_its_networks_is_refused(vendors, pi05, tmp_path, changes, message):
    shutil.copytree(pi05[0], tmp_path / "changed")
    path = tmp_path / "changed/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InterfaceValidationError, match=message):
        load("ascend_om", tmp_path / "changed")


def test_networks_in_each_others_place_are_refused(vendors, pi05, tmp_path):
    shutil.copytree(pi05[0], tmp_path / "swapped")
    path = tmp_path / "swapped/config.om.json"
    roles = {"vlm": "action_expert.om", "action_expert": "vlm.om"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"artifacts": roles}))
    with pytest.raises(BackendError, match=r"stands where a picture|mismatch"):
        load("ascend_om", tmp_path / "swapped")


class TestPi05(EngineConformance):
    @pytest.fixture(autouse=True)
    def _policy(self, vendors, pi05):
        self.path = str(pi05[0])
        yield
        if "acl" in sys.modules:  # some checks of the kit let an engine go without closing it
            sys.modules["acl"].forget()

    def make_engine(self):
        return plugins.load("engines", "ascend_om")(seed=0)

    def network(self):
        return self.path
