"""Compare a step with what else does it: python bench/compare.py [--rounds N].

Every contender steps arrays of its own with the same values. Rounds are interleaved in one process, so that a noisy
machine is noisy for all, and medians are reported. PyTorch is compared if it is installed.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np

import rmsprop

Step = Callable[[], None]

WORKLOADS = {
    "1 array of 16": [(16,)],
    "1,000 arrays of 64": [(64,)] * 1000,
    "MLP 784-128-10 (4 arrays)": [(784, 128), (128,), (128, 10), (10,)],
    "1 array of 1M": [(1 << 20,)],
    "1 array of 16M": [(1 << 24,)],
    "1 array of 64M": [(1 << 26,)],
}


def arrays(shapes: list[tuple[int, ...]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return parameters and gradients."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    grads = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    return params, grads


def ours(shapes: list[tuple[int, ...]]) -> Step:
    params, grads = arrays(shapes)
    optimizer = rmsprop.RMSprop(params)
    return lambda: optimizer.step(grads)


def ours_single(shapes: list[tuple[int, ...]]) -> Step:
    (param,), (grad,) = arrays(shapes)
    optimizer = rmsprop.RMSprop(param)
    return lambda: optimizer.step(grad)


def numpy_expression(shapes: list[tuple[int, ...]]) -> Step:
    params, grads = arrays(shapes)
    averages = [np.zeros_like(param) for param in params]
    alpha, rest, lr, eps = map(np.float32, (0.9, 0.1, 1e-3, 1e-8))

    def step() -> None:
        for w, g, v in zip(params, grads, averages, strict=True):
            v *= alpha
            v += rest * (g * g)
            w -= lr * g / np.sqrt(v + eps)

    return step


def torch_rmsprop(shapes: list[tuple[int, ...]]) -> Step:
    import torch

    params, grads = arrays(shapes)
    tensors = [torch.from_numpy(param).requires_grad_() for param in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    return torch.optim.RMSprop(tensors).step


def contenders(shapes: list[tuple[int, ...]]) -> dict[str, Step]:
    """Return a ready step function for each contender."""
    makers = {"rmsprop": ours if len(shapes) > 1 else ours_single, "NumPy expression": numpy_expression}
    if importlib.util.find_spec("torch"):
        makers["torch RMSprop"] = torch_rmsprop
    return {name: make(shapes) for name, make in makers.items()}


def seconds(step: Step, repeats: int) -> float:
    """Return how long one step takes, over some of them in a row."""
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - begin) / repeats


def medians(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the median time of a step of each contender, in seconds, over interleaved rounds."""
    repeats = {}
    for name, step in steps.items():
        step()  # starts threads, touches memory
        repeats[name] = max(1, round(0.02 / max(seconds(step, 3), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def readable(value: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.2f} µs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds for each workload (default: 15)")
    options = parser.parse_args()
    header_written = False
    for workload, shapes in WORKLOADS.items():
        results = medians(contenders(shapes), options.rounds)
        if not header_written:
            print("| one step, float32 |", " | ".join(results), "|")
            print("|---|" + "---|" * len(results))
            header_written = True
        own = results["rmsprop"]
        cells = [readable(own)]
        cells += [f"{readable(value)} ({value / own:.1f}x)" for name, value in results.items() if name != "rmsprop"]
        print(f"| {workload} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
