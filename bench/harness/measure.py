"""The comparison: who takes part, in which process, in which batch, and the rounds in which all take turns."""

import random
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import peers
from harness.processes import PeerError, Process, ProcessEndedError
from harness.results import limit_of
from harness.workloads import WORKLOADS
from peers.contract import Peer

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    rounds: int = 15
    placements: int = 3
    """How often all arrays are allocated again, each time for an equal part of the rounds: placement affects times."""

    block_seconds: float = 0.02
    patience: float = 120.0
    isolated: frozenset[str] = frozenset()
    """Frameworks that get a process of their own; all others share one."""

    memory_share: float = 0.6
    """The part of the memory that is left which the arrays of one batch may take."""


class LostPeerError(Exception):
    """A peer failed in the middle, or took its process down: what it took part in has to begin again without it."""

    def __init__(self, peer: Peer, reason: str) -> None:
        super().__init__(reason)
        self.peer = peer


@dataclass
class Processes:
    """The measuring processes, started when they are first needed."""

    settings: Settings
    log: IO[str]
    running: dict[str, Process] = field(default_factory=dict)

    def ask(self, peer: Peer, do: str, /, **arguments: Any) -> Any:
        """Ask the process of a peer to do something for it.

        Raises:
            PeerError: the peer cannot.
            LostPeerError: it took the process down.
        """
        key = self.key(peer)
        if key not in self.running:
            self.running[key] = Process(self.log, self.settings.patience)
        try:
            return self.running[key].ask(do, **arguments)
        except ProcessEndedError as error:
            del self.running[key]
            raise LostPeerError(peer, str(error)) from None

    def key(self, peer: Peer) -> str:
        return peer.framework if peer.framework in self.settings.isolated else "shared"

    def one_peer_of_each(self, chosen: Iterable[Peer]) -> list[Peer]:
        return list({self.key(peer): peer for peer in chosen}.values())

    def end(self) -> None:
        for process in self.running.values():
            process.end()
        self.running.clear()


@contextmanager
def started(settings: Settings, log: IO[str]) -> Iterator[Processes]:
    processes = Processes(settings, log)
    try:
        yield processes
    finally:
        processes.end()


class Comparison:
    """Measures the workloads, and records which peers are out, and why."""

    def __init__(self, processes: Processes, chosen: list[Peer], on_progress: Callable[[str], object]) -> None:
        self.processes = processes
        self.chosen = chosen
        self.on_progress = on_progress
        self.shuffle = random.Random(0).shuffle
        self.ended: dict[str, str] = {}  # peer -> how it took its process down when it was checked; not asked again
        self.too_much: dict[tuple[str, str], str] = {}  # (peer, workload) -> reason, for the other rules too
        self.out: dict[tuple[str, str], dict[str, str]] = {}  # (peer, rule) -> reason and kind

    # ---- Who takes part ----------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for peer in self.chosen:
            found |= self.processes.ask(peer, "versions", peer=peer.name)
        return dict(sorted(found.items()))

    def agreements(self, rule: str) -> dict[str, dict[str, Any]]:
        """Compare what each peer computes, and keep out those that fail or compute something else."""
        found = {}
        for peer in self.chosen:
            self.on_progress(f"checking {peer.name}")
            reason, kind = self.ended.get(peer.name), "failed"
            if reason is None:
                try:
                    result = self.processes.ask(peer, "agree", peer=peer.name, rule=rule)
                    found[peer.name] = result
                    reason, kind = (result["why"] if result["verdict"] == "wrong" else None), "wrong"
                except PeerError as error:
                    reason, kind = str(error), error.kind
                except LostPeerError as error:
                    self.ended[peer.name] = reason = str(error)
            if reason is not None:
                self.out[peer.name, rule] = {"reason": reason, "kind": kind}
        return found

    # ---- One workload ------------------------------------------------------------------------------------------------

    def measure(self, workload: str, rule: str) -> list[Row]:
        """Return a row for each peer: its figures, or the reason why it has none."""
        while True:
            try:
                rows = self._measure(workload, rule)
                return [rows[peer.name] for peer in self.chosen]
            except LostPeerError as error:
                if error.peer.name == peers.OURS:  # too much for this machine, then
                    return [{"peer": peer.name, "reason": str(error), "kind": "failed"} for peer in self.chosen]
                self.too_much[error.peer.name, workload] = str(error)

    def _measure(self, workload: str, rule: str) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        able = []
        for peer in self.chosen:
            if peer.name in self.ended:
                rows[peer.name] = {"peer": peer.name, "reason": self.ended[peer.name], "kind": "failed"}
            elif (peer.name, workload) in self.too_much:
                rows[peer.name] = {"peer": peer.name, "reason": self.too_much[peer.name, workload], "kind": "failed"}
            elif (peer.name, rule) in self.out:
                rows[peer.name] = {"peer": peer.name, **self.out[peer.name, rule]}
            else:
                able.append(peer)
        try:
            for peer in self.processes.one_peer_of_each(able):
                self.processes.ask(peer, "begin", workload=workload, rule=rule)
        except PeerError as error:
            raise LostPeerError(peers.PEERS[peers.OURS], str(error)) from None
        always = [peer for peer in able if peer.name in (peers.OURS, *peers.LIMITS)]
        facts: dict[str, Any] = {}
        samples: dict[str, list[float]] = {peer.name: [] for peer in always}
        for batch in self._batches([peer for peer in able if peer not in always], rule, workload):
            self.on_progress(f"{workload}, {rule}: {', '.join(peer.name for peer in batch) or 'ours and the limit'}")
            ready, times = [*always, *batch], {}
            for rounds in even_parts(self.processes.settings.rounds, self.processes.settings.placements):
                prepared = self._prepare(ready, rows, workload)
                lost = [peer for peer in ready if peer.name not in prepared]
                if lost and times:  # figures of fewer rounds would not compare with the others'
                    raise LostPeerError(lost[0], rows[lost[0].name]["reason"])
                facts |= prepared
                ready = [peer for peer in ready if peer.name in prepared]
                for name, more in self._rounds(ready, rounds).items():
                    times.setdefault(name, []).extend(more)
                for peer in self.processes.one_peer_of_each(ready):
                    self.processes.ask(peer, "drop", peers=[other.name for other in ready])
            always = [peer for peer in always if peer in ready]
            for peer in always:
                samples[peer.name] += times[peer.name]
            for peer in ready[len(always) :]:
                rows[peer.name] = row(peer.name, times[peer.name], times, facts[peer.name], workload)
        for peer in always:
            rows[peer.name] = row(peer.name, samples[peer.name], samples, facts[peer.name], workload)
        return rows

    def _prepare(self, batch: list[Peer], rows: dict[str, Row], workload: str) -> dict[str, Any]:
        facts = {}
        for peer in batch:
            try:
                facts[peer.name] = self.processes.ask(
                    peer, "prepare", peer=peer.name, block_seconds=self.processes.settings.block_seconds
                )
            except PeerError as error:
                if error.kind == "late":
                    self.too_much[peer.name, workload] = str(error)
                rows[peer.name] = {"peer": peer.name, "reason": str(error), "kind": error.kind}
        return facts

    def _batches(self, able: list[Peer], rule: str, workload: str) -> list[list[Peer]]:
        """Cut peers into batches that fit into memory. Ours and the limit take part in each."""
        available = self.processes.ask(self.chosen[0], "memory_available")
        arrays = 5 if rule == "plain" else 7  # of a contender, with what a careless one allocates in a step
        need = 4 * arrays * WORKLOADS[workload].elements
        fit = len(able) if available is None else int(available * self.processes.settings.memory_share / need)
        size = max(1, min(fit, len(able)))
        return [able[i : i + size] for i in range(0, len(able), size)] or [[]]

    def _rounds(self, ready: list[Peer], rounds: int) -> dict[str, list[float]]:
        order = list(ready)
        times: dict[str, list[float]] = {peer.name: [] for peer in ready}
        for _ in range(rounds):
            self.shuffle(order)  # what one leaves in the caches is not always left to the same one
            for peer in order:
                try:
                    times[peer.name].append(self.processes.ask(peer, "time", peer=peer.name))
                except PeerError as error:
                    raise LostPeerError(peer, str(error)) from None
        return times


def even_parts(whole: int, parts: int) -> list[int]:
    """Cut a whole number into as many parts, or fewer, so that none is 0."""
    parts = min(whole, parts)
    return [whole * (part + 1) // parts - whole * part // parts for part in range(parts)]


def row(peer: str, own: list[float], all_times: dict[str, list[float]], facts: dict[str, Any], workload: str) -> Row:
    """Return the figures of one peer. Ratios are those of medians of the same rounds."""
    medians = {name: statistics.median(times) for name, times in all_times.items()}
    median = statistics.median(own)
    q1, _, q3 = statistics.quantiles(own, n=4, method="inclusive") if len(own) > 1 else (median, median, median)
    limit = limit_of(medians)
    temporary = facts["temporary_bytes"]
    held = 8 * WORKLOADS[workload].elements + facts["state_bytes"]
    return {
        "peer": peer,
        "median_s": median,
        "q1_s": q1,
        "q3_s": q3,
        "rounds": len(own),
        "steps_per_round": facts["steps"],
        "vs_ours": median / medians[peers.OURS] if peers.OURS in medians else None,
        "vs_limit": median / limit if limit else None,
        "state_bytes": facts["state_bytes"],
        "temporary_bytes": temporary,
        "peak_bytes": None if temporary is None else held + temporary,
    }
