"""Checkpoints' steps are read, and what is not known of them is refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.processing import safetensors
from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.language import MASK, TOKENS
from chunkwise.processing.lerobot import OPTIONS, Feature, Processors, features, read, state_files

FILE = "policy_preprocessor_step_0_normalizer_processor.safetensors"
STATE = {FILE: safetensors.write({"action.mean": np.ones(2, np.float32), "action.std": np.full(2, 2, np.float32)})}
ACTION = {"action": {"type": "ACTION", "shape": [2]}}


def text(*steps: Any, **more: Any) -> str:
    return json.dumps({"name": "policy_preprocessor", "steps": list(steps), **more})


def step(name: str, file: str | None = None, **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config, **({"state_file": file} if file else {})}


def normaliser(name: str = "normalizer_processor", **config: Any) -> dict[str, Any]:
    return step(name, FILE, **{"eps": 1e-8, "features": ACTION, "norm_map": {"ACTION": "MEAN_STD"}, **config})


def loaded(*steps: Any, post: tuple[Any, ...] = (), **options: Any) -> Processors:
    return read(text(*steps), text(*post), STATE, **options)


def letters(texts: list[str], *, max_length: int, **told: Any) -> Any:
    assert told == {"padding": "longest", "padding_side": "left", "truncation": True}
    return [[len(each)] * max_length for each in texts], [[1] * max_length for _ in texts]


def test_steps_are_read_in_their_order() -> None:
    made = loaded(
        step("rename_observations_processor", rename_map={"observation.a": "observation.state"}),
        step("to_batch_processor"),
        step("smolvla_new_line_processor"),
        step("tokenizer_processor", tokenizer_name="t", max_length=3, padding="longest", padding_side="left"),
        step("device_processor", device="cuda", float_dtype=None),
        normaliser(),
        post=(normaliser("unnormalizer_processor"), step("device_processor", device="cpu", float_dtype="float")),
        tokenizers={"t": letters}.__getitem__,
    )
    batch = made.pre({"observation.a": np.zeros(1, np.float32), "task": "pick"})
    assert batch["observation.state"].shape == (1, 1) and batch["task"] == ["pick\n"]
    assert batch[TOKENS].tolist() == [[5, 5, 5]] and batch[MASK].all()
    assert made.post({"action": np.zeros((1, 4, 2), np.float32)})["action"].tolist() == [[[1, 1]] * 4]
    assert made.features == {"action": Feature("ACTION", (2,))} and made.warnings == ()
    assert made.statistics["action"]["std"].tolist() == [2, 2] and len(made.digest) == 64
    assert [each.kind for each in made.post.steps] == ["unnormalizer_processor", "device_processor"]


def test_pi05_reads_its_state_in_the_prompt() -> None:
    for name, end in (("pi05", ";\nAction: "), ("pi0_fast", ";\n")):
        made = loaded(step(f"{name}_prepare_state_tokenizer_processor_step", max_state_dim=2))
        batch = made.pre({"observation.state": np.zeros((1, 1), np.float32), "task": ["pick"]})
        assert batch["task"] == [f"Task: pick, State: 128 128{end}"]


def test_what_has_no_statistics_is_told() -> None:
    known = {**ACTION, "observation.state": {"type": "STATE", "shape": [3]}}
    made = loaded(normaliser(features=known, norm_map={"STATE": "MIN_MAX", "ACTION": "MEAN_STD"}))
    (warning,) = made.warnings
    assert warning == (
        "preprocessor: steps[0] normalizer_processor: "
        "there are no statistics of observation.state for MIN_MAX: it passes as it is"
    )
    assert made.pre.describe()[-1] == f"! {warning}"


def test_without_statistics_there_is_no_digest() -> None:
    bare = {**normaliser(), "state_file": ""}
    made = loaded(bare)
    assert made.digest == "" and len(made.warnings) == 1 and dict(made.statistics) == {}


def test_a_digest_is_of_the_statistics_and_how_they_are_applied() -> None:
    one = loaded(normaliser()).digest
    assert one == loaded(step("to_batch_processor"), normaliser()).digest
    assert one != loaded(normaliser(eps=1e-6)).digest
    assert one != loaded(normaliser("unnormalizer_processor")).digest


def test_bfloat16_is_left_to_the_engine() -> None:
    made = loaded(step("device_processor", float_dtype="bfloat16"))
    assert "the engine makes bfloat16" in made.warnings[0]


def test_files_that_are_wanted_are_named_once() -> None:
    assert state_files(text(normaliser(), step("to_batch_processor")), text(normaliser())) == (FILE,)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([step("xvla_image_scale")], r"steps\[0\] 'xvla_image_scale' is not read here; there are: rename_obs"),
        (
            [step("to_batch_processor"), step("normaliser_processor")],
            r"steps\[1\] 'normaliser_processor' .* .did you mean 'normalizer_processor'",
        ),
        ([{"class": "os.system"}], "'os.system' is not read here"),
        ([{"registry_name": ["a"]}], "is not read here"),
        ([{}], "None is not read here"),
        ([7], r"preprocessor: steps\[0\] must be a dict, is int"),
        ([{"registry_name": "to_batch_processor", "confg": {}}], "'confg' is not known.*did you mean 'config'"),
        ([{"registry_name": "to_batch_processor", "config": []}], "config must be a dict"),
        ([step("to_batch_processor", axis=1)], "to_batch_processor: 'axis' is not known; there are: none"),
        ([normaliser(epsilon=1)], "'epsilon' is not known.*did you mean 'eps'"),
        ([normaliser(eps="1")], "eps must be a number of at least zero"),
        ([normaliser(eps=-1)], "eps must be a number of at least zero"),
        ([normaliser(norm_map={"STATES": "MIN_MAX"})], "norm_map: 'STATES' is not known.*did you mean 'STATE'"),
        ([normaliser(norm_map={"ACTION": "MEANSTD"})], "did you mean 'MEAN_STD'"),
        (
            [normaliser(norm_map={"ACTION": "MIN_MAX"})],
            r"steps\[0\] .*'action' lack min, max; there are: mean, std",
        ),
        ([normaliser(norm_map=[])], "norm_map must be texts by name"),
        ([normaliser(normalize_observation_keys="x")], "must be a list of names"),
        ([normaliser(features=[])], "features must be at most"),
        ([normaliser(features={"a": {"type": "STAT", "shape": [1]}})], "features.a: type must be one of STATE"),
        ([normaliser(features={"a": {"type": "STATE", "shape": 1}})], "features.a: shape must be a list"),
        ([normaliser(features={"a": []})], "features.a: type must be"),
        ([step("normalizer_processor", "gone.safetensors")], "the file 'gone.safetensors' .* is missing"),
        ([step("normalizer_processor", "../x.safetensors")], "the name of a file beside it"),
        ([step("to_batch_processor", FILE)], "keeps nothing in a file"),
        ([step("device_processor", device=1)], "must be texts"),
        ([step("device_processor", float_dtype=[])], "must be texts"),
        ([step("device_processor", float_dtype="int8")], "must be one of float16, float32, float64, bfloat16"),
        (
            [step("tokenizer_processor", tokenizer_name="google/t5")],
            "needs the tokeniser 'google/t5' for its task",
        ),
        ([step("tokenizer_processor", tokenizer_name=1)], "must name a tokenizer_name"),
        ([step("tokenizer_processor", max_length=0)], "max_length above zero"),
        ([step("tokenizer_processor", truncation="no")], "truncation must be of type bool"),
        ([step("rename_observations_processor", rename_map={"a": 1})], "rename_map must be texts by name"),
        (
            [step("pi05_prepare_state_tokenizer_processor_step", max_state_dim=0)],
            "max_state_dim must be 1 to 4096",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(steps: list[Any], words: str) -> None:
    with pytest.raises(ProcessingError, match=words):
        loaded(*steps)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "preprocessor is no JSON"),
        ("[" * 100_000, "preprocessor is no JSON"),
        ("[]", "must hold a list"),
        ('{"steps": {}}', "must hold a list"),
        (text(*[step("to_batch_processor")] * 65), "at most 64 steps"),
        (text(version=2), "preprocessor: 'version' is not known"),
        (" " * ((4 << 20) + 1), "letters"),
    ],
)
def test_what_is_no_file_is_refused(given: str, words: str) -> None:
    with pytest.raises(ProcessingError, match=words):
        read(given, text(), {})
    with pytest.raises(ProcessingError, match=words.replace("preprocessor", "postprocessor")):
        state_files(text(), given)


def test_broken_statistics_are_named_with_their_file() -> None:
    for data, words in ((b"", "cut off"), (safetensors.write({"action.std": -np.ones(2)}), "spread below zero")):
        with pytest.raises(ProcessingError, match=rf"steps\[0\] normalizer_processor: {FILE}: .*{words}"):
            read(text(normaliser()), text(), {FILE: data})


def test_features_of_a_configuration() -> None:
    assert features({"a": {"type": "VISUAL", "shape": [3, 4, 5]}}) == {"a": Feature("VISUAL", (3, 4, 5))}
    with pytest.raises(ProcessingError, match=r"input_features\.a"):
        features({"a": {"type": "VISUAL", "shape": [True]}}, "input_features")


_leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
_trees = st.recursive(
    _leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
)


@given(
    st.sampled_from(sorted(OPTIONS)),
    st.dictionaries(
        st.sampled_from(sorted({option for options in OPTIONS.values() for option in options})),
        _trees,
    ),
)
def test_any_configuration_is_steps_or_a_refusal(name: str, config: dict[str, Any]) -> None:
    for steps in ([config], [{"registry_name": name, "config": config, "state_file": FILE}]):
        try:
            loaded(*steps, tokenizers=lambda name: letters)
        except ProcessingError:
            continue
