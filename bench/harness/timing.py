"""How long a step takes: blocks of steps, timed as a whole."""

import time

from peers.contract import Contender


def seconds(contender: Contender, steps: int) -> float:
    begin = time.perf_counter()
    contender.run(steps)
    return time.perf_counter() - begin


def steps_of_a_block(contender: Contender, block_seconds: float) -> int:
    """Return how many steps make a block of so many seconds, one at least."""
    steps, spent = 1, 0.0
    while True:
        spent = seconds(contender, steps)
        if spent >= block_seconds / 4:
            return max(1, round(steps * block_seconds / spent))
        steps *= 2


def seconds_per_step(contender: Contender, steps: int) -> float:
    """Return how long a step takes in a block of so many, after one step that fills the caches."""
    contender.run(1)
    return seconds(contender, steps) / steps
