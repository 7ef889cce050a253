"""Whether a step became slower since an earlier run, in ratios.

A time says as much about the machine as about the program, so times are never compared. What is compared is a step's
time divided by the limit's in the same rounds; where a run has no limit, divided by each peer's that both runs had in
the same version, of which the median change counts. A change within the noise is none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness import results as files
from peers import LIMITS, PEERS

OWN = tuple(peer.name for peer in PEERS.values() if peer.name.startswith("rmsprop"))
THRESHOLD = 0.10


@dataclass(frozen=True)
class Change:
    """How a ratio changed: 1.2 means that the step takes 1.2 times what it took, beside the same thing."""

    workload: str
    rule: str
    peer: str
    beside: str
    before: float
    after: float
    change: float
    noise: float

    def is_slower(self, threshold: float) -> bool:
        return self.change > 1 + max(threshold, self.noise)

    def __str__(self) -> str:
        return (
            f"{self.workload}, {self.rule}, {self.peer}: {self.before:.2f} -> {self.after:.2f} times {self.beside}"
            f" ({self.change - 1:+.0%}; noise {self.noise:.0%})"
        )


def spread(row: dict[str, Any]) -> float:
    """Return the interquartile range as a part of the median."""
    return (row["q3_s"] - row["q1_s"]) / row["median_s"]


def anchors(before: files.Results, after: files.Results, names: set[str]) -> list[str]:
    """Return what a step can be compared with: peers that are the same in both runs."""

    def same(name: str) -> bool:
        packages = PEERS[name].packages if name in PEERS else ()
        return all(before["versions"].get(package) == after["versions"].get(package) for package in packages)

    return [name for name in sorted(names) if name not in OWN and name not in LIMITS and same(name)]


def change_beside(name: str, one: dict[str, Any], other: dict[str, Any], anchor: str) -> tuple[float, float, float]:
    """Return the ratio to an anchor before, after, and the noise in the change."""
    ratios, noises = [], []
    for rows in (one, other):
        ratios.append(rows[name]["median_s"] / rows[anchor]["median_s"])
        noises += [spread(rows[name]), spread(rows[anchor])]
    return ratios[0], ratios[1], sum(noise**2 for noise in noises) ** 0.5


def changes(before: files.Results, after: files.Results) -> Iterator[Change]:
    """Compare every step of ours that both runs have."""
    for entry in after["results"]:
        workload, rule = entry["workload"], entry["rule"]
        earlier = files.entry_for(before, workload, rule)
        if earlier is None:
            continue
        one, other = files.measured(earlier), files.measured(entry)
        has_limits = all(name in one and name in other for name in LIMITS)
        for name in OWN:
            if name not in one or name not in other:
                continue
            if has_limits:
                binding = max(LIMITS, key=lambda limit: one[limit]["median_s"])
                was, now, noise = change_beside(name, one, other, binding)
                yield Change(workload, rule, name, "the limit", was, now, now / was, noise)
            elif common := anchors(before, after, one.keys() & other.keys()):
                each = {anchor: change_beside(name, one, other, anchor) for anchor in common}
                by_change = sorted(common, key=lambda anchor: each[anchor][1] / each[anchor][0])
                anchor = by_change[(len(common) - 1) // 2]
                was, now, noise = each[anchor]
                yield Change(workload, rule, name, anchor, was, now, now / was, noise)


def report(before: files.Results, after: files.Results, threshold: float = THRESHOLD) -> tuple[list[str], bool]:
    """Return lines that say what became slower, and whether anything did."""
    lines = []
    for fact in ("cpu", "threads", "instruction_set"):
        was, now = before["machine"].get(fact), after["machine"].get(fact)
        if was != now:
            lines.append(f"note: another machine: {fact} was {was}, is {now}; ratios carry over only roughly")
    found = list(changes(before, after))
    slower = [change for change in found if change.is_slower(threshold)]
    lines += [f"slower: {change}" for change in slower]
    lines.append(f"{len(found)} ratios compared, {len(slower)} slower by more than {threshold:.0%} and than the noise")
    return lines, bool(slower)
