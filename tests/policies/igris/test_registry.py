"""Names to policies: what registers, what is refused, and where a policy is looked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from chunkwise.plugins import UnknownAdapter
from chunkwise.policies.igris import COMPONENT_REGISTRY, POLICY_REGISTRY, PolicyProtocol, registry
from chunkwise.policies.igris.registry import RegistryError, find_policy

WHOLE = """
from chunkwise.policies.igris.registry import POLICY_REGISTRY

{decorator}
class {name}:
    def __init__(self, components, **kwargs): ...
    def predict(self, input_data, data_normalization_interface): ...
    def guided_inference(self, input_data, data_normalization_interface, executed, rows): ...
    def warmup(self): ...
    def freeze_all_model_params(self): ...
"""


def whole(name: str = "Mine", registered_as: str = "") -> str:
    decorator = f'@POLICY_REGISTRY.register("{registered_as}")' if registered_as else ""
    return WHOLE.format(name=name, decorator=decorator)


def made(name: str = "Mine", *, without: str = "") -> type:
    names = [method for method in registry.METHODS if method != without]
    return type(name, (), {method: lambda self, *args: None for method in names})


def test_a_class_with_the_four_methods_registers_under_a_name() -> None:
    cls = POLICY_REGISTRY.register("mine")(made())
    assert POLICY_REGISTRY.get("mine") is cls and POLICY_REGISTRY.has("mine")
    assert isinstance(cls(), PolicyProtocol)


def test_without_a_name_it_registers_under_its_own() -> None:
    cls = POLICY_REGISTRY.register()(made("Reach"))
    assert POLICY_REGISTRY.get("Reach") is cls


def test_the_keys_are_sorted_and_hold_what_ships() -> None:
    POLICY_REGISTRY.add("zebra", made())
    POLICY_REGISTRY.add("ant", made())
    assert POLICY_REGISTRY.keys() == ["ant", "openpi_policy", "zebra"]
    assert COMPONENT_REGISTRY.keys() == ["openpi_batched"]


def test_a_name_is_given_once() -> None:
    POLICY_REGISTRY.add("mine", made())
    with pytest.raises(KeyError, match=r"policy 'mine' is registered already, by .*test_registry.py"):
        POLICY_REGISTRY.add("mine", made())


@pytest.mark.parametrize("method", registry.METHODS)
def test_a_class_without_a_method_is_refused_when_it_registers(method: str) -> None:
    with pytest.raises(TypeError, match=f"policy Mine lacks {method}"):
        POLICY_REGISTRY.register("mine")(made(without=method))
    assert not POLICY_REGISTRY.has("mine")


def test_the_decorator_without_brackets_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match="with brackets"):
        POLICY_REGISTRY.register(made())  # type: ignore[arg-type]


def test_an_unknown_name_lists_those_there_are_and_the_nearest() -> None:
    POLICY_REGISTRY.add("reach", made())
    with pytest.raises(KeyError) as caught:
        POLICY_REGISTRY.get("raech")
    assert str(caught.value) == "no policy 'raech' (did you mean 'reach'?); there are: openpi_policy, reach"


def test_an_entry_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = made()
    points = [SimpleNamespace(name="elsewhere", load=lambda: cls)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if "policies" in group else [])
    assert find_policy("elsewhere", Path()) is cls
    assert POLICY_REGISTRY.has("elsewhere") and not COMPONENT_REGISTRY.has("elsewhere")


def test_a_module_and_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("their_policies")
    module.Mine, module.Half = made(), made("Half", without="warmup")
    monkeypatch.setitem(sys.modules, "their_policies", module)
    assert find_policy("their_policies:Mine", Path()) is module.Mine
    with pytest.raises(TypeError, match="policy Half lacks warmup"):
        find_policy("their_policies:Half", Path())
    with pytest.raises(UnknownAdapter, match="has no 'Mien'"):
        find_policy("their_policies:Mien", Path())
    with pytest.raises(UnknownAdapter, match="no module 'nowhere_at_all'"):
        find_policy("nowhere_at_all:Mine", Path())


def test_a_file_and_a_class_from_the_folder_of_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.py").write_text(whole(registered_as="mine"))
    cls = find_policy("parts/mine.py:Mine", tmp_path)
    assert find_policy("parts/mine.py:Mine", tmp_path) is cls, "a file is run once"
    with pytest.raises(UnknownAdapter, match="did you mean 'Mine'"):
        find_policy("parts/mine.py:Miner", tmp_path)
    with pytest.raises(UnknownAdapter, match=r"no file .*yours.py"):
        find_policy("parts/yours.py:Mine", tmp_path)


def test_the_file_beside_the_yaml_registers_its_policy(tmp_path: Path) -> None:
    (tmp_path / "reach.py").write_text("import reach_pose\n" + whole("Reach", "reach"))
    (tmp_path / "reach_pose.py").write_text("POSE = 1")
    cls = find_policy("reach", tmp_path)
    assert cls.__name__ == "Reach" and find_policy("reach", tmp_path) is cls


def test_the_file_beside_the_yaml_must_register_the_name(tmp_path: Path) -> None:
    (tmp_path / "reach.py").write_text(whole("Reach", "raech"))
    with pytest.raises(RegistryError, match=r"reach.py registers no policy 'reach' \(did you mean 'raech'\?\)"):
        find_policy("reach", tmp_path)


def test_two_files_of_one_name_are_never_confused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "reach.py").write_text(whole("Reach", "reach"))
    find_policy("reach", tmp_path / "one")
    with pytest.raises(
        RegistryError, match=r"registered already, by .*one/reach.py, and .*two/reach.py stands beside"
    ):
        find_policy("reach", tmp_path / "two")


def test_a_file_that_fails_registers_nothing_and_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "reach.py"
    path.write_text(whole("Reach", "reach") + "\nraise OSError('no camera')\n")
    with pytest.raises(OSError, match="no camera"):
        find_policy("reach", tmp_path)
    assert not POLICY_REGISTRY.has("reach")
    path.write_text(whole("Reach", "reach"))
    assert find_policy("reach", tmp_path).__name__ == "Reach"
