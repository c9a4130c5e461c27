"""Exported programs: what they declare, what they are computed in, and with how many threads."""

import threading

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines import _conversion as conversion
from chunkwise.engines._devices import DeviceError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


class Squared(torch.nn.Module):
    """Tells which call it was by what it gives: x @ x."""

    def forward(self, x):
        return x @ x


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "model.pt2"
    conversion.write_torch(conversion.program_of(Squared(), {"x": np.zeros((8, 8), np.float32)}), path)
    return str(path)


def loaded(path, **options):
    engine = plugins.load("engines", "torch")(**options)
    engine.load(path)
    return engine


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


def test_a_program_declares_its_own_names_and_fixed_sizes(path):
    assert loaded(path).inputs == {"x": TensorSpec((8, 8), "float32")}
    assert [*loaded(path).outputs.values()] == [TensorSpec((8, 8), "float32")]


def test_it_computes_in_float32_unless_another_type_is_asked_for(path, x):
    (exact,) = loaded(path).run({"x": x}).values()
    (lower,) = loaded(path, dtype="bfloat16").run({"x": x}).values()
    np.testing.assert_allclose(exact, x @ x, atol=1e-5)
    assert lower.dtype == np.float32
    assert 1e-4 < np.abs(lower - exact).max() < 0.5


def test_every_call_has_the_threads_that_it_was_promised_in_whatever_thread(path, x):
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    engine = loaded(path, threads=2)
    engine._module = Spy()
    torch.set_num_threads(1)
    caller = threading.Thread(target=engine.run, args=({"x": x},))
    caller.start()
    caller.join()
    engine.run({"x": x})
    torch.set_num_threads(1)
    assert seen == [2, 2]


def test_what_is_no_program_is_refused_by_name(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(InterfaceValidationError, match=r"model\.pt2 is no program that torch can load"):
        loaded(str(tmp_path / "model.pt2"))


def test_a_package_for_another_device_is_refused(tmp_path):
    from chunkwise.engines._exported import Exported

    (tmp_path / "model.pt2").write_bytes(b"")
    spec = {"x": TensorSpec((1,), "float32")}
    Exported(tmp_path, "aoti", "model.pt2", "act", spec, spec, device="cuda").write()
    with pytest.raises(DeviceError, match=r"compiled for 'cuda', not for 'cpu'"):
        plugins.load("engines", "aoti")().load(str(tmp_path))


def test_a_package_is_loaded_from_an_exported_directory_only(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(InterfaceValidationError, match="it reads directories that `chunkwise export` made"):
        plugins.load("engines", "aoti")().load(str(tmp_path / "model.pt2"))
