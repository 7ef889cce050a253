"""The ratios of single investigations, on made-up times."""

import sys
from functools import partial

import pytest

from made_up_peers import Clock, MadeUpContender
from studies import data_loaders, growth, openmp_runtimes, placement, subnormals


def printed_rows(monkeypatch, capsys, study, *arguments):
    """Return the cells of the table that a study prints."""
    monkeypatch.setattr(sys, "argv", [study.__name__, *arguments])
    study.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


def test_the_cost_of_a_place_is_a_ratio_to_the_best_place_in_the_same_round(monkeypatch, capsys):
    monkeypatch.setattr(placement.rmsprop, "set_num_threads", lambda count: None)
    times = iter([1.0, 2.0, 1.5, 10.0, 40.0, 5.0, 1.0, 3.0, 1.1] * 2)  # three rounds of three places, for each rule
    monkeypatch.setattr(placement, "seconds", lambda *_: next(times))
    rows = printed_rows(monkeypatch, capsys, placement, "64", "--rounds", "3")
    assert rows == [["64", rule, "1.000", "3.000", "1.100"] for rule in placement.RULES]


def test_arrays_lie_where_a_place_says():
    for place in (16, 4000):
        array = placement.at(place, 100)
        assert (array.size, array.itemsize, array.ctypes.data % placement.PAGE) == (100, 4, place)
    optimizer, _ = placement.make(1000, (48, 64, 80), centered=True, momentum=0.9)
    entry = optimizer.state[0]
    places = [entry[name].ctypes.data % placement.PAGE for name in ("square_avg", "grad_avg", "momentum_buffer")]
    assert places == [48, 64, 80]


def test_the_cost_of_subnormal_numbers_is_a_ratio_to_ordinary_ones(monkeypatch, capsys):
    def seconds(rule, options, arrays, initial):
        is_subnormal = abs(initial["param"]).max() < 1e-30
        return (6e-9 if is_subnormal else 2e-9) * subnormals.SIZE

    monkeypatch.setattr(subnormals, "seconds_of_step", seconds)
    rows = printed_rows(monkeypatch, capsys, subnormals, "--rounds", "3")
    assert len(rows) == 2 * len(subnormals.RULES)
    assert all(row[2:] == ["2.00", "6.00", "3.00"] for row in rows)


def test_alternating_is_compared_with_apart_in_the_same_round():
    rounds = {"step": [1.0, 10.0, 1.0, 1.0], "step alternating": [2.0, 30.0, 2.0, 3.0]}
    assert openmp_runtimes.ratios(rounds, "step")[1] == 2.5


def test_two_runtimes_are_compared_with_one_in_the_same_pass():
    one = {"environment": "default", "runtimes": ["a"], "passes": [{"step": 1.0}, {"step": 10.0}, {"step": 1.0}]}
    two = {"environment": "default", "runtimes": ["a", "b"], "passes": [{"step": 2.0}, {"step": 15.0}, {"step": 3.0}]}
    other = {"environment": "another", "runtimes": ["a"], "passes": [{"step": 9.0}] * 3}
    results = [other, one, two]
    assert openmp_runtimes.by_one_runtime(two, results, "step") == "2.00 (1.50 to 3.00)"
    assert openmp_runtimes.by_one_runtime(one, results, "step") == "-"


def test_passes_are_timed_one_by_one(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(openmp_runtimes, "time", clock)
    acts = [partial(MadeUpContender(clock, step).run, 1) for step in (1.0, 2.0)]
    assert openmp_runtimes.times_of(acts) == [1, 2]


def test_growth_is_a_time_for_each_parameter_and_files_are_compared_with_those_of_safetensors(monkeypatch, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    monkeypatch.setattr(growth.rmsprop, "set_num_threads", lambda count: None)
    monkeypatch.setattr(growth, "COUNTS", (2, 4))
    times = iter([3e-6, 2e-6, 4e-6] * 1000)  # of three rounds the second takes the least
    ticks = (tick for length in times for tick in (0.0, length))
    monkeypatch.setattr(growth, "least", partial(growth.least, clock=lambda: next(ticks)))
    monkeypatch.setattr(growth, "print_saving", lambda count, rounds: print(f"| {count} | {rounds} |"))
    rows = printed_rows(monkeypatch, capsys, growth, "--rounds", "3", "--saved", "7")
    assert rows[-1] == ["7", "3"]
    assert rows[0] == ["construct", "1.00", "0.50"]
    assert all(row[1:] == ["1.00", "0.50"] for row in rows[:-1])
    assert {"step", "and two interleaved"} < {row[0] for row in rows}


def test_growth_really_saves_and_loads(capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    growth.print_saving(count=3, rounds=1)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["state of 3 parameters", "save", "load"]


def test_a_training_loop_beside_data_loaders_is_really_run(monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    two = ("ours, adaptive", "torch RMSprop")
    monkeypatch.setattr(data_loaders, "OPTIMIZERS", {name: data_loaders.OPTIMIZERS[name] for name in two})
    rows = printed_rows(monkeypatch, capsys, data_loaders, "--workers", "1", "--batches", "1", "--rounds", "2")
    assert [row[0] for row in rows] == [*two]
    assert rows[0][-1] == "1.00"
    for _, whole, step, share, _ in rows:
        assert 0 < float(step) < float(whole)
        assert float(share.rstrip("%")) == pytest.approx(100 * float(step) / float(whole), abs=1)


def test_times_in_a_training_loop_are_medians_of_turns():
    turns = [(2.0, 1.0), (4.0, 1.0), (100.0, 50.0)]
    assert data_loaders.milliseconds(10, turns) == (400.0, 100.0)
