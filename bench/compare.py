"""Compare a step with everything else that takes one: python bench/compare.py. See --help and bench/README.md."""

import argparse
import datetime
import importlib.util
import shlex
import sys
from pathlib import Path

from harness import changes, measure, pages, tables
from harness import results as files
from harness.arguments import positive, whole_number, writable
from harness.machine import describe
from harness.processes import busy
from harness.workloads import QUICK, RULES, WORKLOADS
from peers import OURS, PEERS

NEEDED = ("rich", "matplotlib")
FULL = {"rounds": 15, "placements": 3, "block_ms": 20.0, "patience": 120.0}
IN_A_HURRY = {"rounds": 5, "placements": 1, "block_ms": 5.0, "patience": 60.0}

DESCRIPTION = """\
Time one optimizer step of rmsprop, through its NumPy API and its PyTorch
adapter, beside every peer that is installed, and beside the limit of the
machine: the slower of two bare C++ loops, of which one moves the same memory
and one does as many square roots and divisions. All take turns in rounds, so
that all run under the same conditions; medians, quartiles and ratios are
reported. Before that, it is checked what each peer computes. A peer that is
not installed, fails, or computes something else becomes a row with the reason.
"""

EPILOG = """\
examples:
  python bench/compare.py --quick
  python bench/compare.py --workloads resnet50 mlp --rules plain
  python bench/compare.py --peers rmsprop "torch RMSprop" --rounds 31
  python bench/compare.py --quick --beside 2
  python bench/compare.py --against bench/results/compare.json

writes compare.json, compare.md and compare.png, and log.txt with what the
frameworks printed. Exit code: 0, or 1 if --against found a step slower, 2 if
an argument is wrong. needs: pip install '.[bench]'
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        metavar="NAME",
        help=f"what to step (default: all; with --quick {', '.join(QUICK)}): {', '.join(WORKLOADS)}",
    )
    add(
        "--rules",
        nargs="+",
        choices=RULES,
        default=list(RULES),
        metavar="NAME",
        help=f"{', '.join(RULES)} (default: all)",
    )
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help="what to compare (default: all)")
    add("--list", action="store_true", help="print the peers and the commands that install them, and stop")
    add("--quick", action="store_true", help="few rounds, short blocks, small workloads: some minutes")
    add("--rounds", type=whole_number, metavar="N", help="rounds in which all take turns (default: 15; with --quick 5)")
    add(
        "--placements",
        type=whole_number,
        metavar="N",
        help="how often in these rounds all arrays are allocated again, so that no figure depends on one placement in "
        "memory (default: 3; with --quick 1)",
    )
    add(
        "--block-ms",
        type=positive,
        metavar="MS",
        help="how long each runs in a round, in milliseconds, one step at least (default: 20; with --quick 5)",
    )
    add(
        "--patience",
        type=positive,
        metavar="S",
        help="seconds after which a peer that is not ready is left out (default: 120; with --quick 60)",
    )
    add(
        "--isolate",
        nargs="+",
        choices=sorted({peer.framework for peer in PEERS.values()} - {"rmsprop", "limit"}),
        default=[],
        metavar="FRAMEWORK",
        help="run these in a separate process, if they conflict with the others (%(choices)s)",
    )
    add(
        "--beside",
        type=whole_number,
        default=0,
        metavar="N",
        help="measure beside so many processes that compute all the time (default: none)",
    )
    add(
        "--output",
        type=Path,
        default=Path("bench-results"),
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )
    add(
        "--readme", action="store_true", help="also into bench/results, README.md, docs/pytorch.md and docs/compare.png"
    )
    add("--against", type=Path, metavar="FILE.json", help="report what became slower since these results, in ratios")
    add(
        "--threshold",
        type=positive,
        default=changes.THRESHOLD,
        metavar="PART",
        help="by how much a ratio may grow (default: 0.1, a tenth); never less than the noise",
    )
    return parser


def run(options: argparse.Namespace, command: str) -> files.Results:
    """Measure everything that was asked for, with a progress bar, and print a table for each workload."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    defaults = IN_A_HURRY if options.quick else FULL
    settings = measure.Settings(
        rounds=options.rounds or int(defaults["rounds"]),
        placements=options.placements or int(defaults["placements"]),
        block_seconds=(options.block_ms or defaults["block_ms"]) / 1e3,
        patience=options.patience or defaults["patience"],
        isolated=frozenset(options.isolate),
    )
    workloads = options.workloads or (QUICK if options.quick else list(WORKLOADS))
    chosen = [PEERS[name] for name in PEERS if name in options.peers]
    results: files.Results = {
        "schema": files.SCHEMA,
        "command": command,
        "machine": describe(),
        "settings": {
            "rounds": settings.rounds,
            "placements": settings.placements,
            "block_seconds": settings.block_seconds,
            "patience": settings.patience,
            "beside": options.beside,
        },
        "agreement": {},
        "results": [],
    }
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with (
        Progress(*columns, console=console, transient=True) as progress,
        (options.output / "log.txt").open("w", encoding="utf-8") as log,
        measure.started(settings, log) as processes,
        busy(options.beside),
    ):
        task = progress.add_task("starting", total=len(options.rules) * (1 + len(workloads)))
        comparison = measure.Comparison(processes, chosen, lambda text: progress.update(task, description=text))
        results["versions"] = comparison.versions()
        for rule in options.rules:
            results["agreement"][rule] = comparison.agreements(rule)
            progress.advance(task)
            for workload in workloads:
                entry = {
                    "workload": workload,
                    "title": WORKLOADS[workload].title,
                    "rule": rule,
                    "elements": WORKLOADS[workload].elements,
                    "tensors": len(WORKLOADS[workload].shapes()),
                    "rows": comparison.measure(workload, rule),
                }
                results["results"].append(entry)
                finish(results)
                files.save(results, options.output / "compare.json")  # an interrupted run keeps what it has
                tables.print_workload(entry, console)
                progress.advance(task)
    tables.print_end(results, console)
    return results


def finish(results: files.Results) -> None:
    """Record the time, and the commands that install missing peers."""
    missing = {row["peer"] for entry in results["results"] for row in entry["rows"] if row.get("kind") == "missing"}
    results["install"] = {name: PEERS[name].install for name in PEERS if name in missing}
    results["finished"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.list:
        for peer in PEERS.values():
            print(f"{peer.name:28} {peer.install}")
        return 0
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        parser.error(f"{' and '.join(absent)} not installed; run: pip install '.[bench]'")
    if OURS not in options.peers:
        parser.error(f"--peers: {OURS} has to be among them: all others are compared with it")
    try:
        earlier = files.load(options.against) if options.against else None
        writable(options.output)
        if options.readme:
            for page in pages.SHOWN:
                pages.between(page.read_text(encoding="utf-8"), "")
            writable(pages.COMMITTED.parent)
    except (files.ResultsError, OSError) as error:
        parser.error(str(error))
    words = sys.argv[1:] if arguments is None else arguments
    try:
        results = run(options, shlex.join(["python", "bench/compare.py", *words]))
    except KeyboardInterrupt:
        return 130  # what a shell reports for a program ended by Ctrl-C
    print("wrote", *pages.write_all(results, options.output))
    if options.readme:
        files.save(results, pages.COMMITTED)
        pages.write_pages(results)
    if earlier is None:
        return 0
    lines, slower = changes.report(earlier, results, options.threshold)
    print("\n".join(lines))
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
