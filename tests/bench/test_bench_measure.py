"""The comparison's own arithmetic on made-up times: turns, rounds, batches, medians, the direction of each ratio."""

import math

import pytest

from harness import measure, results
from harness.processes import PeerError
from harness.workloads import WORKLOADS
from made_up_peers import MadeUpProcesses, compared, made_up_peer

TRAFFIC, DIVIDER = "limit: memory traffic", "limit: root and quotient"


@pytest.mark.parametrize(("traffic", "divider"), [(1.0, 1.6), (1.6, 1.0)])
def test_a_ratio_is_a_peers_time_by_ours_and_by_that_of_the_slower_limit(traffic, divider):
    rows, _ = compared({TRAFFIC: [traffic], DIVIDER: [divider], "rmsprop": [2.0], "other": [6.0]})
    assert [rows[name]["vs_ours"] for name in rows] == [traffic / 2, divider / 2, 1, 3]
    assert [rows[name]["vs_limit"] for name in rows] == [traffic / 1.6, divider / 1.6, 2 / 1.6, 6 / 1.6]


@pytest.mark.parametrize("missing", [TRAFFIC, DIVIDER])
def test_one_loop_alone_is_no_limit(missing):
    times = {TRAFFIC: [1.0], DIVIDER: [1.6], "rmsprop": [2.0]}
    del times[missing]
    rows, _ = compared(times)
    assert rows["rmsprop"]["vs_limit"] is None


def test_figures_are_the_median_and_the_quartiles_of_all_rounds():
    rows, _ = compared({"rmsprop": [4.0, 1.0, 100.0, 3.0, 2.0]}, rounds=5)
    row = rows["rmsprop"]
    assert (row["q1_s"], row["median_s"], row["q3_s"]) == (2, 3, 4)
    assert (row["rounds"], row["steps_per_round"], row["state_bytes"]) == (5, 3, 1000)


def test_one_round_has_no_spread():
    rows, _ = compared({"rmsprop": [3.0]}, rounds=1)
    assert {rows["rmsprop"][name] for name in ("q1_s", "median_s", "q3_s")} == {3.0}


def turns(processes, count):
    """Return who was timed, in order, round by round."""
    timed = [name for do, name in processes.asked if do == "time"]
    return [timed[i : i + count] for i in range(0, len(timed), count)]


def test_all_take_turns_in_each_round_in_an_order_of_its_own():
    names = [TRAFFIC, DIVIDER, "rmsprop", "first", "second", "third"]
    _, processes = compared({name: [1.0] for name in names}, rounds=9, placements=3)
    rounds = turns(processes, len(names))
    assert len(rounds) == 9
    assert all(sorted(order) == sorted(names) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 7, "rounds have the same order"
    assert len({order[0] for order in rounds}) > 3, "the same ones begin"


def test_every_placement_counts_with_its_part_of_the_rounds():
    times = {"rmsprop": [1.0, 1.0, 3.0, 3.0, 9.0, 9.0], "other": [1.0, 1.0, 6.0, 6.0, 7.0, 7.0]}
    rows, processes = compared(times, rounds=6, placements=3)
    assert [rows[name]["median_s"] for name in times] == [3, 6]
    assert [rows[name]["rounds"] for name in times] == [6, 6]
    assert rows["other"]["vs_ours"] == 2
    made = [(do, name) for do, name in processes.asked if do in ("begin", "prepare", "drop")]
    one = [("prepare", "rmsprop"), ("prepare", "other"), ("drop", "other")]
    assert made == [("begin", "other"), *one * 3]


# Memory for two contenders beside ours and the limit, so three peers come in two batches. After the first one, the
# machine is three times slower: each is compared with ours of its own batch.
BATCHES = {
    TRAFFIC: [1.0, 1.0, 3.0, 3.0],
    DIVIDER: [0.5, 0.5, 1.5, 1.5],
    "rmsprop": [2.0, 2.0, 6.0, 6.0],
    "first": [4.0],
    "second": [8.0],
    "third": [18.0],
}


def room_for(contenders, arrays=5):
    return 4 * arrays * 16 * contenders / measure.Settings().memory_share


def test_a_peer_is_compared_with_ours_of_the_same_rounds_and_ours_has_those_of_all_batches():
    rows, _ = compared(BATCHES, memory_available=room_for(2))
    assert [rows[name]["rounds"] for name in rows] == [4, 4, 4, 2, 2, 2]
    assert [rows[name]["vs_ours"] for name in ("first", "second", "third")] == [2, 4, 3]
    assert [rows[name]["vs_limit"] for name in ("first", "second", "third")] == [4, 8, 6]
    assert [rows[name]["median_s"] for name in (TRAFFIC, DIVIDER, "rmsprop")] == [2, 1, 4]
    assert (rows["rmsprop"]["vs_ours"], rows["rmsprop"]["vs_limit"]) == (1, 2)


def batches(room, rule="plain", workload="16", peers=3):
    names = ["rmsprop", *(f"peer {i}" for i in range(peers))]
    processes = MadeUpProcesses({}, measure.Settings(), memory_available=room)
    comparison = measure.Comparison(processes, [made_up_peer(name) for name in names], lambda _: None)
    return [len(batch) for batch in comparison._batches(comparison.chosen[1:], rule, workload)]


def test_a_batch_is_what_fits_into_the_part_of_the_memory_that_may_be_taken():
    assert batches(room_for(2)) == [2, 1]
    assert batches(room_for(2) - 9) == [1, 1, 1]
    assert batches(room_for(2, arrays=7), "centered-momentum") == [2, 1]
    assert batches(room_for(2, arrays=7) - 9, "centered-momentum") == [1, 1, 1]
    assert batches(room_for(2), workload="1k") == [1, 1, 1]
    assert batches(None) == [3]
    assert batches(room_for(2), peers=0) == [0]


def test_the_peak_is_parameters_gradients_state_and_what_a_step_allocates():
    rows, _ = compared({"rmsprop": [1.0]}, workload="1k", temporary_bytes=70)
    assert rows["rmsprop"]["temporary_bytes"] == 70
    assert rows["rmsprop"]["peak_bytes"] == 2 * 4 * 1024 + 1000 + 70
    rows, _ = compared({"rmsprop": [1.0]}, workload="1k")
    assert rows["rmsprop"]["peak_bytes"] is None


def test_only_peers_that_compute_what_they_declare_are_timed():
    verdicts = {"wrong one": "wrong", "another": "another formula", "coarse": "approximation"}
    times = {name: [1.0] for name in ("rmsprop", *verdicts)}
    processes = MadeUpProcesses(times, measure.Settings(), verdicts=verdicts)
    comparison = measure.Comparison(processes, [made_up_peer(name) for name in times], lambda _: None)
    found = comparison.agreements("plain")
    assert {name: check["verdict"] for name, check in found.items()} == {"rmsprop": "same step", **verdicts}
    rows = comparison.measure("16", "plain")
    assert [row["peer"] for row in rows if "reason" in row] == ["wrong one"]
    assert rows[1] == {"peer": "wrong one", "reason": "made up", "kind": "wrong"}


def test_a_peer_that_cannot_be_made_anew_is_left_out_with_its_reason_and_the_others_begin_again():
    fails = {("prepare", "other", 2): PeerError("MemoryError: no more", "failed")}
    times = {"rmsprop": [1.0], "other": [2.0], "third": [3.0]}
    rows, _ = compared(times, rounds=4, placements=2, fails=fails)
    assert rows["other"] == {"peer": "other", "reason": "MemoryError: no more", "kind": "failed"}
    assert [(rows[name]["rounds"], rows[name]["vs_ours"]) for name in ("rmsprop", "third")] == [(4, 1), (4, 3)]


def test_no_ratio_is_one_to_figures_of_fewer_rounds():
    times = {TRAFFIC: [1.0], DIVIDER: [2.0], "rmsprop": [3.0], "other": [6.0]}
    error = PeerError("no more", "failed")
    rows, _ = compared(times, placements=2, fails={("prepare", DIVIDER, 2): error})
    assert [rows[name]["vs_limit"] for name in ("rmsprop", "other")] == [None, None]
    rows, _ = compared(times, placements=2, fails={("prepare", "rmsprop", 2): error})
    assert [row["reason"] for row in rows.values()] == ["no more"] * 4


def test_a_peer_that_is_late_for_one_rule_is_not_waited_for_with_the_next():
    times = {"rmsprop": [1.0], "slow": [1.0]}
    late = PeerError("was not ready", "late")
    processes = MadeUpProcesses(times, measure.Settings(rounds=1), fails={("prepare", "slow", 1): late})
    comparison = measure.Comparison(processes, [made_up_peer(name) for name in times], lambda _: None)
    for rule in ("plain", "centered-momentum"):
        assert comparison.measure("16", rule)[1]["reason"] == "was not ready"
    assert processes.asked.count(("prepare", "slow")) == 1
    assert "median_s" in comparison.measure("1k", "plain")[1]


def test_each_process_hears_of_the_workload():
    chosen = [made_up_peer("rmsprop", "rmsprop"), made_up_peer("one", "torch"), made_up_peer("two", "torch")]
    settings = measure.Settings(rounds=1, placements=1, isolated=frozenset({"torch"}))
    processes = MadeUpProcesses({peer.name: [1.0] for peer in chosen}, settings)
    measure.Comparison(processes, chosen, lambda _: None).measure("16", "plain")
    assert [name for do, name in processes.asked if do == "begin"] == ["rmsprop", "two"]


@pytest.mark.parametrize("name", ["compare.json", "compare-x86-64-v3.json"])
def test_committed_ratios_are_those_of_the_committed_times(name):
    committed = results.load(results.FOLDER / name)
    compared_ones = 0
    for entry in committed["results"]:
        rows = results.measured(entry)
        limit = results.limit_seconds(entry)
        assert entry["elements"] == WORKLOADS[entry["workload"]].elements
        # Peers of different batches were compared with ours of their own rounds, and ours has those of all.
        tolerance = 1e-9 if len({row["rounds"] for row in rows.values()}) == 1 else 0.25
        for row in rows.values():
            assert math.isclose(row["vs_ours"], row["median_s"] / rows["rmsprop"]["median_s"], rel_tol=tolerance)
            assert math.isclose(row["vs_limit"], row["median_s"] / limit, rel_tol=tolerance)
            compared_ones += 1
    assert compared_ones > 100
