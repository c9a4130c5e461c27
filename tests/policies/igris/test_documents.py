"""YAML: composed, filled in, within bounds, and every mistake named."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.policies.igris.documents import Filler, MissingFile, PolicyFileError, composed, refuse_unknown


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_lie_beneath_in_their_order(write: Any) -> None:
    write("base/a.yaml", "policy: {type: a, params: {x: 1, y: [1, 2]}}\ncheckpoint_path: a\n")
    write("base/b.yaml", "defaults: [{deeper: c.yaml}]\npolicy: {params: {x: 2}}\n")
    write("base/c.yaml", "policy: {params: {x: 3, z: 3}}\n")
    top = write("top.yaml", "defaults: [{one: base/a.yaml}, {two: base/b.yaml}]\npolicy: {params: {y: [9]}}\n")
    assert composed(top, "policy YAML") == {
        "policy": {"type": "a", "params": {"x": 2, "y": [9], "z": 3}},
        "checkpoint_path": "a",
    }


def test_a_circle_is_refused_and_shown(write: Any) -> None:
    top = write("a.yaml", "defaults: [{b: b.yaml}]")
    write("b.yaml", "defaults: [{a: a.yaml}]")
    with pytest.raises(PolicyFileError, match=r"circle: a.yaml -> b.yaml -> a.yaml"):
        composed(top, "policy YAML")


def test_a_missing_default_names_who_wants_it(write: Any) -> None:
    with pytest.raises(MissingFile, match=r"a.yaml: defaults\[0\]: no file .*gone.yaml"):
        composed(write("a.yaml", "defaults: [{b: gone.yaml}]"), "policy YAML")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "must hold a mapping, got list"),
        ("", "must hold a mapping, got NoneType"),
        ("a: [", "is not YAML"),
        ("a: 1\na: 2", "key 'a' twice"),
        ("model: {b: 1, b: 2}", "key 'b' twice"),
        ("1: a", "keys must be names, got 1"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("defaults: a.yaml", "defaults must be a list"),
        ("defaults: [a.yaml]", "must be one label with a path"),
        ("defaults: [{a: 1}]", "must be one label with a path"),
        ("a: &a [*a]", "more than 100000 values"),
        ("a: " + "[" * 3000, "is not YAML"),
    ],
)
def test_what_is_no_such_file_is_refused(write: Any, text: str, said: str) -> None:
    with pytest.raises(PolicyFileError, match=said.replace("[", r"\[")):
        composed(write("a.yaml", text), "policy YAML")


def test_aliases_that_multiply_are_refused(write: Any) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(PolicyFileError, match="more than 100000 values"):
        composed(write("bomb.yaml", "\n".join(lines)), "policy YAML")


def test_a_file_has_a_size(write: Any) -> None:
    with pytest.raises(PolicyFileError, match="larger than 1048576 bytes"):
        composed(write("big.yaml", "a: " + "x" * (1 << 20)), "policy YAML")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="cannot read"):
        composed(tmp_path, "policy YAML")


def test_an_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(PolicyFileError, match=r"a.yaml: unknown key 'polciy' \(did you mean 'policy'\?\)"):
        refuse_unknown({"polciy": 1}, ("policy", "model"), "a.yaml")


def test_references_become_what_they_stand_for() -> None:
    params = {"a": {"b": 3}, "c": "${params.a.b}", "flag": "${env:bool:FLAG,no}"}
    filler = Filler(params, "a.yaml", {"N": "7", "HOME": "/root"})
    tree = {
        "x": "${params.c}",
        "y": ["${env:int:N}"],
        "z": "${env:str:HOME}/v${params.a.b}",
        "w": "${params.flag}",
    }
    assert filler.fill(tree) == {"x": 3, "y": [7], "z": "/root/v3", "w": False}
    assert filler.used == {"a", "c", "flag"}
    assert filler.fill("${env:float:RATE,0.5}") == 0.5 and filler.fill("$proprio") == "$proprio"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${params.widht}", r"no parameter 'widht' \(did you mean 'width'\?\)"),
        ("${params.width.more}", "no parameter 'more'"),
        ("${params.x}", "params go in a circle: x -> y -> x"),
        ("${width}", "is no reference"),
        ("${env:WIDTH}", "is no reference"),
        ("${env:int:WIDTH}", "the environment has no WIDTH"),
        ("${env:int:WIDTH,wide}", "WIDTH must be int, got 'wide'"),
        ("${env:list:WIDTH,1}", "type 'list' is none of int, float, bool, str"),
        ("a ${params.width", "does not end"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(text: str, said: str) -> None:
    filler = Filler({"width": 3, "x": "${params.y}", "y": "${params.x}"}, "a.yaml", {})
    with pytest.raises(PolicyFileError, match=said):
        filler.fill([text])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_mapping_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    with suppress(PolicyFileError):
        assert isinstance(composed(path, "policy YAML"), dict)
