"""The comparison as a program: what it refuses, what it writes, and that no peer can end it."""

import argparse
import json
import re
import textwrap
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import compare
import peers
from harness import measure, pages, processes, results
from made_up_peers import MadeUpProcesses
from peers.contract import Peer, Steps

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

BENCH = Path(compare.__file__).parent
TINY = ("--rules", "plain", "--rounds", "2", "--block-ms", "0.05")


def run(folder, *arguments):
    return compare.main(["--output", str(folder), *TINY, *arguments])


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("results") / "new" / "folder"
    assert run(folder, "--workloads", "16", "mlp", "--peers", "rmsprop", "NumPy expression") == 0
    return folder


def test_a_run_writes_results_a_page_and_a_picture(small_run):
    found = json.loads((small_run / "compare.json").read_text(encoding="utf-8"))
    assert [entry["workload"] for entry in found["results"]] == ["16", "mlp"]
    for entry in found["results"]:
        assert [row["peer"] for row in entry["rows"]] == ["rmsprop", "NumPy expression"]
        assert all(row["rounds"] == 2 and row["q1_s"] <= row["median_s"] <= row["q3_s"] for row in entry["rows"])
        ours, other = entry["rows"]
        assert [row["vs_ours"] for row in (ours, other)] == [1, other["median_s"] / ours["median_s"]]
    assert {check["verdict"] for check in found["agreement"]["plain"].values()} == {"same step"}
    assert (small_run / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "NumPy expression" in (small_run / "compare.md").read_text(encoding="utf-8")


def test_results_say_what_they_were_measured_on(small_run):
    found = json.loads((small_run / "compare.json").read_text(encoding="utf-8"))
    assert {"cpu", "cores", "caches", "memory_bytes", "system", "python", "instruction_set", "threads"} <= set(
        found["machine"]
    )
    assert found["versions"]["numpy"] == np.__version__
    assert found["command"].startswith("python bench/compare.py")


def test_a_run_can_be_compared_with_itself(small_run, tmp_path, capsys):
    against = small_run / "compare.json"
    run(tmp_path, "--workloads", "16", "--peers", "rmsprop", "NumPy expression", "--against", str(against))
    assert "1 ratios compared" in capsys.readouterr().out


def test_an_interrupted_run_keeps_what_it_has_measured(tmp_path, monkeypatch):
    def interrupted(self, workload, rule, measure_it=measure.Comparison.measure):
        if workload == "mlp":
            raise KeyboardInterrupt
        return measure_it(self, workload, rule)

    monkeypatch.setattr(measure.Comparison, "measure", interrupted)
    assert run(tmp_path, "--workloads", "16", "mlp", "--peers", "rmsprop") == 130
    kept = results.load(tmp_path / "compare.json")
    assert [entry["workload"] for entry in kept["results"]] == ["16"]


# ---- What the arguments come to, on made-up times --------------------------------------------------------------------

TIMES = {
    "limit: memory traffic": [1.0],
    "limit: root and quotient": [2.0],
    "rmsprop": [3.0, 4.0],
    "torch RMSprop": [7.0],
}


@pytest.fixture
def made_up_run(monkeypatch, tmp_path):
    """Return a function that runs the comparison on made-up times, and returns its results and settings."""

    def run(*arguments):
        settings = []

        @contextmanager
        def started(chosen, log):
            settings.append(chosen)
            yield MadeUpProcesses(TIMES, chosen)

        monkeypatch.setattr(measure, "started", started)
        code = compare.main(["--output", str(tmp_path), "--peers", *TIMES, *arguments])
        return code, results.load(tmp_path / "compare.json"), settings[0]

    return run


def test_arguments_are_the_settings_of_the_run_and_of_its_file(made_up_run):
    arguments = ("--rounds", "4", "--placements", "2", "--block-ms", "7", "--patience", "9", "--isolate", "torch")
    more = ("--workloads", "mlp", "16", "--rules", "centered-momentum", "--beside", "1")
    code, found, settings = made_up_run(*arguments, *more)
    assert code == 0
    asked = {"rounds": 4, "placements": 2, "block_seconds": 0.007, "patience": 9}
    assert settings == measure.Settings(**asked, isolated=frozenset({"torch"}))
    assert found["settings"] == {**asked, "beside": 1}
    assert found["versions"] == {f"package of {name}": "1.0" for name in TIMES}
    assert [(entry["workload"], entry["rule"]) for entry in found["results"]] == [
        ("mlp", "centered-momentum"),
        ("16", "centered-momentum"),
    ]
    assert [(entry["elements"], entry["tensors"]) for entry in found["results"]] == [(101_770, 4), (16, 1)]
    for entry in found["results"]:
        rows = results.measured(entry)
        assert [(row["median_s"], row["rounds"], row["vs_limit"]) for row in rows.values()] == [
            (1, 4, 0.5),
            (2, 4, 1),
            (3.5, 4, 1.75),
            (7, 4, 3.5),
        ]
        assert rows["torch RMSprop"]["vs_ours"] == 2


def test_every_rule_is_measured_under_its_own_name(made_up_run):
    _, found, _ = made_up_run("--workloads", "16", "1k", "--rounds", "1")
    measured = [(entry["rule"], entry["workload"]) for entry in found["results"]]
    assert measured == [(rule, workload) for rule in compare.RULES for workload in ("16", "1k")]
    assert list(found["agreement"]) == list(compare.RULES)


@pytest.mark.parametrize(
    ("arguments", "rounds", "placements", "block_seconds", "workloads"),
    [(["--quick"], 5, 1, 0.005, compare.QUICK), ([], 15, 3, 0.02, compare.WORKLOADS)],
)
def test_defaults_are_those_that_the_help_names(made_up_run, arguments, rounds, placements, block_seconds, workloads):
    _, found, settings = made_up_run(*arguments, "--rules", "plain")
    assert (settings.rounds, settings.placements, settings.block_seconds) == (rounds, placements, block_seconds)
    assert [entry["workload"] for entry in found["results"]] == list(workloads)
    assert {row["rounds"] for entry in found["results"] for row in entry["rows"]} == {rounds}


def test_figures_go_into_the_pages_when_they_are_asked_for(made_up_run, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{pages.BEGIN}\n{pages.END}\nafter\n")
    monkeypatch.setattr(pages, "SHOWN", {page: pages.readme_figures})
    monkeypatch.setattr(pages, "COMMITTED", tmp_path / "committed.json")
    monkeypatch.setattr(pages, "PICTURE", tmp_path / "picture.png")
    arguments = ("--workloads", "16", "--rules", "plain", "--rounds", "2")
    _, found, _ = made_up_run(*arguments)
    assert not (tmp_path / "committed.json").exists()
    _, found, _ = made_up_run(*arguments, "--readme")
    assert results.load(tmp_path / "committed.json") == found
    assert page.read_text() == f"before\n{pages.BEGIN}\n{pages.readme_figures(found)}\n{pages.END}\nafter\n"
    assert "| 1 tensor of 16 | 3.50 s | 7.00 s (2.00x) | 2.00 s |" in page.read_text()
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("threshold", "code"), [("0.1", 1), ("0.9", 0)])
def test_a_slower_step_is_in_the_exit_code(made_up_run, monkeypatch, tmp_path, threshold, code):
    arguments = ("--workloads", "16", "--rules", "plain", "--rounds", "1")
    _, found, _ = made_up_run(*arguments)
    results.save(found, tmp_path / "earlier.json")
    monkeypatch.setitem(TIMES, "rmsprop", [5.0])
    assert made_up_run(*arguments, "--against", str(tmp_path / "earlier.json"), "--threshold", threshold)[0] == code


# ---- Bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_run(monkeypatch):
    """Fails the test if anything is measured."""

    def refuse(*_):
        raise AssertionError("it began to measure")

    monkeypatch.setattr(compare, "run", refuse)


@pytest.mark.usefixtures("no_run")
def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as raised:
        run(tmp_path / "file" / "folder")
    assert raised.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    "content", ["no JSON", "[]", '{"schema": 999}', '{"schema": 1}', '{"schema": 1, "results": [3]}']
)
def test_earlier_results_that_are_none_are_an_error_before_the_run(content, tmp_path, capsys):
    (tmp_path / "earlier.json").write_text(content)
    with pytest.raises(SystemExit) as raised:
        run(tmp_path, "--against", str(tmp_path / "earlier.json"))
    assert raised.value.code == 2
    assert "earlier.json: " in capsys.readouterr().err


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--rounds", "many"],
        ["--placements", "0"],
        ["--block-ms", "nan"],
        ["--patience", "-1"],
        ["--threshold", "inf"],
        ["--workloads", "unknown"],
        ["--peers", "NumPy expression"],
        ["--against", "missing.json"],
    ],
)
def test_arguments_that_mean_nothing_are_errors_that_name_them(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        run(tmp_path, *arguments)
    assert raised.value.code == 2
    assert arguments[0 if "missing" not in arguments[1] else 1] in capsys.readouterr().err


def test_help_mentions_every_option_workload_and_rule(capsys):
    with pytest.raises(SystemExit):
        compare.main(["--help"])
    text = capsys.readouterr().out
    for action in compare.build_parser()._actions:
        assert action.help is not argparse.SUPPRESS
        assert all(option in text for option in action.option_strings)
    assert all(name in text for name in (*compare.WORKLOADS, *compare.RULES))


def test_every_peer_is_listed_with_the_command_that_brings_it(capsys):
    assert compare.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for peer in peers.PEERS.values():
        assert re.search(rf"^{re.escape(peer.name)} +{re.escape(peer.install)}$", listed, re.MULTILINE)


# ---- Peers that misbehave --------------------------------------------------------------------------------------------

BAD_PEERS = '''
import os, sys, time
sys.path[0] = {bench!r}
import numpy as np
import peers
from harness import worker
from peers import numpy_expression
from peers.contract import Peer

def missing(arrays, options):
    import a_package_that_nobody_has

def wrong(arrays, options):
    return numpy_expression.make(arrays, {{**options, "alpha": 0.5}})

def crashing(arrays, options):
    os.abort()

def hanging(arrays, options):
    time.sleep(600)

def raising(arrays, options):
    raise RuntimeError("no luck today")

def printing(arrays, options):
    print("this is no answer")
    os.write(1, b"nor is this")
    return numpy_expression.make(arrays, options)

class FailingLate:
    """Fails at the fourth single step: the first that is measured."""

    def __init__(self, contender):
        self.contender, self.single_steps = contender, 0
        self.params, self.state_bytes = contender.params, contender.state_bytes

    def run(self, steps):
        self.single_steps += steps == 1
        if self.single_steps == 4:
            raise RuntimeError("no luck any more")
        self.contender.run(steps)

def failing_late(arrays, options):
    return FailingLate(numpy_expression.make(arrays, options))

def late_crash(arrays, options):
    if sum(param.size for param in arrays.params) == 16:
        os.abort()
    return numpy_expression.make(arrays, options)

for make in (missing, wrong, crashing, hanging, raising, printing, failing_late, late_crash):
    peers.PEERS[make.__name__] = Peer(make.__name__, "numpy", make)
worker.main()
'''
BAD = ("missing", "wrong", "crashing", "hanging", "raising", "printing", "failing_late", "late_crash")


@pytest.fixture
def bad_peers(monkeypatch):
    monkeypatch.setattr(processes, "WORKER", textwrap.dedent(BAD_PEERS.format(bench=str(BENCH))))
    for name in BAD:
        monkeypatch.setitem(peers.PEERS, name, Peer(name, "numpy", lambda *_: None, install=f"bring {name}"))


@pytest.mark.usefixtures("bad_peers")
def test_a_peer_that_fails_is_a_row_with_its_reason_and_the_others_are_measured(tmp_path, capsys):
    arguments = ("--patience", "2", "--workloads", "16", "--peers", "rmsprop", "NumPy expression", *BAD)
    assert run(tmp_path, *arguments) == 0
    found = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    (entry,) = found["results"]
    rows = {row["peer"]: row for row in entry["rows"]}
    assert {name for name, row in rows.items() if "median_s" in row} == {"rmsprop", "NumPy expression", "printing"}
    reasons = {name: row["reason"] for name, row in rows.items() if "reason" in row}
    assert reasons.pop("wrong").startswith("after 3 steps it is ")
    assert reasons == {
        "missing": "a_package_that_nobody_has is not installed",
        "crashing": "crashed its process: SIGABRT",
        "late_crash": "crashed its process: SIGABRT",
        "hanging": "was not ready after 2 seconds",
        "raising": "RuntimeError: no luck today",
        "failing_late": "RuntimeError: no luck any more",
    }
    assert found["install"] == {"missing": "bring missing"}
    page = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert all(reason in page for reason in reasons.values())
    assert "`bring missing`" in page
    capsys.readouterr()


def test_frameworks_that_cannot_live_together_get_processes_of_their_own(tmp_path):
    settings = measure.Settings(isolated=frozenset({"numpy"}))
    with (tmp_path / "log").open("w") as log, measure.started(settings, log) as started:
        for name in ("rmsprop", "NumPy expression"):
            started.ask(peers.PEERS[name], "versions", peer=name)
        assert sorted(started.running) == ["numpy", "shared"]
        running = [process.process for process in started.running.values()]
    assert all(process.poll() is not None for process in running)


def test_a_workload_larger_than_memory_is_measured_in_batches(tmp_path, monkeypatch):
    names = ("rmsprop", "NumPy expression", "another", "one more")
    for name in names[2:]:
        monkeypatch.setitem(peers.PEERS, name, Peer(name, "numpy", lambda *_: Steps(lambda: 0, list, int)))
    with (tmp_path / "log").open("w") as log, measure.started(measure.Settings(), log) as started:
        comparison = measure.Comparison(started, [peers.PEERS[name] for name in names], lambda text: None)
        monkeypatch.setattr(started, "ask", lambda *_, **__: 4 * 5 * 16 * 2 / started.settings.memory_share)
        batches = comparison._batches(comparison.chosen[1:], "plain", "16")
    assert [[peer.name for peer in batch] for batch in batches] == [["NumPy expression", "another"], ["one more"]]


def test_a_workload_that_is_too_much_for_the_machine_is_rows_with_the_reason(tmp_path, monkeypatch):
    chosen = [peers.PEERS[name] for name in ("rmsprop", "NumPy expression")]
    with (tmp_path / "log").open("w") as log, measure.started(measure.Settings(), log) as started:

        def no_memory(peer, do, /, **arguments):
            raise processes.PeerError("MemoryError: too much", "failed")

        monkeypatch.setattr(started, "ask", no_memory)
        rows = measure.Comparison(started, chosen, lambda text: None).measure("64M", "plain")
    assert [(row["peer"], row["reason"]) for row in rows] == [(peer.name, "MemoryError: too much") for peer in chosen]


@pytest.mark.parametrize(
    ("rounds", "placements", "parts"), [(15, 3, [5, 5, 5]), (7, 3, [2, 2, 3]), (2, 3, [1, 1]), (5, 1, [5])]
)
def test_the_rounds_are_shared_evenly_between_placements(rounds, placements, parts):
    assert measure.even_parts(rounds, placements) == parts


def test_contenders_are_made_anew_for_each_placement(tmp_path):
    made = []

    class Remembering(measure.Processes):
        def ask(self, peer, do, /, **arguments):
            if do == "prepare":
                made.append(peer.name)
            return super().ask(peer, do, **arguments)

    settings = measure.Settings(rounds=4, placements=2, block_seconds=1e-5)
    with (tmp_path / "log.txt").open("w") as log:
        remembering = Remembering(settings, log)
        try:
            chosen = [peers.PEERS[name] for name in ("rmsprop", "NumPy expression")]
            rows = measure.Comparison(remembering, chosen, lambda _: None).measure("16", "plain")
        finally:
            remembering.end()
    assert made == ["rmsprop", "NumPy expression"] * 2
    assert [row["rounds"] for row in rows] == [4, 4]
