"""Results as tables: a page of Markdown, and what a terminal shows."""

from typing import Any

from harness import results as files
from harness.machine import in_words
from peers import LIMITS, OURS, PEERS


def readable(seconds: float) -> str:
    """Return a time in three digits and a unit that fits."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{in_digits(seconds * factor)} {unit}"
    return f"{in_digits(seconds * 1e9)} ns"


def in_digits(value: float) -> str:
    """Return a number in three digits, without an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.1f}" if rounded >= 10 else f"{rounded:.2f}"


def in_mib(size: int | None) -> str:
    return "" if size is None else f"{in_digits(size / 2**20)} MiB"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{in_digits(ratio)}x"


def in_order(names: Any) -> list[str]:
    """Return names of peers in the order of the peers; names from other versions come last."""
    return sorted(names, key=lambda name: list(PEERS).index(name) if name in PEERS else len(PEERS))


# ---- Tables ----------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


DETAIL_HEAD = ["peer", "one step", "quartiles", "to ours", "to the limit", "state", "allocated in a step", "peak"]


def detail_rows(entry: dict[str, Any]) -> list[list[str]]:
    """Return a row of cells for each peer that has figures."""
    return [
        [
            row["peer"],
            readable(row["median_s"]),
            f"{readable(row['q1_s'])} to {readable(row['q3_s'])}",
            times(row["vs_ours"]),
            times(row["vs_limit"]),
            in_mib(row["state_bytes"]),
            in_mib(row["temporary_bytes"]),
            in_mib(row["peak_bytes"]),
        ]
        for row in files.measured(entry).values()
    ]


def summary_rows(results: files.Results, rule: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of all peers and workloads."""
    entries = files.ordered(results, rule)
    names = in_order({row["peer"] for entry in entries for row in entry["rows"]})
    rows = []
    for name in names:
        cells = [name]
        for entry in entries:
            row = files.measured(entry).get(name)
            cells.append(f"{readable(row['median_s'])} ({times(row['vs_ours']) or '?'})" if row else "-")
        rows.append(cells)
    return ["one step (ratio to rmsprop)", *(entry["workload"] for entry in entries)], rows


def agreement_rows(results: files.Results) -> list[list[str]]:
    return [
        [
            name,
            rule,
            check["verdict"],
            difference(check["from_ours"]),
            difference(check["from_its_formula"]),
            check["why"],
        ]
        for rule, checks in results["agreement"].items()
        for name, check in checks.items()
        if check["verdict"] != "no step"
    ]


def difference(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def absent_rows(results: files.Results) -> list[list[str]]:
    """Return which peers were not measured, where, why, and the command that installs each."""
    where: dict[tuple[str, str], list[str]] = {}
    for entry in results["results"]:
        for row in entry["rows"]:
            if "reason" in row:
                where.setdefault((row["peer"], row["reason"]), []).append(f"{entry['workload']} {entry['rule']}")
    everywhere = len(results["results"])
    rows = []
    for (name, reason), places in where.items():
        place = "everywhere" if len(places) == everywhere else ", ".join(places)
        rows.append([name, place, reason, f"`{results['install'][name]}`" if name in results["install"] else ""])
    return rows


def markdown(results: files.Results) -> str:
    """Return everything as a page."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "# One step, side by side",
        "",
        f"`{results['command']}`, finished {results['finished']}, {in_words(results['machine'])}.",
        "",
        f"Versions: {versions}. Medians of {results['settings']['rounds']} interleaved rounds or more; float32. The",
        "machine may have been shared: read the ratios.",
    ]
    for rule in files.rules(results):
        head, rows = summary_rows(results, rule)
        lines += ["", f"## {rule}", "", *table(head, rows)]
    lines += ["", "## What each computes", "", "Differences are parts of the learning rate, after 3 steps.", ""]
    lines += table(["peer", "rule", "verdict", "from ours", "from its own formula", "why"], agreement_rows(results))
    if absent := absent_rows(results):
        lines += ["", "## Not measured", "", *table(["peer", "where", "why", "what brings it"], absent)]
    for entry in results["results"]:
        lines += ["", f"## {entry['title']}, {entry['rule']}", "", *table(DETAIL_HEAD, detail_rows(entry))]
    return "\n".join(lines) + "\n"


def print_workload(entry: dict[str, Any], console: Any) -> None:
    """Print the figures of one workload."""
    from rich.table import Table

    drawn = Table(title=f"{entry['title']}, {entry['rule']}", title_justify="left")
    shown = [
        i for i, head in enumerate(DETAIL_HEAD) if head in ("peer", "one step", "quartiles", "to ours", "to the limit")
    ]
    for i in shown:
        drawn.add_column(DETAIL_HEAD[i], justify="right" if i else "left")
    for cells in detail_rows(entry):
        style = "bold green" if cells[0] == OURS else "dim" if cells[0] in LIMITS else ""
        drawn.add_row(*(cells[i] for i in shown), style=style)
    for row in entry["rows"]:
        if "reason" in row:
            drawn.add_row(row["peer"], "not measured", style="yellow")
    console.print(drawn)


def print_end(results: files.Results, console: Any) -> None:
    """Print what each computes, and which were not measured."""
    from rich.table import Table

    for title, head, rows in (
        (
            "What each computes",
            ("peer", "rule", "verdict", "from ours", "from its formula", "why"),
            agreement_rows(results),
        ),
        ("Not measured", ("peer", "where", "why", "what brings it"), absent_rows(results)),
    ):
        drawn = Table(*head, title=title, title_justify="left")
        for cells in rows:
            drawn.add_row(*cells)
        if rows:
            console.print(drawn)
