"""Steps beside busy processes: real ones for a moment, and made-up times."""

import subprocess
import sys

import pytest

import busy_machine
from harness import processes


def test_busy_processes_compute_as_long_as_they_are_wanted(monkeypatch):
    started = []

    class Remembered(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(processes.subprocess, "Popen", Remembered)
    with processes.busy(2):
        assert [process.poll() for process in started] == [None, None]
    assert [process.poll() is None for process in started] == [False, False]


def test_every_contender_steps_in_a_process_of_its_own_and_those_that_are_missing_are_left_out(monkeypatch):
    ours = {name: contender for name, contender in busy_machine.CONTENDERS.items() if name.startswith("ours")}
    monkeypatch.setattr(busy_machine, "CONTENDERS", {**ours, "missing": ("no such peer", {})})
    times = busy_machine.measure("16", 1, 0.04)
    assert times.keys() == ours.keys()
    assert all(0 < mean < 1 and 0 < quantile < 1 for mean, quantile in times.values())


def test_a_mean_is_that_of_all_steps():
    assert busy_machine.mean_and_quantile([(1, 3.0, 1.0), (3, 1.0, 5.0), (4, 4.0, 2.0)]) == pytest.approx((1.0, 2.0))


def test_the_table_compares_with_the_better_of_one_thread_and_fixed_threads(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    times = {"ours, one thread": (4e-6, 5e-6), "ours, fixed threads": (8e-6, 9e-6), "ours, adaptive": (6e-6, 7e-6)}
    monkeypatch.setattr(busy_machine, "measure", lambda workload, count, seconds: times)
    monkeypatch.setattr(busy_machine.os, "cpu_count", lambda: 4)
    picture = tmp_path / "busy.png"
    monkeypatch.setattr(sys, "argv", ["busy_machine.py", "64k", "--picture", str(picture)])
    busy_machine.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 64k")]
    assert rows == [f"| 64k | {count} | 4, 5 | 8, 9 | 6, 7 | - | - | 1.50 |" for count in (0, 2, 4)]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_workload_is_an_error_that_names_those_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["busy_machine.py", "64K"])
    with pytest.raises(SystemExit):
        busy_machine.main()
    assert "no workload 64K; there are 16, 1k, 64k" in capsys.readouterr().err
