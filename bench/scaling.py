"""How the cost of a step grows with threads, tensors and elements, and what that predicts for models past one machine.

    python bench/scaling.py [--quick] [--output FOLDER] [--docs]

See --help, and docs/scaling.md for what comes out.
"""

import argparse
import datetime
import json
import math
import random
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import rmsprop
from harness.arguments import whole_number, writable
from harness.machine import describe, in_words
from harness.pages import END, ROOT, between
from harness.results import FOLDER, fingerprint
from harness.tables import in_digits, readable, table
from harness.timing import seconds_per_step, steps_of_a_block
from harness.workloads import COMMON, random_arrays
from peers import machine_limit
from peers.contract import Contender, Steps

SCHEMA = 1
COMMITTED = FOLDER / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"
PICTURE = ROOT / "docs" / "scaling.png"
BEGIN = "<!-- figures from bench/results/scaling.json, written by python bench/scaling.py --docs -->"

MOVED_BYTES = {"plain": 20, "centered-momentum": 36}
"""Bytes that a step moves for a parameter in float32: each array is read, and all but the gradient are written."""

HELD_BYTES = {"plain": 12, "centered-momentum": 20}
"""Bytes that stay in memory for a parameter in float32: parameter, gradient and state."""

ELEMENTS_OF_A_SMALL_TENSOR = 64
SIZES = [1 << power for power in range(10, 27)]
COUNTS = [1, 10, 100, 1_000, 10_000, 100_000]
MODELS = {"1B": 10**9, "10B": 10**10, "100B": 10**11, "1T": 10**12}
USED_MEMORY = 0.8  # the part of a host's memory that is left for parameters, gradients and state
LINK = 25e9  # bytes per second and direction: a network of 200 Gbit/s

Scaling = dict[str, Any]


# ---- Measuring -------------------------------------------------------------------------------------------------------


def thread_counts() -> list[int]:
    """Return 1 to N, in doubling steps past 8."""
    most = rmsprop.get_num_threads()
    return sorted({*range(1, min(most, 8) + 1), *(8 << i for i in range(most.bit_length()) if 8 << i < most), most})


def medians(contenders: dict[str, Contender], rounds: int, block_seconds: float) -> dict[str, float]:
    """Return the median time of a step of each, over rounds in which all take turns."""
    for contender in contenders.values():
        contender.run(1)  # starts threads, allocates state
    steps = {name: steps_of_a_block(contender, block_seconds) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)  # what one leaves in the caches is not always left to the same one
        for name in order:
            times[name].append(seconds_per_step(contenders[name], steps[name]))
    return {f"{name}_s": statistics.median(values) for name, values in times.items()}


def contenders(shapes: list[tuple[int, ...]], threads: int) -> dict[str, Contender]:
    """Return the step and both limits, on so many threads."""
    arrays = random_arrays(shapes)
    optimizer = rmsprop.RMSprop([param.copy() for param in arrays.params], **COMMON, num_threads=threads)
    limits = {name: machine_limit.Loop(arrays, COMMON, divider=name == "divider") for name in ("traffic", "divider")}
    for limit in limits.values():
        limit.threads = threads
        if threads > 1 and sum(param.size for param in arrays.params) < machine_limit.MUCH_WORK:
            limit.threads = limit.best_threads((1, threads))
    return {"step": Steps(lambda: optimizer.step(arrays.grads), lambda: [], lambda: 0), **limits}


def measure(sizes: list[int], counts: list[int], rounds: int, block_seconds: float, command: str) -> Scaling:
    """Measure every point, with a progress bar."""
    from rich.progress import track

    sized = [(size, threads) for size in sizes for threads in thread_counts()]
    result: Scaling = {"schema": SCHEMA, "command": command, "machine": describe(), "rounds": rounds}
    result["sizes"] = [
        {"elements": size, "threads": threads, **medians(contenders([(size,)], threads), rounds, block_seconds)}
        for size, threads in track(sized, "sizes and threads")
    ]
    most = rmsprop.get_num_threads()
    shape = (ELEMENTS_OF_A_SMALL_TENSOR,)
    result["tensors"] = [
        {"tensors": count, "threads": most, **medians(contenders([shape] * count, most), rounds, block_seconds)}
        for count in track(counts, "tensors")
    ]
    result["finished"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return result


# ---- What the figures say --------------------------------------------------------------------------------------------


def bandwidth(point: dict[str, Any], what: str = "step_s") -> float:
    """Return the bytes that a plain step moves in a second."""
    return MOVED_BYTES["plain"] * point["elements"] / point[what]


def limit_seconds(point: dict[str, Any]) -> float:
    return max(point["traffic_s"], point["divider_s"])


def largest(scaling: Scaling) -> dict[str, Any]:
    """Return the point of the most elements on the most threads."""
    return max(scaling["sizes"], key=lambda point: (point["elements"], point["threads"]))


def seconds_of_a_tensor(scaling: Scaling) -> float:
    """Return what one more small tensor costs: the slope between the two ends of many tensors."""
    many = [point for point in scaling["tensors"] if point["tensors"] >= 100]
    first, last = many[0], many[-1]
    return (last["step_s"] - first["step_s"]) / (last["tensors"] - first["tensors"])


def predict(parameters: int, hosts: int, bytes_per_second: float, rule: str = "plain") -> tuple[float, float, float]:
    """Return what a host holds, in bytes, how long its step takes, and how long its network is busy, in seconds.

    Every host has an even share of parameters, gradients and state, and steps it alone. The network brings the sums of
    the gradients to the shares and the parameters back to all: each host sends and receives 4 bytes for each parameter
    of the others, twice.
    """
    share = parameters / hosts
    exchanged = 2 * 4 * (parameters - share)
    return HELD_BYTES[rule] * share, MOVED_BYTES[rule] * share / bytes_per_second, exchanged / LINK


def hosts_needed(parameters: int, memory_bytes: float, rule: str) -> int:
    return max(1, math.ceil(HELD_BYTES[rule] * parameters / (USED_MEMORY * memory_bytes)))


def in_bytes(value: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if value >= factor:
            return f"{in_digits(value / factor)} {unit}"
    return f"{in_digits(value / 1e6)} MB"


def page_figures(scaling: Scaling) -> str:
    """Return the generated part of docs/scaling.md."""
    machine = scaling["machine"]
    most = machine["threads"]
    rows = [
        [
            f"{point['elements']:,}",
            *(
                f"{in_digits(bandwidth(other) / 1e9)} ({in_digits(limit_seconds(other) / other['step_s'])})"
                for other in scaling["sizes"]
                if other["elements"] == point["elements"]
            ),
        ]
        for point in scaling["sizes"]
        if point["threads"] == most
    ]
    threads = [f"{point['threads']} threads" for point in scaling["sizes"] if point["elements"] == rows_first(scaling)]
    lines = [
        f"`{scaling['command']}` wrote these figures, on {in_words(machine)}.",
        "",
        "GB/s of a plain step on one tensor (in brackets: the part of the limit):",
        "",
        *table(["elements", *(name.replace("1 threads", "1 thread") for name in threads)], rows),
        "",
        f"Tensors of {ELEMENTS_OF_A_SMALL_TENSOR} elements, {most} threads:",
        "",
        *table(
            ["tensors", "one step", "limit"],
            [
                [f"{point['tensors']:,}", readable(point["step_s"]), readable(limit_seconds(point))]
                for point in scaling["tensors"]
            ],
        ),
        "",
        f"So here *call* = {readable(scaling['tensors'][0]['step_s'])}, "
        f"*tensor* = {readable(seconds_of_a_tensor(scaling))} and "
        f"*B* = {in_digits(bandwidth(largest(scaling)) / 1e9)} GB/s. With hosts like this one, "
        f"{in_digits(machine['memory_bytes'] / 2**30)} GiB each:",
        "",
        *table(
            ["parameters", "rule", "held in all", "hosts", "held by each", "one step", "network"], predictions(scaling)
        ),
    ]
    return "\n".join(lines)


def rows_first(scaling: Scaling) -> int:
    first: int = scaling["sizes"][0]["elements"]
    return first


def predictions(scaling: Scaling) -> list[list[str]]:
    """Return a row for each model and rule: on as few hosts as hold it."""
    rows = []
    for name, parameters in MODELS.items():
        for rule in HELD_BYTES:
            hosts = hosts_needed(parameters, scaling["machine"]["memory_bytes"], rule)
            held, step, network = predict(parameters, hosts, bandwidth(largest(scaling)), rule)
            in_all = in_bytes(HELD_BYTES[rule] * parameters)
            exchange = readable(network) if hosts > 1 else "none"
            rows.append([name, rule, in_all, f"{hosts:,}", in_bytes(held), readable(step), exchange])
    return rows


# ---- The picture -----------------------------------------------------------------------------------------------------

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def draw(scaling: Scaling, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    roofline, tensors, threads = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    draw_roofline(roofline, scaling)
    draw_tensors(tensors, scaling)
    draw_threads(threads, scaling)
    figure.suptitle(f"A plain step in float32: {in_words(scaling['machine'])}", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Description": fingerprint(scaling)})


def draw_roofline(axes: Any, scaling: Scaling) -> None:
    """Bytes per second by elements, a line for each number of threads, its limit dashed, and where caches end."""
    for colour, threads in zip(COLOURS * 9, sorted({point["threads"] for point in scaling["sizes"]}), strict=False):
        points = [point for point in scaling["sizes"] if point["threads"] == threads]
        sizes = [point["elements"] for point in points]
        limits = [MOVED_BYTES["plain"] * point["elements"] / limit_seconds(point) / 1e9 for point in points]
        label = "1 thread" if threads == 1 else f"{threads} threads"
        axes.plot(
            sizes, [bandwidth(point) / 1e9 for point in points], marker="o", markersize=3, color=colour, label=label
        )
        axes.plot(sizes, limits, color=colour, linestyle="dashed", linewidth=1, label=f"limit, {label}")
    for name, size in scaling["machine"]["caches"].items():
        axes.axvline(size / HELD_BYTES["plain"], color="grey", linewidth=0.7, linestyle="dotted")
        axes.annotate(
            f" {name} full", (size / HELD_BYTES["plain"], 0.02), xycoords=("data", "axes fraction"), fontsize=7
        )
    axes.set(xscale="log", title="one tensor", xlabel="elements", ylabel="GB/s moved")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def draw_tensors(axes: Any, scaling: Scaling) -> None:
    counts = [point["tensors"] for point in scaling["tensors"]]
    axes.plot(
        counts, [point["step_s"] * 1e6 for point in scaling["tensors"]], marker="o", color=COLOURS[0], label="step"
    )
    axes.plot(
        counts,
        [limit_seconds(point) * 1e6 for point in scaling["tensors"]],
        linestyle="dashed",
        color=COLOURS[0],
        label="limit",
    )
    title = f"tensors of {ELEMENTS_OF_A_SMALL_TENSOR}"
    axes.set(xscale="log", yscale="log", title=title, xlabel="tensors", ylabel="µs for one step")
    axes.legend(fontsize=7)


def draw_threads(axes: Any, scaling: Scaling) -> None:
    """How many times faster than on one thread, for a size of each level of memory."""
    sizes = sorted({point["elements"] for point in scaling["sizes"]})
    for colour, size in zip(COLOURS, sizes[:: max(1, len(sizes) // 5)], strict=False):
        points = [point for point in scaling["sizes"] if point["elements"] == size]
        alone = points[0]["step_s"]
        axes.plot(
            [point["threads"] for point in points],
            [alone / point["step_s"] for point in points],
            marker="o",
            color=colour,
            label=f"{size:,} elements",
        )
    axes.set(title="threads", xlabel="threads", ylabel="times faster than on one")
    axes.set_xticks(sorted({point["threads"] for point in scaling["sizes"]}))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


# ---- The program -----------------------------------------------------------------------------------------------------


def write_page(scaling: Scaling, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Put the figures into the page, and draw its picture."""
    text = between(page.read_text(encoding="utf-8"), page_figures(scaling), BEGIN, END)
    page.write_text(text, encoding="utf-8")
    draw(scaling, picture)


def save(scaling: Scaling, path: Path) -> None:
    path.write_text(json.dumps(scaling, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scaling.py",
        description="Time a plain step beside the machine's limit: by threads, by tensors (1 to 100,000 of 64) and by "
        "elements (1K to 64M, through every cache). Writes scaling.json and scaling.png.",
        epilog="Takes some minutes and 2 GB of memory. needs: pip install '.[bench]' and a C++ compiler",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, up to 1M elements and 1,000 tensors")
    parser.add_argument("--rounds", type=whole_number, metavar="N", help="rounds in which all take turns (default: 9)")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-results"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--docs", action="store_true", help="also into bench/results, docs/scaling.md and its picture")
    options = parser.parse_args(arguments)
    try:
        writable(options.output)
    except OSError as error:
        parser.error(str(error))
    sizes = [size for size in SIZES if not options.quick or size <= 1 << 20]
    counts = [count for count in COUNTS if not options.quick or count <= 1_000]
    words = sys.argv[1:] if arguments is None else arguments
    rounds = options.rounds or (3 if options.quick else 9)
    command = shlex.join(["python", "bench/scaling.py", *words])
    scaling = measure(sizes, counts, rounds, 2e-3 if options.quick else 1e-2, command)
    save(scaling, options.output / "scaling.json")
    draw(scaling, options.output / "scaling.png")
    if options.docs:
        save(scaling, COMMITTED)
        write_page(scaling)
    print(page_figures(scaling))
    return 0


if __name__ == "__main__":
    sys.exit(main())
