"""The three statements about the accumulators that the textbook form rests on."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from hypothesis import given

import rmsprop

gradients = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(5)), elements=st.floats(-100, 100))


def accumulators(optimizer_class, grads, name, **hyperparameters):
    """Return the accumulator after each of the gradients."""
    optimizer = optimizer_class(np.zeros(grads.shape[1]), lr=0.1, **hyperparameters)
    history = []
    for grad in grads:
        optimizer.step(grad)
        history.append(optimizer.state[0][name].copy())
    return np.array(history)


@given(gradients, st.floats(0, 1))
def test_unrolled_average_is_the_weighted_sum_of_squares(grads, gamma):
    t = len(grads)
    weights = (1 - gamma) * gamma ** np.arange(t - 1, -1, -1.0)
    unrolled = weights @ grads**2
    average = accumulators(rmsprop.RMSprop, grads, "square_avg", alpha=gamma)[-1]
    np.testing.assert_allclose(average, unrolled, rtol=1e-12, atol=1e-300)


def test_third_average_is_the_sum_written_out():
    grads, gamma = np.array([[3.0], [-2.0], [5.0]]), 0.9
    written_out = (1 - gamma) * (gamma**2 * 3.0**2 + gamma * 2.0**2 + 5.0**2)
    average = accumulators(rmsprop.RMSprop, grads, "square_avg", alpha=gamma)[-1]
    np.testing.assert_allclose(average, [written_out], rtol=1e-15)


@given(gradients, st.floats(0, 1))
def test_adagrads_sum_is_never_below_rmsprops_average(grads, gamma):
    sums = accumulators(rmsprop.Adagrad, grads, "sum")
    averages = accumulators(rmsprop.RMSprop, grads, "square_avg", alpha=gamma)
    # Both are rounded; a gamma of 0 makes them equal, up to the last bits of alpha * v + (1 - alpha) * g**2.
    assert (sums >= averages * (1 - 1e-14)).all()


def test_effective_step_of_rmsprop_stays_where_adagrads_dies():
    lr, eps, steps = 0.1, 1e-8, 10_000
    grads = np.random.default_rng(0).standard_normal((steps, 1))
    effective = {
        "adagrad": lr / np.sqrt(accumulators(rmsprop.Adagrad, grads, "sum") + eps),
        "rmsprop": lr / np.sqrt(accumulators(rmsprop.RMSprop, grads, "square_avg") + eps),
    }
    early, late = slice(90, 110), slice(steps - 1000, None)
    assert np.median(effective["adagrad"][late]) < 0.15 * np.median(effective["adagrad"][early])
    assert np.median(effective["rmsprop"][late]) > 0.5 * np.median(effective["rmsprop"][early])
