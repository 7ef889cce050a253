"""Steps beside programs that keep CPUs busy: the mean and the 90 % quantile of the time of a step.

    python bench/busy_machine.py [--seconds S] [--picture FILE.png] [WORKLOADS...]

Ours on one thread, on all threads always (RMSPROP_THREADS=fixed) and on all that help (the default), and the fused
Adagrad of PyTorch and a loop in Numba, where they are installed. Each has a process of its own; they take turns.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from harness.arguments import positive
from harness.machine import describe, in_words
from harness.processes import busy
from harness.workloads import COMMON, WORKLOADS, random_arrays
from peers import PEERS

CONTENDERS = {
    "ours, one thread": ("rmsprop", {"OMP_NUM_THREADS": "1"}),
    "ours, fixed threads": ("rmsprop", {"RMSPROP_THREADS": "fixed"}),
    "ours, adaptive": ("rmsprop", {"RMSPROP_THREADS": "adaptive"}),
    "torch Adagrad, fused": ("torch Adagrad, fused", {}),
    "Numba": ("Numba, fused by hand", {}),
}
TURNS = 4


def take_turns(peer: str, workload: str) -> None:
    """Be the process of a contender: for each line with a number of seconds, step so long, and print the times."""
    contender = PEERS[peer].make(random_arrays(WORKLOADS[workload].shapes()), COMMON)
    contender.run(3)
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        end = time.perf_counter() + float(line)
        while (begin := time.perf_counter()) < end:
            contender.run(1)
            times.append(time.perf_counter() - begin)
        print(len(times), sum(times), float(np.quantile(times, 0.9)), flush=True)


class Contender:
    """A process that steps when it is asked to."""

    def __init__(self, name: str, workload: str) -> None:
        peer, environment = CONTENDERS[name]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--be", peer, workload],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.is_ready = self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def step_for(self, seconds: float) -> tuple[int, float, float]:
        """Return how many steps there were, how long they took, and their 90 % quantile."""
        print(seconds, file=self.process.stdin, flush=True)
        steps, total, quantile = self.answer().split()
        return int(steps), float(total), float(quantile)

    def end(self) -> None:
        self.process.communicate()


def measure(workload: str, count: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Return the mean and the 90 % quantile of each contender that there is, beside `count` busy processes."""
    contenders = {name: Contender(name, workload) for name in CONTENDERS}
    there = {name: contender for name, contender in contenders.items() if contender.is_ready}
    turns: dict[str, list[tuple[int, float, float]]] = {name: [] for name in there}
    with busy(count):
        for turn in range(TURNS):
            for name in list(there)[:: 1 if turn % 2 else -1]:
                turns[name].append(there[name].step_for(seconds / TURNS))
    for contender in contenders.values():
        contender.end()
    return {name: mean_and_quantile(own) for name, own in turns.items()}


def mean_and_quantile(turns: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Return the mean of all steps, and the median of the turns' quantiles."""
    steps, totals, quantiles = zip(*turns, strict=True)
    return sum(totals) / sum(steps), float(np.median(quantiles))


def draw(results: dict[tuple[str, int], dict[str, tuple[float, float]]], path: Path) -> None:
    """Draw a group of bars for each number of busy processes: means, with a line up to the 90 % quantile."""
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(workload for workload, _ in results))
    figure = Figure(figsize=(3.2 * len(workloads), 3.6), layout="constrained")
    for position, workload in enumerate(workloads):
        axes = figure.add_subplot(1, len(workloads), position + 1)
        counts = [count for name, count in results if name == workload]
        for i, name in enumerate(CONTENDERS):
            rows = [results[workload, count].get(name) for count in counts]
            places = [k + (i - 2) * 0.17 for k, row in enumerate(rows) if row]
            means, quantiles = np.array([row for row in rows if row]).reshape(-1, 2).T * 1e6
            axes.bar(places, means, 0.16, label=name, color=f"C{i}")
            axes.vlines(places, means, quantiles, color="black", linewidth=1)
        axes.set_yscale("log")
        axes.set_title(WORKLOADS[workload].title, fontsize=8)
        axes.set_xticks(range(len(counts)), [f"{count} busy" for count in counts], fontsize=8)
        axes.set_ylabel("microseconds a step" if position == 0 else "", fontsize=8)
        axes.tick_params(axis="y", which="both", labelsize=7)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(CONTENDERS), fontsize=8)
    figure.suptitle(f"A step beside busy processes: {in_words(describe())}", fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the times as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["64k", "1M", "16M", "1000x64", "resnet50"]
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"what to step (default: {', '.join(usual)})")
    parser.add_argument("--seconds", type=positive, default=5.0, help="that each steps in all (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw one, too")
    parser.add_argument("--be", metavar="PEER", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if unknown := sorted(set(settings.workloads) - WORKLOADS.keys()):
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if settings.be:
        return take_turns(settings.be, settings.workloads[0])
    cpus = os.cpu_count() or 1
    results = {}
    print("microseconds a step: mean, 90 % quantile\n")
    print(f"| workload | busy processes | {' | '.join(CONTENDERS)} | adaptive by the better of one and fixed |")
    print("|---|---|" + "---|" * (len(CONTENDERS) + 1))
    for workload in settings.workloads or usual:
        for count in (0, cpus // 2, cpus):
            results[workload, count] = rows = measure(workload, count, settings.seconds)
            cells = [f"{rows[n][0] * 1e6:.0f}, {rows[n][1] * 1e6:.0f}" if n in rows else "-" for n in CONTENDERS]
            better = min(rows["ours, one thread"][0], rows["ours, fixed threads"][0])
            print(
                f"| {workload} | {count} | {' | '.join(cells)} | {rows['ours, adaptive'][0] / better:.2f} |", flush=True
            )
    if settings.picture:
        draw(results, settings.picture)


if __name__ == "__main__":
    main()
