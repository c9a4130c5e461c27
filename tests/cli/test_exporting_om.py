"""``chunkwise export --to om-manifest``: what it finds, what it writes, and what it refuses in one line."""

import json

import pytest

from chunkwise.cli import main
from chunkwise.engines._om_manifest import read_manifest

FEATURES = {
    "input_features": {"observation.state": {"type": "STATE", "shape": [3]}},
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "policy"
    (made / "om").mkdir(parents=True)
    (made / "config.json").write_text(json.dumps({"type": "act", "device": "cuda", **FEATURES}))
    (made / "policy.om").write_bytes(b"policy")
    return made


def export(folder, *words):
    return main(["export", "--policy", str(folder), "--to", "om-manifest", *words])


def roles(folder, backend="ascend_om", policy_type="act"):
    return read_manifest(folder, backend, policy_type).files(backend, policy_type)


def test_files_of_the_roles_names_are_found(folder, capsys):
    assert export(folder) == 0
    assert roles(folder) == {"policy": folder / "policy.om"}
    assert f"wrote {folder}/config.om.json: act for ascend_om, policy policy.om" in capsys.readouterr().out


def test_pi05_has_two(folder):
    (folder / "config.json").write_text(json.dumps({"type": "pi05", **FEATURES}))
    for name in ("om/vlm.om", "expert.om"):
        (folder / name).write_bytes(name.encode())
    assert (
        main(["export", "--to=om-manifest", "--policy", str(folder), "--artifact", "action_expert=expert.om"]) == 0
    )
    assert roles(folder, policy_type="pi05") == {
        "vlm": folder / "om/vlm.om",
        "action_expert": folder / "expert.om",
    }


def test_a_worker_goes_along(folder, monkeypatch):
    (folder / "svp").write_text("#!/bin/sh\n")
    (folder / "svp").chmod(0o755)
    monkeypatch.chdir(folder.parent)
    words = ("--device", "Ascend-OM-3403", "--artifact", "worker=policy/svp")
    assert export("policy", *words) == 0
    assert roles(folder, "ascend_om_3403") == {"policy": folder / "policy.om", "worker": folder / "svp"}


def test_what_is_there_is_replaced_by_force_alone(folder, capsys):
    assert export(folder) == 0
    assert export(folder) == 2
    assert "config.om.json is there: --force replaces it" in capsys.readouterr().err
    (folder / "policy.om").write_bytes(b"another")
    assert export(folder, "--force") == 0
    assert roles(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "rknn"), "--device 'rknn'; there are: ascend_om, ascend_om_3403"),
        (("--device", "ascend_on"), "did you mean 'ascend_om'"),
        (("--device", "ascend_om_3403"), "missing artifact role 'worker'"),
        (("--artifact", "policy"), "write ROLE=FILE"),
        (("--artifact", "polcy=policy.om"), "no role 'polcy' (did you mean 'policy'?) in act for ascend_om"),
        (("--artifact", "policy=ghost.om"), "Compiled artifact 'policy' does not exist"),
        (("--artifact", "policy={folder}/../elsewhere.om"), "copy it there"),
        (("--artifact", "policy=config.json"), "must be a .om file"),
        (("--tolerance", "1"), "unknown argument '--tolerance'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(folder, words, message, capsys):
    (folder.parent / "elsewhere.om").write_bytes(b"")
    assert export(folder, *(word.format(folder=folder) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "config.om.json").exists()


def test_what_is_no_policy_is_refused(tmp_path, capsys):
    assert export(tmp_path) == 2
    assert "requires policy_path/config.json" in capsys.readouterr().err
    assert main(["export", "--to", "om-manifest"]) == 2
    assert "--policy is missing" in capsys.readouterr().err


def test_its_help_is_its_own_and_the_commands_names_it(capsys):
    assert main(["export", "--to", "om-manifest", "--help"]) == 0
    assert "--artifact ROLE=FILE" in capsys.readouterr().out
    assert main(["export", "--policy", "demo", "--to", "om-manifes"]) == 2
    assert "did you mean 'om-manifest'" in capsys.readouterr().err
