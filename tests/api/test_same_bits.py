"""The native kernels give the bits of the NumPy reference."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import rmsprop
from bits import assert_same_bits
from rmsprop import functional, reference

REAL_TYPES = (np.float32, np.float64)
ALL_TYPES = (*REAL_TYPES, np.complex64, np.complex128)

# Long enough that three threads get a share each.
SHARED_LENGTH = 40_003


def special_values(dtype):
    """Return values at every edge of a floating-point type."""
    info = np.finfo(dtype)
    tiny, least, most = float(info.tiny), float(info.smallest_subnormal), float(info.max)
    return [
        0.0,
        1.0,
        least,
        tiny - least,
        tiny,
        1e-20,
        1e-3,
        1 / 3,
        0.5 + float(info.eps),
        1e18,
        most / 2,
        most,
        np.inf,
    ]


def awkward_array(rng, shape, dtype, *, signed=True, specials=0.2):
    """Return ordinary numbers over many orders of magnitude, a share of them replaced by special values."""
    if np.dtype(dtype).kind == "c":
        part = np.float32 if dtype == np.complex64 else np.float64
        parts = awkward_array(rng, (*shape, 2), part, signed=signed, specials=specials)
        return parts.view(dtype).reshape(shape)
    numbers = rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 6, shape)
    numbers = np.array(numbers, dtype)  # an array even where the shape is ()
    values = np.array([*special_values(dtype), np.nan], dtype)
    chosen = rng.random(shape) < specials
    numbers[chosen] = np.array(rng.choice(values, shape) * rng.choice([-1, 1], shape))[chosen]
    return numbers if signed else np.abs(numbers, out=numbers)


RMSPROP_OPTIONS = {
    "momentum": [0.0, 0.9],
    "nesterov": [False, True],
    "centered": [False, True],
    "eps_in_sqrt": [True, False],
    "lr_in_momentum": [False, True],
    "bias_correction": [False, True],
    "maximize": [False, True],
    "weight_decay": [0.0, 0.01],
    "decoupled_weight_decay": [False, True],
    "clip_value": [None, 0.75],
    "grad_scale": [1.0, 1 / 3],
}
ADAGRAD_OPTIONS = {
    name: RMSPROP_OPTIONS[name]
    for name in ("eps_in_sqrt", "maximize", "weight_decay", "decoupled_weight_decay", "clip_value", "grad_scale")
} | {"lr_decay": [0.0, 0.1]}


def combinations(options):
    for values in itertools.product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        if chosen.get("nesterov") and not chosen["momentum"]:
            continue
        yield chosen


class Problem:
    """A parameter, its gradient and state, with a step of either implementation on copies of them."""

    def __init__(self, rule, param, grad, state):
        self.rule, self.param, self.grad, self.state = rule, param, grad, state

    @classmethod
    def awkward(cls, rule, rng, shape, dtype):
        arrays = [awkward_array(rng, shape, dtype) for _ in range(4)]
        accumulator = awkward_array(rng, shape, dtype, signed=False)
        state = {"sum": accumulator}
        if rule == "rmsprop_":
            state = {"square_avg": accumulator, "grad_avg": arrays[2], "momentum_buffer": arrays[3]}
        return cls(rule, arrays[0], arrays[1], state)

    def after(self, module, steps=2, **hyperparameters):
        """Return parameter and state after some steps of the rule in `module`."""
        param = self.param.copy(order="K")
        state = {name: array.copy(order="K") for name, array in self.state.items()}
        accumulator, *rest = state.items()
        for step in range(1, steps + 1):
            rule = getattr(module, self.rule)
            rule(param, self.grad, accumulator[1], **dict(rest), step=step, **hyperparameters)
        return {"param": param, **state}

    def assert_same_bits(self, num_threads, **hyperparameters):
        actual = self.after(functional, num_threads=num_threads, **hyperparameters)
        expected = self.after(reference, **hyperparameters)
        for name in expected:
            assert_same_bits(actual[name], expected[name])


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("rule", ["rmsprop_", "adagrad_"])
def test_every_combination_of_hyperparameters_has_the_bits_of_the_reference(instruction_set, rule, dtype):
    rng = np.random.default_rng(1)
    problem = Problem.awkward(rule, rng, (67,), dtype)
    for options in combinations(RMSPROP_OPTIONS if rule == "rmsprop_" else ADAGRAD_OPTIONS):
        problem.assert_same_bits(num_threads=1, lr=0.01, eps=1e-8, **options)


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("rule", ["rmsprop_", "adagrad_"])
def test_every_length_and_offset_has_the_bits_of_the_reference(instruction_set, rule, dtype):
    rng = np.random.default_rng(2)
    whole = Problem.awkward(rule, rng, (100,), dtype)
    for length in range(70):
        offset = int(rng.integers(0, 16))
        part = slice(offset, offset + length)
        state = {name: array[part] for name, array in whole.state.items()}
        problem = Problem(rule, whole.param[part], whole.grad[part], state)
        problem.assert_same_bits(num_threads=1, lr=0.01)


def test_any_offset_in_memory_has_the_same_bits(instruction_set):
    """Unlike a slice's copy, these arrays really begin at every place within a cache line."""
    rng = np.random.default_rng(3)
    inputs = [awkward_array(rng, (61,), np.float32, specials=0) for _ in range(2)]
    expected = [inputs[0].copy(), np.zeros(61, np.float32)]
    reference.rmsprop_(expected[0], inputs[1], expected[1], lr=0.1)
    for offset in range(16):
        memory = np.zeros((3, 61 + 16), np.float32)
        param, grad, square_avg = (row[offset : offset + 61] for row in memory)
        param[:], grad[:] = inputs
        functional.rmsprop_(param, grad, square_avg, lr=0.1)
        assert_same_bits(param, expected[0])
        assert_same_bits(square_avg, expected[1])
        memory[:, offset : offset + 61] = 0
        assert not memory.any(), "a step wrote beside its arrays"


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("rule", ["rmsprop_", "adagrad_"])
def test_any_number_of_threads_gives_the_same_bits(instruction_set, num_threads, rule, dtype):
    problem = Problem.awkward(rule, np.random.default_rng(4), (SHARED_LENGTH,), dtype)
    problem.assert_same_bits(num_threads, lr=0.01)
    problem.assert_same_bits(num_threads, lr=0.01, weight_decay=0.1, maximize=True)


@st.composite
def layouts(draw):
    """A shape and, for each array of a step, how it lies in memory."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=0, max_size=4)))
    axes = st.permutations(range(len(shape)))
    strides = st.lists(st.sampled_from([1, 1, 1, 2, 3, -1, -2]), min_size=len(shape), max_size=len(shape))
    return shape, [(draw(axes), draw(strides)) for _ in range(5)]


def laid_out(array, axes, steps):
    """Return a view with the values of `array`, its axes in another order in memory and with gaps between elements."""
    base_shape = [array.shape[axis] * abs(step) for axis, step in zip(axes, (steps[a] for a in axes), strict=True)]
    base = np.full(base_shape, np.nan, array.dtype)
    view = base.transpose(np.argsort(axes)) if axes else base
    view = view[tuple(slice(None, None, step) for step in steps)] if steps else view
    view[...] = array
    return view


@given(
    layout=layouts(),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(ALL_TYPES),
    rule=st.sampled_from(["rmsprop_", "adagrad_"]),
    isa=st.sampled_from(rmsprop.instruction_sets().available),
    threads=st.sampled_from([1, 2, 3]),
    data=st.data(),
)
def test_any_layout_value_and_hyperparameter_has_the_bits_of_the_reference(
    layout, seed, dtype, rule, isa, threads, data
):
    before = rmsprop.instruction_sets().chosen
    rmsprop._core.use_instruction_set(isa)
    try:
        shape, arrangement = layout
        dense = Problem.awkward(rule, np.random.default_rng(seed), shape, dtype)
        options = RMSPROP_OPTIONS if rule == "rmsprop_" else ADAGRAD_OPTIONS
        chosen = {name: data.draw(st.sampled_from(values), label=name) for name, values in options.items()}
        if chosen.get("momentum"):
            chosen["momentum"] = data.draw(st.floats(0, 1, exclude_min=True), label="momentum")
        else:
            chosen.pop("nesterov", None)
        numbers = st.floats(0, 10) | st.sampled_from([0.0, 1e-40, 1e-8, 1.0, 1e30])
        chosen |= {"lr": data.draw(numbers, label="lr"), "eps": data.draw(numbers, label="eps")}
        if rule == "rmsprop_":
            chosen["alpha"] = data.draw(st.floats(0, 1), label="alpha")

        expected = dense.after(reference, steps=1, **chosen)
        param, grad, *state = (
            laid_out(array, *how)
            for array, how in zip([dense.param, dense.grad, *dense.state.values()], arrangement, strict=False)
        )
        names = list(dense.state)
        extra = dict(zip(names[1:], state[1:], strict=True))
        getattr(functional, rule)(param, grad, state[0], **extra, num_threads=threads, **chosen)
        for name, actual in zip(["param", *names], [param, *state], strict=True):
            assert_same_bits(actual, expected[name])
        assert_same_bits(grad, dense.grad)
    finally:
        rmsprop._core.use_instruction_set(before)


def test_many_tensors_in_one_step_have_the_bits_of_one_at_a_time(instruction_set, num_threads):
    rng = np.random.default_rng(5)
    sizes = [*rng.integers(0, 200, 300), 30_000, *rng.integers(0, 200, 300)]
    params = [awkward_array(rng, (n,), REAL_TYPES[i % 2], specials=0) for i, n in enumerate(sizes)]
    grads = [awkward_array(rng, p.shape, p.dtype, specials=0) for p in params]
    expected = [p.copy() for p in params]
    averages = [np.zeros_like(p) for p in params]
    optimizer = rmsprop.RMSprop(params, lr=0.1, num_threads=num_threads)
    for _ in range(3):
        optimizer.step(grads)
        for param, grad, square_avg in zip(expected, grads, averages, strict=True):
            reference.rmsprop_(param, grad, square_avg, lr=0.1)
    for i, param in enumerate(params):
        assert_same_bits(param, expected[i])
        assert_same_bits(optimizer.state[i]["square_avg"], averages[i])


@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_bias_correction_with_an_alpha_of_1_divides_by_zero_as_the_reference_does(dtype):
    """Found by fuzzing: the reference raised a ZeroDivisionError where the kernels go on with an infinity."""
    arrays = {"param": np.ones(5, dtype), "grad": np.ones(5, dtype), "square_avg": np.arange(5, dtype=dtype)}
    expected = {name: array.copy() for name, array in arrays.items()}
    functional.rmsprop_(**arrays, lr=0.1, alpha=1.0, bias_correction=True)
    reference.rmsprop_(**expected, lr=0.1, alpha=1.0, bias_correction=True)
    for name, array in expected.items():
        assert_same_bits(arrays[name], array)
