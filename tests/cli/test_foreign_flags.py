"""The flags of the IGRIS engine, and its files, drive a simulated IGRIS-B."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chunkwise.cli import foreign_flags, main
from chunkwise.cli import settings as settings_of
from chunkwise.cli.parser import Parser
from chunkwise.cli.settings import Settings
from chunkwise.options import UsageError
from chunkwise.processing.igris import IgrisFileError

EXAMPLE = Path(__file__).parents[2] / "examples" / "igris_b"
PARAMS, TOPICS = EXAMPLE / "inference_runtime_params.json", EXAMPLE / "inference_runtime_topics.json"
POLICY = EXAMPLE / "reach_policy.yaml"


def read(*argv: str) -> Settings:
    parser = Parser("run", "", "")
    settings_of.add_flags(parser)
    foreign_flags.add_flags(parser)
    made, _ = settings_of.read(parser, foreign_flags.translated(argv))
    return made


@pytest.mark.parametrize("spelling", ["hyphens", "underscores", "equals"])
def test_every_flag_in_every_spelling(spelling: str) -> None:
    words = ["--inference-algorithm", "sequential", "--policy-yaml-path", str(POLICY)]
    words += ["--inference-runtime-params-config", str(PARAMS), "--inference-runtime-topics-config", str(TOPICS)]
    if spelling == "underscores":
        words = ["--" + word[2:].replace("-", "_") if word[:2] == "--" else word for word in words]
    if spelling == "equals":
        words = [f"{flag}={value}" for flag, value in zip(words[::2], words[1::2], strict=True)]
    made = read("--robot", "igris_b", *words, "--seconds", "5")
    assert made.robot is not None and made.policy is not None and made.seconds == 5.0
    assert made.robot.options == {"params": PARAMS, "topics_file": TOPICS}
    assert (made.policy.name, made.policy.options) == ("igris", {"config": POLICY, "params": PARAMS})
    assert (made.strategy.name, made.strategy.options) == ("sync", {"execution_horizon": 50})
    assert made.worker.name == "inline"


def test_rtc_is_the_strategy_of_that_name_in_a_process_of_its_own() -> None:
    assert foreign_flags.translated(["--inference-algorithm", "rtc"]) == [
        "--strategy",
        "rtc",
        "--worker",
        "process",
    ]


def test_what_is_said_beside_them_wins() -> None:
    made = read("--worker", "thread", "--inference-algorithm", "rtc", "-P", str(POLICY), "--policy.prompt", "fold")
    assert (made.strategy.name, made.worker.name) == ("rtc", "thread")
    assert made.policy is not None and made.policy.options == {"config": POLICY, "prompt": "fold"}


def test_another_policy_reads_no_runtime_parameters() -> None:
    made = read("--robot", "igris_b", "--policy", "wave", "--inference-runtime-params-config", str(PARAMS))
    assert made.policy is not None and not made.policy.options
    for said in (("--policy", "igris"), ("--policy=igris",)):
        made = read("--robot", "igris_b", *said, "--inference-runtime-params-config", str(PARAMS))
        assert made.policy is not None and made.policy.options == {"params": PARAMS}


def test_without_them_nothing_changes() -> None:
    words = ["--robot", "mock", "--robot.cameras=head,left", "--seconds", "-1", "--policy", "wave", "-x"]
    assert foreign_flags.translated(words) == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--inference-algorithm", "rct"], "--inference-algorithm must be one of sequential, rtc, got 'rct'"),
        (["--inference_algorithm"], "--inference_algorithm needs a value"),
        (["-P", "--robot", "igris_b"], "-P needs a value"),
        (["-P", "a", "--policy_yaml_path", "b"], "--policy_yaml_path is there twice"),
        (["--inference-algorithm", "rtc", "--strategy", "switch"], "says the strategy already"),
        (
            ["--inference-algorithm=sequential", "--inference-runtime-params-config", "/no/such.json"],
            "cannot read /no/such.json",
        ),
    ],
)
def test_what_is_asked_wrongly_is_said(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        foreign_flags.translated(words)


def test_wrong_parameters_are_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = json.loads(PARAMS.read_text(encoding="utf-8"))
    path = tmp_path / "params.json"
    path.write_text(json.dumps(tree | {"policy_update_period": 0}), encoding="utf-8")
    words = ["--inference-algorithm", "sequential", "--inference-runtime-params-config", str(path)]
    with pytest.raises(IgrisFileError, match="policy_update_period must be a whole number"):
        foreign_flags.translated(words)
    assert main(["run", "--robot", "igris_b", *words]) == 2
    assert "policy_update_period must be a whole number" in capsys.readouterr().err


def test_help_shows_them_and_a_mistake_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in foreign_flags.HELP)
    assert main(["run", "--inference-algoritm", "rtc"]) == 2
    assert "did you mean '--inference-algorithm'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sequential", "rtc"])
def test_both_algorithms_drive_the_robot_with_the_engines_files(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    words = ["run", "--robot", "igris_b", "--robot.simulated", "--inference_algorithm", algorithm]
    words += ["--policy_yaml_path", str(POLICY), "--inference_runtime_params_config", str(PARAMS)]
    words += ["--inference_runtime_topics_config", str(TOPICS), "--seconds", "1", "--json", str(report)]
    assert main(words) == 0, capsys.readouterr().err
    made = json.loads(report.read_text(encoding="utf-8"))
    assert made["chunks"] >= 1 and not made["faults"]
    assert "left_arm" in capsys.readouterr().out
