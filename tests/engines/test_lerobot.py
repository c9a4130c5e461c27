"""LeRobot checkpoints: LeRobot's own numbers, nothing kept between calls, nothing replaced in silence."""

import json
import logging
import shutil
import sys
import warnings

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import _lerobot
from chunkwise.engines._comparison import random_inputs
from chunkwise.engines._devices import DeviceError
from chunkwise.engines._lerobot import checkpoint_folder, import_lerobot
from chunkwise.plugins import MissingExtra

torch = pytest.importorskip("torch")
factory = import_lerobot("lerobot.policies.factory")
pytestmark = pytest.mark.slow

SIZES = {"observation.state": (4,), "observation.images.a": (3, 32, 32), "observation.images.b": (3, 32, 32)}
SMALL = {
    "act": {
        "chunk_size": 6,
        "n_action_steps": 6,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 16,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 4,
        "pretrained_backbone_weights": None,
    },
    "diffusion": {
        "horizon": 8,
        "n_action_steps": 4,
        "down_dims": (16, 32),
        "diffusion_step_embed_dim": 16,
        "num_train_timesteps": 3,
        "spatial_softmax_num_keypoints": 4,
    },
    "vqbet": {
        "crop_shape": None,
        "gpt_input_dim": 16,
        "gpt_output_dim": 16,
        "gpt_hidden_dim": 16,
        "gpt_n_layer": 1,
        "gpt_n_head": 2,
        "vqvae_embedding_dim": 8,
        "vqvae_enc_hidden_dim": 8,
        "spatial_softmax_num_keypoints": 4,
    },
    "tdmpc": {
        "n_gaussian_samples": 8,
        "n_pi_samples": 2,
        "n_elites": 2,
        "mlp_dim": 8,
        "latent_dim": 4,
        "image_encoder_hidden_dim": 4,
        "state_encoder_hidden_dim": 4,
    },
}


def features(kind):
    if kind == "tdmpc":
        return {"observation.state": (4,), "observation.image": (3, 64, 64)}
    if kind == "vqbet":
        return {"observation.state": (4,), "observation.image": (3, 32, 32)}
    return SIZES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every family's policy of LeRobot's and the directory that it was saved to, by name."""
    from lerobot.configs.types import FeatureType, PolicyFeature

    found = {}
    torch.manual_seed(0)
    for kind, settings in SMALL.items():
        import_lerobot(f"lerobot.policies.{kind}.modeling_{kind}")  # without what its imports warn of
        config = factory.make_policy_config(
            kind,
            device="cpu",
            input_features={
                name: PolicyFeature(FeatureType.VISUAL if len(shape) == 3 else FeatureType.STATE, shape)
                for name, shape in features(kind).items()
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
            **settings,
        )
        folder = tmp_path_factory.mktemp(kind)
        policy = factory.get_policy_class(kind)(config).eval()
        policy.save_pretrained(folder)
        found[kind] = policy, folder
    return found


@pytest.fixture
def folder(made, tmp_path):
    """A copy of ACT's directory, to be changed."""
    return shutil.copytree(made["act"][1], tmp_path / "act")


def loaded(folder, **options):
    engine = plugins.load("engines", "lerobot")(**options)
    engine.load(str(folder))
    return engine


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def given(engine, seed=1):
    return random_inputs(engine.inputs, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", SMALL)
def test_a_chunk_is_what_lerobots_own_queues_give(made, kind):
    policy, folder = made[kind]
    engine = loaded(folder, seed=7)
    assert engine.policy_type == kind
    rng = np.random.default_rng(0)
    seen = [
        {name: torch.tensor(rng.random((1, *shape), dtype=np.float32)) for name, shape in features(kind).items()}
        for _ in range(engine.n_obs_steps)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # VQ-BeT notes that its code book was not trained
        policy.reset()
        for observation in seen[:-1]:
            policy.select_action(dict(observation))
        policy._prev_mean = None
        (policy._action_queue if kind == "act" else policy._queues["action"]).clear()
        torch.manual_seed(7)
        first = policy.select_action(dict(seen[-1]))
    queue = policy._action_queue if kind == "act" else policy._queues["action"]
    wanted = torch.stack([first, *queue], dim=1).numpy()
    history = len(engine.inputs["observation.state"].shape) == 3
    tensors = {
        name: np.stack([one[name].numpy() for one in seen], axis=1) if history else seen[-1][name].numpy()
        for name in features(kind)
    }
    chunk = engine.run(tensors)["action"]
    np.testing.assert_allclose(chunk[:, : wanted.shape[1]], wanted, atol=1e-6)
    np.testing.assert_array_equal(engine.run(tensors)["action"], chunk)
    assert chunk.shape[1:] == engine.outputs["action"].shape[1:]
    engine.warmup()


def test_nothing_is_printed_where_a_command_prints(made, capsys):
    loaded(made["vqbet"][1])
    assert capsys.readouterr().out == ""


def test_what_is_random_comes_from_the_seed_of_the_engine_and_leaves_torchs_alone(made):
    folder = made["diffusion"][1]
    one, same, other = (loaded(folder, seed=seed) for seed in (1, 1, 2))
    tensors = given(one)
    before = torch.random.get_rng_state()
    chunk = one.run(tensors)["action"]
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(same.run(tensors)["action"], chunk)
    assert not np.array_equal(other.run(tensors)["action"], chunk)
    free = loaded(folder)
    assert not np.array_equal(free.run(tensors)["action"], free.run(tensors)["action"])


def test_noise_that_is_given_is_the_noise_that_a_chunk_begins_as(made):
    policy, folder = made["diffusion"]
    engine = loaded(folder, seed=3)
    tensors = given(engine)
    noise = np.random.default_rng(5).standard_normal((1, 8, 3)).astype(np.float32)
    batch = {
        "observation.state": torch.tensor(tensors["observation.state"]),
        "observation.images": torch.stack(
            [torch.tensor(tensors[f"observation.images.{key}"]) for key in "ab"], -4
        ),
    }
    torch.manual_seed(3)
    with torch.no_grad():
        wanted = policy.diffusion.generate_actions(batch, noise=torch.tensor(noise)).numpy()
    np.testing.assert_allclose(engine.run({**tensors, "noise": noise})["action"], wanted, atol=1e-6)


def test_a_batch_is_what_its_members_are_alone(made):
    engine = loaded(made["act"][1])
    first, second = given(engine, 1), given(engine, 2)
    both = engine.run({name: np.concatenate([first[name], second[name]]) for name in first})["action"]
    alone = np.concatenate([engine.run(one)["action"] for one in (first, second)])
    np.testing.assert_allclose(both, alone, atol=1e-5)
    first["observation.state"] = both[:, 0].repeat(2, axis=1)[:, :4]
    with pytest.raises(InterfaceValidationError, match=r"different batches: observation\.state: 2"):
        engine.run(first)


def test_another_precision_is_used_when_it_is_asked_for(made):
    exact, lower = loaded(made["act"][1]), loaded(made["act"][1], dtype="bfloat16")
    tensors = given(exact)
    difference = np.abs(exact.run(tensors)["action"] - lower.run(tensors)["action"]).max()
    assert 1e-5 < difference < 0.5


def test_a_checkpoint_from_a_machine_with_a_card_loads_here_and_stays_as_it_is(folder, caplog, monkeypatch):
    change(folder, device="cuda", use_amp=True, pretrained_backbone_weights="ResNet18_Weights.IMAGENET1K_V1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def download(*given, **named):
        raise AssertionError("weights that the checkpoint replaces are not downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with caplog.at_level(logging.WARNING):
        engine = loaded(folder)
    assert engine.device == "cpu"
    assert engine.config["device"] == "cuda"
    assert not caplog.records
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(DeviceError, match="torch has no device 'cuda' here"):
        engine.load(str(folder), "cuda")


def test_keys_that_this_lerobot_does_not_know_are_left_out_and_named(folder, caplog):
    change(folder, is_rknn_enabled=True, compiled_runtime_input_order=["a"])
    with caplog.at_level(logging.WARNING):
        loaded(folder)
    assert "does not know is_rknn_enabled, compiled_runtime_input_order" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "act_3d"}, "no policy type 'act_3d'.*there are: act, diffusion"),
        ({"type": None}, "no policy type None"),
        ({"use_peft": True}, "PEFT adapter; merge it"),
        ({"chunk_size": "many"}, "config.json makes no act policy"),
        ({"vision_backbone": "resnet_of_mine"}, "config.json makes no act policy"),
        ({"dim_model": 32}, r"model\.safetensors does not fit its config\.json"),
        ({"n_encoder_layers": 2}, r"model\.safetensors lacks model\.encoder\.layers\.1\..*and \d+ more"),
        ({"use_vae": False}, r"has, unknown to the policy, model\.vae_encoder"),
    ],
)
def test_a_configuration_that_makes_no_such_policy_is_refused_by_name(folder, settings, message):
    change(folder, **settings)
    with pytest.raises(InterfaceValidationError, match=message):
        loaded(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000], ids=["empty", "list", "no type", "deep"])
def test_what_is_no_configuration_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(InterfaceValidationError, match=r"config\.json"):
        loaded(folder)


def test_weights_that_are_missing_or_damaged_are_never_drawn(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InterfaceValidationError, match=r"model\.safetensors is no safetensors file"):
        loaded(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors, and a policy needs its weights"):
        loaded(folder)


def test_an_exported_directory_is_another_engines(folder):
    (folder / "chunkwise.json").write_text("{}")
    with pytest.raises(InterfaceValidationError, match="is an exported directory"):
        loaded(folder)


def test_a_family_of_language_without_transformers_says_how_to_get_it(folder, monkeypatch):
    change(folder, type="smolvla")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match="smolvla policies need transformers: pip install"):
        loaded(folder)


def test_only_act_is_a_function_of_its_inputs_alone(made):
    with pytest.raises(InterfaceValidationError, match="a diffusion cannot be exported; only act can"):
        loaded(made["diffusion"][1]).network()


def test_compiling_what_plans_in_python_is_refused(made):
    with pytest.raises(InterfaceValidationError, match="compile: a tdmpc policy plans in Python"):
        loaded(made["tdmpc"][1], compile=True)


def test_a_directory_that_is_there_wins_and_a_path_that_is_not_is_no_hub_id(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("act").samefile(folder)
    for path in ("/no/such", "./no/such", "../no_such", "~/no_such", "act2", "a/b/c", "no/such/", ".hidden/x"):
        with pytest.raises(FileNotFoundError, match="nor is it a hub id"):
            checkpoint_folder(path)
    with pytest.raises(FileNotFoundError, match=r"but a act/: is it mistyped"):
        checkpoint_folder("act/checkpoint")
    with pytest.raises(FileNotFoundError, match="is a file"):
        checkpoint_folder(str(folder / "config.json"))


def test_a_directory_above_a_checkpoint_names_the_one_below(folder, tmp_path):
    below = tmp_path / "train" / "checkpoints" / "last" / "pretrained_model"
    below.parent.mkdir(parents=True)
    folder.rename(below)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; there is one in .*pretrained_model"):
        checkpoint_folder(str(tmp_path / "train"))


def test_a_hub_id_is_downloaded_and_what_the_hub_says_is_told(folder, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, **named):
        asked.append((name, named))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert checkpoint_folder("someone/act_of_mine") == folder
    assert asked == [("someone/act_of_mine", {"allow_patterns": ["*.json", "*.safetensors"]})]

    def refuse(name, **named):
        raise OSError("404: no such repository")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match="the hub gives no such model: OSError: 404: no such repository"):
        checkpoint_folder("someone/act_of_mine")


def test_operators_are_declared_only_where_torchvisions_own_are_missing(monkeypatch):
    """Once they are, nothing more is done: not again, and not where torchvision imports by itself."""
    declared = list(_lerobot._declared)
    import_lerobot()
    assert _lerobot._declared == declared
    broken = RuntimeError("something else is wrong with torchvision")

    def fail(module, *, extra):
        if module == "torchvision":
            raise broken
        return plugins.require(module, extra=extra)

    monkeypatch.setattr(_lerobot, "require", fail)
    with pytest.raises(RuntimeError, match="something else"):
        import_lerobot()
