"""The limits of the machine, measured from Python, and how a step's cost grows."""

import functools
import json
import shutil

import numpy as np
import pytest

import rmsprop
import scaling
from harness import timing
from harness.results import fingerprint
from harness.workloads import COMMON, RULES, random_arrays
from made_up_peers import Clock, MadeUpContender
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
    assert f"Description\0{fingerprint(committed)}".encode() in scaling.PICTURE.read_bytes()


# ---- Its arithmetic, on made-up times --------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    made_up = Clock()
    monkeypatch.setattr(timing, "time", made_up)
    return made_up


def test_a_median_is_that_of_a_step_once_it_is_warm_whatever_it_takes_to_begin(clock):
    contenders = {
        "step": MadeUpContender(clock, 0.25, warm_up=[1000.0]),
        "traffic": MadeUpContender(clock, 0.125),
        "divider": MadeUpContender(clock, 4.0),
    }
    found = scaling.medians(contenders, rounds=5, block_seconds=1.0)
    assert found == {"step_s": 0.25, "traffic_s": 0.125, "divider_s": 4}
    assert contenders["step"].runs[-10:] == [1, 4] * 5
    assert contenders["divider"].runs[-10:] == [1, 1] * 5


def test_the_median_is_that_of_all_rounds(clock):
    contender = MadeUpContender(clock, 1.0)
    contender.warm_up += [0, 0, 0, 2.0, 0, 90.0, 0, 1.0]  # blocks of 3, 91 and 2 seconds
    assert scaling.medians({"step": contender}, rounds=3, block_seconds=1.0) == {"step_s": 3}
    assert not contender.warm_up


def test_step_and_limits_take_turns_in_changing_orders(clock):
    order = []

    class Noting(MadeUpContender):
        def run(self, steps):
            order.append(id(self))
            super().run(steps)

    contenders = {name: Noting(clock, 1.0) for name in ("step", "traffic", "divider")}
    scaling.medians(contenders, rounds=9, block_seconds=1.0)
    rounds = [tuple(order[-54:][i : i + 6 : 2]) for i in range(0, 54, 6)]
    assert all(sorted(turns) == sorted(map(id, contenders.values())) for turns in rounds)
    assert len(set(rounds)) > 3


class MadeUpLoop:
    """A limit that is fastest on three threads."""

    def __init__(self, arrays, options, divider):
        self.divider, self.threads, self.tried = divider, None, None

    def best_threads(self, choices):
        self.tried = choices
        return choices[0]


@pytest.mark.parametrize(
    ("size", "threads", "tried", "chosen"),
    [(64, 1, None, 1), (64, 3, (1, 3), 1), ((1 << 20) - 1, 3, (1, 3), 1), (1 << 20, 3, None, 3)],
)
def test_step_and_limits_run_on_the_threads_of_their_point(monkeypatch, size, threads, tried, chosen):
    monkeypatch.setattr(machine_limit, "Loop", MadeUpLoop)
    given = []
    monkeypatch.setattr(rmsprop, "RMSprop", lambda params, **options: given.append((len(params), options)))
    found = scaling.contenders([(size,)], threads)
    assert given == [(1, {**COMMON, "num_threads": threads})]
    assert list(found) == ["step", "traffic", "divider"]
    assert [found[name].divider for name in ("traffic", "divider")] == [False, True]
    assert {(loop.threads, loop.tried) for loop in (found["traffic"], found["divider"])} == {(chosen, tried)}


def test_a_limit_runs_on_the_threads_that_make_it_fastest():
    class Loop(machine_limit.Loop):
        def __init__(self, seconds):
            self.seconds = {threads: iter(values) for threads, values in seconds.items()}

        def seconds_per_step(self):
            return next(self.seconds[self.threads])

    noisy = [9.0] * (machine_limit.TRIES - 1)
    assert Loop({1: [2.0, *noisy], 4: [*noisy, 3.0]}).best_threads((1, 4)) == 1
    assert Loop({1: [2.0, *noisy], 4: [*noisy, 1.0]}).best_threads((1, 4)) == 4


def test_a_step_of_a_limit_is_timed_in_a_block_of_a_millisecond(monkeypatch):
    made_up = Clock()
    monkeypatch.setattr(machine_limit, "time", made_up)

    class Loop(machine_limit.Loop):
        def __init__(self):
            self.contender = MadeUpContender(made_up, 2.0**-12)

        def run(self, steps):
            self.contender.run(steps)

    loop = Loop()
    assert loop.seconds_per_step() == 2.0**-12
    assert loop.contender.runs == [2, 4, 8]


def made_up_scaling():
    """Return figures of a machine with two threads: the divider limits small sizes, the memory large ones."""

    def point(elements, threads, step, traffic, divider):
        seconds = {"step_s": step, "traffic_s": traffic, "divider_s": divider}
        return {"elements": elements, "threads": threads, **seconds}

    def tensors(count, step, limit):
        return {"tensors": count, "threads": 2, "step_s": step, "traffic_s": limit / 2, "divider_s": limit}

    return {
        "command": "python bench/scaling.py",
        "machine": {
            **{"cpu": "a CPU", "cores": 2, "threads": 2, "instruction_set": "baseline", "memory_bytes": 10 * 2**30},
            "caches": {"L1": 12 << 10},
        },
        "sizes": [
            point(1000, 1, 2e-6, 0.5e-6, 1e-6),
            point(1000, 2, 4e-6, 0.5e-6, 1e-6),
            point(10**6, 1, 1e-3, 0.5e-3, 0.25e-3),
            point(10**6, 2, 0.5e-3, 0.4e-3, 0.1e-3),
        ],
        "tensors": [tensors(1, 1e-6, 1e-8), tensors(100, 20e-6, 1e-6), tensors(1100, 520e-6, 11e-6)],
    }


def test_the_page_says_what_the_figures_say():
    page = scaling.page_figures(made_up_scaling()).splitlines()
    assert page[0] == "`python bench/scaling.py` wrote these figures, on 2 threads on 2 cores of a CPU, baseline."
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page if line.startswith("| ")]
    assert rows[0] == ["elements", "1 thread", "2 threads"]
    # 20 bytes an element; a step of 2 µs beside a limit of 1 µs is at half of the limit.
    assert rows[2:4] == [["1,000", "10.0 (0.50)", "5.00 (0.25)"], ["1,000,000", "20.0 (0.50)", "40.0 (0.80)"]]
    assert rows[6:9] == [
        ["1", "1.00 µs", "10.0 ns"],
        ["100", "20.0 µs", "1.00 µs"],
        ["1,100", "520 µs", "11.0 µs"],
    ]
    (sentence,) = [line for line in page if line.startswith("So here")]
    assert sentence == (
        "So here *call* = 1.00 µs, *tensor* = 500 ns and *B* = 40.0 GB/s. With hosts like this one, 10.0 GiB each:"
    )
    # Each host has 0.8 times 10.7 GB: two hold 12 GB, and each steps 20 bytes for each of 5e8 at 40 GB/s.
    assert rows[11] == ["1B", "plain", "12.0 GB", "2", "6.00 GB", "250 ms", "160 ms"]
    assert rows[12] == ["1B", "centered-momentum", "20.0 GB", "3", "6.67 GB", "300 ms", "213 ms"]


def test_a_model_that_one_host_holds_needs_no_network():
    machine = made_up_scaling()
    machine["machine"]["memory_bytes"] = 2**40
    assert scaling.predictions(machine)[0] == ["1B", "plain", "12.0 GB", "1", "12.0 GB", "500 ms", "none"]


def test_the_picture_has_the_figures_the_right_way_up():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    roofline, tensors, threads = figure.subplots(1, 3)
    scaling.draw_roofline(roofline, made_up_scaling())
    lines = {line.get_label(): [list(values) for values in line.get_data()] for line in roofline.get_lines()}
    assert lines["1 thread"] == [[1000, 10**6], pytest.approx([10, 20])]
    assert lines["limit, 1 thread"] == [[1000, 10**6], pytest.approx([20, 40])]
    assert lines["2 threads"] == [[1000, 10**6], pytest.approx([5, 40])]
    assert lines["limit, 2 threads"] == [[1000, 10**6], pytest.approx([20, 50])]
    assert [text.get_text().strip() for text in roofline.texts] == ["L1 full"]
    assert roofline.texts[0].xy[0] == 1024  # of 12 bytes each
    scaling.draw_tensors(tensors, made_up_scaling())
    drawn = {line.get_label(): [list(values) for values in line.get_data()] for line in tensors.get_lines()}
    assert drawn == {
        "step": [[1, 100, 1100], pytest.approx([1, 20, 520])],
        "limit": [[1, 100, 1100], pytest.approx([0.01, 1, 11])],
    }
    scaling.draw_threads(threads, made_up_scaling())
    gains = {line.get_label(): [list(values) for values in line.get_data()] for line in threads.get_lines()}
    assert gains == {
        "1,000 elements": [[1, 2], pytest.approx([1, 0.5])],
        "1,000,000 elements": [[1, 2], pytest.approx([1, 2])],
    }


@pytest.mark.parametrize(
    ("arguments", "most", "rounds", "block_seconds"),
    [(["--quick"], (1 << 20, 1000), 3, 2e-3), ([], (1 << 26, 100_000), 9, 1e-2), (["--rounds", "5"], None, 5, 1e-2)],
)
def test_the_program_measures_what_its_help_says(monkeypatch, tmp_path, capsys, arguments, most, rounds, block_seconds):
    asked = []
    monkeypatch.setattr(scaling, "measure", lambda *given: asked.append(given) or made_up_scaling())
    assert scaling.main(["--output", str(tmp_path), *arguments]) == 0
    ((sizes, counts, *settings, command),) = asked
    assert settings == [rounds, block_seconds]
    assert most in (None, (max(sizes), max(counts)))
    assert command.startswith("python bench/scaling.py --output ")
    assert json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8")) == made_up_scaling()
    assert capsys.readouterr().out.strip() == scaling.page_figures(made_up_scaling())


def test_the_figures_of_the_page_are_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{scaling.BEGIN}\nold\n{scaling.END}\nafter\n")
    scaling.write_page(made_up_scaling(), page, tmp_path / "picture.png")
    figures = scaling.page_figures(made_up_scaling())
    assert page.read_text(encoding="utf-8") == f"before\n{scaling.BEGIN}\n{figures}\n{scaling.END}\nafter\n"
