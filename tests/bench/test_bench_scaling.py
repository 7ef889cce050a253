"""The limits of the machine, measured from Python, and how a step's cost grows."""

import functools
import json
import shutil

import numpy as np
import pytest

import rmsprop
import scaling
from harness.workloads import COMMON, RULES, random_arrays
from peers import machine_limit

pytest.importorskip("matplotlib")
pytest.importorskip("rich")


@pytest.fixture(scope="module")
def _built(tmp_path_factory):
    """The library of the limits, built in a folder of its own."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed, so the limits cannot be built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_limit, "BUILD", tmp_path_factory.mktemp("limits"))
        patch.setattr(machine_limit, "library", functools.cache(machine_limit.library.__wrapped__))
        yield


@pytest.mark.usefixtures("_built")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_the_traffic_loop_visits_every_element_of_every_array(rule, threads):
    arrays = random_arrays([(1,), (1000,), (0,), (37, 5)])
    loop = machine_limit.Loop(arrays, RULES[rule], divider=False)
    loop.threads = threads
    loop.run(2)
    for param, grad, result, state in zip(arrays.params, arrays.grads, loop.params(), loop.arrays.state, strict=True):
        np.testing.assert_array_equal(result, np.maximum(param, grad))
        for array in state:
            np.testing.assert_array_equal(array, np.maximum(np.float32(2), grad.reshape(-1)))


@pytest.mark.usefixtures("_built")
def test_the_divider_loop_computes_a_root_and_a_quotient():
    arrays = random_arrays([(100,), (3, 7)])
    loop = machine_limit.Loop(arrays, {}, divider=True)
    loop.run(1)
    for grad, result in zip(arrays.grads, loop.params(), strict=True):
        np.testing.assert_array_equal(result, grad / np.sqrt(np.float32(2)))


@pytest.mark.usefixtures("_built")
def test_both_limits_run_over_the_same_arrays():
    arrays = random_arrays([(100,)])
    traffic, divider = (machine_limit.Loop(arrays, {}, divider=divider) for divider in (False, True))
    assert traffic.arrays is divider.arrays


@pytest.mark.usefixtures("_built")
def test_a_small_run_measures_every_point(tmp_path):
    found = scaling.measure([16, 64], [1, 10], rounds=2, block_seconds=1e-5, command="python bench/scaling.py")
    threads = scaling.thread_counts()
    assert [(point["elements"], point["threads"]) for point in found["sizes"]] == [
        (size, count) for size in (16, 64) for count in threads
    ]
    assert [point["tensors"] for point in found["tensors"]] == [1, 10]
    assert all(
        point[name] > 0 for point in found["sizes"] + found["tensors"] for name in ("step_s", "traffic_s", "divider_s")
    )
    scaling.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_thread_counts_go_from_one_to_all(monkeypatch):
    for most, wanted in ((1, [1]), (3, [1, 2, 3]), (24, [1, 2, 3, 4, 5, 6, 7, 8, 16, 24])):
        monkeypatch.setattr(rmsprop, "get_num_threads", lambda most=most: most)
        assert scaling.thread_counts() == wanted


def test_memory_and_traffic_per_parameter_are_those_of_the_step():
    for rule, options in RULES.items():
        param, grad = np.ones(1000, np.float32), np.ones(1000, np.float32)
        optimizer = rmsprop.RMSprop(param, **COMMON, **options)
        optimizer.step(grad)
        state = sum(value.nbytes for value in optimizer.state[0].values() if isinstance(value, np.ndarray))
        written = param.nbytes + state
        assert scaling.HELD_BYTES[rule] == (written + grad.nbytes) / param.size
        assert scaling.MOVED_BYTES[rule] == (2 * written + grad.nbytes) / param.size


def test_a_prediction_is_its_formula():
    held, step, network = scaling.predict(10**12, 1000, 50e9)
    assert (held, step) == (12e9, 0.4)
    assert network == pytest.approx(8 * (1e12 - 1e9) / scaling.LINK)
    assert scaling.predict(10**9, 1, 50e9)[2] == 0
    assert scaling.hosts_needed(10**12, 120e9, "plain") == 125


def test_an_unwritable_folder_is_an_error_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "measure", lambda *_: pytest.fail("it began to measure"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as raised:
        scaling.main(["--output", str(tmp_path / "file")])
    assert raised.value.code == 2
    assert "file" in capsys.readouterr().err


def test_the_figures_in_the_page_are_those_of_the_committed_results():
    committed = json.loads(scaling.COMMITTED.read_text(encoding="utf-8"))
    page = scaling.PAGE.read_text(encoding="utf-8")
    shown = page.partition(scaling.BEGIN)[2].partition(scaling.END)[0]
    assert shown.strip() == scaling.page_figures(committed)
