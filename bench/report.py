"""Results as tables and a picture: python bench/report.py [RESULTS.json] [--readme], from what compare.py wrote."""

import argparse
import sys
from pathlib import Path
from typing import Any

import results as files
from machine import in_words
from peers import LIMITS, OURS, PEERS

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = Path(__file__).with_name("results") / "compare.json"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "compare.png"
BEGIN = "<!-- figures from bench/results/compare.json, written by python bench/report.py --readme -->"
END = "<!-- end of the figures -->"
README_PEERS = {
    "rmsprop": "rmsprop",
    "rmsprop.torch RMSprop": "rmsprop.torch",
    "torch RMSprop": "torch RMSprop",
    "torch RMSprop, compiled": "the same, compiled",
    "torch Adagrad, fused": "torch Adagrad, fused",
    "JAX optax, jit": "JAX optax, jit",
    "Numba, fused by hand": "Numba",
    "NumPy expression": "NumPy",
}
"""The peers of the README's table, with the heads of their columns."""


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
    """Return who was not measured, where, why, and the command that brings it."""
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
    """Print what each computes, and who was not measured."""
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


# ---- The README ------------------------------------------------------------------------------------------------------


def readme_figures(results: files.Results) -> str:
    """Return the figures of the README: the plain rule, ours and some peers, and how near the limit we are."""
    entries = files.ordered(results, "plain")
    names = [name for name in README_PEERS if any(name in files.measured(entry) for entry in entries)]
    rows = []
    for entry in entries:
        measured = files.measured(entry)
        cells = [entry["title"]]
        for name in names:
            row = measured.get(name)
            ratio = "" if name == OURS or row is None or row["vs_ours"] is None else f" ({times(row['vs_ours'])})"
            cells.append(f"{readable(row['median_s'])}{ratio}" if row else "-")
        limit = files.limit_seconds(entry)
        rows.append([*cells, readable(limit) if limit else "-"])
    versions = results["versions"]
    named = [f"{name} {versions[name]}" for name in ("torch", "jax", "optax", "numba", "numpy") if name in versions]
    head = ["one step, float32", *(README_PEERS[name] for name in names), "limit"]
    lines = [
        f"`{results['command']}` wrote these figures, on {in_words(results['machine'])};",
        f"{', '.join(named)}.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines)


def between(text: str, figures: str) -> str:
    """Return a text with its figures replaced.

    Raises:
        files.ResultsError: it does not say where they belong.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise files.ResultsError(f"the page has no place for the figures, between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


# ---- The picture -----------------------------------------------------------------------------------------------------

OWN_COLOUR, PEER_COLOUR, LIMIT_COLOUR = "#0072B2", "#B0B0B0", "#D55E00"


def draw(results: files.Results, path: Path) -> None:
    """Draw a bar chart for each workload: how many times the limit each peer takes, the limit as a line."""
    from matplotlib.figure import Figure

    entries = [entry for rule in files.rules(results) for entry in files.ordered(results, rule)]
    found = {name for entry in entries for name in files.measured(entry) if name not in LIMITS}
    names = in_order(found)
    columns = min(5, len(entries))
    lines = -(-len(entries) // columns)
    figure = Figure(figsize=(3 + 2.5 * columns, 0.9 + lines * (0.7 + 0.19 * len(names))), layout="constrained")
    for position, entry in enumerate(entries):
        axes = figure.add_subplot(lines, columns, position + 1)
        draw_workload(axes, entry, names, has_labels=position % columns == 0)
    figure.suptitle(
        f"Time of one step beside the machine's limit (line): {in_words(results['machine'])}", fontsize=10, ha="center"
    )
    figure.savefig(path, dpi=110)


def draw_workload(axes: Any, entry: dict[str, Any], names: list[str], has_labels: bool) -> None:
    rows = files.measured(entry)
    unit = files.limit_seconds(entry)
    base = unit or min(row["median_s"] for row in rows.values())
    for i, name in enumerate(names):
        if name in rows:
            ratio = rows[name]["median_s"] / base
            colour = OWN_COLOUR if name.startswith("rmsprop") else PEER_COLOUR
            axes.barh(i, ratio - 1, left=1, color=colour, height=0.7)  # from the limit on
            axes.plot([rows[name][q] / base for q in ("q1_s", "q3_s")], [i, i], color="black", linewidth=1)
            axes.annotate(
                in_digits(ratio),
                (max(rows[name]["q3_s"] / base, 1), i),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
            )
        else:
            axes.annotate(
                "not measured", (1, i), (3, 0), textcoords="offset points", va="center", fontsize=6, color="grey"
            )
    axes.axvline(1, color=LIMIT_COLOUR, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xlim(0.8, max(20, 4 * max(row["median_s"] for row in rows.values()) / base))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names if has_labels else [""] * len(names), fontsize=7)
    axes.tick_params(axis="x", labelsize=6)
    axes.set_title(f"{entry['title']}\n{entry['rule']}", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("times the limit" if unit else "times the fastest", fontsize=6)


def write_all(results: files.Results, folder: Path) -> list[Path]:
    """Write the file of results, the page and the picture."""
    paths = [folder / f"compare.{ending}" for ending in ("json", "md", "png")]
    files.save(results, paths[0])
    paths[1].write_text(markdown(results), encoding="utf-8")
    draw(results, paths[2])
    return paths


def write_readme(results: files.Results, readme: Path = README, picture: Path = PICTURE) -> None:
    """Put the figures into the README, and draw its picture."""
    readme.write_text(between(readme.read_text(encoding="utf-8"), readme_figures(results)), encoding="utf-8")
    draw(results, picture)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turn the results of bench/compare.py into a page, a picture, and the README's figures.",
        epilog="Without options, the page is printed.",
    )
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=COMMITTED,
        metavar="RESULTS.json",
        help="what compare.py wrote (default: bench/results/compare.json)",
    )
    parser.add_argument("--readme", action="store_true", help="write the figures into README.md and docs/compare.png")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the picture")
    options = parser.parse_args(arguments)
    try:
        results = files.load(options.results)
        if options.readme:
            write_readme(results)
        if options.picture:
            draw(results, options.picture)
    except (files.ResultsError, OSError) as error:
        parser.error(str(error))
    if not options.readme and not options.picture:
        print(markdown(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
