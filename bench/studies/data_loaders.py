"""How much of a training loop are the optimizer's steps where the workers of a DataLoader use the same CPUs?

    python bench/studies/data_loaders.py [--workers N] [--batches N] [--rounds N]

A perceptron is trained on pictures that the workers make: noise that is shifted, turned and blurred with NumPy. The
optimizers take turns, some batches each, on models of their own. Ours with threads that are used only while they help
(RMSPROP_THREADS=adaptive, the default), ours with all of them always, and PyTorch's. Needs PyTorch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SIDE, BATCH, WIDTH, CLASSES = 32, 64, 1024, 10
OPTIMIZERS = {
    "ours, adaptive": "adaptive",
    "ours, fixed threads": "fixed",
    "torch Adagrad, fused": "",
    "torch RMSprop": "",
}


class Pictures:
    """Pictures by number, each of which takes a worker some milliseconds."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng(number)
        blur = np.exp(-np.square(np.fft.fftfreq(3 * SIDE)) * 8)
        picture = np.fft.fft2(rng.standard_normal((3, 3 * SIDE, 3 * SIDE))) * blur * blur[:, None]
        picture = np.rot90(np.fft.ifft2(picture).real, rng.integers(4), (1, 2))
        picture = np.roll(picture, rng.integers(SIDE, size=2), (1, 2))
        return picture[:, :SIDE, :SIDE].astype(np.float32), int(rng.integers(CLASSES))


def make(name: str, params: "list[torch.nn.Parameter]") -> "torch.optim.Optimizer":
    """Return an optimizer by its name in the table."""
    import torch

    import rmsprop.torch

    if name == "torch Adagrad, fused":
        return torch.optim.Adagrad(params, lr=1e-4, fused=True)
    return torch.optim.RMSprop(params, lr=1e-4) if name == "torch RMSprop" else rmsprop.torch.RMSprop(params, lr=1e-4)


def train(name: str, workers: int) -> Callable[[int], tuple[float, float]]:
    """Return what trains for some batches, and returns the seconds of all and of the optimizer's steps."""
    import torch

    layers = [torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, WIDTH), torch.nn.ReLU()]
    model = torch.nn.Sequential(
        *layers, torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES)
    )
    optimizer = make(name, [*model.parameters()])
    loader = iter(torch.utils.data.DataLoader(Pictures(), BATCH, num_workers=workers, worker_init_fn=alone))

    def some_batches(count: int) -> tuple[float, float]:
        begin, steps = time.perf_counter(), 0.0
        for _ in range(count):
            pictures, classes = next(loader)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pictures), classes).backward()
            before = time.perf_counter()
            optimizer.step()
            steps += time.perf_counter() - before
        return time.perf_counter() - begin, steps

    return some_batches


def alone(_worker: int) -> None:
    """Let a worker compute on one thread."""
    import torch

    torch.set_num_threads(1)


def take_turns(name: str, workers: int) -> None:
    """Be the process of an optimizer: for each line with a number of batches, train, and print the seconds."""
    some_batches = train(name, workers)
    some_batches(3)
    print("ready", flush=True)
    for line in sys.stdin:
        print(*some_batches(int(line)), flush=True)


def milliseconds(batches: int, turns: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the medians of the time of a batch and of a step."""
    whole, steps = (statistics.median(times) / batches * 1e3 for times in zip(*turns, strict=True))
    return whole, steps


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=40, help="in each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--be", choices=OPTIMIZERS, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.be:
        return take_turns(settings.be, settings.workers)
    command = [sys.executable, __file__, "--workers", str(settings.workers), "--be"]
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in OPTIMIZERS}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {
        name: subprocess.Popen([*command, name], env={**os.environ, "RMSPROP_THREADS": use}, **pipes)
        for name, use in OPTIMIZERS.items()
    }
    for process in processes.values():
        process.stdout.readline()
    for turn in range(settings.rounds):
        for name in list(OPTIMIZERS)[:: 1 if turn % 2 else -1]:
            print(settings.batches, file=processes[name].stdin, flush=True)
            whole, steps = map(float, processes[name].stdout.readline().split())
            turns[name].append((whole, steps))
    for process in processes.values():
        process.communicate()
    print(f"| {settings.workers} workers | ms a batch | ms a step | of the time | steps, by ours adaptive |")
    print("|---|---|---|---|---|")
    times = {name: milliseconds(settings.batches, turns[name]) for name in OPTIMIZERS}
    for name, (whole, step) in times.items():
        by_ours = step / times["ours, adaptive"][1]
        print(f"| {name} | {whole:.2f} | {step:.3f} | {step / whole:.1%} | {by_ours:.2f} |")


if __name__ == "__main__":
    main()
