"""Results as a picture: a bar for each peer, and the machine's limit as a line."""

from pathlib import Path
from typing import Any

from harness import results as files
from harness.machine import in_words
from harness.tables import in_digits, in_order
from peers import LIMITS

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
    figure.savefig(path, dpi=110, metadata={"Description": files.fingerprint(results)})


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
