"""The cost of state at nearly the same offset in a page as its parameter, as malloc often places it.

    python bench/studies/placement.py [--rounds N] [ELEMENTS...]

One thread and its processor time, all in turns; the medians of the ratios to state that is a few bytes off.
"""

import argparse
import statistics
import time

import numpy as np

import rmsprop

ELEMENTS_PER_ROUND = 2**22
PAGE = 4096
PLACES = {"a few bytes off": (48, 64, 80), "same place": (16, 16, 16), "as new state is": None}
RULES = {"plain": {}, "centered with momentum": {"centered": True, "momentum": 0.9}}


def at(place: int, elements: int) -> np.ndarray:
    """Return zeros that begin `place` bytes after the beginning of a page."""
    memory = np.zeros(4 * elements + 2 * PAGE, np.uint8)
    begin = -memory.ctypes.data % PAGE + place
    return memory[begin : begin + 4 * elements].view(np.float32)


def make(elements: int, places: tuple[int, ...] | None, **options) -> tuple[rmsprop.RMSprop, np.ndarray]:
    param, grad = at(16, elements), at(32, elements)
    param[:] = grad[:] = np.random.default_rng(0).standard_normal(elements)
    optimizer = rmsprop.RMSprop([param], lr=1e-3, **options)
    for name, place in zip(list(optimizer.state[0])[1:], places or (), strict=False):
        optimizer.state[0][name] = at(place, elements)
    return optimizer, grad


def seconds(optimizer: rmsprop.RMSprop, grad: np.ndarray) -> float:
    steps = max(1, ELEMENTS_PER_ROUND // grad.size)
    begin = time.thread_time()
    for _ in range(steps):
        optimizer.step([grad])
    return (time.thread_time() - begin) / steps


def main() -> None:
    """Print the ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("elements", type=int, nargs="*", default=[2**14, 2**16, 2**18, 2**20], help="sizes to try")
    parser.add_argument("--rounds", type=int, default=41, help="turns of each (default: %(default)s)")
    settings = parser.parse_args()
    rmsprop.set_num_threads(1)
    print(f"{rmsprop.instruction_sets().chosen}, float32, {settings.rounds} rounds\n")
    print(f"| elements | rule | {' | '.join(PLACES)} |")
    print("|---|---|" + "---|" * len(PLACES))
    for elements in settings.elements:
        for rule, options in RULES.items():
            contenders = [make(elements, places, **options) for places in PLACES.values()]
            rounds = [[seconds(*contender) for contender in contenders] for _ in range(settings.rounds)]
            ratios = [statistics.median(times[i] / times[0] for times in rounds) for i in range(len(PLACES))]
            print(f"| {elements} | {rule} | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
