from __future__ import annotations

import functools
from pathlib import Path

import pytest

from chunkwise.cli import settings as settings_of
from chunkwise.cli.parser import Parser
from chunkwise.cli.settings import MAX_CONFIG_BYTES, Choice, Settings
from chunkwise.options import UsageError
from chunkwise.plugins import UnknownAdapter


def read(*argv: str, robot: str | None = "mock") -> Settings:
    parser = Parser("run", "", "")
    settings_of.add_flags(parser)
    parser.add_argument("--config")
    made, _ = settings_of.read(parser, argv, Settings(robot=Choice(robot) if robot else None))
    return made


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_nothing_said_leaves_the_defaults() -> None:
    assert read() == Settings(robot=Choice("mock"))


def test_flags_are_typed_and_options_go_to_their_adapter() -> None:
    made = read(
        "--robot.arms", "1", "--policy", "wave", "--policy.amplitude", "0.1", "--seconds", "2", "--realtime"
    )
    assert made.robot == Choice("mock", {"arms": 1})
    assert made.policy == Choice("wave", {"amplitude": 0.1})
    assert (made.seconds, made.realtime) == (2.0, True)


def test_the_file_and_the_flags_over_it(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        "robot: {name: mock, arms: 1, dof: 6}\npolicy: wave\nseconds: 5\nlatency_ms: 100\nrealtime: true\n",
    )
    made = read("--config", path, "--robot.dof", "3", "--latency-ms", "50", "--no-realtime")
    assert made.robot == Choice("mock", {"arms": 1, "dof": 3})
    assert (made.seconds, made.latency_ms, made.realtime) == (5.0, 50.0, False)


def test_another_adapter_does_not_inherit_the_options_of_the_one_before(tmp_path: Path) -> None:
    path = config(tmp_path, "strategy: {name: rtc, schedule: linear}\n")
    assert read("--config", path, "--strategy", "switch").strategy == Choice("switch")
    assert read("--config", path, "--strategy", "rtc").strategy == Choice("rtc", {"schedule": "linear"})


def test_yaml_there_and_back(tmp_path: Path) -> None:
    made = read("--robot.cameras", "head,ceiling", "--policy", "wave", "--seconds", "3", "--json", "out.json")
    assert read("--config", config(tmp_path, made.to_yaml()), robot=None) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polisy: wave\n", r"unknown key 'polisy' .did you mean 'policy'.*there are: robot, policy"),
        ("robot: {name: mock, arm: 1}\n", r"robot mock has no option 'arm' .did you mean 'arms'"),
        ("robot: {arms: 1}\n", "robot must be a name, or a mapping with a name"),
        ("robot: {name: mock, arms: one}\n", "arms must be a whole number"),
        ("seconds: soon\n", "seconds must be a number"),
        ("realtime: 3\n", "realtime must be true or false"),
        ("- robot\n", "must hold a mapping"),
        ("robot: [\n", "is not YAML"),
        ("seconds: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read("--config", config(tmp_path, text))


def test_a_file_that_is_not_there_or_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="larger than"):
        read("--config", config(tmp_path, "#" * (MAX_CONFIG_BYTES + 1)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds", "0"], "seconds must be above 0, got 0"),
        (["--seconds", "nan"], "seconds must be above 0"),
        (["--latency-ms", "-1"], "latency_ms must be at least 0"),
        (["--control-hz", "inf"], "control_hz must be above 0"),
        (["--policy.rows", "3"], "--policy.rows needs --policy NAME"),
        (["--robot.speed", "3"], "robot mock has no option 'speed'"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(*flags)


def test_what_no_policy_can_be_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wave").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a directory, which is not supported"):
        read("--robot", str(tmp_path))
    with pytest.raises(UsageError, match="no wire 'hf'"):
        read("--policy", "hf://somebody/policy")
    with pytest.raises(UsageError, match="is a URI, which is not supported"):
        read("--robot", "native://robot:7777")
    with pytest.raises(UsageError, match=r"does not say which class: my_policy\.py:Class"):
        read("--policy", "my_policy.py")
    with pytest.raises(UnknownAdapter, match="did you mean 'wave'"):
        read("--policy", "wvae")
    assert read("--policy", "wave").policy == Choice("wave")  # a folder of that name is not what is meant


def test_functions_have_no_options(tmp_path: Path) -> None:
    path = tmp_path / "bare_function.py"
    path.write_text("def infer(frame, request): ...\n")
    assert read("--policy", f"{path}:infer").policy == Choice(f"{path}:infer")
    with pytest.raises(UsageError, match="is no class and has no options, got rows"):
        read("--policy", f"{path}:infer", "--policy.rows", "3")


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_directory_with_a_policy_is_the_policy_lerobot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(checkpoint(tmp_path / "act"))
    made = read("--policy", folder, "--policy.state", "right_arm,left_arm", "--policy.threads", "2")
    assert made.policy == Choice(folder, {"state": ("right_arm", "left_arm"), "threads": 2})
    assert read("--config", config(tmp_path, made.to_yaml()), robot=None).policy == made.policy
    maker = settings_of.adapter("policy", folder)
    assert isinstance(maker, functools.partial) and maker.func.__name__ == "Lerobot"
    assert maker.keywords == {"path": folder}
    monkeypatch.chdir(tmp_path)
    assert settings_of.adapter("policy", "act").keywords == {"path": "act"}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="is its path already"):
        read("--policy", folder, "--policy.path", "elsewhere")
    with pytest.raises(UsageError, match=r"no option 'thread' \(did you mean 'threads'"):
        read("--policy", folder, "--policy.thread", "2")


def test_a_directory_without_a_policy_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a directory without config\.json: LeRobot's"):
        read("--policy", str(tmp_path))
    below = checkpoint(tmp_path / "checkpoints" / "last" / "pretrained_model")
    with pytest.raises(UsageError, match=rf"did you mean {below}\?"):
        read("--policy", str(tmp_path))


def test_a_hub_id_is_the_policy_lerobot_and_a_mistyped_path_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--policy", "somebody/act_mug", "--policy.device", "cpu").policy == Choice(
        "somebody/act_mug", {"device": "cpu"}
    )
    checkpoint(tmp_path / "outputs" / "act")
    for name in ("outputs/atc", "./act", "/no/such/act", "a/b/c", "~/nothing-there", "somebody/act mug"):
        with pytest.raises(UsageError, match="there is no such directory, and it is no hub id"):
            read("--policy", name)


def test_sensors_may_have_ages_of_their_own(tmp_path: Path) -> None:
    ages = {"": 1.0, "head": 0.2}
    assert read("--observation-age-s", "head=0.2").observation_age_s == ages, "the others keep theirs"
    assert read("--observation-age-s", "0.5,head=0.2").observation_age_s == {"": 0.5, "head": 0.2}
    assert read("--config", config(tmp_path, "observation_age_s: {head: 0.2}\n")).observation_age_s == ages
    made = read("--observation-age-s", "head=0.2,lift=inf")
    assert read("--config", config(tmp_path, made.to_yaml())) == made
    assert read("--observation-age-s", "0.5").observation_age_s == 0.5


@pytest.mark.parametrize("wrong", ["head=0", "0.5,0.6", "head=0.2,head=0.3", "head=soon", "=1", "nan", "head=-1"])
def test_ages_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="observation_age_s"):
        read("--observation-age-s", wrong)


def test_nothing_in_a_file_is_nothing_where_that_is_a_value(tmp_path: Path) -> None:
    assert read("--config", config(tmp_path, "hold_s: null\n")).hold_s is None
    assert read("--hold-s", "none").hold_s is None
    assert read("--config", config(tmp_path, "robot: null\nlatency_ms: null\n")) == read()
