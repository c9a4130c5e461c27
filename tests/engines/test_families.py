"""What each family reads and answers; those of language are too big to be made here, so their words are taken."""

from types import SimpleNamespace

import pytest

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._families import FAMILIES, family_of, inputs_of, outputs_of


def feature(kind, *shape):
    return SimpleNamespace(type=SimpleNamespace(name=kind), shape=shape)


def config(**settings):
    return SimpleNamespace(
        input_features={
            "observation.state": feature("STATE", 6),
            "observation.images.top": feature("VISUAL", 3, 48, 64),
            "observation.images.empty_camera_0": feature("VISUAL", 3, 48, 64),
        },
        action_feature=feature("ACTION", 6),
        n_obs_steps=2,
        chunk_size=50,
        max_action_dim=32,
        tokenizer_max_length=48,
        **settings,
    )


@pytest.mark.parametrize("name", ["smolvla", "pi0"])
def test_a_family_of_language_reads_tokens_and_pictures_of_any_size(name):
    family = family_of(name)
    assert inputs_of(family, config()) == {
        "observation.state": TensorSpec((None, 6), "float32"),
        "observation.images.top": TensorSpec((None, 3, None, None), "float32"),
        "observation.language.tokens": TensorSpec((None, 48), "int64"),
        "observation.language.attention_mask": TensorSpec((None, 48), "bool"),
        "noise": TensorSpec((None, 50, 32), "float32", optional=True),
    }
    assert outputs_of(family, config()) == {"action": TensorSpec((None, 50, 6), "float32")}


def test_pi05_has_its_state_in_its_tokens():
    assert "observation.state" not in inputs_of(family_of("pi05"), config())


def test_a_family_with_a_history_has_a_dimension_for_it_and_act_has_none():
    reads = inputs_of(family_of("diffusion"), config(horizon=16))
    assert reads["observation.images.top"] == TensorSpec((None, 2, 3, 48, 64), "float32")
    assert reads["noise"] == TensorSpec((None, 16, 6), "float32", optional=True)
    assert inputs_of(family_of("act"), config())["observation.state"] == TensorSpec((None, 6), "float32")


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"n_action_repeats": 1, "use_mpc": True, "horizon": 5}, 5),
        ({"n_action_repeats": 3, "use_mpc": True, "horizon": 5}, 3),
        ({"n_action_repeats": 1, "use_mpc": False, "horizon": 5}, 1),
    ],
)
def test_how_many_rows_tdmpc_plans(settings, rows):
    assert outputs_of(family_of("tdmpc"), config(**settings))["action"].shape == (None, rows, 6)


@pytest.mark.parametrize("name", ["act2", None, 3])
def test_a_family_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(
        InterfaceValidationError, match=f"no policy type {name!r}.*there are: {', '.join(FAMILIES)}"
    ):
        family_of(name)
