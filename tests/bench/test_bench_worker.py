"""How a block of steps is timed, on a made-up clock, and what the process that does it hands out."""

import signal

import numpy as np
import pytest

import peers
from harness import memory, timing, worker, workloads
from made_up_peers import Clock, MadeUpContender
from peers.contract import Peer, Steps


@pytest.fixture
def clock(monkeypatch):
    made_up = Clock()
    monkeypatch.setattr(timing, "time", made_up)
    return made_up


def test_a_step_is_timed_in_a_block_after_one_that_fills_the_caches(clock):
    contender = MadeUpContender(clock, step=2.0, warm_up=[100.0])
    assert timing.seconds_per_step(contender, 5) == 2
    assert contender.runs == [1, 5]


def test_seconds_are_those_of_all_steps_together(clock):
    clock.now = 1e6
    assert timing.seconds(MadeUpContender(clock, step=2.0), 5) == 10


@pytest.mark.parametrize(
    ("step", "steps"), [(2.0**-10, 20), (2.0**-20, 20480), (20 * 2.0**-10, 1), (1.0, 1), (8 * 2.0**-10, 2)]
)
def test_a_block_has_as_many_steps_as_its_time_allows_and_one_at_least(clock, step, steps):
    assert timing.steps_of_a_block(MadeUpContender(clock, step), 20 * 2.0**-10) == steps


@pytest.fixture
def begun(monkeypatch, clock):
    """Return a worker that has begun a workload, and what its one peer, "made up", is given and makes."""
    found = {"arrays": [], "options": [], "contender": MadeUpContender(clock, 2.0**-10, warm_up=[1000.0, 100.0])}

    def make(arrays, options):
        found["arrays"].append(arrays)
        found["options"].append(options)
        return found["contender"]

    def begin(workload="16", rule="plain", **about):
        monkeypatch.setitem(peers.PEERS, "made up", Peer("made up", "numpy", make, packages=("numpy", "none"), **about))
        made = worker.Worker()
        made.begin(workload, rule)
        return made, found

    return begin


def test_compiling_and_the_first_touch_of_state_are_in_no_figure(begun):
    made, found = begun()
    assert made.prepare("made up", 20 * 2.0**-10) == {"state_bytes": 64, "temporary_bytes": None, "steps": 20}
    assert found["contender"].runs[:2] == [1, 1]
    assert made.time("made up") == 2.0**-10
    assert found["contender"].runs[-2:] == [1, 20]


def test_every_peer_gets_the_workload_and_the_hyperparameters_of_the_rule(begun):
    made, found = begun("mlp", "centered-momentum")
    made.prepare("made up", 1e-3)
    assert found["options"] == [{"lr": 1e-3, "alpha": 0.9, "eps": 1e-8, "centered": True, "momentum": 0.9}]
    (arrays,) = found["arrays"]
    shapes = [(784, 128), (128,), (128, 10), (10,)]
    assert [param.shape for param in arrays.params] == [grad.shape for grad in arrays.grads] == shapes
    assert {array.dtype for array in arrays.params + arrays.grads} == {np.dtype(np.float32)}


@pytest.mark.parametrize("rule", workloads.RULES)
def test_what_a_peer_computes_is_checked_with_the_hyperparameters_of_the_rule(begun, monkeypatch, rule):
    made, _ = begun()
    monkeypatch.setattr(worker, "agreement", lambda *given: given)
    peer, arrays, options = made.agree("made up", rule)
    assert (peer, options) == (peers.PEERS["made up"], {**workloads.COMMON, **workloads.RULES[rule]})
    assert len(arrays.params) == len(worker.check_arrays().params)


def test_all_share_the_gradients_except_those_that_write_into_them(begun):
    made, found = begun()
    made.prepare("made up", 1e-3)
    assert found["arrays"][0].grads is made.arrays.grads
    made, found = begun(writes_grads=True)
    made.prepare("made up", 1e-3)
    assert not np.shares_memory(found["arrays"][1].grads[0], made.arrays.grads[0])
    np.testing.assert_array_equal(found["arrays"][1].grads, made.arrays.grads)


@pytest.mark.parametrize(("workload", "has_figure"), [("64k", False), ("1M", True)])
def test_memory_is_that_of_one_step_of_large_workloads_after_the_warm_up(begun, monkeypatch, workload, has_figure):
    made, found = begun(workload)
    runs = found["contender"].runs

    def temporary(step):
        before = list(runs)
        step()
        assert (before, runs[2:]) == ([1, 1], [1])
        return 123

    monkeypatch.setattr(memory, "temporary_bytes", temporary)
    assert made.prepare("made up", 1e-3)["temporary_bytes"] == (123 if has_figure else None)


def test_contenders_that_are_dropped_are_gone(begun):
    made, _ = begun()
    made.prepare("made up", 1e-3)
    made.drop(["made up", "never made"])
    with pytest.raises(KeyError):
        made.time("made up")


def test_versions_are_those_of_packages_that_are_installed(begun):
    made, _ = begun()
    assert made.versions("made up") == {"numpy": np.__version__}


def test_what_takes_longer_than_the_patience_is_late():
    class Waiting(worker.Worker):
        def wait(self):
            signal.pause()

    reply = worker.answer(Waiting(), {"do": "wait"}, 0.01)
    assert reply == {"error": "was not ready after 0.01 seconds", "kind": "late"}


def test_a_contender_waits_for_its_steps_once_they_are_all_asked_for():
    done = []
    contender = Steps(lambda: done.append("step"), list, int, wait=lambda: done.append("wait"))
    contender.run(3)
    assert done == ["step", "step", "step", "wait"]


def test_the_memory_of_a_step_is_what_the_process_grew_by_at_most(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 9999 kB\nVmHWM:\t  900 kB\nVmRSS:\t  500 kB\n")

    def step():
        assert (tmp_path / "clear_refs").read_text() == "5"
        status.write_text("VmPeak:\t 9999 kB\nVmHWM:\t  740 kB\nVmRSS:\t  620 kB\n")

    assert memory.temporary_bytes(step) == 240 * 1024
    assert memory.bytes_in("VmRSS") == 620 * 1024
    status.unlink()
    assert memory.temporary_bytes(step) is None


def test_a_step_that_allocates_is_seen_to():
    if memory.temporary_bytes(lambda: None) is None:
        pytest.skip("this system does not tell what a process has allocated")
    found = memory.temporary_bytes(lambda: np.ones(1 << 23))
    assert 0.9 * (8 << 23) < found < 1.2 * (8 << 23)


def test_a_workload_has_the_elements_of_its_shapes():
    elements = {name: workload.elements for name, workload in workloads.WORKLOADS.items()}
    single = [elements[name] for name in ("16", "1k", "64k", "1M", "16M", "64M")]
    assert single == [16, *(1 << power for power in (10, 16, 20, 24, 26))]
    assert (elements["1000x64"], elements["mlp"]) == (64_000, 784 * 128 + 128 + 1280 + 10)
