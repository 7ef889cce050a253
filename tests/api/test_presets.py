"""Presets: each gives its framework's numbers, by the documented formula and, where installed, by the real library.

The formulas below are written from the frameworks' own documentation and source, in plain NumPy and with the
frameworks' own defaults. They share nothing with `rmsprop.reference`.

Each library runs in a process of its own, so that its threads, warnings and settings stay out of the other tests: JAX,
for one, makes every later `os.fork` warn.
"""

import importlib
import importlib.util
import inspect
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rmsprop
from rmsprop import presets

STEPS = 40
LR_WITHOUT_DEFAULT = 0.02  # for frameworks that ask for a learning rate
# The first three steps use the framework's default learning rate, the others change it.
LR_FACTORS = [1.0, 1.0, 1.0, *np.random.default_rng(1).uniform(0.1, 2.0, STEPS - 3)]

# Everything is float64, where two orders of the same operations differ by a few times 2**-53 per step. The difference
# is taken relative to how far a weight has come from where it started, so that large weights hide nothing; a weight
# that comes back past its start makes it larger. 8e-13 is the largest seen, 1e-8 and more what a wrong argument makes.
TOLERANCE = 1e-11


def problem():
    """Return weights and the gradients of all steps, whose sizes make every one of the eps above matter somewhere."""
    random = np.random.default_rng(0)
    sizes = np.logspace(-6, 1, 16)
    weights = random.normal(size=16)
    return weights, random.normal(size=(STEPS, 16)) * sizes + 0.1 * sizes


def rates(default_lr):
    return [factor * default_lr for factor in LR_FACTORS]


def difference(actual, expected):
    """Return the largest difference between two runs (steps x weights), relative to how far a weight has come."""
    start, _ = problem()
    return float(np.max(np.abs(actual - expected) / np.abs(expected - start)))


def our_run(optimizer, preset, options):
    """Return the weights after each step of `rmsprop.RMSprop` or `rmsprop.Adagrad` with a preset."""
    weights, grads = problem()
    opt = optimizer(weights, **{"lr": LR_WITHOUT_DEFAULT, **preset, **options})
    run = []
    for lr, grad in zip(rates(opt.lr), grads, strict=True):
        opt.lr = lr
        opt.step(grad)
        run.append(weights.copy())
    return np.array(run)


# ---- The documented formulas -----------------------------------------------------------------------------------------


def torch_rmsprop(rates, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False):
    w, grads = problem()
    v = m = b = np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        g = (-g if maximize else g) + weight_decay * w
        v = alpha * v + (1 - alpha) * g**2
        m = m + (g - m) * (1 - alpha)
        average = np.sqrt(v - m**2 if centered else v) + eps
        b = momentum * b + g / average
        w = w - rate * b
        yield w


def keras_rmsprop(rates, lr=1e-3, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False, weight_decay=0.0):
    w, grads = problem()
    velocity = average_grad = m = np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        w = w - w * weight_decay * rate
        velocity = rho * velocity + (1 - rho) * g**2
        average_grad = rho * average_grad + (1 - rho) * g
        denominator = velocity - average_grad**2 + epsilon if centered else velocity + epsilon
        m = momentum * m + rate * g / np.sqrt(denominator)
        w = w - m
        yield w


def optax_rmsprop(
    rates,
    lr=LR_WITHOUT_DEFAULT,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=True,
    centered=False,
    momentum=0.0,
    nesterov=False,
    bias_correction=False,
    weight_decay=0.0,
):
    w, grads = problem()
    nu, mu, trace = np.full_like(w, initial_scale), np.zeros_like(w), np.zeros_like(w)
    for count, (rate, g) in enumerate(zip(rates(lr), grads, strict=True), start=1):
        g = g + weight_decay * w  # optax.add_decayed_weights
        nu = (1 - decay) * g**2 + decay * nu
        mu = (1 - decay) * g + decay * mu
        correction = 1 - decay**count if bias_correction else 1.0
        s = nu / correction - (mu / correction) ** 2 if centered else nu / correction
        update = -rate * g * (1 / np.sqrt(s + eps) if eps_in_sqrt else 1 / (np.sqrt(s) + eps))
        trace = update + momentum * trace
        w = w + (update + momentum * trace if nesterov else trace)
        yield w


def tf1_rmsprop(rates, lr=LR_WITHOUT_DEFAULT, decay=0.9, momentum=0.0, epsilon=1e-10, centered=False, weight_decay=0.0):
    w, grads = problem()
    ms, mg, mom = np.ones_like(w), np.zeros_like(w), np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        g = g + weight_decay * w  # an L2 term in the loss
        ms = ms + (g**2 - ms) * (1 - decay)
        mg = mg + (g - mg) * (1 - decay)
        mom = mom * momentum + rate * g / np.sqrt(ms - mg**2 + epsilon if centered else ms + epsilon)
        w = w - mom
        yield w


def timm_rmsprop(
    rates,
    lr=1e-2,
    alpha=0.9,
    eps=1e-10,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    decoupled_decay=False,
    lr_in_momentum=True,
):
    w, grads = problem()
    square_avg, grad_avg, buf = np.ones_like(w), np.zeros_like(w), np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        if decoupled_decay:
            w = w * (1 - rate * weight_decay)
        else:
            g = g + weight_decay * w
        square_avg = square_avg + (g**2 - square_avg) * (1 - alpha)
        grad_avg = grad_avg + (g - grad_avg) * (1 - alpha)
        avg = np.sqrt(square_avg - grad_avg**2 + eps if centered else square_avg + eps)
        buf = buf * momentum + (rate * g / avg if lr_in_momentum else g / avg)
        w = w - (buf if lr_in_momentum else rate * buf)
        yield w


def paddle_rmsprop(
    rates, lr=LR_WITHOUT_DEFAULT, rho=0.95, epsilon=1e-6, momentum=0.0, centered=False, weight_decay=0.0
):
    w, grads = problem()
    r = mean_grad = v = np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        g = g + weight_decay * w
        r = rho * r + (1 - rho) * g**2
        mean_grad = rho * mean_grad + (1 - rho) * g
        v = momentum * v + rate / np.sqrt(r - mean_grad**2 + epsilon if centered else r + epsilon) * g
        w = w - v
        yield w


def textbook_rmsprop(rates, lr=1e-3, gamma=0.9, eps=1e-8):
    w, grads = problem()
    beta = np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        beta = gamma * beta + (1 - gamma) * g**2
        w = w - rate * g / np.sqrt(beta + eps)
        yield w


def torch_adagrad(
    rates, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False
):
    w, grads = problem()
    state_sum = np.full_like(w, initial_accumulator_value)
    for step, (rate, g) in enumerate(zip(rates(lr), grads, strict=True), start=1):
        g = (-g if maximize else g) + weight_decay * w
        state_sum = state_sum + g**2
        w = w - rate / (1 + (step - 1) * lr_decay) * g / (np.sqrt(state_sum) + eps)
        yield w


def keras_adagrad(rates, lr=1e-3, initial_accumulator_value=0.1, epsilon=1e-7, weight_decay=0.0):
    w, grads = problem()
    accumulator = np.full_like(w, initial_accumulator_value)
    for rate, g in zip(rates(lr), grads, strict=True):
        w = w - w * weight_decay * rate
        accumulator = accumulator + g**2
        w = w - rate * g / np.sqrt(accumulator + epsilon)
        yield w


def optax_adagrad(rates, lr=LR_WITHOUT_DEFAULT, initial_accumulator_value=0.1, eps=1e-7, weight_decay=0.0):
    w, grads = problem()
    sum_of_squares = np.full_like(w, initial_accumulator_value)
    for rate, g in zip(rates(lr), grads, strict=True):
        g = g + weight_decay * w  # optax.add_decayed_weights
        sum_of_squares = g**2 + sum_of_squares
        w = w - rate * np.where(sum_of_squares > 0, 1 / np.sqrt(sum_of_squares + eps), 0.0) * g
        yield w


def tf1_adagrad(rates, lr=LR_WITHOUT_DEFAULT, initial_accumulator_value=0.1, weight_decay=0.0):
    w, grads = problem()
    accum = np.full_like(w, initial_accumulator_value)
    for rate, g in zip(rates(lr), grads, strict=True):
        g = g + weight_decay * w  # an L2 term in the loss
        accum = accum + g**2
        w = w - rate * g / np.sqrt(accum)
        yield w


def paddle_adagrad(rates, lr=LR_WITHOUT_DEFAULT, epsilon=1e-6, weight_decay=0.0, initial_accumulator_value=0.0):
    w, grads = problem()
    moment = np.full_like(w, initial_accumulator_value)
    for rate, g in zip(rates(lr), grads, strict=True):
        g = g + weight_decay * w
        moment = moment + g**2
        w = w - rate * g / (np.sqrt(moment) + epsilon)
        yield w


def textbook_adagrad(rates, lr=1e-2, eps=1e-8):
    w, grads = problem()
    beta = np.zeros_like(w)
    for rate, g in zip(rates(lr), grads, strict=True):
        beta = beta + g**2
        w = w - rate * g / np.sqrt(beta + eps)
        yield w


# ---- The real libraries, each for a process of its own ---------------------------------------------------------------
# Each returns the weights after each step. It gets nothing but what the recipe asks for, so its own defaults count.


def run_torch_optimizer(create, rates):
    import torch

    start, grads = problem()
    weights = torch.nn.Parameter(torch.tensor(start))
    opt = create([weights])
    run = []
    for lr, grad in zip(rates(opt.param_groups[0]["lr"]), grads, strict=True):
        opt.param_groups[0]["lr"] = lr
        weights.grad = torch.tensor(grad)
        opt.step()
        run.append(weights.detach().numpy().copy())
    return np.array(run)


def run_torch(name, options):
    import torch

    return run_torch_optimizer(lambda params: getattr(torch.optim, name)(params, **options), rates)


def run_timm(name, options):
    # RMSpropTF needs PyTorch alone; `import timm` needs torchvision too. So the packages around it stay empty.
    if "timm" not in sys.modules:
        (root,) = importlib.util.find_spec("timm").submodule_search_locations
        for package, folder in (("timm", root), ("timm.optim", os.path.join(root, "optim"))):
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [folder]
    optimizer = getattr(importlib.import_module("timm.optim.rmsprop_tf"), name)
    return run_torch_optimizer(lambda params: optimizer(params, **options), rates)


def run_keras(name, options):
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    jax.config.update("jax_enable_x64", True)
    import keras

    keras.config.set_floatx("float64")  # or Keras rounds the learning rate to 32 bits
    start, grads = problem()
    weights = keras.Variable(start)
    opt = getattr(keras.optimizers, name)(**options)
    run = []
    for lr, grad in zip(rates(float(opt.learning_rate)), grads, strict=True):
        opt.learning_rate = lr
        opt.apply([keras.ops.convert_to_tensor(grad)], [weights])
        run.append(np.array(weights))
    return np.array(run)


def run_optax(name, options):
    import jax

    jax.config.update("jax_enable_x64", True)
    import optax

    weight_decay = options.pop("weight_decay", 0.0)
    start, grads = problem()
    schedule = jax.numpy.array(rates(LR_WITHOUT_DEFAULT))
    opt = getattr(optax, name)(learning_rate=lambda count: schedule[count], **options)
    opt = optax.chain(optax.add_decayed_weights(weight_decay), opt)
    weights = jax.numpy.array(start)
    state = opt.init(weights)
    run = []
    for grad in grads:
        updates, state = opt.update(jax.numpy.array(grad), state, weights)
        weights = optax.apply_updates(weights, updates)
        run.append(np.array(weights))
    return np.array(run)


def run_tf1(name, options):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    weight_decay = options.pop("weight_decay", 0.0)
    create = getattr(tf.compat.v1.train, name)
    # Numbers as NumPy's, with their 64 bits: of Python's it keeps 32.
    defaults = {key: argument.default for key, argument in inspect.signature(create).parameters.items()}
    floats = {key: np.float64(value) for key, value in {**defaults, **options}.items() if type(value) is float}
    start, grads = problem()
    weights = tf.Variable(start)
    lr_now = []
    opt = create(learning_rate=lambda: np.float64(lr_now[-1]), **{**options, **floats})
    run = []
    for lr, grad in zip(rates(LR_WITHOUT_DEFAULT), grads, strict=True):
        lr_now.append(lr)
        opt.apply_gradients([(grad + weight_decay * weights, weights)])  # as if the loss had an L2 term
        run.append(weights.numpy().copy())
    return np.array(run)


def run_paddle(name, options):
    import paddle

    paddle.set_device("cpu")
    paddle.set_default_dtype("float64")
    start, grads = problem()
    weights = paddle.create_parameter([len(start)], "float64", default_initializer=paddle.nn.initializer.Assign(start))
    opt = getattr(paddle.optimizer, name)(learning_rate=LR_WITHOUT_DEFAULT, parameters=[weights], **options)
    run = []
    for lr, grad in zip(rates(LR_WITHOUT_DEFAULT), grads, strict=True):
        opt.set_lr(lr)
        weights.grad = paddle.to_tensor(grad)
        opt.step()
        run.append(weights.numpy().copy())
    return np.array(run)


# ---- What is compared with what --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One preset, the formula and the library that it stands for, and the recipes to try, in our words."""

    preset: str
    optimizer: type[rmsprop.RMSprop] | type[rmsprop.Adagrad]
    formula: Callable[..., Any]
    library: tuple[Callable[..., Any], str, str] | None  # what runs it, the package it needs, and its optimizer's name
    recipes: list[dict[str, Any]]
    words: dict[str, str] = field(default_factory=dict)  # from our names of arguments to the framework's
    rounded: tuple[str, ...] = ()  # hyperparameters of which the library keeps 32 bits only

    @property
    def mapping(self) -> Mapping[str, Any]:
        return preset_named(self.preset)

    def in_its_words(self, recipe: dict[str, Any]) -> dict[str, Any]:
        return {self.words.get(name, name): value for name, value in recipe.items()}

    def rounded_like_the_library(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: float(np.float32(value)) if name in self.rounded else value for name, value in hyperparameters.items()
        }


def preset_named(name):
    *outer, last = name.split(".")
    return getattr(getattr(presets, outer[0]) if outer else presets, last)


PLAIN = [{}]
L2 = [{"weight_decay": 0.1}]
MOMENTUM = [{}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.9}]
ALL = [*MOMENTUM, {"weight_decay": 0.1, "momentum": 0.5}]
RHO = {"alpha": "rho", "eps": "epsilon"}
OPTAX_ALL = [
    *ALL,
    {"momentum": 0.9, "nesterov": True},
    {"eps_in_sqrt": False, "centered": True},
    {"bias_correction": True},
    # With a usual eps the first step would divide by the rounding of a variance that is 0.
    {"bias_correction": True, "centered": True, "eps": 0.01},
]
TIMM_ALL = [*ALL, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"momentum": 0.9, "lr_in_momentum": False}]

CASES = [
    Case("textbook", rmsprop.RMSprop, textbook_rmsprop, None, PLAIN),
    Case("torch", rmsprop.RMSprop, torch_rmsprop, (run_torch, "torch", "RMSprop"), [*ALL, {"maximize": True}]),
    Case("keras", rmsprop.RMSprop, keras_rmsprop, (run_keras, "keras", "RMSprop"), ALL, RHO),
    Case("optax", rmsprop.RMSprop, optax_rmsprop, (run_optax, "optax", "rmsprop"), OPTAX_ALL),
    Case("tf1", rmsprop.RMSprop, tf1_rmsprop, (run_tf1, "tensorflow", "RMSPropOptimizer"), ALL),
    Case(
        "timm",
        rmsprop.RMSprop,
        timm_rmsprop,
        (run_timm, "timm", "RMSpropTF"),
        TIMM_ALL,
        {"decoupled_weight_decay": "decoupled_decay"},
    ),
    Case(
        "paddle",
        rmsprop.RMSprop,
        paddle_rmsprop,
        (run_paddle, "paddle", "RMSProp"),
        ALL,
        RHO,
        rounded=("alpha", "eps", "momentum"),
    ),
    Case("adagrad.textbook", rmsprop.Adagrad, textbook_adagrad, None, PLAIN),
    Case(
        "adagrad.torch",
        rmsprop.Adagrad,
        torch_adagrad,
        (run_torch, "torch", "Adagrad"),
        [*PLAIN, *L2, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.5}, {"maximize": True}],
    ),
    Case("adagrad.keras", rmsprop.Adagrad, keras_adagrad, (run_keras, "keras", "Adagrad"), [*PLAIN, *L2], RHO),
    Case("adagrad.optax", rmsprop.Adagrad, optax_adagrad, (run_optax, "optax", "adagrad"), [*PLAIN, *L2]),
    Case("adagrad.tf1", rmsprop.Adagrad, tf1_adagrad, (run_tf1, "tensorflow", "AdagradOptimizer"), [*PLAIN, *L2]),
    Case(
        "adagrad.paddle",
        rmsprop.Adagrad,
        paddle_adagrad,
        (run_paddle, "paddle", "Adagrad"),
        [*PLAIN, *L2],
        RHO,
        rounded=("eps",),
    ),
]
BY_NAME = {case.preset: case for case in CASES}
every_preset = pytest.mark.parametrize("name", BY_NAME)


def every_recipe_of(cases):
    return pytest.mark.parametrize(
        ("case", "recipe"),
        [
            pytest.param(case, recipe, id="-".join([case.preset, *(f"{key}={value}" for key, value in recipe.items())]))
            for case in cases
            for recipe in case.recipes
        ],
    )


def by_formula(case, recipe):
    return np.array(list(case.formula(rates, **case.in_its_words(recipe))))


# ---- The numbers -----------------------------------------------------------------------------------------------------


@every_recipe_of(CASES)
def test_a_preset_gives_the_numbers_of_the_documented_formula(case, recipe):
    assert difference(our_run(case.optimizer, case.mapping, recipe), by_formula(case, recipe)) < TOLERANCE


@pytest.fixture(scope="module")
def in_own_process():
    """Return a function that runs a function in the process of one library, which starts at the first use."""
    processes = {}

    def run(package, function, *arguments):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, so only its documented formula was compared")
        if package not in processes:
            processes[package] = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            return processes[package].submit(function, *arguments).result()
        except ImportError as error:
            pytest.skip(f"{package} cannot be imported, so only its documented formula was compared: {error}")

    yield run
    for process in processes.values():
        process.shutdown()


@every_recipe_of([case for case in CASES if case.library])
def test_a_preset_gives_the_numbers_of_the_real_library(case, recipe, in_own_process):
    run, package, name = case.library
    expected = in_own_process(package, run, name, case.in_its_words(recipe))
    ours = our_run(case.optimizer, case.rounded_like_the_library(case.mapping), case.rounded_like_the_library(recipe))
    assert difference(ours, expected) < TOLERANCE


NO_MATTER = {  # The textbook form has neither momentum nor weight decay, and an eps of 0 is the same in both places.
    *[("textbook", "lr_in_momentum"), ("textbook", "decoupled_weight_decay")],
    *[("adagrad.textbook", "decoupled_weight_decay"), ("adagrad.tf1", "eps_in_sqrt")],
}
MATTERS = [(case.preset, name) for case in CASES for name in case.mapping if (case.preset, name) not in NO_MATTER]


def changed(value):
    return not value if isinstance(value, bool) else value / 2 or 1e-3


@pytest.mark.parametrize(("name", "argument"), MATTERS)
def test_a_wrong_value_in_a_preset_would_be_found(name, argument):
    case = BY_NAME[name]
    wrong = {**case.mapping, argument: changed(case.mapping[argument])}
    recipes = [recipe for recipe in case.recipes if argument not in recipe]
    differences = [difference(our_run(case.optimizer, wrong, recipe), by_formula(case, recipe)) for recipe in recipes]
    assert max(differences) > 1e-8


# ---- The mappings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
def test_textbook_is_what_the_constructors_do_without_arguments(optimizer):
    preset = presets.textbook if optimizer is rmsprop.RMSprop else presets.adagrad.textbook
    parameters = inspect.signature(optimizer).parameters
    assert {name: parameters[name].default for name in preset} == dict(preset)


@every_preset
def test_a_preset_has_every_argument_in_which_frameworks_differ_and_lr_where_there_is_a_default(name):
    textbook = presets.adagrad.textbook if name.startswith("adagrad") else presets.textbook
    has_no_lr = name.removeprefix("adagrad.") in ("optax", "tf1", "paddle")
    assert preset_named(name).keys() == textbook.keys() - ({"lr"} if has_no_lr else set())


@every_preset
def test_presets_are_read_only(name):
    with pytest.raises(TypeError, match="does not support item assignment"):
        preset_named(name)["eps"] = 1.0


@every_preset
def test_a_preset_of_one_optimizer_is_an_error_in_the_other(name):
    other = rmsprop.RMSprop if BY_NAME[name].optimizer is rmsprop.Adagrad else rmsprop.Adagrad
    with pytest.raises(TypeError, match=r"unexpected keyword argument '(alpha|lr_decay)'"):
        other(np.ones(2), **preset_named(name))


@every_preset
def test_a_preset_goes_into_a_group_and_own_values_after_it_win(name):
    preset = preset_named(name)
    opt = BY_NAME[name].optimizer([{"params": np.ones(2), **preset}, {"params": np.ones(2)}], **preset | {"eps": 0.25})
    assert [group["eps"] for group in opt.param_groups] == [preset["eps"], 0.25]
    assert [group["eps_in_sqrt"] for group in opt.param_groups] == [preset["eps_in_sqrt"]] * 2


@every_preset
def test_both_parts_of_a_complex_weight_start_from_the_initial_value(name):
    case = BY_NAME[name]
    state = case.optimizer(np.ones(2, complex), **case.mapping).state[0]
    average = state["square_avg" if case.optimizer is rmsprop.RMSprop else "sum"]
    initial = case.mapping["initial_accumulator_value"]
    assert average.tolist() == [complex(initial, initial)] * 2


def test_optax_adagrad_takes_no_step_where_the_gradient_is_0():
    weights = np.ones(2)
    rmsprop.Adagrad(weights, **presets.adagrad.optax).step(np.zeros(2))
    assert weights.tolist() == [1.0, 1.0]


# ---- The tables ------------------------------------------------------------------------------------------------------


def rows_of_presets(text):
    """Return the rows of all tables whose first cell names a preset, as cells without their Markdown."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()]
    headings, found = None, {}
    for row in rows:
        if row == [""] or row[0] == "preset":  # a table ends, or begins
            headings = row if row[0] else None
        elif headings and (match := re.match(r"`([\w.]+)`", row[0])):
            found[match[1]] = dict(zip(headings, row, strict=True))
    return found


@pytest.mark.parametrize("place", ["the module's docstring", "docs/which-rmsprop.md"])
def test_the_tables_say_what_the_presets_are(place):
    page = Path(__file__).parents[2] / "docs" / "which-rmsprop.md"
    rows = rows_of_presets(page.read_text(encoding="utf-8") if place.startswith("docs") else presets.__doc__)
    assert rows.keys() == BY_NAME.keys()
    for name, row in rows.items():
        preset = preset_named(name)
        assert row.keys() >= {"eps", "eps_in_sqrt", "initial_accumulator_value"}
        for argument in row.keys() & {"alpha", "eps", "initial_accumulator_value"}:
            assert float(row[argument]) == preset[argument], (name, argument)
        for argument in row.keys() & {"eps_in_sqrt", "lr_in_momentum"}:
            assert row[argument] == ("yes" if preset[argument] else "no"), (name, argument)
        assert row["lr"] == "none" or float(row["lr"]) == preset["lr"], name
        assert (row["lr"] == "none") == ("lr" not in preset), name
        assert (row["weight decay"] == "decoupled") == preset["decoupled_weight_decay"], name


def test_the_examples_of_the_page_run():
    page = (Path(__file__).parents[2] / "docs" / "which-rmsprop.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
        assert names["opt"].param_groups
