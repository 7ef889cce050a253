"""The cost of subnormal numbers: a step on arrays full of them beside the same step on ordinary numbers, in turns.

    python bench/studies/subnormals.py [--rounds N]

Arrays fit in the second-level cache and one thread steps them, so that arithmetic is timed; with larger arrays, the
time of memory accesses hides some of it. A step keeps subnormals, as the reference does; some CPUs take longer for
them.
"""

import argparse
import time

import numpy as np

import rmsprop

SIZE = 32_768
RULES = {
    "rmsprop": ("rmsprop_", ["square_avg"], {}),
    "rmsprop centered momentum": (
        "rmsprop_",
        ["square_avg", "grad_avg", "momentum_buffer"],
        {"centered": True, "momentum": 0.9},
    ),
    "adagrad": ("adagrad_", ["sum"], {}),
}


def inputs(dtype, names, subnormal):
    """Return a parameter, a gradient and state: ordinary numbers, or all of them subnormal."""
    rng = np.random.default_rng(0)
    scale = np.finfo(dtype).tiny / 2 if subnormal else 1.0
    return {name: (scale * rng.uniform(0.1, 1.0, SIZE)).astype(dtype) for name in ["param", "grad", *names]}


def seconds_of_step(rule, options, arrays, initial):
    """Return the time of one step from the same beginning as the others."""
    for name, values in initial.items():
        np.copyto(arrays[name], values)
    param, grad, accumulator, *_ = arrays.values()
    extra = {name: arrays[name] for name in ("grad_avg", "momentum_buffer") if name in arrays}
    before = time.perf_counter()
    rule(param, grad, accumulator, lr=0.01, num_threads=1, **options, **extra)
    return time.perf_counter() - before


def main():
    """Print the ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500, help="timed steps of each kind (default: %(default)s)")
    rounds = parser.parse_args().rounds
    chosen = rmsprop.instruction_sets().chosen
    print(f"{chosen}, {SIZE} elements, one thread, {rounds} rounds\n")
    print("| rule | dtype | ordinary, ns per element | subnormal | ratio |")
    print("|---|---|---|---|---|")
    for label, (name, state, options) in RULES.items():
        for dtype in (np.float32, np.float64):
            rule = getattr(rmsprop.functional, name)
            problems = [inputs(dtype, state, subnormal) for subnormal in (False, True)]
            arrays = {key: values.copy() for key, values in problems[0].items()}
            times = [[seconds_of_step(rule, options, arrays, initial) for initial in problems] for _ in range(rounds)]
            ordinary, subnormal = np.median(times, axis=0) / SIZE * 1e9
            row = (label, np.dtype(dtype).name, f"{ordinary:.2f}", f"{subnormal:.2f}", f"{subnormal / ordinary:.2f}")
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
