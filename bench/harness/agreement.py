"""Whether a peer computes the step that it declares, and how far that is from ours."""

from typing import Any

import numpy as np

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer
from rmsprop import reference

STEPS = 3
TOLERANCE = 1e-3
"""The largest difference of a parameter that is rounding, as a part of the learning rate: other orders of operations
make some 1e-5, another formula 1e-2 and more."""

COARSE_TOLERANCE = 0.5
"""The same for a peer that rounds its state by blocks, at gradients of at least LARGE, the ones that set the scale."""

LARGE = 0.1


def check_arrays() -> Arrays:
    """Return arrays on which formulas differ: gradients from 0 and 1e-6, where eps decides, up to 1.

    Parameters are small, so that rounding them hides nothing. One tensor is large enough for peers that treat small
    ones in another way.
    """
    rng = np.random.default_rng(1)
    shapes = [(16,), (33, 7), (8192,)]
    params = [np.float32(0.01) * rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    grads = []
    for shape in shapes:
        magnitudes = rng.choice(np.array([0, 1e-6, 1e-4, 1e-2, 1], np.float32), shape)
        grads.append(magnitudes * rng.uniform(0.5, 1, shape).astype(np.float32) * rng.choice([-1, 1], shape))
    return Arrays(params, [grad.astype(np.float32) for grad in grads])


def expected(arrays: Arrays, formula: str, options: Options) -> list[np.ndarray]:
    """Return the parameters after STEPS steps."""
    step = {"rmsprop": rmsprop_steps, "adagrad": adagrad_steps, "adam": adam_steps, "sgd": sgd_steps}[formula]
    results = []
    for param, grad in zip(arrays.params, arrays.grads, strict=True):
        result = param.copy()
        step(result, grad, options)
        results.append(result)
    return results


def rmsprop_steps(param: np.ndarray, grad: np.ndarray, options: Options) -> None:
    state = {name: np.zeros_like(param) for name in ("square_avg", "grad_avg", "momentum_buffer")}
    for _ in range(STEPS):
        reference.rmsprop_(param, grad, **state, **options)


def adagrad_steps(param: np.ndarray, grad: np.ndarray, options: Options) -> None:
    total = np.zeros_like(param)
    for _ in range(STEPS):
        reference.adagrad_(param, grad, total, **{k: v for k, v in options.items() if k != "alpha"})


def adam_steps(param: np.ndarray, grad: np.ndarray, options: Options) -> None:
    mean, square, decay, square_decay = np.zeros(param.shape), np.zeros(param.shape), 0.9, 0.999
    for t in range(1, STEPS + 1):
        mean = decay * mean + (1 - decay) * grad
        square = square_decay * square + (1 - square_decay) * np.float64(grad) ** 2
        root = np.sqrt(square / (1 - square_decay**t)) + options["eps"]
        param -= (options["lr"] * mean / (1 - decay**t) / root).astype(np.float32)


def sgd_steps(param: np.ndarray, grad: np.ndarray, options: Options) -> None:
    for _ in range(STEPS):
        param -= np.float32(options["lr"]) * grad


def largest_difference(actual: list[np.ndarray], wanted: list[np.ndarray], where: list[np.ndarray]) -> float:
    """Return the largest difference among the elements asked for; infinity if one is not a number."""
    worst = 0.0
    for one, other, mask in zip(actual, wanted, where, strict=True):
        differences = np.abs(np.asarray(one, np.float64).reshape(other.shape) - other)[mask]
        worst = max(worst, float(np.where(np.isfinite(differences), differences, np.inf).max()))
    return worst


def take_steps(contender: Contender, arrays: Arrays) -> bool:
    """Take STEPS steps with the same gradients, and return whether they were left as they were."""
    before = [grad.copy() for grad in arrays.grads]
    untouched = True
    for _ in range(STEPS):
        contender.run(1)
        for grad, original in zip(arrays.grads, before, strict=True):
            untouched = untouched and np.array_equal(grad, original)
            grad[...] = original
    return untouched


def agreement(peer: Peer, arrays: Arrays, options: Options) -> dict[str, Any]:
    """Let a peer take STEPS steps, and compare.

    Returns:
        `from_ours` and `from_its_formula`: the largest differences from our step and from the step that the peer
        declares, as parts of the learning rate; `verdict`: "same step", "another formula" (the one it declares),
        "approximation", "wrong" or, for a bare loop, "no step"; `why`: where it differs, in words.
    """
    if not peer.formula:
        return {"from_ours": None, "from_its_formula": None, "verdict": "no step", "why": "a bare loop"}
    contender = peer.make(arrays, options)
    untouched = take_steps(contender, arrays)
    everywhere = [np.ones(grad.shape, bool) for grad in arrays.grads]
    large = [np.abs(grad) >= LARGE for grad in arrays.grads]
    actual = contender.params()
    declared = expected(arrays, peer.formula, {**options, **peer.meaning})
    from_ours = largest_difference(actual, expected(arrays, "rmsprop", options), everywhere) / options["lr"]
    from_its_formula = largest_difference(actual, declared, everywhere) / options["lr"]
    on_large = largest_difference(actual, declared, large) / options["lr"]
    reasons = [peer.why] if from_ours > TOLERANCE and peer.why else []
    if not untouched:
        reasons.append("it writes into the gradients")
    if from_its_formula <= TOLERANCE:
        verdict = "same step" if from_ours <= TOLERANCE else "another formula"
    elif peer.approximate and on_large <= COARSE_TOLERANCE:
        verdict = "approximation"
        reasons.append(
            f"that makes up to {from_its_formula:.2g} learning rates for gradients far below their neighbours"
        )
    else:
        verdict = "wrong"
        reasons = [f"after {STEPS} steps it is {from_its_formula:.2g} learning rates away from its own formula"]
    return {
        "from_ours": from_ours,
        "from_its_formula": from_its_formula,
        "verdict": verdict,
        "why": "; ".join(reasons),
    }
