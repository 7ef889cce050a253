"""How what an optimizer does grows with its parameters: it takes the same time for each if it grows in proportion.

    python bench/studies/growth.py [--rounds N] [--saved N]

Each parameter has four elements and a group of its own. One thread and its processor time, except for files; the least
of some rounds. Needs safetensors, and PyTorch for its rows.
"""

import argparse
import gc
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import rmsprop

COUNTS = (250, 500, 1000, 2000, 4000)
Work = Callable[[], object]


def of_numpy(count: int) -> Iterator[tuple[str, Work]]:
    """Return what is timed with NumPy's arrays."""
    params = [np.ones(4, np.float32) for _ in range(count)]
    grads = [np.ones(4, np.float32) for _ in range(count)]
    groups = [{"params": [param]} for param in params]
    optimizer = rmsprop.RMSprop(groups)
    yield "construct", lambda: rmsprop.RMSprop(groups)
    yield "step", lambda: optimizer.step(grads)
    yield "read all state", lambda: [optimizer.state[i]["square_avg"] for i in range(count)]
    # Two columns of one matrix: the memory of each lies within the other's bounds.
    matrix = np.ones((4, 2), np.float32)
    pair = [*params[2:], matrix[:, 0], matrix[:, 1]]
    yield "construct in one group", lambda: rmsprop.RMSprop(params)
    yield "and two interleaved", lambda: rmsprop.RMSprop(pair)


def of_torch(count: int) -> Iterator[tuple[str, Work]]:
    """Return what is timed with PyTorch's tensors."""
    import torch

    import rmsprop.torch

    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(count)]
    for param in params:
        param.grad = torch.ones(4)
    groups = [{"params": [param]} for param in params]
    optimizer = rmsprop.torch.RMSprop(groups, num_threads=1)
    yield "torch: construct", lambda: rmsprop.torch.RMSprop([dict(group) for group in groups])
    yield "torch: step", optimizer.step

    def step_in_backward() -> None:
        handle = rmsprop.torch.step_in_backward(torch.nn.ParameterList(params), optimizer)
        torch.autograd.backward([param.sum() for param in params])
        handle.remove()

    yield "torch: step_in_backward", step_in_backward


def least(work: Work, rounds: int, clock: Callable[[], float] = time.thread_time) -> float:
    """Return the least seconds that some work takes."""
    times = []
    for _ in range(rounds):
        gc.collect()
        begin = clock()
        work()
        times.append(clock() - begin)
    return min(times)


def print_growth(rounds: int) -> None:
    """Print the time for each parameter, by the number of parameters."""
    print(f"| microseconds for each parameter | {' | '.join(f'{count:,}' for count in COUNTS)} |")
    print("|---|" + "---|" * len(COUNTS))
    for of in [of_numpy, *([of_torch] if importlib.util.find_spec("torch") else [])]:
        columns = [{name: least(work, rounds) / count * 1e6 for name, work in of(count)} for count in COUNTS]
        for name in columns[0]:
            print(f"| {name} | {' | '.join(f'{column[name]:.2f}' for column in columns)} |", flush=True)


def print_saving(count: int, rounds: int) -> None:
    """Print how long it takes to save and load the state of many parameters, beside safetensors alone."""
    from safetensors.numpy import load_file, save_file

    optimizer = rmsprop.RMSprop([np.ones(4, np.float32) for _ in range(count)])
    arrays = {f"square_avg.{i}": entry["square_avg"] for i, entry in optimizer.state.items()}
    with tempfile.TemporaryDirectory() as folder:
        ours, alone = Path(folder, "ours.safetensors"), Path(folder, "alone.safetensors")
        pairs = {
            "save": (lambda: optimizer.save(ours), lambda: save_file(arrays, alone)),
            "load": (lambda: optimizer.load(ours), lambda: load_file(alone)),
        }
        print(f"\n| state of {count:,} parameters | seconds | by safetensors alone | ratio |\n|---|---|---|---|")
        for name, works in pairs.items():
            own, other = (least(work, rounds, time.perf_counter) for work in works)
            print(f"| {name} | {own:.2f} | {other:.2f} | {own / other:.2f} |", flush=True)


def main() -> None:
    """Print the times as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of which the least counts (default: %(default)s)")
    parser.add_argument("--saved", type=int, default=100_000, help="parameters that are saved (default: %(default)s)")
    settings = parser.parse_args()
    rmsprop.set_num_threads(1)
    print_growth(settings.rounds)
    print_saving(settings.saved, settings.rounds)


if __name__ == "__main__":
    main()
