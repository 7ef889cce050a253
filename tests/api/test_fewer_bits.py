"""State in bfloat16 and in 8 bits: the bits of the reference, all or nothing, and the same after a save and a load."""

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
from ml_dtypes import bfloat16

import rmsprop
from bits import assert_same_bits
from fewer_bits import BLOCK, STATE_DTYPES, Stored, combinations, gradients
from rmsprop import functional

COMBINATIONS = list(combinations())
OPTIMIZERS = [rmsprop.RMSprop, rmsprop.Adagrad]
# Around the ends of vectors, tiles, blocks and the shares of threads.
SIZES = [0, 1, 2, 31, 255, 256, 257, 511, 512, 513, 1000, 4 * BLOCK + 17]
LARGE = 100_003


def assert_same(actual, expected):
    for name, array in expected.arrays().items():
        assert_same_bits(actual.arrays()[name], array)


def assert_steps_alike(rule, state_dtype, param, grads, order="C", **options):
    ours, expected = (Stored(rule, state_dtype, param, order) for _ in range(2))
    for grad in grads:
        ours.step(grad, **options)
        expected.reference_step(grad)
    assert_same(ours, expected)


@pytest.mark.parametrize(("rule", "state_dtype"), COMBINATIONS)
def test_every_rule_and_size_has_the_bits_of_the_reference(instruction_set, rule, state_dtype):
    rng = np.random.default_rng(1)
    for size, specials in itertools.product(SIZES, (0.0, 0.2)):
        grads = [gradients(rng, size, specials=specials) for _ in range(3)]
        assert_steps_alike(rule, state_dtype, gradients(rng, size), grads)


@pytest.mark.parametrize(("rule", "state_dtype"), COMBINATIONS)
def test_any_number_of_threads_gives_the_same_bits(instruction_set, num_threads, rule, state_dtype):
    rng = np.random.default_rng(2)
    grads = [gradients(rng, LARGE, specials=0.01) for _ in range(2)]
    assert_steps_alike(rule, state_dtype, gradients(rng, LARGE), grads, num_threads=num_threads)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_elements_and_blocks_count_in_c_order_whatever_the_layout(instruction_set, state_dtype, order):
    rng = np.random.default_rng(3)
    for shape in [(30, 40), (7, 300), (3, 4, 5, 6), (1, 700), (700, 1)]:
        grads = [gradients(rng, shape) for _ in range(2)]
        assert_steps_alike("momentum", state_dtype, gradients(rng, shape), grads, order)
        grads = [grad.T.copy().T for grad in grads]
        assert_steps_alike("momentum", state_dtype, gradients(rng, shape), grads, order)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_strided_parameters_and_state_have_the_same_bits_and_their_gaps_are_untouched(instruction_set, state_dtype):
    rng = np.random.default_rng(4)
    param, grads = gradients(rng, (40, 50)), [gradients(rng, (40, 50)) for _ in range(2)]
    expected = Stored("momentum", state_dtype, param)
    ours = Stored("momentum", state_dtype, param)
    bases = {}
    for name, array in {"param": param, **ours.state}.items():
        if not name.endswith("_scale"):
            bases[name] = np.full((80, 150), 7, array.dtype)
            view = bases[name][::-2, 1::3]
            view[...] = array
            if name == "param":
                ours.param = view
            else:
                ours.state[name] = view
    for grad in grads:
        ours.step(grad)
        expected.reference_step(grad)
    assert_same(ours, expected)
    for base in bases.values():
        base[::-2, 1::3] = 7
        assert (base.astype(np.float32) == 7).all()


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_every_option_of_a_step_comes_before_the_rounding(instruction_set, state_dtype):
    options = {"grad_scale": 1 / 3, "clip_value": 0.25, "maximize": True, "weight_decay": 0.01}
    rng = np.random.default_rng(5)
    param, grad = gradients(rng, 1000), gradients(rng, 1000)
    for more in ({}, {"decoupled_weight_decay": True}):
        ours, expected = (Stored("momentum", state_dtype, param) for _ in range(2))
        ours.step(grad, **options, **more)
        expected.reference_step(grad, **options, **more)
        assert_same(ours, expected)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_clipping_by_norm_reads_the_gradients_alone(state_dtype):
    rng = np.random.default_rng(6)
    param, grad = gradients(rng, 1000), rng.standard_normal(1000).astype(np.float32)
    ours, expected = (Stored("rmsprop", state_dtype, param) for _ in range(2))
    ours.step(grad, clip_norm=0.5)
    scale = rmsprop.reference.clip_scale(rmsprop.reference.sum_of_squares([grad]), 0.5)
    expected.reference_step(grad, clip_scale=scale)
    assert_same(ours, expected)


# ---- Random bits are a function of seed, step, parameter, operand and element ----------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_each_parameter_has_random_bits_of_its_own_number(optimizer_class, state_dtype):
    rng = np.random.default_rng(7)
    param, grads = gradients(rng, 600), [rng.standard_normal(600).astype(np.float32) for _ in range(3)]
    params = [param.copy() for _ in range(3)]
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = optimizer_class(groups, lr=0.01, state_dtype=state_dtype, seed=11)
    rule = "adagrad" if optimizer_class is rmsprop.Adagrad else "rmsprop"
    expected = [Stored(rule, state_dtype, param, seed=11) for _ in params]
    for grad in grads:
        optimizer.step([grad] * 3)
        for number, stored in enumerate(expected):
            stored.reference_step(grad, parameter=number)
    for number, stored in enumerate(expected):
        assert_same_bits(params[number], stored.param)
        for name, array in stored.state.items():
            assert_same_bits(optimizer.state[number][name], array)
    assert len({stored.state[stored.accumulator].tobytes() for stored in expected}) == 3


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_skipped_parameter_does_not_shift_the_random_bits_of_others(state_dtype):
    rng = np.random.default_rng(8)
    param, grad = gradients(rng, 600), rng.standard_normal(600).astype(np.float32)
    params = [param.copy(), param.copy()]
    optimizer = rmsprop.RMSprop(params, lr=0.01, state_dtype=state_dtype, seed=5)
    optimizer.step([None, grad])
    expected = Stored("rmsprop", state_dtype, param)
    expected.reference_step(grad, parameter=1)
    assert_same_bits(params[1], expected.param)
    assert_same_bits(optimizer.state[1]["square_avg"], expected.state["square_avg"])


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_another_seed_gives_other_bits_and_the_same_seed_the_same(state_dtype):
    rng = np.random.default_rng(9)
    param, grad = gradients(rng, 600), rng.standard_normal(600).astype(np.float32)

    def state_with(seed):
        stored = Stored("rmsprop", state_dtype, param, seed=seed)
        stored.step(grad)
        return stored.state["square_avg"].tobytes()

    assert state_with(1) == state_with(1)
    assert len({state_with(seed) for seed in (0, 1, 2, 2**53 - 1)}) == 4


# ---- Groups, saving, loading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_run_goes_on_with_the_same_bits_after_it_was_saved_pickled_or_copied(tmp_path, optimizer_class, state_dtype):
    rng = np.random.default_rng(10)
    grads = [{"w": rng.standard_normal((30, 40)).astype(np.float32), "b": gradients(rng, 7)} for _ in range(6)]

    def made():
        params = {"w": np.ones((30, 40), np.float32), "b": np.zeros(7, np.float32)}
        return optimizer_class(params, state_dtype=state_dtype, seed=3)

    optimizer = made()
    for grad in grads[:3]:
        optimizer.step(grad)
    optimizer.save(tmp_path / "checkpoint")
    loaded, restored = made(), made()
    loaded.load(tmp_path / "checkpoint")
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for other in (loaded, restored):
        for param, own in zip(other.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
            param[...] = own
    runs = [optimizer, loaded, restored, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)]
    for run in runs:
        for grad in grads[3:]:
            run.step(grad)
    for run in runs[1:]:
        for index, key in enumerate(("w", "b")):
            assert_same_bits(run.param_groups[0]["params"][index], optimizer.param_groups[0]["params"][index])
            assert run.state[key].keys() == optimizer.state[key].keys()
            for name, value in optimizer.state[key].items():
                assert_same_bits(run.state[key][name], value)


def test_each_group_stores_its_state_in_its_own_way():
    params = [np.ones(300, np.float32), np.ones(300, np.float32), np.ones(300), np.ones(300, np.complex64)]
    groups = [
        {"params": params[:1], "state_dtype": "8bit"},
        {"params": params[1:2], "state_dtype": "bfloat16"},
        {"params": params[2:]},
    ]
    optimizer = rmsprop.RMSprop(groups)
    optimizer.step([np.ones_like(param) for param in params])
    dtypes = [optimizer.state[i]["square_avg"].dtype for i in range(4)]
    assert dtypes == [np.uint8, bfloat16, np.float64, np.complex64]
    assert "square_avg_scale" in optimizer.state[0]
    assert "square_avg_scale" not in optimizer.state[1]


@pytest.mark.parametrize("value", [0.1, 1.0, 1e-20, 3e5])
def test_an_initial_accumulator_is_rounded_to_nearest(value):
    for state_dtype, digits in (("bfloat16", 2.0**-8), ("8bit", 2.0**-4)):
        optimizer = rmsprop.Adagrad(np.ones(300, np.float32), initial_accumulator_value=value, state_dtype=state_dtype)
        numbers = rmsprop._optimizer.storage.in_full(optimizer.state[0], "sum")
        assert abs(numbers / value - 1).max() <= digits
        assert (numbers == numbers[0]).all()


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_float32_state_is_loaded_into_fewer_bits_rounded_to_nearest(state_dtype):
    rng = np.random.default_rng(12)
    source = rmsprop.RMSprop(np.ones(600, np.float32), momentum=0.9)
    source.step(rng.standard_normal(600).astype(np.float32))
    saved = source.state_dict()
    for group in saved["param_groups"]:
        group["state_dtype"] = state_dtype
    optimizer = rmsprop.RMSprop(np.ones(600, np.float32), momentum=0.9)
    optimizer.load_state_dict(saved)
    for name in ("square_avg", "momentum_buffer"):
        numbers = rmsprop._optimizer.storage.in_full(optimizer.state[0], name)
        exact = source.state[0][name]
        error = abs(numbers - exact) / np.abs(exact).max() if name == "momentum_buffer" else abs(numbers / exact - 1)
        assert error.max() <= (2.0**-8 if state_dtype == "bfloat16" else 2.0**-4)
    optimizer.step(np.ones(600, np.float32))


def test_settings_of_before_these_options_are_loaded_and_the_options_stay(tmp_path):
    optimizer = rmsprop.RMSprop(np.ones(300, np.float32), state_dtype="8bit", seed=4)
    optimizer.step(np.ones(300, np.float32))
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["state_dtype"], group["seed"]
    optimizer.load_state_dict(saved)
    assert (optimizer.param_groups[0]["state_dtype"], optimizer.param_groups[0]["seed"]) == ("8bit", 4)
    optimizer.step(np.ones(300, np.float32))


# ---- What cannot be --------------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "a name of no format": ({"state_dtype": "int8"}, ValueError, "state_dtype: got 'int8', wanted None, 'bfloat16' or"),
    "a dtype": ({"state_dtype": np.float32}, TypeError, "state_dtype: got type, wanted None, 'bfloat16' or '8bit'"),
    "8 bits, centered": (
        {"state_dtype": "8bit", "centered": True},
        ValueError,
        "state_dtype: got '8bit' with centered",
    ),
    "a negative seed": ({"seed": -1}, ValueError, "seed: got -1, wanted an int from 0 to 2**53 - 1"),
    "a seed too large": ({"seed": 2**53}, ValueError, "seed: got 9007199254740992, wanted an int from 0 to 2**53 - 1"),
    "a fraction": ({"seed": 0.5}, TypeError, "seed: got float, wanted an int"),
    "no seed": ({"seed": None}, TypeError, "seed: got NoneType, wanted an int"),
    "a bool": ({"seed": True}, TypeError, "seed: got bool, wanted an int"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_an_option_that_cannot_be_is_refused_and_nothing_changes(case, refused):
    options, kind, message = BAD_OPTIONS[case]
    param = np.ones(3, np.float32)
    pattern = re.compile(re.escape(message) + ".*")
    with refused(kind, pattern, param):
        rmsprop.RMSprop(param, **options)
    optimizer = rmsprop.RMSprop(param, **{name: value for name, value in options.items() if name == "centered"})
    optimizer.param_groups[0].update(options)
    with refused(kind, pattern, param, optimizer.state[0]["square_avg"]):
        optimizer.step(np.ones(3, np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_parameter_that_is_not_computed_in_float32_keeps_state_of_its_own_type(dtype, state_dtype, refused):
    param = np.ones(3, dtype)
    name = np.dtype(dtype).name
    message = re.compile(
        f"params: got {name} with state_dtype '{state_dtype}', wanted float32.*with state_dtype None.*"
    )
    with refused(ValueError, message, param):
        rmsprop.RMSprop(param, state_dtype=state_dtype)


def spoiled_states():
    """Yield a name, the state to replace, and the message."""
    ones = np.ones(600, np.float32)
    yield "full state", {"square_avg": ones}, "whose state is uint8 with state_dtype '8bit'"
    yield "half state", {"square_avg": ones.astype(bfloat16)}, "dtype bfloat16 does not match"
    yield "too few scales", {"square_avg_scale": np.zeros(2, np.uint8)}, r"shape \(2,\), wanted \(3,\)"
    yield "too many scales", {"square_avg_scale": np.zeros(4, np.uint8)}, r"shape \(4,\), wanted \(3,\)"
    yield "scales of two dimensions", {"square_avg_scale": np.zeros((3, 1), np.uint8)}, r"shape \(3, 1\), wanted"
    yield "scales of floats", {"square_avg_scale": np.zeros(3, np.float32)}, "dtype float32 does not match"
    yield "strided scales", {"square_avg_scale": np.zeros(6, np.uint8)[::2]}, "got a strided array"
    shared = np.zeros(603, np.uint8)
    yield "codes on their scales", {"square_avg": shared[:600], "square_avg_scale": shared[599:602]}, "shares memory"
    frozen = np.zeros(3, np.uint8)
    frozen.flags.writeable = False
    yield "frozen scales", {"square_avg_scale": frozen}, "read-only"


@pytest.mark.parametrize(("state", "message"), [pytest.param(*case, id=name) for name, *case in spoiled_states()])
def test_state_that_does_not_fit_its_format_is_refused_and_nothing_changes(state, message, refused):
    param = np.ones(600, np.float32)
    optimizer = rmsprop.RMSprop(param, state_dtype="8bit")
    optimizer.step(np.ones(600, np.float32))
    for name, array in state.items():
        optimizer.state[0][name] = array
    watched = [param, *(optimizer.state[0][name] for name in ("square_avg", "square_avg_scale"))]
    with refused((TypeError, ValueError), re.compile(f".*{message}.*"), *watched):
        optimizer.step(np.ones(600, np.float32))


def test_scales_that_share_memory_with_a_gradient_are_refused(refused):
    optimizer = rmsprop.RMSprop(np.ones(600, np.float32), state_dtype="8bit")
    grad = np.ones(600, np.float32)
    optimizer.state[0]["square_avg_scale"] = grad.view(np.uint8)[:3]
    with refused(ValueError, re.compile(".*shares memory with grads.*"), grad):
        optimizer.step(grad)


def test_any_bytes_are_state_that_a_step_can_read(instruction_set):
    """What other code has written, or a file had, decodes to some number, as in the reference."""
    rng = np.random.default_rng(13)
    ours, expected = (Stored("momentum", "8bit", np.ones(16 * BLOCK, np.float32)) for _ in range(2))
    for name in ours.state:
        ours.state[name][...] = expected.state[name][...] = rng.integers(0, 256, ours.state[name].shape, np.uint8)
    grad = rng.standard_normal(16 * BLOCK).astype(np.float32)
    ours.step(grad)
    expected.reference_step(grad)
    assert_same(ours, expected)


def test_a_function_takes_lists_and_numbers_their_parameters():
    rng = np.random.default_rng(14)
    params = [gradients(rng, 300) for _ in range(2)]
    grads = [rng.standard_normal(300).astype(np.float32) for _ in range(2)]
    expected = [Stored("rmsprop", "8bit", param) for param in params]
    codes, scales = ([np.zeros(n, np.uint8) for _ in range(2)] for n in (300, 2))
    functional.rmsprop_(params, grads, codes, square_avg_scale=scales, lr=0.01, state_dtype="8bit", seed=5)
    for number, stored in enumerate(expected):
        stored.reference_step(grads[number], parameter=number)
        assert_same_bits(params[number], stored.param)
        assert_same_bits(codes[number], stored.state["square_avg"])
        assert_same_bits(scales[number], stored.state["square_avg_scale"])
