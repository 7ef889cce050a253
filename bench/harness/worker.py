"""The process that takes the steps: commands on its standard input, answers on its output.

A command is a line of JSON, `{"do": name, ...arguments}`, and so is its answer, `{"result": ...}` or `{"error": text}`.
Frameworks live here, so that one that crashes or hangs does not end the comparison.
"""

import contextlib
import gc
import importlib.metadata
import json
import os
import signal
import sys
import traceback
from typing import Any

from harness import memory
from harness.agreement import agreement, check_arrays
from harness.timing import seconds_per_step, steps_of_a_block
from harness.workloads import COMMON, RULES, WORKLOADS, Workload, random_arrays
from peers import PEERS
from peers.arrays import Arrays
from peers.contract import Contender, NoSuchRuleError

MEMORY_FROM = 1 << 20  # elements from which temporaries are larger than pages and noise


class Worker:
    def __init__(self) -> None:
        self.contenders: dict[str, Contender] = {}
        self.counts: dict[str, int] = {}
        self.arrays: Any = None
        self.workload: Workload | None = None
        self.options: dict[str, Any] = {}

    def versions(self, peer: str) -> dict[str, str]:
        """Return the versions of a peer's packages, those that are installed."""
        found = {}
        for package in PEERS[peer].packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(package)
        return found

    def agree(self, peer: str, rule: str) -> dict[str, Any]:
        """Compare what a peer computes."""
        return agreement(PEERS[peer], check_arrays(), {**COMMON, **RULES[rule]})

    def begin(self, workload: str, rule: str) -> None:
        """Get ready for the contenders of one workload."""
        self.drop(list(self.contenders))
        self.workload = WORKLOADS[workload]
        self.arrays = random_arrays(self.workload.shapes())
        self.options = {**COMMON, **RULES[rule]}

    def prepare(self, peer: str, block_seconds: float) -> dict[str, int | None]:
        """Make a contender, warm it up, and find out how many of its steps make a block."""
        arrays = self.arrays
        if PEERS[peer].writes_grads:
            arrays = Arrays(arrays.params, [grad.copy() for grad in arrays.grads])
        contender = PEERS[peer].make(arrays, self.options)
        contender.run(1)  # compiles, starts threads, allocates state
        contender.run(1)
        large = self.workload is not None and self.workload.elements >= MEMORY_FROM
        temporary = memory.temporary_bytes(lambda: contender.run(1)) if large else None
        self.contenders[peer] = contender
        self.counts[peer] = steps_of_a_block(contender, block_seconds)
        return {"state_bytes": contender.state_bytes(), "temporary_bytes": temporary, "steps": self.counts[peer]}

    def time(self, peer: str) -> float:
        """Return how long a step takes, in one block of steps."""
        return seconds_per_step(self.contenders[peer], self.counts[peer])

    def drop(self, peers: list[str]) -> None:
        """Free contenders."""
        for peer in peers:
            self.contenders.pop(peer, None)
        gc.collect()

    def memory_available(self) -> int | None:
        return memory.available()


def answer(worker: Worker, command: dict[str, Any], patience: float) -> dict[str, Any]:
    """Carry out one command; an error, whatever it is, becomes an answer."""
    late = TimeoutError(f"was not ready after {patience:g} seconds")

    def too_late(*_: object) -> None:
        raise late

    arguments = {name: value for name, value in command.items() if name != "do"}
    has_alarm = hasattr(signal, "setitimer")
    if has_alarm:
        signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        return {"result": getattr(worker, command["do"])(**arguments)}
    except NoSuchRuleError as error:
        return {"error": str(error), "kind": "no such rule"}
    except TimeoutError as error:
        return {"error": str(error), "kind": "late"}
    except ModuleNotFoundError as error:
        return {"error": f"{error.name} is not installed", "kind": "missing"}
    except (Exception, SystemExit) as error:
        if str(late) in str(error):  # frameworks wrap what comes up inside of them
            return {"error": str(late), "kind": "late"}
        traceback.print_exc()
        text = " ".join(str(error).split())
        return {"error": f"{type(error).__name__}: {text}"[:300], "kind": "failed"}
    finally:
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a framework prints is no answer
    worker = Worker()
    patience = float(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line), patience)), file=answers, flush=True)
