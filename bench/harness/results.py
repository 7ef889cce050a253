"""The file of results: what is in it, and how it is read."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import peers
from harness.workloads import RULES, WORKLOADS

FOLDER = Path(__file__).resolve().parents[1] / "results"
"""Where the results are that the documentation shows."""

SCHEMA = 1
"""Counts up when the meaning of a field changes, so that files of different meanings are never compared.

    schema      this number
    command     what was run; finished: when, in UTC
    machine     see harness.machine.describe
    versions    distribution -> version
    settings    rounds, placements, block_seconds, patience, and beside how many busy processes
    agreement   rule -> peer -> see harness.agreement.agreement
    results     a list of workload, title, rule, elements, tensors, and rows, one for each peer:
                either peer, median_s, q1_s, q3_s (seconds per step), rounds, steps_per_round, vs_ours, vs_limit
                (ratios of medians of the same rounds; null without a limit), state_bytes, temporary_bytes (what a step
                allocates), peak_bytes (parameters, gradients, state and temporaries; null for small workloads),
                or peer, reason, kind ("missing", "no such rule", "late", "failed", "wrong")
    install     peer -> the command that brings it, for those that are missing
"""

Results = dict[str, Any]


class ResultsError(Exception):
    """A file that holds no results of this kind."""


def save(results: Results, path: Path) -> None:
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Results:
    """Read a file of results.

    Raises:
        ResultsError: it cannot be read, or is something else.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ResultsError(f"{path}: not a file of results: it holds no JSON") from None
    if not isinstance(results, dict) or "schema" not in results:
        raise ResultsError(f"{path}: not a file of results: it has no schema number")
    if results["schema"] != SCHEMA:
        raise ResultsError(f"{path}: its schema is {results['schema']}, wanted {SCHEMA}")
    try:
        for entry in results["results"]:
            for row in entry["rows"]:
                if "reason" not in row and not (row["median_s"] > 0 and math.isfinite(row["q3_s"] - row["q1_s"])):
                    raise ResultsError(f"{path}: {entry['workload']}, {row['peer']}: the times are not positive")
    except (KeyError, TypeError) as error:
        raise ResultsError(f"{path}: not a file of results: {error}") from None
    return results


def fingerprint(results: Results) -> str:
    """Return a hash of all that was found: a picture has it, so that it shows whether it is of these results."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def measured(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of one workload that have figures, by peer."""
    return {row["peer"]: row for row in entry["rows"] if "reason" not in row}


def entry_for(results: Results, workload: str, rule: str) -> dict[str, Any] | None:
    for entry in results["results"]:
        if (entry["workload"], entry["rule"]) == (workload, rule):
            return entry
    return None


def limit_of(medians: dict[str, float]) -> float | None:
    """Return the limit: the slower one of the two loops, if both were measured."""
    return max(medians[name] for name in peers.LIMITS) if all(name in medians for name in peers.LIMITS) else None


def limit_seconds(entry: dict[str, Any]) -> float | None:
    """Return the time of the limit that binds in this workload."""
    return limit_of({name: row["median_s"] for name, row in measured(entry).items()})


def ordered(results: Results, rule: str) -> list[dict[str, Any]]:
    """Return the workloads measured with a rule, in the order of the list of workloads."""
    found = (entry_for(results, workload, rule) for workload in WORKLOADS)
    return [entry for entry in found if entry is not None]


def rules(results: Results) -> list[str]:
    return [rule for rule in RULES if ordered(results, rule)]
