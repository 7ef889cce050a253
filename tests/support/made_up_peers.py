"""Peers whose steps take made-up times on a made-up clock: what is made of times can be foreseen to the digit."""

import itertools
from dataclasses import dataclass, field

from harness import measure
from peers.contract import Peer


class Clock:
    """Stands in for the module `time`: moves on only when a contender says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@dataclass
class MadeUpContender:
    """Takes `step` seconds for a step, and `first` more for the first one of each call, with cold caches."""

    clock: Clock
    step: float
    first: float = 0.0
    warm_up: list = field(default_factory=list)
    """What the first calls take besides: compiling, starting threads."""

    runs: list = field(default_factory=list)

    def run(self, steps):
        self.runs.append(steps)
        self.clock.now += steps * self.step + self.first + (self.warm_up.pop(0) if self.warm_up else 0)

    def params(self):
        return []

    def state_bytes(self):
        return 64


class MadeUpProcesses(measure.Processes):
    """Answers as the measuring processes would: the times of each peer come from a list, again and again."""

    def __init__(self, times, settings, memory_available=None, temporary_bytes=None, fails=None, verdicts=None):
        super().__init__(settings, log=None)
        self.times = {name: itertools.cycle(values) for name, values in times.items()}
        self.memory = memory_available
        self.temporary_bytes = temporary_bytes
        self.fails = fails or {}
        self.verdicts = verdicts or {}
        self.asked = []

    def ask(self, peer, do, /, **arguments):
        self.asked.append((do, peer.name))
        if error := self.fails.get((do, peer.name, self.asked.count((do, peer.name)))):
            raise error
        if do == "time":
            return next(self.times[peer.name])
        if do == "prepare":
            return {"state_bytes": 1000, "temporary_bytes": self.temporary_bytes, "steps": 3}
        verdict = {"verdict": self.verdicts.get(peer.name, "same step"), "why": "made up"}
        answers = {
            "memory_available": self.memory,
            "agree": {**verdict, "from_ours": 0.0, "from_its_formula": 0.0},
            "versions": {f"package of {peer.name}": "1.0"},
        }
        return answers.get(do)


def made_up_peer(name, framework="numpy"):
    return Peer(name, framework, lambda *_: None)


def compared(times, rounds=2, placements=1, workload="16", rule="plain", **about):
    """Measure peers with these times in a comparison, and return their rows by name, and the processes."""
    processes = MadeUpProcesses(times, measure.Settings(rounds=rounds, placements=placements), **about)
    comparison = measure.Comparison(processes, [made_up_peer(name) for name in times], lambda _: None)
    return {row["peer"]: row for row in comparison.measure(workload, rule)}, processes
