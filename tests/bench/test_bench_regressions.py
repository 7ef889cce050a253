"""A step that became slower is told from a machine that did, and from noise."""

import json

import pytest

import regressions
from harness import changes
from made_up_results import TIMES, made_up

DIVIDER = "limit: root and quotient"
WITHOUT_LIMIT = {"rmsprop": 1.25, "torch RMSprop": 8.0, "NumPy expression": 10.0, "Numba, fused by hand": 1.5}


def slower(before, after, threshold=changes.THRESHOLD):
    """Return the lines that report a slowdown."""
    lines, found = changes.report(before, after, threshold)
    reported = [line for line in lines if line.startswith("slower: ")]
    assert found == bool(reported)
    return reported


def test_a_step_that_takes_longer_beside_the_limit_is_reported():
    (line,) = slower(made_up(), made_up({**TIMES, "rmsprop": 1.5}))
    assert line == "slower: 16M, plain, rmsprop: 1.25 -> 1.50 times the limit (+20%; noise 4%)"


def test_a_slower_machine_is_no_slower_step():
    assert slower(made_up(), made_up(unit=3e-3)) == []


def test_a_faster_machine_does_not_hide_a_slower_step():
    assert len(slower(made_up(), made_up({**TIMES, "rmsprop": 1.5}, unit=1e-4))) == 1


def test_a_change_below_the_threshold_is_none():
    after = made_up({**TIMES, "rmsprop": 1.36})
    assert slower(made_up(), after) == []
    assert len(slower(made_up(), after, threshold=0.05)) == 1


def test_a_change_within_the_noise_is_none():
    assert slower(made_up(), made_up({**TIMES, "rmsprop": 1.5}, spread=0.3)) == []


def test_a_faster_step_is_not_reported():
    assert slower(made_up(), made_up({**TIMES, "rmsprop": 1.0})) == []


def test_without_the_limit_most_peers_decide():
    before = made_up(WITHOUT_LIMIT)
    assert slower(before, made_up({**WITHOUT_LIMIT, "torch RMSprop": 5.0})) == []
    (line,) = slower(before, made_up({**WITHOUT_LIMIT, "rmsprop": 1.75}))
    assert "rmsprop: " in line
    assert "(+40%; " in line


def test_a_peer_of_another_version_is_nothing_to_compare_with():
    times = {"rmsprop": 1.25, "torch RMSprop": 8.0}
    lines, found = changes.report(made_up(times), made_up({**times, "rmsprop": 2}, versions={"torch": "2.14.0"}))
    assert not found
    assert lines[-1].startswith("0 ratios compared")


def test_workloads_that_one_run_lacks_are_left_out():
    lines, _ = changes.report(made_up(workloads=("16M", "mlp")), made_up(workloads=("mlp", "64M")))
    assert lines[-1].startswith("1 ratios compared")


def test_another_machine_is_noted():
    after = made_up()
    after["machine"]["threads"] = 2
    assert "threads was 4, is 2" in changes.report(made_up(), after)[0][0]


def test_the_exit_code_tells(tmp_path, capsys):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(made_up()))
    after.write_text(json.dumps(made_up({**TIMES, "rmsprop": 1.5})))
    assert regressions.main([str(before), str(before)]) == 0
    assert regressions.main([str(before), str(after)]) == 1
    assert regressions.main([str(before), str(after), "--threshold", "0.5"]) == 0
    assert "slower: 16M" in capsys.readouterr().out
    with pytest.raises(SystemExit) as raised:
        regressions.main([str(before), str(tmp_path / "missing.json")])
    assert raised.value.code == 2


@pytest.mark.parametrize("binding", ["limit: memory traffic", "limit: root and quotient"])
def test_a_step_is_compared_with_the_slower_limit(binding):
    times = {"limit: memory traffic": 1.0, "limit: root and quotient": 1.0, "rmsprop": 2.0}
    before = {**times, binding: 1.5}
    # The other limit became faster, and the binding one slower with the step: the step is as near the limit as it was.
    after = {**{name: time / 2 for name, time in times.items()}, binding: 3.0, "rmsprop": 4.0}
    (change,) = changes.changes(made_up(before), made_up(after))
    assert (change.before, change.after, change.change) == pytest.approx((2 / 1.5, 4 / 3, 1))
    assert change.beside == "the limit"


def test_noise_is_that_of_all_four_figures():
    before, after = made_up(), made_up()
    for results, spreads in ((before, {"rmsprop": 0.3, DIVIDER: 0.4}), (after, {"rmsprop": 1.2, DIVIDER: 0.0})):
        for row in results["results"][0]["rows"]:
            if row["peer"] in spreads:
                row["q1_s"] = row["median_s"] * (1 - spreads[row["peer"]] / 4)
                row["q3_s"] = row["median_s"] * (1 + spreads[row["peer"]] * 3 / 4)
    (change,) = changes.changes(before, after)
    assert change.noise == pytest.approx(1.3)  # the root of 0.3² + 0.4² + 1.2²


def test_a_faster_step_is_none_that_became_slower():
    (change,) = changes.changes(made_up(), made_up({**TIMES, "rmsprop": 0.625}))
    assert (change.before, change.after, change.change) == pytest.approx((1.25, 0.625, 0.5))
    assert slower(made_up(), made_up({**TIMES, "rmsprop": 0.625})) == []


def test_both_our_steps_are_compared_and_no_peers():
    times = {**TIMES, "rmsprop.torch RMSprop": 1.0}
    after = {**times, "rmsprop.torch RMSprop": 2.0, "torch RMSprop": 80.0}
    (line,) = slower(made_up(times), made_up(after))
    assert line.startswith("slower: 16M, plain, rmsprop.torch RMSprop: 1.00 -> 2.00 times the limit")
    assert [change.peer for change in changes.changes(made_up(times), made_up(after))] == [
        "rmsprop",
        "rmsprop.torch RMSprop",
    ]


def test_without_a_limit_the_median_of_the_changes_counts():
    before = made_up(WITHOUT_LIMIT)
    after = made_up(
        {**WITHOUT_LIMIT, "rmsprop": 2.5, "torch RMSprop": 8.0, "NumPy expression": 20.0, "Numba, fused by hand": 0.3}
    )
    (change,) = changes.changes(before, after)  # beside each: 2, 1 and 10 times what it was
    assert (change.beside, change.change) == ("torch RMSprop", pytest.approx(2))


def test_rules_are_compared_with_their_own():
    before, after = made_up(), made_up({**TIMES, "rmsprop": 9.0}, rule="centered-momentum")
    assert list(changes.changes(before, after)) == []
    before["results"] += made_up({**TIMES, "rmsprop": 9.0}, rule="centered-momentum")["results"]
    assert [change.change for change in changes.changes(before, after)] == [1]
