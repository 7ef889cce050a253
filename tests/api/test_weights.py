"""Weights of 16 bits: rounded stochastically, split in two halves; and the average of the weights."""

import copy
import itertools
import re

import numpy as np
import pytest
from ml_dtypes import bfloat16

import rmsprop
from bits import assert_same_bits
from fewer_bits import STATE_DTYPES, gradients
from rmsprop import functional, reference

SIZES = [0, 1, 31, 255, 256, 257, 1000]
WEIGHTS = {"nearest": {}, "stochastic": {"stochastic_rounding": True}, "split": {"master_weights": "split"}}


def state_of(param, momentum, state_dtype, options, order="C"):
    """Return new state for a step of RMSprop on a parameter of bfloat16, or of another dtype without a split."""
    full = np.float64 if param.dtype == np.float64 else np.float32
    dtype = {None: full, "bfloat16": bfloat16, "8bit": np.uint8}[state_dtype]
    names = ["square_avg", *(["momentum_buffer"] if momentum else [])]
    state = {name: np.zeros(param.shape, dtype, order) for name in names}
    if state_dtype == "8bit":
        state |= {f"{name}_scale": np.zeros(-(-param.size // 256), np.uint8) for name in names}
    if "master_weights" in options:
        state["param_low"] = np.zeros(param.shape, np.int16, order)
    if "ema_decay" in options:
        state["ema"] = np.array(param, bfloat16 if state_dtype == "bfloat16" else full, order=order)
    return state


def stepped(module, param, grads, state_dtype, momentum, options, order="C", **more):
    """Return all arrays after some steps of one implementation."""
    param = np.array(param, order=order)
    state = state_of(param, momentum, state_dtype, options, order)
    chosen = {name: value for name, value in options.items() if module is functional or name != "master_weights"}
    if module is functional:
        chosen |= {"state_dtype": state_dtype, **more}
    for t, grad in enumerate(grads, 1):
        module.rmsprop_(param, grad, **state, lr=0.01, momentum=momentum, seed=5, step=t, **chosen)
    return {"param": param, **state}


def assert_steps_alike(param, grads, *how, **more):
    actual = stepped(functional, param, grads, *how, **more)
    more.pop("num_threads", None)
    for name, array in stepped(reference, param, grads, *how, **more).items():
        assert_same_bits(actual[name], array)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("state_dtype", [None, *STATE_DTYPES])
@pytest.mark.parametrize("ema_decay", [None, 0.97])
def test_weights_of_bfloat16_have_the_bits_of_the_reference(instruction_set, weights, state_dtype, ema_decay):
    options = WEIGHTS[weights] | ({} if ema_decay is None else {"ema_decay": ema_decay})
    rng = np.random.default_rng(1)
    for size, momentum, specials in itertools.product(SIZES, (0.0, 0.9), (0.0, 0.2)):
        grads = [gradients(rng, size, bfloat16, specials) for _ in range(3)]
        assert_steps_alike(gradients(rng, size, bfloat16), grads, state_dtype, momentum, options)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_any_layout_and_number_of_threads_gives_the_same_bits(instruction_set, num_threads, weights):
    options = WEIGHTS[weights] | {"ema_decay": 0.9}
    rng = np.random.default_rng(2)
    for shape, order in [((100_003,), "C"), ((7, 300), "F"), ((3, 4, 5, 60), "F")]:
        grads = [gradients(rng, shape, bfloat16) for _ in range(2)]
        param = gradients(rng, shape, bfloat16)
        assert_steps_alike(param, grads, "8bit", 0.9, options, order=order, num_threads=num_threads)
        assert_steps_alike(param, grads, None, 0.9, options, order=order, num_threads=num_threads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_average_of_any_weights_has_the_bits_of_the_reference(instruction_set, dtype):
    rng = np.random.default_rng(3)
    grads = [gradients(rng, 1000, dtype) for _ in range(3)]
    for decay in (0.0, 0.5, 0.999, 1.0):
        assert_steps_alike(gradients(rng, 1000, dtype), grads, None, 0.9, {"ema_decay": decay})


def test_split_halves_that_are_strided_each_in_its_own_way(instruction_set):
    rng = np.random.default_rng(4)
    param, grad = gradients(rng, (40, 50), bfloat16), gradients(rng, (40, 50), bfloat16)
    expected = stepped(reference, param, [grad], None, 0.0, WEIGHTS["split"])
    ours = np.full((80, 50), 7, bfloat16)[::2]
    low = np.zeros((50, 120), np.int16)[:, ::-3].T
    ours[...] = param
    square_avg = np.zeros((40, 50), np.float32, "F")
    functional.rmsprop_(ours, grad, square_avg, param_low=low, lr=0.01, master_weights="split")
    assert_same_bits(ours, expected["param"])
    assert_same_bits(low, expected["param_low"])


# ---- 16-bit arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("param_dtype", [np.float32, np.float16, bfloat16])
@pytest.mark.parametrize("grad_dtype", [np.float32, np.float16, bfloat16])
def test_a_gradient_may_have_another_16_or_32_bit_dtype(instruction_set, param_dtype, grad_dtype):
    rng = np.random.default_rng(5)
    params = [rng.standard_normal(600).astype(param_dtype) for _ in range(2)]
    expected = [param.copy() for param in params]
    optimizer = rmsprop.RMSprop(params, lr=0.01)
    twin = rmsprop.RMSprop(expected, lr=0.01)
    for _ in range(3):
        grads = [rng.standard_normal(600).astype(grad_dtype) for _ in params]
        optimizer.step(grads)
        twin.step([grad.astype(np.float32) for grad in grads])
    for ours, theirs in zip(params, expected, strict=True):
        assert_same_bits(ours, theirs)
    assert optimizer.state[0]["square_avg"].dtype == np.float32


@pytest.mark.parametrize("param_dtype", [np.float64, np.complex64])
def test_other_parameters_take_gradients_of_their_own_dtype_alone(param_dtype, refused):
    optimizer = rmsprop.RMSprop(np.ones(3, param_dtype))
    message = re.compile(f"grads: dtype bfloat16 does not match params {np.dtype(param_dtype).name}")
    with refused(TypeError, message, optimizer.state[0]["square_avg"]):
        optimizer.step(np.ones(3, bfloat16))


def test_integers_that_are_state_elsewhere_are_no_parameters():
    for dtype in (np.uint8, np.int16):
        with pytest.raises(TypeError, match="wanted float32, float64, complex64, complex128, bfloat16 or float16"):
            rmsprop.RMSprop(np.ones(3, dtype))


def test_stochastically_rounded_weights_move_by_steps_that_nearest_loses():
    """At lr 1e-4 a step of 1e-4 is far below half a unit in the last place of 1, which is 2**-8."""
    grad = np.ones(4096, np.float32)
    moved = {}
    for rounding in (False, True):
        param = np.ones(4096, bfloat16)
        optimizer = rmsprop.RMSprop(param, lr=1e-4, alpha=0.0, eps=0.0, stochastic_rounding=rounding)
        for _ in range(100):
            optimizer.step(grad)
        moved[rounding] = 1 - param.astype(np.float64).mean()
    assert moved[False] == 0
    assert abs(moved[True] - 0.01) < 0.0005


# ---- Split weights ---------------------------------------------------------------------------------------------------


def joined(param, low):
    return reference.decode_split(param.reshape(-1).view(np.uint16), low.reshape(-1))


@pytest.mark.parametrize("optimizer_class", [rmsprop.RMSprop, rmsprop.Adagrad])
def test_a_run_with_split_weights_has_the_bits_of_one_with_float32_weights(optimizer_class):
    rng = np.random.default_rng(6)
    param = rng.standard_normal(3000).astype(bfloat16)
    full = param.astype(np.float32)
    optimizer = optimizer_class(param, lr=1e-3, master_weights="split", weight_decay=0.01)
    twin = optimizer_class(full, lr=1e-3, weight_decay=0.01)
    for _ in range(50):
        grad = rng.standard_normal(3000).astype(bfloat16)
        optimizer.step(grad)
        twin.step(grad)
    assert_same_bits(joined(param, optimizer.state[0]["param_low"]), full)
    assert np.abs(param.astype(np.float32) - full).max() <= np.abs(full).max() * 2.0**-8
    accumulator = optimizer.state_names[0]
    assert_same_bits(optimizer.state[0][accumulator], twin.state[0][accumulator])


def test_halves_give_back_every_number():
    rng = np.random.default_rng(7)
    words = np.append(
        rng.integers(0, 1 << 32, 100_000, np.uint32), [0, 1 << 31, 0x7F7FFFFF, 0xFF7FFFFF, 0x8000, 0x7FFF]
    )
    numbers = words.astype(np.uint32).view(np.float32)
    numbers = numbers[~np.isnan(numbers)]
    assert_same_bits(reference.decode_split(*reference.encode_split(numbers)), numbers)
    upper, lower = reference.encode_split(np.array([np.nan, -np.nan], np.float32))
    assert np.isnan(reference.decode_bfloat16(upper)).all()
    assert not lower.any()


def test_a_value_that_other_code_has_written_is_the_new_weight():
    param = np.ones(300, bfloat16)
    optimizer = rmsprop.RMSprop(param, lr=1e-4, master_weights="split")
    optimizer.step(np.ones(300, bfloat16))
    low = optimizer.state[0]["param_low"].copy()
    param[:] = 5
    before = joined(param, low)
    assert (before.astype(bfloat16) == 5).all()
    optimizer.lr = 0.0
    optimizer.step(np.ones(300, bfloat16))
    assert_same_bits(joined(param, optimizer.state[0]["param_low"]), before)


@pytest.mark.parametrize("options", [{"master_weights": "split"}, {"ema_decay": 0.9, "state_dtype": "bfloat16"}])
def test_a_run_goes_on_from_a_checkpoint_and_from_a_state_dict(tmp_path, options):
    rng = np.random.default_rng(8)
    start = rng.standard_normal((30, 40)).astype(bfloat16)
    grads = [rng.standard_normal((30, 40)).astype(bfloat16) for _ in range(6)]
    params = [start.copy() for _ in range(3)]
    runs = [rmsprop.RMSprop(param, **options) for param in params]
    for grad in grads[:3]:
        runs[0].step(grad)
    runs[0].save(tmp_path / "checkpoint")
    runs[1].load(tmp_path / "checkpoint")
    runs[2].load_state_dict(copy.deepcopy(runs[0].state_dict()))
    for param in params[1:]:
        param[...] = params[0]
    for run in runs:
        for grad in grads[3:]:
            run.step(grad)
    for run, param in zip(runs[1:], params[1:], strict=True):
        assert_same_bits(param, params[0])
        for name, value in runs[0].state[0].items():
            assert_same_bits(run.state[0][name], value)


# ---- The average of the weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, bfloat16])
def test_parameters_hold_their_average_inside_and_their_own_values_afterwards(dtype):
    rng = np.random.default_rng(9)
    params = {"a": rng.standard_normal(300).astype(dtype), "b": rng.standard_normal((4, 5)).astype(dtype)}
    optimizer = rmsprop.RMSprop([{"params": {"a": params["a"]}, "ema_decay": 0.9}, {"params": {"b": params["b"]}}])
    averages = params["a"].astype(np.complex128 if np.dtype(dtype).kind == "c" else np.float64)
    for _ in range(5):
        optimizer.step({name: rng.standard_normal(param.shape).astype(dtype) for name, param in params.items()})
        averages = 0.9 * averages + 0.1 * params["a"].astype(averages.dtype)
    own = {name: param.copy() for name, param in params.items()}
    ema = optimizer.state["a"]["ema"].copy()
    with optimizer.ema_weights():
        assert_same_bits(params["a"], ema.astype(dtype))
        assert np.allclose(params["a"].astype(averages.dtype), averages, rtol=2.0**-6 if dtype is bfloat16 else 1e-5)
        assert_same_bits(params["b"], own["b"])
    for name, param in params.items():
        assert_same_bits(param, own[name])
    assert_same_bits(optimizer.state["a"]["ema"], ema)


def test_an_average_begins_with_the_weights():
    param = np.arange(300, dtype=np.float32)
    optimizer = rmsprop.RMSprop(param, ema_decay=0.5)
    assert_same_bits(optimizer.state[0]["ema"], param)
    assert not np.shares_memory(optimizer.state[0]["ema"], param)


def test_own_values_come_back_after_an_exception():
    param = np.ones(3, np.float32)
    optimizer = rmsprop.RMSprop(param, lr=0.1, ema_decay=0.5)
    optimizer.step(np.ones(3, np.float32))
    own = param.copy()

    def failing():
        with optimizer.ema_weights():
            assert not np.array_equal(param, own)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert_same_bits(param, own)


def test_nothing_steps_saves_or_loads_while_parameters_hold_their_average(tmp_path):
    param = np.ones(3, np.float32)
    optimizer = rmsprop.RMSprop(param, ema_decay=0.5)
    saved = optimizer.state_dict()
    with optimizer.ema_weights():
        for call in (
            lambda: optimizer.step(np.ones(3, np.float32)),
            lambda: optimizer.save(tmp_path / "file"),
            lambda: optimizer.load_state_dict(saved),
            lambda: optimizer.ema_weights().__enter__(),
        ):
            with pytest.raises(RuntimeError, match="ema_weights"):
                call()
    optimizer.step(np.ones(3, np.float32))


def test_without_an_average_there_is_nothing_to_hold():
    optimizer = rmsprop.RMSprop(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="ema_weights: no group has an ema_decay"), optimizer.ema_weights():
        pass


# ---- What cannot be --------------------------------------------------------------------------------------------------

BAD = {
    "split float32": (
        np.float32,
        {"master_weights": "split"},
        "params: got float32 with master_weights 'split', wanted",
    ),
    "split float64": (
        np.float64,
        {"master_weights": "split"},
        "params: got float64 with master_weights 'split', wanted",
    ),
    "split float16": (
        np.float16,
        {"master_weights": "split"},
        "params: got float16 with master_weights 'split', wanted",
    ),
    "stochastic float16": (
        np.float16,
        {"stochastic_rounding": True},
        "params: got float16 with stochastic_rounding True",
    ),
    "both": (bfloat16, {"stochastic_rounding": True, "master_weights": "split"}, "stochastic_rounding: got True with"),
    "another name": (bfloat16, {"master_weights": "half"}, "master_weights: got 'half', wanted None or 'split'"),
    "a large average": (np.float32, {"ema_decay": 1.5}, "ema_decay: got 1.5, wanted a number from 0 to 1 or None"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_cannot_be_are_refused_by_name(case, refused):
    dtype, options, message = BAD[case]
    param = np.ones(3, dtype)
    with refused(ValueError, re.compile(re.escape(message) + ".*"), param):
        rmsprop.RMSprop(param, **options)


def test_halves_and_averages_that_do_not_fit_are_refused(refused):
    param = np.ones(300, bfloat16)
    optimizer = rmsprop.RMSprop(param, master_weights="split", ema_decay=0.5)
    optimizer.step(param.copy())
    good = {name: optimizer.state[0][name] for name in ("param_low", "ema")}
    bad = [
        ("param_low", np.zeros(300, np.float32), TypeError, "dtype float32 does not match params bfloat16"),
        ("param_low", np.zeros(299, np.int16), ValueError, r"shape \(299,\) does not match"),
        ("param_low", param.view(np.int16), ValueError, "shares memory"),
        ("ema", np.zeros(300, bfloat16), TypeError, "dtype bfloat16 does not match params bfloat16"),
        ("ema", np.zeros(3, np.float32), ValueError, r"shape \(3,\) does not match"),
    ]
    for name, array, kind, message in bad:
        optimizer.state[0][name] = array
        with refused(kind, re.compile(f".*{message}.*"), param, *good.values()):
            optimizer.step(np.ones(300, bfloat16))
        optimizer.state[0][name] = good[name]
    optimizer.step(np.ones(300, bfloat16))
