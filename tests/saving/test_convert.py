"""State moves between frameworks: a run goes on in the other library with the numbers it would have had in its own.

Each library runs in a process of its own, so that its threads, warnings and settings stay out of the other tests.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from rmsprop import convert, presets
from rmsprop._optimizer.storage import in_full
from runs import assert_same_state

BEFORE, AFTER = 5, 10  # steps before and after state is moved

# Everything is float64, where two orders of the same operations differ by a few times 2**-53 per step.
TOLERANCE = 1e-12


def weights(dtype="float64"):
    random = np.random.default_rng(0)
    made = {"w": random.standard_normal((3, 4)), "a": random.standard_normal(5), "s": random.standard_normal(())}
    return {name: np.asarray(array.astype(dtype)) for name, array in made.items()}


def gradients(t, dtype="float64"):
    random = np.random.default_rng(1000 + t)
    made = {name: random.standard_normal(array.shape) for name, array in weights().items()}
    imaginary = 1j if np.dtype(dtype).kind == "c" else 0
    return {name: np.asarray((array + imaginary * array**2).astype(dtype)) for name, array in made.items()}


@pytest.fixture(scope="module")
def in_own_process():
    """Return a function that runs a function in the process of one library, which starts at the first use."""
    processes = {}

    def run(package, function, *arguments):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        if package not in processes:
            processes[package] = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return processes[package].submit(function, *arguments).result(timeout=120)

    yield run
    for process in processes.values():
        process.shutdown()


def assert_close(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def stepped(optimizer, params, first, count, dtype="float64"):
    """Take steps with an optimizer of ours, and return its parameters in the order of their names in `weights`."""
    for t in range(first, first + count):
        optimizer.step(gradients(t, dtype))
    return list(params.values())


# ---- PyTorch ---------------------------------------------------------------------------------------------------------

TORCH = {
    "plain": ("RMSprop", {}),
    "momentum": ("RMSprop", {"momentum": 0.9, "weight_decay": 0.1}),
    "centered": ("RMSprop", {"centered": True, "momentum": 0.5, "maximize": True, "alpha": 0.5}),
    "adagrad": ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1}),
}


class TorchRun:
    """Parameters with an optimizer of PyTorch."""

    def __init__(self, name, dtype, options):
        import torch

        self.torch, self.dtype = torch, dtype
        self.params = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in weights(dtype).items()}
        self.optimizer = getattr(torch.optim, name)(self.params.values(), lr=0.05, **options)

    def step(self, first, count):
        for t in range(first, first + count):
            for name, gradient in gradients(t, self.dtype).items():
                self.params[name].grad = self.torch.tensor(gradient)
            self.optimizer.step()
        return [param.detach().numpy().copy() for param in self.params.values()]


def ours_like_torch(name, options, dtype):
    params = weights(dtype)
    preset = presets.torch if name == "RMSprop" else presets.adagrad.torch
    return params, getattr(rmsprop, name)(params, **{**preset, "lr": 0.05, **options})


def check_moving_from_torch(name, options, dtype, **torch_options):
    theirs = TorchRun(name, dtype, {**options, **torch_options})
    params, ours = ours_like_torch(name, {"eps_in_sqrt": True, "lr": 1.0}, dtype)
    for param, value in zip(params.values(), theirs.step(0, BEFORE), strict=True):
        param[...] = value
    ours.load_state_dict(theirs.optimizer.state_dict())
    assert [entry["step"] for entry in ours.state.values()] == [BEFORE] * 3
    assert_close(stepped(ours, params, BEFORE, AFTER, dtype), theirs.step(BEFORE, AFTER))


def check_moving_to_torch(name, options, dtype, **torch_options):
    params, ours = ours_like_torch(name, options, dtype)
    stepped(ours, params, 0, BEFORE, dtype)
    theirs = TorchRun(name, dtype, torch_options)
    with theirs.torch.no_grad():
        for param, value in zip(theirs.params.values(), params.values(), strict=True):
            param.copy_(theirs.torch.tensor(value))
    theirs.optimizer.load_state_dict(convert.to_torch(ours.state_dict()))
    assert_close(theirs.step(BEFORE, AFTER), stepped(ours, params, BEFORE, AFTER, dtype))


def check_there_and_back_again(name, options, dtype):
    """Each bit of state and hyperparameters comes back, and nothing is shared on the way."""
    params, ours = ours_like_torch(name, options, dtype)
    stepped(ours, params, 0, BEFORE, dtype)
    theirs = TorchRun(name, dtype, {})
    theirs.optimizer.load_state_dict(convert.to_torch(ours.state_dict()))
    for of_torch in (theirs.optimizer.state_dict(), convert.to_torch(ours.state_dict())):
        _, back = ours_like_torch(name, {"eps_in_sqrt": True}, dtype)
        back.load_state_dict(of_torch)
        assert_same_state(back, ours)
    before = {key: {name: np.copy(value) for name, value in entry.items()} for key, entry in back.state.items()}
    theirs.step(BEFORE, 1)
    for key, entry in before.items():
        for entry_name, value in entry.items():
            assert_same_bits(back.state[key][entry_name], value)
            assert_same_bits(ours.state[key][entry_name], value)


def check_a_tensor_lr_and_a_missing_gradient():
    import torch

    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    theirs = torch.optim.RMSprop(params, lr=torch.tensor(0.125))
    params[1].grad = torch.ones(2)
    theirs.step()
    ours = rmsprop.RMSprop([np.ones(2, np.float32), np.ones(2, np.float32)])
    ours.load_state_dict(theirs.state_dict())
    assert ours.lr == 0.125
    assert type(ours.lr) is float
    assert [entry["step"] for entry in ours.state.values()] == [0, 1]


def check_groups_and_names():
    import torch

    layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).double()
    named = [dict(layer.named_parameters(str(i))) for i, layer in enumerate(layers)]
    groups = [{"params": list(params.items()), "lr": 0.1 * i} for i, params in enumerate(named)]
    theirs = torch.optim.RMSprop(groups, momentum=0.9)
    torch.optim.lr_scheduler.StepLR(theirs, 10)
    layers(torch.ones(2).double()).sum().backward()
    theirs.step()
    ours = rmsprop.RMSprop(
        [{"params": {name: param.detach().numpy() for name, param in params.items()}} for params in named]
    )
    ours.load_state_dict(theirs.state_dict())
    assert [group["lr"] for group in ours.param_groups] == [0.0, 0.1]
    assert list(ours.state) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    back = convert.to_torch(ours.state_dict())["param_groups"]
    assert [group["param_names"] for group in back] == [["0.weight", "0.bias"], ["1.weight", "1.bias"]]
    theirs.load_state_dict(convert.to_torch(ours.state_dict()))


def check_tensors_that_are_no_arrays():
    import torch

    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones_like(param)
    theirs = torch.optim.RMSprop([param])
    theirs.step()
    saved = theirs.state_dict()
    saved["state"][0]["square_avg"] = saved["state"][0]["square_avg"].to("meta")
    ours = rmsprop.RMSprop([np.ones(2, np.float32)])
    with pytest.raises(TypeError, match=r"state\[0\]\['square_avg'\]: "):
        ours.load_state_dict(saved)


def check_state_of_16_bits():
    import torch

    param = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    param.grad = torch.full_like(param, 0.3)
    theirs = torch.optim.RMSprop([param])
    theirs.step()
    state = theirs.state_dict()["state"][0]["square_avg"]
    assert state.dtype == torch.bfloat16
    for state_dtype in (None, "bfloat16", "8bit"):
        ours = rmsprop.RMSprop([np.ones(2, np.float32)], state_dtype=state_dtype)
        ours.load_state_dict(theirs.state_dict())
        assert ours.param_groups[0]["state_dtype"] == state_dtype
        loaded = in_full(ours.state[0], "square_avg")
        np.testing.assert_allclose(loaded, state.float().numpy(), rtol=0.0 if state_dtype != "8bit" else 1 / 16)


every_rule_of_torch = pytest.mark.parametrize(("name", "options"), TORCH.values(), ids=TORCH)
every_kind = pytest.mark.parametrize("dtype", ["float64", "complex128"])


@every_kind
@every_rule_of_torch
def test_a_run_of_pytorch_goes_on_here(name, options, dtype, in_own_process):
    in_own_process("torch", check_moving_from_torch, name, options, dtype)


@every_kind
@every_rule_of_torch
def test_a_run_goes_on_in_pytorch(name, options, dtype, in_own_process):
    in_own_process("torch", check_moving_to_torch, name, options, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@every_rule_of_torch
def test_state_comes_back_from_pytorch_with_the_same_bits(name, options, dtype, in_own_process):
    in_own_process("torch", check_there_and_back_again, name, options, dtype)


@pytest.mark.parametrize(
    "check",
    [
        check_a_tensor_lr_and_a_missing_gradient,
        check_groups_and_names,
        check_tensors_that_are_no_arrays,
        check_state_of_16_bits,
    ],
)
def test_state_of_pytorch_is_understood_in_all_its_forms(check, in_own_process):
    in_own_process("torch", check)


CANNOT_BE_SAID_IN_PYTORCH = {
    "eps_in_sqrt": ({"eps_in_sqrt": True}, "eps_in_sqrt.*got True, but all that PyTorch does is False"),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, "nesterov"),
    "lr_in_momentum": ({"momentum": 0.9, "lr_in_momentum": True}, "lr_in_momentum"),
    "bias_correction": ({"bias_correction": True}, "bias_correction"),
    "decoupled_weight_decay": ({"weight_decay": 0.1, "decoupled_weight_decay": True}, "decoupled_weight_decay"),
    "clip_value": ({"clip_value": 1.0}, "clip_value.*got 1.0, but all that PyTorch does is None"),
    "clip_norm": ({"clip_norm": 1.0}, "clip_norm"),
}


def check_what_pytorch_cannot_do(options, message):
    ours = rmsprop.RMSprop([np.ones(2)], **{**presets.torch, **options})
    with pytest.raises(ValueError, match=rf"param_groups\[0\].*{message}"):
        convert.to_torch(ours.state_dict())


@pytest.mark.parametrize(("options", "message"), CANNOT_BE_SAID_IN_PYTORCH.values(), ids=CANNOT_BE_SAID_IN_PYTORCH)
def test_what_pytorch_cannot_do_is_an_error(options, message, in_own_process):
    in_own_process("torch", check_what_pytorch_cannot_do, options, message)


def check_what_makes_no_difference():
    options = {"lr_in_momentum": True, "decoupled_weight_decay": True, "initial_accumulator_value": 1.0}
    ours = rmsprop.RMSprop([np.ones(2)], **{**presets.torch, **options, "lr": lambda step: 0.5 ** (step + 1)})
    ours.step([np.ones(2)])
    (group,) = convert.to_torch(ours.state_dict())["param_groups"]
    assert group["lr"] == 0.25
    assert not group.keys() & options.keys()


def test_what_makes_no_difference_in_pytorch_is_left_out_and_a_schedule_becomes_its_number(in_own_process):
    in_own_process("torch", check_what_makes_no_difference)


# ---- Keras -----------------------------------------------------------------------------------------------------------

KERAS = {
    "plain": ("RMSprop", {}),
    "momentum": ("RMSprop", {"momentum": 0.9}),
    "centered": ("RMSprop", {"momentum": 0.5, "centered": True, "rho": 0.7}),
    "adagrad": ("Adagrad", {}),
}


def keras_run(name, options):
    """Return variables and an optimizer of Keras, and a function that takes steps."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    jax.config.update("jax_enable_x64", True)
    import keras

    keras.config.set_floatx("float64")  # or Keras rounds the learning rate to 32 bits
    variables = [keras.Variable(array, name="kernel") for array in weights().values()]
    optimizer = getattr(keras.optimizers, name)(learning_rate=0.05, **options)
    optimizer.build(variables)

    def step(first, count):
        for t in range(first, first + count):
            optimizer.apply([keras.ops.convert_to_tensor(array) for array in gradients(t).values()], variables)
        return [np.array(variable) for variable in variables]

    return variables, optimizer, step


def ours_like_keras(name, options):
    params = weights()
    preset = presets.keras if name == "RMSprop" else presets.adagrad.keras
    options = {{"rho": "alpha"}.get(option, option): value for option, value in options.items()}
    return params, getattr(rmsprop, name)(params, **{**preset, "lr": 0.05, **options})


def check_moving_from_keras(name, options):
    _, theirs, their_step = keras_run(name, options)
    params, ours = ours_like_keras(name, options)
    for param, value in zip(params.values(), their_step(0, BEFORE), strict=True):
        param[...] = value
    variables = {
        kind: [v for v in theirs.variables if v.name.endswith(kind)] for kind in convert.to_keras(ours.state_dict())
    }
    ours.load_state_dict(convert.from_keras(variables, ours.state_dict()))
    assert [entry["step"] for entry in ours.state.values()] == [BEFORE] * 3
    assert_close(stepped(ours, params, BEFORE, AFTER), their_step(BEFORE, AFTER))


def check_moving_to_keras(name, options):
    params, ours = ours_like_keras(name, options)
    stepped(ours, params, 0, BEFORE)
    their_variables, theirs, their_step = keras_run(name, options)
    for variable, value in zip(their_variables, params.values(), strict=True):
        variable.assign(value)
    for kind, values in convert.to_keras(ours.state_dict()).items():
        variables = [v for v in theirs.variables if v.name.endswith(kind)]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    assert int(theirs.iterations) == BEFORE
    assert_close(their_step(BEFORE, AFTER), stepped(ours, params, BEFORE, AFTER))


every_rule_of_keras = pytest.mark.parametrize(("name", "options"), KERAS.values(), ids=KERAS)


@every_rule_of_keras
def test_a_run_of_keras_goes_on_here(name, options, in_own_process):
    in_own_process("keras", check_moving_from_keras, name, options)


@every_rule_of_keras
def test_a_run_goes_on_in_keras(name, options, in_own_process):
    in_own_process("keras", check_moving_to_keras, name, options)


# ---- optax -----------------------------------------------------------------------------------------------------------

OPTAX = {
    "plain": ("rmsprop", {}),
    "momentum": ("rmsprop", {"momentum": 0.9}),
    "centered": ("rmsprop", {"centered": True, "momentum": 0.5, "nesterov": True, "decay": 0.7}),
    "bias correction": ("rmsprop", {"bias_correction": True}),
    "centered, bias correction": ("rmsprop", {"centered": True, "bias_correction": True}),
    "adagrad": ("adagrad", {}),
}
FORMS = {
    "dict": dict,
    "list": lambda params: list(params.values()),
    "nested": lambda params: {"layer": {"kernel": params["w"]}, "rest": [params["a"], params["s"]]},
    "paths": lambda params: {"out": {"w": params["w"], "a": params["a"]}, "first": [params["s"]]},
}
HAVE_NAMES = ("dict", "paths")  # and JAX sorts them: its order is not ours


class OptaxRun:
    """Parameters in some form with a transformation of optax, inside of a chain."""

    def __init__(self, name, options, form):
        import jax

        jax.config.update("jax_enable_x64", True)
        import optax

        self.jax, self.optax, self.form = jax, optax, FORMS[form]
        self.transformation = optax.chain(optax.identity(), getattr(optax, name)(0.05, **options))
        self.put(weights())
        self.state = self.transformation.init(self.params)

    def put(self, params):
        self.params = self.jax.tree.map(self.jax.numpy.array, self.form(params))

    def step(self, first, count):
        for t in range(first, first + count):
            tree = self.jax.tree.map(self.jax.numpy.array, self.form(gradients(t)))
            updates, self.state = self.transformation.update(tree, self.state, self.params)
            self.params = self.optax.apply_updates(self.params, updates)
        order = self.jax.tree.leaves(self.form({name: name for name in weights()}))
        leaves = dict(zip(order, self.jax.tree.leaves(self.params), strict=True))
        return [np.array(leaves[name]) for name in weights()]


def ours_like_optax(name, options, form):
    """Return parameters and an optimizer of ours, with names or without."""
    params = weights()
    optimizer = rmsprop.RMSprop if name == "rmsprop" else rmsprop.Adagrad
    preset = presets.optax if name == "rmsprop" else presets.adagrad.optax
    options = {{"decay": "alpha"}.get(option, option): value for option, value in options.items()}
    return params, optimizer(in_our_form(params, form), **{**preset, "lr": 0.05, **options})


def in_our_form(arrays, form):
    return FORMS[form](arrays) if form in HAVE_NAMES else list(arrays.values())


def stepped_in_form(optimizer, params, first, count, form):
    for t in range(first, first + count):
        optimizer.step(in_our_form(gradients(t), form))
    return list(params.values())


def check_moving_from_optax(name, options, form):
    theirs = OptaxRun(name, options, form)
    params, ours = ours_like_optax(name, options, form)
    for param, value in zip(params.values(), theirs.step(0, BEFORE), strict=True):
        param[...] = value
    for entry in ours.state.values():
        entry["step"] = 77
    ours.load_state_dict(convert.from_optax(theirs.state, ours.state_dict()))
    step = BEFORE if "bias_correction" in options else 77  # nothing else counts in optax
    assert [entry["step"] for entry in ours.state.values()] == [step] * 3
    assert_close(stepped_in_form(ours, params, BEFORE, AFTER, form), theirs.step(BEFORE, AFTER))


def check_moving_to_optax(name, options, form):
    params, ours = ours_like_optax(name, options, form)
    stepped_in_form(ours, params, 0, BEFORE, form)
    theirs = OptaxRun(name, options, form)
    theirs.put(params)
    theirs.state = convert.to_optax(ours.state_dict(), theirs.state)
    assert_close(theirs.step(BEFORE, AFTER), stepped_in_form(ours, params, BEFORE, AFTER, form))


every_rule_of_optax = pytest.mark.parametrize(("name", "options"), OPTAX.values(), ids=OPTAX)
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
@every_rule_of_optax
def test_a_run_of_optax_goes_on_here(name, options, form, in_own_process):
    in_own_process("optax", check_moving_from_optax, name, options, form)


@every_form
@every_rule_of_optax
def test_a_run_goes_on_in_optax(name, options, form, in_own_process):
    in_own_process("optax", check_moving_to_optax, name, options, form)


def check_what_does_not_fit_optax():
    import optax

    params, ours = ours_like_optax("rmsprop", {"momentum": 0.9}, "dict")
    saved = ours.state_dict()
    trees = {
        "optax: got nu, but these hyperparameters need nu, trace": optax.rmsprop(0.1).init(params),
        "optax: got mu, nu, trace, but": optax.rmsprop(0.1, momentum=0.9, centered=True).init(params),
        "optax: got sum_of_squares, but": optax.adagrad(0.1).init(params),
        "optax: got no state, but": optax.sgd(0.1).init(params),
        "optax: there is more than one nu": (optax.rmsprop(0.1).init(params), optax.rmsprop(0.1).init(params)),
        "got arrays of the names": optax.rmsprop(0.1, momentum=0.9).init({"x": 1.0, "y": 1.0, "z": 1.0}),
        "got 1 arrays, wanted 3": optax.rmsprop(0.1, momentum=0.9).init([1.0]),
    }
    for message, tree in trees.items():
        for convert_it in (convert.to_optax, lambda saved, tree: convert.from_optax(tree, saved)):
            with pytest.raises(ValueError, match=message):
                convert_it(saved, tree)
    other_shapes = optax.rmsprop(0.1, momentum=0.9).init({name: np.ones((7, 7)) for name in params})
    with pytest.raises(ValueError, match=r"got an array of shape \(7, 7\), wanted"):
        convert.to_optax(saved, other_shapes)
    with pytest.raises(ValueError, match=r"shape \(7, 7\) does not match"):
        ours.load_state_dict(convert.from_optax(other_shapes, saved))


def check_names_of_optax():
    import optax

    def ours_for(params):
        ours = rmsprop.RMSprop(params, **presets.optax)
        for i, entry in enumerate(ours.state.values()):
            entry["square_avg"][...] = i
        return ours

    like = {"layers": [{"w": np.ones(2), "b": np.ones(2)}, {"w": np.ones(2)}], "a": np.ones(2)}
    ours = ours_for(like)
    theirs = convert.to_optax(ours.state_dict(), optax.rmsprop(0.1).init(like))
    nu = theirs[0].nu
    found = [nu["layers"][0]["w"], nu["layers"][0]["b"], nu["layers"][1]["w"], nu["a"]]
    assert [int(array[0]) for array in found] == [0, 1, 2, 3]
    back = rmsprop.RMSprop(like, **presets.optax)
    back.load_state_dict(convert.from_optax(theirs, back.state_dict()))
    assert_same_state(back, ours)
    others = {"layer": {"weight": np.ones(2), "b": np.ones(2)}}
    for params in ({"w": np.ones(2), "b": np.ones(2)}, {"layer": {"w": np.ones(2), "b": np.ones(2)}}):
        with pytest.raises(ValueError, match=r"got arrays of the names .*'layer.weight'.*, wanted .*w'"):
            convert.to_optax(ours_for(params).state_dict(), optax.rmsprop(0.1).init(others))


def test_arrays_in_nested_containers_of_optax_are_found_by_their_paths(in_own_process):
    in_own_process("optax", check_names_of_optax)


def test_what_does_not_fit_optax_is_an_error(in_own_process):
    in_own_process("optax", check_what_does_not_fit_optax)


# ---- Without any library ---------------------------------------------------------------------------------------------


def keras_like(**options):
    return rmsprop.RMSprop([np.ones(2), np.ones(3)], **{**presets.keras, **options})


def test_arrays_are_handed_out_as_copies():
    ours = keras_like()
    handed_out = convert.to_keras(ours.state_dict())["velocity"]
    ours.step([np.ones(2), np.ones(3)])
    assert [array.any() for array in handed_out] == [False, False]


def test_state_of_parameters_with_names_goes_to_keras_and_back():
    options = {**presets.keras, "momentum": 0.9}
    ours = rmsprop.RMSprop([{"params": {"w": np.ones(2), "b": np.ones(2)}, "name": "first"}], **options)
    ours.step({"w": np.ones(2), "b": np.full(2, 3.0)})
    theirs = convert.to_keras(ours.state_dict())
    assert list(theirs) == ["iteration", "velocity", "momentum"]
    back = rmsprop.RMSprop({"w": np.ones(2), "b": np.ones(2)}, **options)
    back.load_state_dict(convert.from_keras(theirs, back.state_dict()))
    for parameter in ("w", "b"):
        assert back.state[parameter]["step"] == 1
        for name in ("square_avg", "momentum_buffer"):
            assert_same_bits(back.state[parameter][name], ours.state[parameter][name])


def without_momentum(optimizer):
    optimizer.param_groups[0]["lr_in_momentum"] = False


def another_step(optimizer):
    optimizer.state[1]["step"] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_momentum, "lr_in_momentum: got False, but the momentum of Keras has the learning rate inside"),
        (another_step, r"step: got \[0, 7\], but Keras has one count for all parameters"),
        (lambda o: o.add_param_group({"params": np.ones(1), "centered": True}), "they need different state"),
    ],
)
def test_what_keras_cannot_do_is_an_error(change, message):
    ours = keras_like(momentum=0.9)
    change(ours)
    with pytest.raises(ValueError, match=message):
        convert.to_keras(ours.state_dict())


@pytest.mark.parametrize("entry", [{}, {"step": 1}, {"square_avg": np.ones(2)}])
def test_state_that_is_not_all_there_is_an_error(entry):
    saved = keras_like().state_dict()
    saved["state"][1] = entry
    missing = ", ".join(name for name in ("step", "square_avg") if name not in entry)
    for convert_it in (convert.to_keras, lambda saved: convert.to_optax(saved, ())):
        with pytest.raises(ValueError, match=rf"^state\[1\]: no {missing}$"):
            convert_it(saved)


@pytest.mark.parametrize("variables", [None, [np.ones(2)], "velocity"])
def test_variables_of_keras_that_are_no_dict_are_a_type_error(variables):
    with pytest.raises(TypeError, match=r"^variables: got \w+, wanted a dict of lists"):
        convert.from_keras(variables, keras_like().state_dict())


def test_complex_state_is_an_error_where_a_complex_number_is_one_element():
    ours = rmsprop.RMSprop([np.ones(2, complex)], **presets.keras)
    with pytest.raises(ValueError, match="real and imaginary part are two elements here, but not in Keras"):
        convert.to_keras(ours.state_dict())


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"velocity": [np.ones(2), np.ones(3)]}, "iteration: wanted a list of one count"),
        ({"iteration": [1, 2], "velocity": [np.ones(2), np.ones(3)]}, "iteration: wanted a list of one count"),
        ({"iteration": [1], "velocity": [np.ones(2)]}, "velocity: got 1 arrays, wanted 2, one for each parameter"),
        ({"iteration": [1], "velocity": [np.ones(2), np.ones(3), np.ones(3)]}, "velocity: got 3 arrays, wanted 2"),
        (
            {"iteration": [1], "rms": [np.ones(2), np.ones(3)]},
            "Keras: got rms, but these hyperparameters need velocity",
        ),
        ({"iteration": [1]}, "Keras: got no state, but these hyperparameters need velocity"),
    ],
)
def test_variables_of_keras_that_do_not_fit_are_an_error(variables, message):
    with pytest.raises(ValueError, match=message):
        convert.from_keras(variables, keras_like().state_dict())


def test_frameworks_are_imported_by_their_own_converters_alone():
    program = (
        "import sys, numpy, rmsprop; from rmsprop import convert; opt = rmsprop.Adagrad(numpy.ones(2)); "
        "convert.from_keras(convert.to_keras(opt.state_dict()), opt.state_dict()); "
        "print(*{'torch', 'keras', 'jax', 'optax'} & sys.modules.keys())"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.split() == []
