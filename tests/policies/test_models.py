"""Models by name: which one a frame is for, what they are together, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chunkwise.contract import Frame, InterfaceValidationError, PolicyOutputSpec, PolicySpec
from chunkwise.options import UsageError
from chunkwise.policies._models import MODEL, Models, UnknownModel, Whereabouts

SEVERAL = {"kitchen": "wave", "bench": {"name": "my.py:MyPolicy", "path": "b"}, "line": "demo"}
SPEC = PolicySpec("one", [], ["arm"], outputs=[PolicyOutputSpec("arm", "joint_position", 3)], action_horizon=8)


def frame(**task: Any) -> Frame:
    return Frame(task=task)


def test_a_frame_names_its_model() -> None:
    models = Models(None, SEVERAL)
    assert models.of(frame(model="bench", prompt="sort")) == "bench"
    assert models.recipes["bench"].to_dict()["options"] == {"path": "b"}
    assert list(models.recipes) == ["kitchen", "bench", "line"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({}, "the request names no model in its task ('model'); there are: kitchen, bench, line"),
        ({MODEL: ""}, "the request names no model"),
        ({MODEL: "lime"}, "no model 'lime'; there are: line, "),
        ({MODEL: ["line"]}, "no model ['line']; there are: "),
        ({MODEL: 3}, "no model 3; there are: "),
    ],
)
def test_what_names_none_that_is_there_is_refused_and_the_nearest_is_first(
    task: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnknownModel) as refused:
        Models(None, SEVERAL).of(frame(**task))
    assert said in str(refused.value)


def test_what_is_said_of_a_name_without_an_end_has_one() -> None:
    with pytest.raises(UnknownModel) as refused:
        Models(None, SEVERAL).of(frame(model="line" * 100_000))
    assert len(str(refused.value)) < 200
    assert Models(None, SEVERAL).named(frame(model="lime")) is None


def test_a_default_is_for_who_names_none_and_for_nobody_else() -> None:
    models = Models(None, SEVERAL, "line")
    assert models.of(frame()) == "line" and models.of(frame(model="kitchen")) == "kitchen"
    with pytest.raises(UnknownModel):
        models.of(frame(model="kichen"))


def test_an_only_policy_is_meant_whatever_a_frame_says() -> None:
    models = Models("wave", None)
    assert models.of(frame()) == models.of(frame(model="kitchen"))
    assert models.spec({"policy": SPEC}) is SPEC


@pytest.mark.parametrize(
    ("of", "models", "default", "said"),
    [
        (None, None, "", "of: one policy, or models: several"),
        ("wave", SEVERAL, "", "of: one policy, or models: several"),
        (3, None, "", "of: which policy?"),
        (None, {}, "", "models: a mapping of names to policies"),
        (None, ["wave"], "", "models: a mapping of names to policies"),
        (None, {str(number): "wave" for number in range(257)}, "", "256 at most"),
        (None, {"": "wave"}, "", "models: '' is no name"),
        (None, {1: "wave"}, "", "models: 1 is no name"),
        (None, {"a": {"path": "b"}}, "", "models: a: which policy?"),
        (None, SEVERAL, "lime", "default_model: no model 'lime'; there are: line, "),
        ("wave", None, "line", "default_model: no model 'line': there is one policy"),
    ],
)
def test_what_cannot_be_is_refused(of: Any, models: Any, default: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Models(of, models, default)
    assert said in str(refused.value)


def test_together_they_read_what_each_reads_and_the_name() -> None:
    said = {name: replace(SPEC, normalisation=f"sha256:{name}") for name in SEVERAL}
    spec = Models(None, SEVERAL).spec({**said})
    assert spec is not None and spec.outputs == SPEC.outputs
    assert (spec.name, spec.required_task_keys) == ("kitchen+bench+line", [MODEL])
    said["line"] = replace(SPEC, normalisation="sha256:other")
    other = Models(None, SEVERAL).spec({**said})
    assert other is not None and other.normalisation != spec.normalisation, "new weights are seen"
    named = Models(None, SEVERAL, "line").spec(dict.fromkeys(SEVERAL, SPEC))
    assert named is not None and named.required_task_keys == [] and named.normalisation == ""
    assert Models(None, SEVERAL).spec(dict.fromkeys(SEVERAL)) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(SPEC, action_horizon=9), "action_horizon: 8 here, 9 there"),
        (replace(SPEC, outputs=[PolicyOutputSpec("arm", "joint_position", 4)]), "output 'arm': dim differ"),
        (replace(SPEC, required_task_keys=["prompt"]), "task entries: [] here, ['prompt'] there"),
        (None, "only one of them has a spec"),
    ],
)
def test_models_of_another_spec_are_refused_by_name(other: PolicySpec | None, said: str) -> None:
    with pytest.raises(InterfaceValidationError) as refused:
        Models(None, SEVERAL).spec({"kitchen": SPEC, "bench": SPEC, "line": other})
    assert "models kitchen (here) and line (there)" in str(refused.value) and said in str(refused.value)


def test_where_models_are_is_what_was_heard_last() -> None:
    where = Whereabouts()
    assert not where.has("line")
    where.learn("one", ["kitchen", "line"])
    where.learn("two", ["line"])
    where.learn("one", ["kitchen"])
    assert where.has("kitchen") and where.has("line")
    where.lost("line")
    assert where.has("kitchen") and not where.has("line")
