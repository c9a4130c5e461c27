"""A policy from its YAML: as the engine's documents print it, and every silent failure an error by name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from chunkwise.policies.igris import COMPONENT_REGISTRY, PolicyFileError, PolicyProtocol, build_policy
from chunkwise.policies.igris.build import read_policy_file, weights_file
from chunkwise.policies.igris.documents import MissingFile

PAGE = Path(__file__).parents[3] / "docs" / "igris-policies.md"


def printed(language: str, first_line: str) -> str:
    """A block of the documents' page."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(first_line)]
    return str(block)


def test_the_printed_policy_works_with_the_printed_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "your_policy"
    (folder / "components").mkdir(parents=True)
    (folder / "your_policy.py").write_text(printed("python", "# your_policy/your_policy.py"))
    (folder / "your_policy.yaml").write_text(printed("yaml", "# your_policy/your_policy.yaml"))
    (folder / "components" / "your_model.yaml").write_text("params: {gain: 2}")
    COMPONENT_REGISTRY.add("your_model", lambda gain: ("your model", gain))
    policy: Any = build_policy(folder / "your_policy.yaml")
    assert isinstance(policy, PolicyProtocol) and policy.model == ("your model", 2)
    assert policy.predict({}, None) is None, "its body is three dots"


def test_params_and_parts_reach_the_class_and_it_is_frozen(folder: Any) -> None:
    folder.write("echo_part.yaml", "params: {gain: 3}")
    folder.write(
        "echo.yaml",
        "model: {component_config_paths: {main: echo_part.yaml, config: echo_part.yaml}}\n"
        "policy: {type: echo, params: {rows: 7}}",
    )
    policy: Any = build_policy(folder.yaml)
    assert policy.part.gain == 3 and policy.rows == 7 and policy.frozen
    assert build_policy(str(folder.yaml)) is not policy


def test_paths_begin_in_the_folder_of_the_top_yaml(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("base/base.yaml", "model: {component_config_paths: {main: parts/a.yaml}}\npolicy: {type: echo}")
    top = folder.write("top.yaml", "defaults: [{base: base/base.yaml}]\ncheckpoint_path: weights")
    monkeypatch.chdir("/")
    read = read_policy_file(top)
    assert read.components == {"main": folder.path / "parts" / "a.yaml"}
    assert read.checkpoint == folder.path / "weights" and read.type == "echo" and read.params == {}


MODEL = "model: {component_config_paths: {main: echo_part.yaml}}\n"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (MODEL + "polciy: {type: echo}", PolicyFileError, r"unknown key 'polciy' \(did you mean 'policy'\?\)"),
        (MODEL + "policy: {typ: echo}", PolicyFileError, r"policy: unknown key 'typ' \(did you mean 'type'\?\)"),
        ("model: {component_config_path: {}}", PolicyFileError, "did you mean 'component_config_paths'"),
        ("policy: {type: echo}", PolicyFileError, "must name at least one component"),
        ("model: {component_config_paths: [a]}", PolicyFileError, "must be a mapping"),
        ("model: {component_config_paths: {main: 3}}", PolicyFileError, "paths.main must be a text, got 3"),
        (MODEL, PolicyFileError, "policy.type must be a text, got None"),
        (MODEL + "policy: {type: echoo}", KeyError, r"no policy 'echoo'; there are: openpi_policy"),
        (MODEL + "policy: {type: openpi_polcy}", KeyError, "did you mean 'openpi_policy'"),
        (
            MODEL + "policy: {type: echo, params: {row: 7}}",
            PolicyFileError,
            "unknown key 'row'.*did you mean 'rows'",
        ),
        (MODEL + "policy: {type: echo}\ncheckpoint_path: 3", PolicyFileError, "checkpoint_path must be a text"),
        (
            MODEL + "policy: {type: echo}\ncheckpoint_path: gone",
            MissingFile,
            "'main': no checkpoint folder .*gone",
        ),
        (
            MODEL.replace("main", "mian") + "policy: {type: echo}",
            PolicyFileError,
            "no component 'main'.*mean 'mian'",
        ),
        (MODEL.replace("echo_part", "gone") + "policy: {type: echo}", MissingFile, "'main': no file .*gone.yaml"),
    ],
)
def test_every_mistake_is_named(folder: Any, text: str, error: type[Exception], said: str) -> None:
    folder.write("echo.yaml", text)
    with pytest.raises(error, match=said):
        build_policy(folder.yaml)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("params: {gian: 3}", r"unknown key 'gian' \(did you mean 'gain'\?\); there are: gain"),
        ("parms: {gain: 3}", "unknown key 'parms'.*did you mean 'params'"),
        ("params: {gain: '${params.gian}'}", "no parameter 'gian'"),
        ("schema_version: 2\nparams: {}", "schema_version must be 1, got 2"),
        ("templates: {a: 1}", "templates are not known here"),
        ("settings: {strict: false}", "strict is always true here"),
        ("settings: {allow_import: true}", "did you mean 'allow_imports'"),
        ("settings: {allow_imports: 1}", "allow_imports must be true or false"),
        ("settings: {allowed_import_prefixes: json}", "must be a list of module names"),
        ("imports: [json]", r"importing 'json' needs settings: \{allow_imports: true\}"),
        ("imports: [os]\nsettings: {allow_imports: true, allowed_import_prefixes: [json]}", "'os' is not within"),
        ("imports: [jsonn]\nsettings: {allow_imports: true}", "No module named 'jsonn'"),
        ("imports: json", "imports must be a list"),
    ],
)
def test_every_mistake_in_a_component_is_named(folder: Any, text: str, said: str) -> None:
    folder.write("echo_part.yaml", text)
    with pytest.raises(PolicyFileError, match=rf"component 'main' \(.*echo_part.yaml\).*{said}"):
        build_policy(folder.yaml)


def test_imports_that_are_allowed_register_types(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder.path))
    folder.write(
        "their_parts.py",
        "from chunkwise.policies.igris import COMPONENT_REGISTRY\nCOMPONENT_REGISTRY.add('their_part', dict)",
    )
    folder.write(
        "their_part.yaml",
        "imports: [their_parts]\nsettings: {allow_imports: true, allowed_import_prefixes: [their_parts]}\n"
        "params: {size: '${env:int:NOT_THERE_AT_ALL,4}'}",
    )
    folder.write("echo.yaml", "model: {component_config_paths: {main: their_part.yaml}}\npolicy: {type: echo}")
    policy: Any = build_policy(folder.yaml)
    del sys.modules["their_parts"]
    assert policy.part == {"size": 4}


def test_a_file_without_a_model_must_be_named_like_a_type(folder: Any) -> None:
    folder.write("echo_prat.yaml", "params: {}")
    folder.write("echo.yaml", "model: {component_config_paths: {main: echo_prat.yaml}}\npolicy: {type: echo}")
    with pytest.raises(PolicyFileError, match=r"registered as 'echo_prat' .*did you mean 'echo_part'"):
        build_policy(folder.yaml)


def test_weights_are_one_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"'main': no weights: neither .*main.pt nor .*main.safetensors"):
        weights_file(tmp_path, "main")
    (tmp_path / "main.safetensors").touch()
    assert weights_file(tmp_path, "main") == tmp_path / "main.safetensors"
    (tmp_path / "main.pt").touch()
    with pytest.raises(PolicyFileError, match="weights twice"):
        weights_file(tmp_path, "main")
