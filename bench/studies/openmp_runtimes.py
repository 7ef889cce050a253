"""Do OpenMP runtimes in one process slow each other down? PyTorch's backward pass and our step, in turns and apart.

    python bench/studies/openmp_runtimes.py [--seconds N] [--passes N] [--json FILE]

In each setting, a process of its own takes turns, in rounds, at three things: some backward passes, some steps, and as
many of both in alternation. A ratio compares the same work within one round: alternating with the other by apart. What
alternates finds the caches full of the other's numbers, whatever the runtimes do; how much that is, the control shows,
in which the backward pass runs on one thread and so without any runtime. The settings: one OpenMP runtime that both
share, which is how it is where PyTorch brings a libgomp.so.1; or two, for which our extension gets a copy of the
system's under another name; each with what environment variables say on how threads wait for work. On Linux with GCC's
runtime, with PyTorch.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARED, OWN = b"libgomp.so.1\0", b"libgomq.so.1\0"
ENVIRONMENTS = {
    "default": {},
    "OMP_WAIT_POLICY=active": {"OMP_WAIT_POLICY": "active"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "control": {"RMSPROP_BENCH_THREADS": "1"},
}
BATCH, WIDTH = 256, 512
TURNS = 8  # of each in one round


# ---- In the measuring process ----------------------------------------------------------------------------------------


def load_extension(path):
    """Let `import rmsprop` find this file as its extension."""
    loader = importlib.machinery.ExtensionFileLoader("rmsprop._core", path)
    spec = importlib.util.spec_from_file_location("rmsprop._core", path, loader=loader)
    sys.modules["rmsprop._core"] = module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)


def runtimes():
    """Return the OpenMP runtimes that this process has mapped."""
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "/" in line}
    return sorted(path for path in paths if "libgom" in path or "libomp" in path or "libiomp" in path)


def work():
    """Return a backward pass and a step of the same model, as functions."""
    import torch

    import rmsprop

    threads = rmsprop.get_num_threads()
    torch.set_num_threads(int(os.environ.get("RMSPROP_BENCH_THREADS", threads)))
    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    model = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.ReLU())))
    inputs = torch.randn(BATCH, WIDTH)
    loss = model(inputs).square().mean()
    loss.backward(retain_graph=True)
    params = [param.detach().numpy() for param in model.parameters()]
    optimizer = rmsprop.RMSprop(params, lr=0.0, momentum=0.9, num_threads=threads)
    grads = [param.grad.numpy() for param in model.parameters()]
    return lambda: loss.backward(retain_graph=True), lambda: optimizer.step(grads)


def times_of(acts):
    """Return how long each of some functions takes, one after the other."""
    times = []
    for act in acts:
        begin = time.perf_counter()
        act()
        times.append(time.perf_counter() - begin)
    return times


def measure(seconds):
    """Return the medians of each round, by what was measured."""
    backward, step = work()
    both = [backward, step] * TURNS
    for act in both:
        act()
    rounds = {name: [] for name in ("backward", "backward alternating", "step", "step alternating")}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(rounds["step"]) < 3:
        parts = [("backward", [backward] * TURNS), ("step", [step] * TURNS), ("both", both)]
        random.shuffle(parts)
        for name, acts in parts:
            times = times_of(acts)
            if name == "both":
                rounds["backward alternating"].append(statistics.median(times[::2]))
                rounds["step alternating"].append(statistics.median(times[1::2]))
            else:
                rounds[name].append(statistics.median(times))
    return rounds


def measuring_process(seconds, extension):
    """Print what was measured as JSON."""
    import torch  # noqa: F401 - the first to bring a runtime

    if extension:
        load_extension(extension)
    rounds = measure(seconds)
    print(json.dumps({"rounds": rounds, "runtimes": runtimes()}))


# ---- In the main process ---------------------------------------------------------------------------------------------


def with_a_runtime_of_its_own(folder):
    """Copy our extension and the runtime it uses, under a name that nothing else has, and return the extension."""
    from rmsprop import _core

    libraries = subprocess.run(["ldd", _core.__file__], capture_output=True, text=True, check=True).stdout
    paths = [line.split()[2] for line in libraries.splitlines() if "libgomp.so.1 =>" in line]
    if not paths:
        raise SystemExit(f"{_core.__file__} does not use libgomp.so.1, so there is nothing to compare")
    copies = {Path(_core.__file__): folder / Path(_core.__file__).name, Path(paths[0]): folder / "libgomq.so.1"}
    for original, copy in copies.items():
        # Both names are equally long, so this changes what is needed, or provided, and no address.
        copy.write_bytes(original.read_bytes().replace(SHARED, OWN))
    return copies[Path(_core.__file__)]


def result_of(seconds, extension, environment):
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--measure", "--seconds", str(seconds)]
    if extension:
        command += ["--extension", str(extension)]
        environment = {**environment, "LD_LIBRARY_PATH": str(extension.parent)}
    environment = {**os.environ, **environment}
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout)


def ratios(rounds, name):
    """Return the quartiles of how much slower something is in alternation."""
    pairs = zip(rounds[f"{name} alternating"], rounds[name], strict=True)
    return statistics.quantiles([alternating / apart for alternating, apart in pairs], n=4)


def by_one_runtime(result, results, name):
    """Return the median of how much slower something is with two runtimes than with one, over the passes; its range."""
    (one,) = (r for r in results if r["environment"] == result["environment"] and len(r["runtimes"]) == 1)
    if result is one:
        return "-"
    pairs = zip(result["passes"], one["passes"], strict=True)
    found = [with_two[name] / with_one[name] for with_two, with_one in pairs]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def report(results):
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        caption="alternating: with the other, by apart: median of the rounds (quartiles)\n"
        "by one runtime: time of what alternates with two runtimes, by that with one: median of the passes (range)"
    )
    for heading in (
        "runtimes",
        "environment",
        *("backward", "alternating", "by one runtime"),
        *("step", "alternating"),
    ):
        table.add_column(heading)
    table.add_column("by one runtime")
    for result in results:
        row = [str(len(result["runtimes"])), result["environment"]]
        for name in ("backward", "step"):
            lower, median, upper = ratios(result["rounds"], name)
            row.append(f"{statistics.median(result['rounds'][name]) * 1e3:.2f} ms")
            row.append(f"{median:.2f} ({lower:.2f} to {upper:.2f})")
            row.append(by_one_runtime(result, results, f"{name} alternating"))
        table.add_row(*row)
    Console().print(table)


def main():
    """Measure all settings, in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4, help="for each setting in each pass (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=5, help="how often each has its turn (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--extension", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measuring_process(arguments.seconds, arguments.extension)
        return
    from rich.progress import track

    with tempfile.TemporaryDirectory() as folder:
        own = with_a_runtime_of_its_own(Path(folder))
        settings = [(own_or_none, name) for name in ENVIRONMENTS for own_or_none in (None, own)]
        settings.remove((own, "control"))
        results = {}
        # In several passes, so that a minute in which the machine is slower falls on all settings.
        for extension, name in track(settings * arguments.passes, "measuring"):
            measured = result_of(arguments.seconds, extension, ENVIRONMENTS[name])
            empty = {"environment": name, "runtimes": measured["runtimes"], "rounds": {}, "passes": []}
            result = results.setdefault((extension, name), empty)
            result["passes"].append({what: statistics.median(times) for what, times in measured["rounds"].items()})
            for what, times in measured["rounds"].items():
                result["rounds"].setdefault(what, []).extend(times)
    report(list(results.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps(list(results.values()), indent=1))


if __name__ == "__main__":
    main()
