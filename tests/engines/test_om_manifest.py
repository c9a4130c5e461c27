"""``config.om.json``: every row of its table, every message, and what it may not do."""

import contextlib
import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._om_manifest import EXECUTION, OM_MANIFEST, backend_of, read_manifest, write_manifest

ACT = {"schema_version": 1, "policy_type": "act", "backend": "ascend_om", "artifacts": {"policy": "policy.om"}}
PI05 = {
    "schema_version": 1,
    "policy_type": "pi05",
    "backend": "ascend_om",
    "artifact_dir": "om",
    "artifacts": {"vlm": "vlm.om", "action_expert": {"path": "action_expert.om"}},
    "execution": ["vlm", "action_expert"],
}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "policy"
    (made / "om").mkdir(parents=True)
    for name in ("policy.om", "om/vlm.om", "om/action_expert.om", "model.onnx"):
        (made / name).write_bytes(name.encode())
    (tmp_path / "elsewhere.om").write_bytes(b"elsewhere")
    worker = made / "worker"
    worker.write_bytes(b"#!/bin/sh\n")
    worker.chmod(0o755)
    return made


def files(folder, tree, backend="ascend_om", policy_type="act"):
    text = tree if isinstance(tree, str) else json.dumps(tree)
    (folder / OM_MANIFEST).write_text(text)
    return read_manifest(folder, backend, policy_type).files(backend, policy_type)


# What is read --------------------------------------------------------------------------------------------------


def test_the_files_of_each_back_end_come_in_their_order(folder):
    assert files(folder, ACT) == {"policy": folder / "policy.om"}
    found = files(folder, PI05, policy_type="pi05")
    assert list(found.items()) == [
        ("vlm", folder / "om/vlm.om"),
        ("action_expert", folder / "om/action_expert.om"),
    ]
    tree = {"artifacts": {"worker": "worker", "policy": "policy.om"}, "execution": ["policy", "worker"]}
    assert list(files(folder, tree, "ascend_om_3403")) == ["policy", "worker"]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 1},
        {"policy_type": None, "backend": None, "execution": None},
        {"policy_type": "", "backend": "", "artifact_dir": "", "execution": []},
        {"backend": " Ascend-OM "},
        {"execution": ["policy"]},
        {"artifacts": {"policy": {"path": "./om/../policy.om"}}},
        {"artifact_dir": "om", "artifacts": {"policy": "../policy.om"}},
        {"artifacts": {"policy": "policy.om", "spare": "nowhere.om"}},
    ],
)
def test_what_may_be_left_out_or_written_otherwise(folder, change):
    assert files(folder, ACT | change)["policy"].samefile(folder / "policy.om")


def test_the_least_that_a_manifest_can_be(folder):
    assert files(folder, {"artifacts": {"policy": "policy.om"}})


def test_the_suffix_may_be_in_capitals(folder):
    (folder / "POLICY.OM").write_bytes(b"")
    assert files(folder, ACT | {"artifacts": {"policy": "POLICY.OM"}})


def test_an_absolute_path_that_stays_in_the_directory_is_fine(folder, monkeypatch):
    assert files(folder, ACT | {"artifacts": {"policy": str(folder / "policy.om")}})
    monkeypatch.setenv("HOME", str(folder))
    assert files(folder, ACT | {"artifact_dir": "~"})["policy"] == folder / "policy.om"


def test_a_link_in_the_directory_is_followed(folder):
    (folder / "linked.om").symlink_to(folder.parent / "elsewhere.om")
    assert files(folder, ACT | {"artifacts": {"policy": "linked.om"}})


def test_a_hash_is_compared(folder):
    digest = hashlib.sha256(b"policy.om").hexdigest()
    entry = {"path": "policy.om", "sha256": digest.upper()}
    assert files(folder, ACT | {"artifacts": {"policy": entry}})
    entry["sha256"] = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with pytest.raises(
        InterfaceValidationError, match="'policy' is not the file that the manifest was written for"
    ):
        files(folder, ACT | {"artifacts": {"policy": entry}})


# What is refused -----------------------------------------------------------------------------------------------

REFUSED = {
    "another back end": (
        ACT | {"backend": "rknn"},
        "Compiled manifest backend 'rknn' does not match requested backend 'ascend_om': {manifest}",
    ),
    "another policy": (
        ACT | {"policy_type": "pi05"},
        "Compiled manifest policy_type 'pi05' does not match config type 'act': {manifest}",
    ),
    "no artifacts": (ACT | {"artifacts": {}}, "Compiled manifest must define non-empty artifacts map: {manifest}"),
    "artifacts missing": (
        {"schema_version": 1},
        "Compiled manifest must define non-empty artifacts map: {manifest}",
    ),
    "artifacts a list": (
        ACT | {"artifacts": ["policy.om"]},
        "Compiled manifest must define non-empty artifacts map: {manifest}",
    ),
    "an artifact that is a number": (
        ACT | {"artifacts": {"policy": 3}},
        "Compiled manifest artifact 'policy' must be a path string or object with path",
    ),
    "an artifact without a path": (
        ACT | {"artifacts": {"policy": {"sha256": "00"}}},
        "Compiled manifest artifact 'policy' must be a path string or object with path",
    ),
    "an empty path": (
        ACT | {"artifacts": {"policy": ""}},
        "Compiled manifest artifact 'policy' must be a path string or object with path",
    ),
    "execution a text": (
        ACT | {"execution": "policy"},
        "Compiled manifest execution must be a list of artifact roles: {manifest}",
    ),
    "execution of numbers": (
        ACT | {"execution": [1]},
        "Compiled manifest execution must be a list of artifact roles: {manifest}",
    ),
    "another execution": (
        ACT | {"execution": ["policy", "ghost"]},
        "Compiled manifest execution must be ['policy'], got ['policy', 'ghost']: {manifest}",
    ),
    "another role": (
        ACT | {"artifacts": {"vlm": "om/vlm.om"}},
        "Compiled manifest is missing artifact role 'policy'; available roles: vlm",
    ),
    "another suffix": (
        ACT | {"artifacts": {"policy": "model.onnx"}},
        "Compiled artifact 'policy' must be a .om file: {folder}/model.onnx",
    ),
    "a file that is not there": (
        ACT | {"artifacts": {"policy": "ghost.om"}},
        "Compiled artifact 'policy' does not exist: {folder}/ghost.om",
    ),
    "no object": ("[]", "JSON config must be an object: {manifest}"),
    "no JSON": ("{", "{manifest} is no JSON: "),
    "deep JSON": ("[" * 100_000, "{manifest} is no JSON: "),
    "too long": (" " * (1 << 20) + "{}", "{manifest} has more than 1048576 bytes"),
    "a version to come": (ACT | {"schema_version": 99}, "Compiled manifest schema_version 99 is not 1"),
    "a version in words": (ACT | {"schema_version": "1"}, "Compiled manifest schema_version '1' is not 1"),
    "a version that is true": (ACT | {"schema_version": True}, "Compiled manifest schema_version True is not 1"),
    "a version of none": (ACT | {"schema_version": None}, "Compiled manifest schema_version None is not 1"),
    "a key": (ACT | {"artefacts": {}}, "unknown key 'artefacts' (did you mean 'artifacts'?)"),
    "a key of an artifact": (
        ACT | {"artifacts": {"policy": {"path": "policy.om", "sha": "00"}}},
        "artifact 'policy' has an unknown key 'sha' (did you mean 'sha256'?)",
    ),
    "a hash that is a number": (
        ACT | {"artifacts": {"policy": {"path": "policy.om", "sha256": 3}}},
        "artifact 'policy': sha256 must be a text, got 3",
    ),
    "a folder that is a number": (
        ACT | {"artifact_dir": 3},
        "Compiled manifest artifact_dir must be a text, got 3",
    ),
    "a back end that is a list": (ACT | {"backend": ["x"]}, "Compiled manifest backend must be a text, got ['x']"),
    "a path upwards": (
        ACT | {"artifacts": {"policy": "../elsewhere.om"}},
        "Compiled manifest artifact 'policy' leaves the policy's directory, by the path",
    ),
    "a path by way of a folder": (
        ACT | {"artifact_dir": "om/../..", "artifacts": {"policy": "elsewhere.om"}},
        "Compiled manifest artifact 'policy' leaves the policy's directory",
    ),
    "an absolute path": (
        ACT | {"artifacts": {"policy": "/etc/policy.om"}},
        "Compiled manifest artifact 'policy' leaves the policy's directory, by the path /etc/policy.om",
    ),
    "a home": (ACT | {"artifact_dir": "~"}, "Compiled manifest artifact 'policy' leaves the policy's directory"),
    "a name that begins like it": (
        ACT | {"artifacts": {"policy": "../policy-2/policy.om"}},
        "Compiled manifest artifact 'policy' leaves the policy's directory",
    ),
    "the directory itself": (ACT | {"artifacts": {"policy": "."}}, "leaves the policy's directory"),
}


@pytest.mark.parametrize("case", REFUSED, ids=REFUSED)
def test_what_is_wrong_is_refused_with_the_words_that_users_know(folder, case):
    tree, message = REFUSED[case]
    with pytest.raises((InterfaceValidationError, FileNotFoundError)) as raised:
        files(folder, tree)
    assert message.format(manifest=folder / OM_MANIFEST, folder=folder) in str(raised.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*ACT, "artifact_dir", "execution"]), ANYTHING)
def test_whatever_stands_there_is_read_or_refused(tmp_path_factory, key, value):
    folder = tmp_path_factory.getbasetemp() / "anything"
    folder.mkdir(exist_ok=True)
    for tree in (ACT | {key: value}, ACT | {"artifacts": {"policy": value}}, value):
        with contextlib.suppress(InterfaceValidationError, FileNotFoundError):
            files(folder, tree)


@given(
    st.text(max_size=6) | st.sampled_from(["..", "~", "/"]),
    st.lists(st.sampled_from("../~\0ab\ud800"), max_size=9),
)
def test_no_path_leaves_the_directory(tmp_path_factory, beside, letters):
    folder = tmp_path_factory.getbasetemp() / "paths"
    folder.mkdir(exist_ok=True)
    tree = {"artifact_dir": beside, "artifacts": {"policy": "".join(letters)}}
    (folder / OM_MANIFEST).write_text(json.dumps(tree))
    with contextlib.suppress(InterfaceValidationError):
        manifest = read_manifest(folder, "ascend_om", "act")
        assert folder in manifest.artifacts["policy"].path.parents
        assert ".." not in manifest.artifacts["policy"].path.parts
        with contextlib.suppress(InterfaceValidationError, FileNotFoundError):
            manifest.files("ascend_om", "act")


def test_kinds_of_errors_are_those_that_callers_know(folder):
    with pytest.raises(
        KeyError, match=r"^Compiled manifest is missing artifact role 'policy'; available roles: vlm$"
    ):
        files(folder, REFUSED["another role"][0])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        files(folder, REFUSED["a file that is not there"][0])
    with pytest.raises(ValueError, match="is no JSON"):
        files(folder, "{")


def test_a_directory_without_one_says_what_writes_one(folder):
    with pytest.raises(
        FileNotFoundError, match=rf"^Compiled backend ascend_om requires config.om.json under policy_path {folder}"
    ):
        read_manifest(folder, "ascend_om", "act")


def test_no_roles_are_none(folder):
    (folder / OM_MANIFEST).write_text(json.dumps(ACT))
    manifest = read_manifest(folder, "ascend_om", "act")
    object.__setattr__(manifest, "artifacts", {})
    with pytest.raises(KeyError, match="available roles: <none>"):
        manifest.files("ascend_om", "act")


def test_a_worker_must_be_executable(folder):
    tree = {"artifacts": {"worker": "worker", "policy": "policy.om"}}
    (folder / "worker").chmod(0o644)
    with pytest.raises(FileNotFoundError, match=rf"Compiled artifact 'worker' is not executable: {folder}/worker"):
        files(folder, tree, "ascend_om_3403")


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"schema_version": 2, "backend": "rknn"}, "schema_version"),
        ({"backend": "rknn", "policy_type": "pi05"}, "backend"),
        ({"policy_type": "pi05", "artifacts": {}}, "policy_type"),
        ({"artifacts": {}, "execution": 3}, "artifacts map"),
        ({"execution": 3, "artifacts": {"vlm": "ghost"}}, "execution must be a list"),
        ({"execution": ["ghost"], "artifacts": {"vlm": "ghost"}}, r"execution must be \['policy'\]"),
        ({"artifacts": {"vlm": "ghost"}}, "missing artifact role"),
        ({"artifacts": {"policy": "ghost.bin"}}, "must be a .om file"),
    ],
)
def test_what_is_wrong_first_is_said_first(folder, worse, better):
    with pytest.raises(ValueError, match=better):
        files(folder, ACT | worse)


def test_pairs_that_nothing_runs_are_refused(folder):
    (folder / OM_MANIFEST).write_text(json.dumps({"artifacts": {"policy": "policy.om"}}))
    manifest = read_manifest(folder, "ascend_om_3403", "pi05")
    with pytest.raises(InterfaceValidationError, match="ascend_om_3403 does not support policy type 'pi05'"):
        manifest.files("ascend_om_3403", "pi05")


# What is written -----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(folder):
    roles = {"vlm": folder / "om/vlm.om", "action_expert": folder / "om/action_expert.om"}
    written = write_manifest(folder, "ascend_om", "pi05", roles)
    text = (folder / OM_MANIFEST).read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
    assert json.loads(text)["artifacts"]["vlm"]["path"] == "om/vlm.om"
    assert tuple(json.loads(text)["execution"]) == EXECUTION["ascend_om", "pi05"]
    again = read_manifest(folder, "ascend_om", "pi05")
    assert again == written
    assert again.files("ascend_om", "pi05") == roles
    (folder / "om/vlm.om").write_bytes(b"another")
    with pytest.raises(InterfaceValidationError, match="its hash differs"):
        again.files("ascend_om", "pi05")


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"polcy": "policy.om"}, r"no role 'polcy' .did you mean 'policy'.* there are: policy"),
        ({}, "missing artifact role 'policy'|non-empty artifacts map"),
        ({"policy": "../elsewhere.om"}, "must be in the policy's directory .*: copy it there"),
        ({"policy": "model.onnx"}, "must be a .om file"),
        ({"policy": "ghost.om"}, "does not exist"),
    ],
)
def test_nothing_is_written_of_what_cannot_be_read(folder, roles, message):
    before = sorted(os.listdir(folder))
    with pytest.raises((InterfaceValidationError, FileNotFoundError), match=message):
        write_manifest(folder, "ascend_om", "act", {role: folder / name for role, name in roles.items()})
    assert sorted(os.listdir(folder)) == before


def test_the_back_end_of_a_directory(folder):
    assert backend_of(folder) == ""
    (folder / OM_MANIFEST).write_text(json.dumps(ACT))
    assert backend_of(folder) == "ascend_om"
    (folder / OM_MANIFEST).write_text(json.dumps(ACT | {"backend": None}))
    assert backend_of(folder) == ""


@pytest.mark.parametrize(
    "backend", ["onnx", "ascend_on", "os:system", "worker.py:engine", "/tmp/worker.py:engine"]
)
def test_a_manifest_names_no_engine_but_the_compiled_ones(folder, backend):
    """What runs a directory is loaded by this name, and a name may mean a program."""
    (folder / OM_MANIFEST).write_text(json.dumps(ACT | {"backend": backend}))
    with pytest.raises(InterfaceValidationError, match=rf"backend '{backend}' .*there are: ascend_om, .*, rknn"):
        backend_of(folder)
