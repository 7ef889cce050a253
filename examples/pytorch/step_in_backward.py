"""Measure the peak memory of training with and without rmsprop.torch.step_in_backward.

    pip install '.[demo,torch]' && python examples/pytorch/step_in_backward.py

Each kind of training takes a few steps in a process of its own, on a stack of linear layers. The process then says how
much memory it had at most, beyond what it had with the parameters and the optimizer's state in place. In ordinary
training the gradients of the whole model exist at the same time; with a step inside of the backward pass they never do.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys

try:
    import torch
    from rich import box
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from rmsprop.torch import RMSprop, step_in_backward
except ModuleNotFoundError as error:
    sys.exit(f"step_in_backward.py: error: {error.name} is not installed; run: pip install '.[demo,torch]'")

MIB = 1 << 20
KINDS = {"ordinary": "backward(), then step()", "inside": "step_in_backward"}


def peak() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def beyond_parameters_and_state(kind: str, layers: int, width: int) -> int:
    """Train for some steps, and return by how much the peak of memory rose above the parameters and the state."""
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
    optimizer = RMSprop(model.parameters())
    optimizer.share_memory()  # makes the state now
    for entry in optimizer.state.values():
        entry["square_avg"].fill_(0.0)  # touches its pages
    if kind == "inside":
        step_in_backward(model, optimizer)
    before = peak()
    inputs = torch.ones(8, width)
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return peak() - before


def in_a_process(kind: str, layers: int, width: int) -> int:
    """Return what `beyond_parameters_and_state` returns in a new process."""
    command = [sys.executable, __file__, "--layers", str(layers), "--width", str(width), "--only", kind]
    # glibc then gives large blocks back as soon as they are freed, so that the peak shows what was in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def at_least_one(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=at_least_one, default=24, metavar="N", help="layers (default: %(default)s)")
    parser.add_argument(
        "--width", type=at_least_one, default=1024, metavar="N", help="their size (default: %(default)s)"
    )
    parser.add_argument("--only", choices=KINDS, help="run this kind in this process and print bytes")
    options = parser.parse_args()
    if options.only:
        print(beyond_parameters_and_state(options.only, options.layers, options.width))
        return
    console = Console(stderr=True)
    results = {
        kind: in_a_process(kind, options.layers, options.width)
        for kind in track(KINDS, description="Training", console=console)
    }
    parameters = options.layers * options.width * (options.width + 1) * 4
    table = Table(title=f"{parameters / MIB:.0f} MiB of parameters, as much of state", box=box.SIMPLE_HEAD)
    table.add_column("Step")
    table.add_column("Peak beyond parameters and state", justify="right")
    for kind, value in results.items():
        table.add_row(KINDS[kind], f"{value / MIB:.0f} MiB")
    Console().print(table)
    print(f"Saved: {(results['ordinary'] - results['inside']) / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
