"""What a step does with its gradients before the rule sees them: the global norm, and values that are not finite."""

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from rmsprop import functional, reference
from runs import Unchanged

TYPES = (np.float32, np.float64, np.complex64, np.complex128)


def random_array(rng, shape, dtype):
    array = rng.standard_normal(shape)
    return (
        (array + 1j * rng.standard_normal(shape)).astype(dtype) if np.dtype(dtype).kind == "c" else array.astype(dtype)
    )


def awkward_layout(rng, array):
    """Return the same values in Fortran order, reversed, or with gaps."""
    kind = rng.integers(4)
    if kind == 0 or array.ndim == 0:
        return array
    if kind == 1:
        return np.asfortranarray(array)
    if kind == 2:
        return array[::-1].copy()[::-1]
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def problem(seed):
    """Return parameters and gradients of many sizes and all types, with several blocks of the norm in some."""
    rng = np.random.default_rng(seed)
    shapes = [(), (0,), (1,), (15,), (4096,), (4097,), (70, 300), (3, 4, 5), (100_003,)]
    params = [random_array(rng, shape, TYPES[i % 4]) for i, shape in enumerate(shapes)]
    grads = [awkward_layout(rng, random_array(rng, p.shape, p.dtype)) for p in params]
    return params, grads


@pytest.mark.parametrize("grad_scale", [1.0, 0.3])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e9])
def test_clipping_by_norm_has_the_bits_of_the_reference(instruction_set, num_threads, clip_norm, grad_scale):
    params, grads = problem(seed=1)
    expected = [param.copy() for param in params]
    averages = [np.zeros_like(param) for param in params]
    scale = reference.clip_scale(reference.sum_of_squares(grads, grad_scale), clip_norm)
    optimizer = rmsprop.RMSprop(params, lr=0.1, clip_norm=clip_norm, num_threads=num_threads)
    optimizer.step(grads, grad_scale=grad_scale)
    for i, (param, grad, square_avg) in enumerate(zip(expected, grads, averages, strict=True)):
        reference.rmsprop_(param, grad, square_avg, lr=0.1, clip_scale=scale, grad_scale=grad_scale)
        assert_same_bits(params[i], param)
        assert_same_bits(optimizer.state[i]["square_avg"], square_avg)


def test_norm_does_not_depend_on_the_layout_of_parameter_and_gradient(instruction_set):
    values = np.random.default_rng(2).standard_normal((130, 70))
    results = []
    for param_order, grad_order in ("CC", "CF", "FC", "FF"):
        param = np.zeros((130, 70), order=param_order)
        functional.rmsprop_(
            param, np.array(values, order=grad_order), np.zeros_like(param), lr=0.1, clip_norm=1.0, eps=1.0
        )
        results.append(np.ascontiguousarray(param))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_norm_is_that_of_all_gradients_and_only_clips_the_groups_that_ask():
    params = [np.zeros(2), np.zeros(2)]
    grads = [np.array([3.0, 0.0]), np.array([0.0, 4.0])]
    optimizer = rmsprop.Adagrad([{"params": params[:1], "clip_norm": 2.5}, {"params": params[1:]}])
    optimizer.step(grads)
    half = 2.5 / (5.0 + 1e-6)  # the norm of both is 5
    assert_same_bits(optimizer.state[0]["sum"], np.array([(half * 3.0) ** 2, 0.0]))
    assert_same_bits(optimizer.state[1]["sum"], np.array([0.0, 16.0]))


def test_norm_is_clipped_for_parameters_at_different_steps():
    params = [np.zeros(1), np.zeros(1)]
    optimizer = rmsprop.Adagrad(params, lr=0.1, lr_decay=0.5, clip_norm=1.0, eps=1.0)
    optimizer.step([np.ones(1), None])
    optimizer.step([np.full(1, 3.0), np.full(1, 4.0)])
    scale = reference.clip_scale(25.0, 1.0)
    expected, total = np.zeros(1), np.zeros(1)
    reference.adagrad_(expected, np.full(1, 4.0), total, lr=0.1, lr_decay=0.5, eps=1.0, step=1, clip_scale=scale)
    assert_same_bits(params[1], expected)


def test_clipping_can_be_turned_off_again():
    param = np.zeros(1)
    optimizer = rmsprop.Adagrad(param, clip_norm=1.0)
    optimizer.step(np.full(1, 10.0))
    before = optimizer.state[0]["sum"].copy()
    optimizer.param_groups[0]["clip_norm"] = None
    optimizer.step(np.full(1, 10.0))
    assert_same_bits(optimizer.state[0]["sum"], before + 100.0)


def test_clipping_to_a_norm_that_is_not_reached_changes_nothing():
    grad = np.random.default_rng(3).standard_normal(1000)
    plain, clipped = np.zeros(1000), np.zeros(1000)
    rmsprop.RMSprop(plain).step(grad)
    rmsprop.RMSprop(clipped, clip_norm=1e6).step(grad)
    assert_same_bits(clipped, plain)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("position", [0, 4095, 4096, 9_999])
def test_skip_leaves_everything_as_it_is_and_counts(dtype, bad, position):
    params = [np.ones(3, dtype), np.ones(10_000, dtype)]
    grads = [np.ones(3, dtype), np.ones(10_000, dtype)]
    optimizer = rmsprop.RMSprop(params, nonfinite="skip")
    optimizer.step(grads)
    before = [params[0].copy(), params[1].copy(), optimizer.state[1]["square_avg"].copy()]
    grads[1][position] = bad
    optimizer.step(grads)
    assert optimizer.skipped_steps == 1
    assert optimizer.state[1]["step"] == 1
    for actual, expected in zip([*params, optimizer.state[1]["square_avg"]], before, strict=True):
        assert_same_bits(actual, expected)
    grads[1][position] = 1
    optimizer.step(grads)
    assert optimizer.skipped_steps == 1
    assert optimizer.state[1]["step"] == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_skipped_step_leaves_no_state_that_it_would_have_been_the_first_to_need(bad):
    params, grads = [np.ones(3), np.ones(4)], [np.ones(3), np.full(4, bad)]
    optimizer = rmsprop.RMSprop(params, nonfinite="skip")
    optimizer.param_groups[0].update(momentum=0.9, centered=True)
    for count in (1, 2):
        with Unchanged(optimizer):
            optimizer.step(grads)
        assert optimizer.skipped_steps == count
        assert [set(entry) for entry in optimizer.state.values()] == [{"step", "square_avg"}] * 2
    optimizer.step([np.ones(3), np.ones(4)])
    assert optimizer.state[1].keys() == {"step", "square_avg", "grad_avg", "momentum_buffer"}


def test_raise_names_the_gradient_and_writes_nothing():
    params = {"a": np.ones(2), "b": np.ones(2)}
    optimizer = rmsprop.Adagrad(params, nonfinite="raise")
    with pytest.raises(ValueError, match=r"^grads\['b'\]: got a NaN or an infinity, and nonfinite is 'raise'$"):
        optimizer.step({"a": np.ones(2), "b": np.array([1.0, np.inf])})
    assert (params["a"] == 1).all()
    assert optimizer.state["a"]["step"] == 0


def test_propagate_changes_only_the_element_that_is_not_finite():
    params = np.ones(100, np.float32), np.ones(100, np.float32)
    grad = np.ones(100, np.float32)
    rmsprop.RMSprop(params[0]).step(grad)
    grad[17] = np.nan
    rmsprop.RMSprop(params[1], nonfinite="propagate").step(grad)
    assert np.isnan(params[1][17])
    params[1][17] = params[0][17]
    assert_same_bits(params[1], params[0])


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_finite_gradients_whose_squares_overflow_are_finite(nonfinite):
    param = np.ones(3)
    rmsprop.RMSprop(param, nonfinite=nonfinite).step(np.full(3, 1e300))
    assert (param == 1.0 - 1e-3 * 1e300 / np.inf).all()


def test_gradients_that_overflow_when_scaled_are_not_finite():
    optimizer = rmsprop.RMSprop(np.ones(3, np.float32), nonfinite="skip")
    optimizer.step(np.full(3, 1e30, np.float32), grad_scale=1e10)
    assert optimizer.skipped_steps == 1


def test_gradients_are_never_written(num_threads):
    params, grads = problem(seed=4)
    before = [grad.copy() for grad in grads]
    optimizer = rmsprop.RMSprop(
        params, weight_decay=0.1, maximize=True, clip_value=0.5, clip_norm=1.0, num_threads=num_threads
    )
    optimizer.step(grads, grad_scale=0.25)
    for grad, expected in zip(grads, before, strict=True):
        assert_same_bits(grad, expected)


@pytest.mark.parametrize(
    ("nonfinite", "error", "message"),
    [
        ("ignore", ValueError, r"^nonfinite: got 'ignore', wanted 'propagate', 'skip' or 'raise'$"),
        (None, TypeError, r"^nonfinite: got NoneType, wanted a str$"),
    ],
)
def test_unknown_reaction_is_an_error_at_construction_and_when_assigned(nonfinite, error, message):
    with pytest.raises(error, match=message):
        rmsprop.RMSprop(np.ones(1), nonfinite=nonfinite)
    optimizer = rmsprop.RMSprop(np.ones(1))
    with pytest.raises(error, match=message):
        optimizer.nonfinite = nonfinite
    assert optimizer.nonfinite == "propagate"
