"""What every engine keeps, as checks: inherit, say how yours is made and what it loads, run them with pytest."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import Engine, TensorSpec
from chunkwise.engines._comparison import random_inputs

Tensors = dict[str, NDArray[Any]]
CALLS = 8
"""Of each thread, where several call at once."""


class EngineConformance:
    """What every engine keeps.

    ::

        class TestMine(EngineConformance):
            def make_engine(self) -> Engine:
                return Mine()

            def network(self) -> str:
                return "tests/small.network"

    A small network will do; it should answer the same for the same inputs, so one that draws noise needs a seed.
    """

    def make_engine(self) -> Engine:
        """The engine under test, with nothing loaded; override this."""
        raise NotImplementedError("override make_engine()")

    def network(self) -> str:
        """The path of a network that it can load; override this."""
        raise NotImplementedError("override network()")

    def make_inputs(self, inputs: Mapping[str, TensorSpec], seed: int) -> Tensors:
        """Inputs that the network takes; override it where random numbers are none."""
        return random_inputs(inputs, np.random.default_rng(seed))

    def test_is_an_engine(self) -> None:
        engine = self.make_engine()
        assert isinstance(engine, Engine), "an engine has load, run, warmup, close, inputs and outputs"
        assert not engine.inputs and not engine.outputs, "an engine that is made declares nothing before load()"

    def test_runs_only_what_is_loaded(self) -> None:
        engine = self.make_engine()
        for when in ("before load()", "after close()"):
            try:
                engine.run({})
            except RuntimeError:
                pass
            except Exception as error:
                raise AssertionError(f"run() {when} raises RuntimeError, it raised {error!r}") from error
            else:
                raise AssertionError(f"run() {when} raises RuntimeError")
            engine.load(self.network())
            engine.close()

    def test_answers_are_as_declared(self) -> None:
        with self._loaded() as (engine, inputs):
            assert engine.inputs and engine.outputs, "a loaded engine declares its inputs and outputs"
            answers = engine.run(inputs)
            assert list(answers) == list(engine.outputs), "run() gives the outputs that are declared"
            for name, spec in engine.outputs.items():
                answer = answers[name]
                assert isinstance(answer, np.ndarray), f"output {name!r} is a numpy array"
                assert str(answer.dtype) == spec.dtype, f"output {name!r} is {spec.dtype}, as declared"
                fits = len(answer.shape) == len(spec.shape) and all(
                    declared in (None, size) for size, declared in zip(answer.shape, spec.shape, strict=True)
                )
                assert fits, f"output {name!r} has the shape {answer.shape}, declared is {spec.shape}"

    def test_answers_come_from_the_inputs_alone(self) -> None:
        with self._loaded() as (engine, inputs):
            first = engine.run(inputs)
            engine.run(self.make_inputs(engine.inputs, seed=2))
            assert _equal(engine.run(inputs), first), "an engine remembers nothing from call to call"

    def test_answers_depend_on_the_inputs(self) -> None:
        with self._loaded() as (engine, inputs):
            other = engine.run(self.make_inputs(engine.inputs, seed=2))
            assert not _equal(engine.run(inputs), other), "other inputs have other outputs"

    def test_inputs_are_left_alone(self) -> None:
        with self._loaded() as (engine, inputs):
            before = {name: array.copy() for name, array in inputs.items()}
            engine.run(inputs)
            assert _equal(inputs, before), "inputs are only read"
            for array in inputs.values():
                array.setflags(write=False)
            try:
                engine.run(inputs)
            except Exception as error:
                raise AssertionError(f"inputs that cannot be written are taken, it raised {error!r}") from error

    def test_outputs_are_the_callers_own(self) -> None:
        with self._loaded() as (engine, inputs):
            first = engine.run(inputs)
            kept = {name: array.copy() for name, array in first.items()}
            engine.run(self.make_inputs(engine.inputs, seed=2))
            assert _equal(first, kept), "outputs are not written again after they were given"
            assert all(array.flags.writeable for array in first.values()), "outputs may be written by the caller"

    def test_what_does_not_match_is_refused_by_name(self) -> None:
        with self._loaded() as (engine, inputs):
            name, array = next(iter(inputs.items()))
            rest = {key: value for key, value in inputs.items() if key != name}
            wrong = {
                "missing": (rest, name),
                "unknown": ({**inputs, "no_such_input": array}, "no_such_input"),
                "of another type": ({**inputs, name: array.astype(np.complex128)}, name),
                "of another rank": ({**inputs, name: array[..., None]}, name),
            }
            for what, (given, named) in wrong.items():
                try:
                    engine.run(given)
                except InterfaceValidationError as error:
                    assert named in str(error), f"the message of an input that is {what} names it: {error}"
                except Exception as error:
                    raise AssertionError(
                        f"an input that is {what} is an InterfaceValidationError, it raised {error!r}"
                    ) from error
                else:
                    raise AssertionError(f"an input that is {what} is refused")

    def test_a_device_that_is_not_there_is_refused(self) -> None:
        for device in ("abacus", "cuda:999", "cpu:x"):
            try:
                self.make_engine().load(self.network(), device)
            except InterfaceValidationError as error:
                assert device in str(error), f"the message names the device {device!r}: {error}"
            except Exception as error:
                raise AssertionError(f"the device {device!r} is a DeviceError, it raised {error!r}") from error
            else:
                raise AssertionError(f"the device {device!r} is refused, never replaced by another")

    def test_a_path_that_is_not_there_is_refused(self) -> None:
        path = "/no/such/place/network.onnx"
        try:
            self.make_engine().load(path)
        except FileNotFoundError as error:
            assert path in str(error), f"the message names the path: {error}"
        except Exception as error:
            raise AssertionError(
                f"a path that is not there is a FileNotFoundError, it raised {error!r}"
            ) from error
        else:
            raise AssertionError("a path that is not there is refused")

    def test_calls_from_several_threads_are_kept_apart(self) -> None:
        with self._loaded() as (engine, inputs):
            given = [inputs, self.make_inputs(engine.inputs, seed=2)]
            expected = [engine.run(one) for one in given]
            wrong: list[str] = []

            def call(which: int) -> None:
                try:
                    same = all(_equal(engine.run(given[which]), expected[which]) for _ in range(CALLS))
                except Exception as error:  # noqa: BLE001  told by the thread that waits
                    wrong.append(repr(error))
                else:
                    wrong.extend([] if same else ["another thread's answer"])

            threads = [threading.Thread(target=call, args=(which,)) for which in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong, f"calls from several threads are answered as if each were alone: {wrong[0]}"

    def test_warming_up_changes_nothing(self) -> None:
        with self._loaded() as (engine, inputs):
            first = engine.run(inputs)
            try:
                engine.warmup()
            except Exception as error:
                raise AssertionError(f"warmup() runs on inputs of its own, it raised {error!r}") from error
            assert _equal(engine.run(inputs), first), "warming up leaves nothing behind"

    def test_closes_twice_and_loads_again(self) -> None:
        with self._loaded() as (engine, inputs):
            first = engine.run(inputs)
            try:
                engine.close()
                engine.close()
            except Exception as error:
                raise AssertionError("closing twice is fine") from error
            engine.load(self.network())
            assert _equal(engine.run(inputs), first), "what is loaded again is the same network"

    @contextmanager
    def _loaded(self) -> Iterator[tuple[Engine, Tensors]]:
        engine = self.make_engine()
        engine.load(self.network())
        try:
            yield engine, self.make_inputs(engine.inputs, seed=1)
        finally:
            engine.close()


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
