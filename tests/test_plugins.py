from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chunkwise import plugins

ADAPTER = '''"""A robot of paper."""

__all__ = ["Paper"]


class Paper:
    """Does nothing."""
'''


def test_names_are_the_files_of_the_folder_and_import_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "chunkwise.policies.wave", raising=False)
    assert {"mock", "openarm_sim"} <= set(plugins.names("robots"))
    assert {"blend", "rtc", "switch", "sync", "temporal_ensemble"} <= set(plugins.names("strategies"))
    assert plugins.names("policies") == sorted(plugins.names("policies"))
    assert "chunkwise.policies.wave" not in sys.modules


def test_a_name_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(plugins.UnknownAdapter, match=r"no robots adapter 'mokc' \(did you mean 'mock'\?\)"):
        plugins.load("robots", "mokc")
    with pytest.raises(plugins.UnknownAdapter, match=r"did you mean 'robots'"):
        plugins.load("robot", "mock")


def test_private_modules_are_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "_hidden.py").write_text(ADAPTER)
    with plugins.folder("robots", tmp_path):
        assert "_hidden" not in plugins.names("robots")
        with pytest.raises(plugins.UnknownAdapter):
            plugins.load("robots", "_hidden")


def test_a_file_in_a_folder_is_an_adapter_while_the_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "paper.py").write_text(ADAPTER)
    with plugins.folder("robots", tmp_path):
        assert "paper" in plugins.names("robots")
        assert plugins.load("robots", "paper").__name__ == "Paper"
        assert plugins.summary("robots", "paper") == "A robot of paper."
    assert "paper" not in plugins.names("robots")


def test_a_missing_package_is_named_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "paper.py").write_text("import a_package_that_nobody_has\n" + ADAPTER)
    with (
        plugins.folder("robots", tmp_path),
        pytest.raises(
            plugins.MissingExtra, match=r"needs 'a_package_that_nobody_has': pip install 'chunkwise\[paper\]'"
        ),
    ):
        plugins.load("robots", "paper")


def test_an_adapter_exports_exactly_one_class(tmp_path: Path) -> None:
    (tmp_path / "paper.py").write_text(ADAPTER.replace('["Paper"]', '["Paper", "Other"]'))
    with plugins.folder("robots", tmp_path), pytest.raises(TypeError, match="exactly one"):
        plugins.load("robots", "paper")


def test_a_module_and_a_file_name_a_class_too(tmp_path: Path) -> None:
    assert plugins.load("robots", "chunkwise.robots.mock:Mock") is plugins.load("robots", "mock")
    path = tmp_path / "paper_elsewhere.py"
    path.write_text(ADAPTER)
    assert plugins.load("robots", f"{path}:Paper").__doc__ == "Does nothing."
    with pytest.raises(plugins.UnknownAdapter, match=r"has no 'Papre' .did you mean 'Paper'"):
        plugins.load("robots", f"{path}:Papre")
    with pytest.raises(plugins.UnknownAdapter, match="no file"):
        plugins.load("robots", f"{tmp_path / 'nowhere.py'}:Paper")
    with pytest.raises(plugins.UnknownAdapter, match="no module 'no_such_module'"):
        plugins.load("robots", "no_such_module:Paper")


def test_require_tells_a_missing_package_from_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plugins.require("json", extra="any") is sys.modules["json"]
    with pytest.raises(plugins.MissingExtra, match=r"pip install 'chunkwise\[any\]'"):
        plugins.require("a_package_that_nobody_has", extra="any")
    (tmp_path / "broken_inside.py").write_text("import another_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError) as error:
        plugins.require("broken_inside", extra="any")
    assert not isinstance(error.value, plugins.MissingExtra)


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_adapter_says_in_one_line_what_it_is(kind: str) -> None:
    for name in plugins.names(kind):
        assert plugins.summary(kind, name), name


def test_a_file_may_import_its_neighbours_and_a_module_may_lie_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins_test_net.py").write_text("WIDTH = 7\n")
    (tmp_path / "plugins_test_policy.py").write_text("from plugins_test_net import WIDTH\nclass Mine: ...\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert plugins.load("policies", f"{tmp_path / 'plugins_test_policy.py'}:Mine").__name__ == "Mine"
    assert sys.path[-1] == str(tmp_path)
    sys.path.pop()
    sys.modules.pop("plugins_test_net")
    monkeypatch.chdir(tmp_path)
    assert plugins.load("policies", "plugins_test_net:WIDTH") == 7
