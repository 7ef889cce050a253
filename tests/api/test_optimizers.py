"""What the optimizers keep for their users: parameters and gradients in any form, groups, state, schedules, copies."""

import collections
import copy
import pickle
import re

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from rmsprop import reference

OPTIMIZERS = (rmsprop.RMSprop, rmsprop.Adagrad)
TYPES = (np.float32, np.float64, np.complex64, np.complex128)

# Two values of each hyperparameter; a step with one gives other bits than a step with the other.
HYPERPARAMETERS = {
    rmsprop.RMSprop: {
        "lr": (0.1, 0.03),
        "alpha": (0.9, 0.5),
        "eps": (0.01, 0.1),
        "momentum": (0.5, 0.9),
        "nesterov": (False, True),
        "centered": (False, True),
        "weight_decay": (0.2, 0.01),
        "decoupled_weight_decay": (False, True),
        "maximize": (False, True),
        "eps_in_sqrt": (True, False),
        "lr_in_momentum": (False, True),
        "bias_correction": (False, True),
        "clip_value": (None, 0.25),
    },
    rmsprop.Adagrad: {
        "lr": (0.1, 0.03),
        "lr_decay": (0.0, 0.5),
        "eps": (0.01, 0.1),
        "eps_in_sqrt": (True, False),
        "weight_decay": (0.2, 0.01),
        "decoupled_weight_decay": (False, True),
        "maximize": (False, True),
        "clip_value": (None, 0.25),
    },
}


def values(rng, shape, dtype=np.float32):
    numbers = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 0)
    return np.array(numbers, dtype)


class Expected:
    """What the reference makes of one parameter: the array, its state and its step count."""

    def __init__(self, optimizer_class, param, accumulator=0.0):
        self.rule = {rmsprop.RMSprop: reference.rmsprop_, rmsprop.Adagrad: reference.adagrad_}[optimizer_class]
        self.param = param.copy()
        self.state = {name: np.zeros_like(param) for name in optimizer_class.state_names}
        filled = complex(accumulator, accumulator) if np.iscomplexobj(param) else accumulator
        self.state[optimizer_class.state_names[0]][...] = filled
        self.step_count = 0

    def step(self, grad, **hyperparameters):
        self.step_count += 1
        self.rule(self.param, grad, **self.state, step=self.step_count, **hyperparameters)

    def assert_same_bits_as(self, param, state):
        assert_same_bits(param, self.param)
        assert state["step"] == self.step_count
        assert state.keys() > {"step"}
        for name in state.keys() - {"step"}:
            assert_same_bits(state[name], self.state[name])


# ---- Parameters and gradients in any form ----------------------------------------------------------------------------


class Sequence(collections.abc.Sequence):
    """A sequence that is no list."""

    def __init__(self, items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Mapping(collections.abc.Mapping):
    """A mapping that is no dict."""

    def __init__(self, items):
        self.items_by_name = dict(items)

    def __getitem__(self, name):
        return self.items_by_name[name]

    def __iter__(self):
        return iter(self.items_by_name)

    def __len__(self):
        return len(self.items_by_name)


SEQUENCES = {"list": list, "tuple": tuple, "deque": collections.deque, "sequence of another class": Sequence}
PARAMS_ONLY = {"iterator": iter, "generator": lambda items: (item for item in items)}
MAPPINGS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda items: collections.defaultdict(list, items),
    "mapping of another class": Mapping,
}


def arrays(count=3, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(5,), (2, 3), (), (4,)]
    return [values(rng, shape) for shape in shapes[:count]]


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_one_array_takes_its_gradient_as_an_array(optimizer_class):
    param, grad = values(np.random.default_rng(0), (2, 7))
    expected = Expected(optimizer_class, param)
    optimizer = optimizer_class(param, lr=0.1)
    for _ in range(3):
        optimizer.step(grad)
        expected.step(grad, lr=0.1)
    expected.assert_same_bits_as(param, optimizer.state[0])


@pytest.mark.parametrize("grads_form", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("params_form", [*SEQUENCES.values(), *PARAMS_ONLY.values()], ids=[*SEQUENCES, *PARAMS_ONLY])
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_any_sequence_of_parameters_takes_any_sequence_of_gradients(optimizer_class, params_form, grads_form):
    params, grads = arrays(), arrays(seed=1)
    expected = [Expected(optimizer_class, param) for param in params]
    optimizer = optimizer_class(params_form(params), lr=0.1)
    for _ in range(2):
        optimizer.step(grads_form(grads))
        for each, grad in zip(expected, grads, strict=True):
            each.step(grad, lr=0.1)
    for index, each in enumerate(expected):
        each.assert_same_bits_as(params[index], optimizer.state[index])


@pytest.mark.parametrize("grads_form", MAPPINGS.values(), ids=MAPPINGS)
@pytest.mark.parametrize("params_form", MAPPINGS.values(), ids=MAPPINGS)
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_any_mapping_of_parameters_takes_any_mapping_of_gradients(optimizer_class, params_form, grads_form):
    names = ["weight", "bias", "größe"]
    params, grads = dict(zip(names, arrays(), strict=True)), dict(zip(names, arrays(seed=1), strict=True))
    expected = {name: Expected(optimizer_class, param) for name, param in params.items()}
    optimizer = optimizer_class(params_form(params), lr=0.1)
    in_another_order = dict(reversed(grads.items()))
    for _ in range(2):
        optimizer.step(grads_form(in_another_order))
        for name, grad in grads.items():
            expected[name].step(grad, lr=0.1)
    assert list(optimizer.state) == names
    for name in names:
        expected[name].assert_same_bits_as(params[name], optimizer.state[name])


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_groups_of_lists_have_hyperparameters_of_their_own(optimizer_class):
    params, grads = arrays(4), arrays(4, seed=1)
    expected = [Expected(optimizer_class, param) for param in params]
    groups = [{"params": params[:2], "lr": 0.1, "name": "first"}, {"params": params[2]}, {"params": tuple(params[3:])}]
    groups[2]["weight_decay"] = 0.5
    given = copy.copy(groups)
    optimizer = optimizer_class(groups, lr=0.2, eps=0.01)
    for _ in range(2):
        optimizer.step(grads)
        for index, each in enumerate(expected):
            each.step(grads[index], lr=0.1 if index < 2 else 0.2, eps=0.01, weight_decay=0.5 if index == 3 else 0.0)
    for index, each in enumerate(expected):
        each.assert_same_bits_as(params[index], optimizer.state[index])
    assert groups == given, "the user's own dicts were changed"
    assert [group.get("name") for group in optimizer.param_groups] == ["first", None, None]
    assert all(set(optimizer.defaults) <= set(group) for group in optimizer.param_groups)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_groups_of_dicts_take_gradients_by_name(optimizer_class):
    a, b, c = arrays()
    grads = dict(zip("abc", arrays(seed=1), strict=True))
    expected = {name: Expected(optimizer_class, param) for name, param in {"a": a, "b": b, "c": c}.items()}
    optimizer = optimizer_class([{"params": {"a": a, "b": b}, "lr": 0.3}, {"params": {"c": c}}], lr=0.1)
    optimizer.step(grads)
    for name, each in expected.items():
        each.step(grads[name], lr=0.1 if name == "c" else 0.3)
    for name, param in {"a": a, "b": b, "c": c}.items():
        expected[name].assert_same_bits_as(param, optimizer.state[name])


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_one_optimizer_holds_parameters_of_all_types(optimizer_class):
    rng = np.random.default_rng(0)
    params = [values(rng, (9,), dtype) for dtype in TYPES]
    grads = [values(rng, (9,), dtype) for dtype in TYPES]
    expected = [Expected(optimizer_class, param) for param in params]
    optimizer = optimizer_class(params, lr=0.1)
    for _ in range(3):
        optimizer.step(grads)
        for each, grad in zip(expected, grads, strict=True):
            each.step(grad, lr=0.1)
    for index, each in enumerate(expected):
        each.assert_same_bits_as(params[index], optimizer.state[index])


@pytest.mark.parametrize("form", [list, dict])
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_none_skips_a_parameter_with_its_state_and_its_step_count(optimizer_class, form):
    """With a formula that depends on the step count, so that each parameter's own is seen to be used."""
    changes = {"bias_correction": True} if optimizer_class is rmsprop.RMSprop else {"lr_decay": 0.5}
    params, grads = arrays(), arrays(seed=1)
    expected = [Expected(optimizer_class, param) for param in params]
    make = list if form is list else (lambda items: dict(zip("abc", items, strict=True)))
    optimizer = optimizer_class(make(params), lr=0.1, **changes)
    for skipped in ({0}, {1}, {0, 2}, {0, 1, 2}, set()):
        optimizer.step(make([None if index in skipped else grad for index, grad in enumerate(grads)]))
        for index, each in enumerate(expected):
            if index not in skipped:
                each.step(grads[index], lr=0.1, **changes)
    assert [each.step_count for each in expected] == [2, 3, 3]
    for each, param, state in zip(expected, params, optimizer.state.values(), strict=True):
        each.assert_same_bits_as(param, state)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_none_for_the_only_gradient_skips_it(optimizer_class):
    param = np.ones(3)
    optimizer = optimizer_class(param)
    optimizer.step(None)
    assert (param == 1).all()
    assert optimizer.state[0]["step"] == 0


@pytest.mark.parametrize("form", [lambda it: it, lambda it: [it], lambda it: {"w": it}, lambda it: {"w": [it]}])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_a_parameter_without_dimensions_takes_the_scalar_that_numpy_makes_of_its_gradient(optimizer_class, dtype, form):
    param = np.array(1.5, dtype)
    expected = Expected(optimizer_class, param)
    optimizer = optimizer_class(form(param), lr=0.1)
    for _ in range(3):
        grad = param.dtype.type(2) * param  # NumPy 1 would make a wider number of 2 * param
        assert not isinstance(grad, np.ndarray)
        optimizer.step(form(grad))
        expected.step(np.array(grad), lr=0.1)
    (state,) = optimizer.state.values()
    expected.assert_same_bits_as(param, state)


# ---- Groups that come later ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_group_added_between_steps_begins_at_step_one(optimizer_class):
    changes = {"bias_correction": True} if optimizer_class is rmsprop.RMSprop else {"lr_decay": 0.5}
    params, grads = arrays(), arrays(seed=1)
    expected = [Expected(optimizer_class, param) for param in params]
    optimizer = optimizer_class(params[:1], lr=0.1, **changes)
    optimizer.step(grads[:1])
    optimizer.add_param_group({"params": params[1:], "lr": 0.5})
    optimizer.step(grads)
    expected[0].step(grads[0], lr=0.1, **changes)
    for index, each in enumerate(expected):
        each.step(grads[index], lr=0.5 if index else 0.1, **changes)
    assert list(optimizer.state) == [0, 1, 2]
    for index, each in enumerate(expected):
        each.assert_same_bits_as(params[index], optimizer.state[index])


def test_group_added_by_name_is_known_by_name():
    optimizer = rmsprop.Adagrad({"a": np.ones(2)})
    optimizer.add_param_group({"params": {"b": np.ones(3)}})
    assert list(optimizer.state) == ["a", "b"]
    optimizer.step({"b": np.ones(3), "a": None})
    assert optimizer.state["b"]["step"] == 1


def test_adding_a_group_makes_the_state_of_that_group_alone():
    optimizer = rmsprop.RMSprop([np.ones(2)])
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.add_param_group({"params": [np.ones(3), np.ones(4)], "momentum": 0.5})
    assert [sorted(entry) for entry in optimizer.state.values()] == [
        ["square_avg", "step"],
        *[["momentum_buffer", "square_avg", "step"]] * 2,
    ]
    optimizer.step([np.ones(2), np.ones(3), np.ones(4)])
    assert [entry["momentum_buffer"].shape for entry in optimizer.state.values()] == [(2,), (3,), (4,)]


BAD_GROUPS = {
    "no mapping": (lambda old, new: [new], TypeError, r"param_groups: got list, wanted a dict with 'params'"),
    "no params": (lambda old, new: {"lr": 0.1}, TypeError, r"param_groups: got dict, wanted a dict with 'params'"),
    "no arrays": (lambda old, new: {"params": []}, ValueError, r"params: got a group without arrays, wanted .*"),
    "a list for an array": (lambda old, new: {"params": [new, [1.0]]}, TypeError, r"params\[3\]: got list, .*"),
    "integers": (lambda old, new: {"params": [new, np.ones(2, int)]}, TypeError, r"params\[3\]: got dtype int64, .*"),
    "an array of another group": (lambda old, new: {"params": [new, old]}, ValueError, r"params\[1\]: shares .*"),
    "an array twice": (
        lambda old, new: {"params": [new, new]},
        ValueError,
        r"params\[2\]: shares memory with params\[3\], .*",
    ),
    "names where there were none": (
        lambda old, new: {"params": {"new": new}},
        TypeError,
        r"params: either every group has a dict of named parameters, or none has",
    ),
    "unknown hyperparameter": (
        lambda old, new: {"params": [new], "beta": 0.9},
        ValueError,
        r"param_groups: unknown hyperparameter beta; this optimizer has lr, .*",
    ),
    "bad hyperparameter": (
        lambda old, new: {"params": [new], "eps": -1.0},
        ValueError,
        r"param_groups\[1\]: eps: got -1.*, wanted a finite number >= 0",
    ),
    "bad initial value": (
        lambda old, new: {"params": [new], "initial_accumulator_value": np.nan},
        ValueError,
        r"param_groups\[1\]: initial_accumulator_value: got nan, wanted a finite number >= 0",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_GROUPS.values(), ids=BAD_GROUPS)
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_group_is_added_whole_or_not_at_all(optimizer_class, make, error, message):
    old, new, grads = arrays(2), np.ones(4, np.float32), arrays(2, seed=1)
    twin = [param.copy() for param in old]
    optimizer, untouched = optimizer_class(old), optimizer_class(twin)
    groups = list(optimizer.param_groups)
    with pytest.raises(error) as caught:
        optimizer.add_param_group(make(old[1], new))
    assert re.fullmatch(message, str(caught.value)), str(caught.value)
    assert optimizer.param_groups == groups
    assert list(optimizer.state) == [0, 1]
    assert (new == 1).all()
    optimizer.step(grads)
    untouched.step(grads)
    for param, expected in zip(old, twin, strict=True):
        assert_same_bits(param, expected)
    optimizer.add_param_group({"params": new})
    assert list(optimizer.state) == [0, 1, 2]


def test_group_cannot_be_added_to_a_single_array():
    optimizer = rmsprop.RMSprop(np.ones(3))
    with pytest.raises(
        ValueError, match=r"^add_param_group: this optimizer was made for one array; make it with a list"
    ):
        optimizer.add_param_group({"params": [np.ones(3)]})
    assert len(optimizer.param_groups) == 1
    optimizer.step(np.ones(3))


# ---- Hyperparameters that change -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer_class", "name"), [(each, name) for each in OPTIMIZERS for name in HYPERPARAMETERS[each]]
)
def test_hyperparameter_changed_between_steps_takes_effect_at_the_next(optimizer_class, name):
    hyperparameters = {key: first for key, (first, _) in HYPERPARAMETERS[optimizer_class].items()}
    param, grad = values(np.random.default_rng(0), (2, 33))
    expected, unchanged = Expected(optimizer_class, param), Expected(optimizer_class, param)
    optimizer = optimizer_class(param, **hyperparameters)
    first, second = HYPERPARAMETERS[optimizer_class][name]
    for value in (first, first, second, second, first):
        optimizer.param_groups[0][name] = value
        optimizer.step(grad)
        expected.step(grad, **{**hyperparameters, name: value})
        expected.assert_same_bits_as(param, optimizer.state[0])
        unchanged.step(grad, **hyperparameters)
    assert (expected.param != unchanged.param).any(), "this change makes no difference, so it proves nothing"


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_grad_scale_is_taken_anew_at_each_step(optimizer_class):
    """Also where only the sign of a zero differs."""
    param = np.array([1.0, -0.0, 0.0, -2.0])
    expected = Expected(optimizer_class, param)
    optimizer = optimizer_class(param, lr=0.1)
    grad = np.array([0.5, 1.0, 1.0, -1.0])
    for scale in (0.0, -0.0, 0.0, 1.0, 0.25, 0.25, -1.0, 1.0):
        optimizer.step(grad, grad_scale=scale)
        expected.step(grad, lr=0.1, grad_scale=scale)
        expected.assert_same_bits_as(param, optimizer.state[0])


def test_hyperparameter_of_one_group_leaves_the_others():
    params, grads = arrays(), arrays(seed=1)
    expected = [Expected(rmsprop.RMSprop, param) for param in params]
    optimizer = rmsprop.RMSprop([{"params": [param]} for param in params], lr=0.1)
    for lr in (0.1, 0.2, 0.3):
        optimizer.param_groups[1]["lr"] = lr
        optimizer.step(grads)
        for index, each in enumerate(expected):
            each.step(grads[index], lr=lr if index == 1 else 0.1)
    for index, each in enumerate(expected):
        each.assert_same_bits_as(params[index], optimizer.state[index])


def test_groups_in_another_order_keep_their_hyperparameters():
    """The arrays of state follow the order of the parameters, so two groups of one shape each can change places."""
    params, grads = [np.ones(4), np.ones(4)], [np.full(4, 0.5), np.full(4, -0.25)]
    expected = [Expected(rmsprop.Adagrad, param) for param in params]
    optimizer = rmsprop.Adagrad([{"params": [params[0]], "lr": 0.1}, {"params": [params[1]], "lr": 0.7}])
    optimizer.step(grads)
    first, second = optimizer.param_groups
    first["params"], second["params"] = second["params"], first["params"]
    optimizer.param_groups.reverse()
    optimizer.step(grads)
    expected[0].step(grads[0], lr=0.1)
    expected[1].step(grads[1], lr=0.7)
    expected[0].step(grads[0], lr=0.7)
    expected[1].step(grads[1], lr=0.1)
    for index, each in enumerate(expected):
        each.assert_same_bits_as(params[index], optimizer.state[index])


def test_momentum_switched_on_in_the_middle_starts_from_an_empty_buffer():
    param, grad = values(np.random.default_rng(0), (2, 33))
    expected = Expected(rmsprop.RMSprop, param)
    optimizer = rmsprop.RMSprop(param, lr=0.1)
    for momentum in (0.0, 0.0, 0.9, 0.9, 0.5, 0.0, 0.9):
        optimizer.param_groups[0]["momentum"] = momentum
        optimizer.step(grad)
        expected.step(grad, lr=0.1, momentum=momentum)
        expected.assert_same_bits_as(param, optimizer.state[0])
    assert set(optimizer.state[0]) == {"step", "square_avg", "momentum_buffer"}


def test_centering_switched_on_in_the_middle_starts_from_an_empty_average():
    param, grad = values(np.random.default_rng(0), (2, 33))
    expected = Expected(rmsprop.RMSprop, param)
    optimizer = rmsprop.RMSprop(param, lr=0.1)
    for centered in (False, False, True, True, False, True):
        optimizer.param_groups[0]["centered"] = centered
        optimizer.step(grad)
        expected.step(grad, lr=0.1, centered=centered)
        expected.assert_same_bits_as(param, optimizer.state[0])
    assert set(optimizer.state[0]) == {"step", "square_avg", "grad_avg"}


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_learning_rate_of_zero_leaves_the_parameters_and_advances_the_state(optimizer_class):
    param, grad = values(np.random.default_rng(0), (2, 33))
    before = param.copy()
    optimizer = optimizer_class(param, lr=0.0)
    accumulators = [optimizer.state[0][optimizer.state_names[0]].copy()]
    for count in (1, 2):
        optimizer.step(grad)
        assert optimizer.state[0]["step"] == count
        accumulators.append(optimizer.state[0][optimizer.state_names[0]].copy())
    assert_same_bits(param, before)
    assert (accumulators[0] < accumulators[1]).all()
    assert (accumulators[1] < accumulators[2]).all()


# ---- Learning rate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_schedule_is_asked_once_for_each_step_with_the_number_of_steps_taken(optimizer_class):
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.1 / (1 + step)

    param, grad = values(np.random.default_rng(0), (2, 33))
    expected = Expected(optimizer_class, param)
    optimizer = optimizer_class(param, lr=schedule)
    asked.clear()  # the constructor may have made sure that it returns a learning rate
    for step in range(4):
        optimizer.step(grad)
        expected.step(grad, lr=0.1 / (1 + step))
    assert asked == [0, 1, 2, 3]
    assert all(type(step) is int for step in asked)
    expected.assert_same_bits_as(param, optimizer.state[0])


def test_schedule_is_asked_once_in_the_step_that_first_needs_a_buffer():
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.1

    optimizer = rmsprop.RMSprop(np.ones(3), lr=schedule)
    asked.clear()
    optimizer.step(np.ones(3))
    optimizer.param_groups[0].update(momentum=0.9, centered=True)
    optimizer.step(np.ones(3))
    assert asked == [0, 1]


def test_each_group_has_its_own_schedule_and_its_own_count():
    asked = {"a": [], "b": []}

    def schedule(name):
        return lambda step: asked[name].append(step) or 0.1

    a, b = np.ones(3), np.ones(2)
    optimizer = rmsprop.Adagrad([{"params": a, "lr": schedule("a")}])
    optimizer.step([a + 1])
    optimizer.add_param_group({"params": b, "lr": schedule("b")})
    for counts in asked.values():
        counts.clear()
    optimizer.step([a + 1, b + 1])
    optimizer.step([None, b + 1])
    optimizer.step([a + 1, b + 1])
    assert asked == {"a": [1, 2, 2], "b": [0, 1, 2]}


def test_schedule_put_in_and_taken_out_between_steps_takes_effect():
    param, grad = values(np.random.default_rng(0), (2, 33))
    expected = Expected(rmsprop.RMSprop, param)
    optimizer = rmsprop.RMSprop(param, lr=0.1)
    for lr, value in ((0.1, 0.1), (lambda step: 0.01 * step, 0.01), (lambda step: 0.01 * step, 0.02), (0.1, 0.1)):
        optimizer.lr = lr
        optimizer.step(grad)
        expected.step(grad, lr=value)
    expected.assert_same_bits_as(param, optimizer.state[0])


def test_number_whose_value_changes_is_read_at_each_step():
    """A hyperparameter may be any real number, and what is remembered of it must not be its old value."""

    class Number(int):
        value = 0.1

        def __float__(self):
            return self.value

    number = Number()
    param, grad = values(np.random.default_rng(0), (2, 33))
    expected = Expected(rmsprop.RMSprop, param)
    optimizer = rmsprop.RMSprop(param, lr=number)
    for value in (0.1, 0.2, 0.3):
        number.value = value
        optimizer.step(grad)
        expected.step(grad, lr=value)
    expected.assert_same_bits_as(param, optimizer.state[0])


def test_lr_is_that_of_all_groups():
    def schedule(step):
        return 0.1

    optimizer = rmsprop.RMSprop(np.ones(3), lr=0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    assert optimizer.param_groups[0]["lr"] == 0.25
    optimizer.lr = schedule
    assert optimizer.lr is schedule

    optimizer = rmsprop.RMSprop([{"params": np.ones(3)}, {"params": np.ones(2)}], lr=0.5)
    assert optimizer.lr == 0.5
    with pytest.raises(ValueError, match=r"^lr: there are 2 groups; use param_groups\[i\]\['lr'\] = \.\.\.$"):
        optimizer.lr = 0.1
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(ValueError, match=r"^lr: the groups have different ones, \[0.5, 0.1\]; use param_groups\[i\]"):
        _ = optimizer.lr
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]


@pytest.mark.parametrize(
    ("optimizer_class", "lr", "accumulator"), [(rmsprop.RMSprop, 1e-3, "square_avg"), (rmsprop.Adagrad, 1e-2, "sum")]
)
def test_defaults_are_those_of_the_textbook(optimizer_class, lr, accumulator):
    param, grad = values(np.random.default_rng(0), (2, 33), np.float64)
    square = grad * grad if optimizer_class is rmsprop.Adagrad else (1.0 - 0.9) * (grad * grad)
    expected = param - lr * grad / np.sqrt(square + 1e-8)
    optimizer = optimizer_class(param)
    optimizer.step(grad)
    assert_same_bits(optimizer.state[0][accumulator], square)
    assert_same_bits(param, expected)


# ---- State -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
@pytest.mark.parametrize("dtype", TYPES)
def test_accumulator_starts_from_its_initial_value(optimizer_class, dtype):
    """In both parts of complex numbers, which are elements of their own."""
    param, grad = values(np.random.default_rng(0), (2, 33), dtype)
    expected = Expected(optimizer_class, param, accumulator=0.1)
    optimizer = optimizer_class(param, lr=0.1, initial_accumulator_value=0.1)
    expected.assert_same_bits_as(param, optimizer.state[0])
    optimizer.step(grad)
    expected.step(grad, lr=0.1)
    expected.assert_same_bits_as(param, optimizer.state[0])


def test_initial_value_is_for_the_accumulator_alone():
    optimizer = rmsprop.RMSprop(np.ones(3), momentum=0.9, centered=True, initial_accumulator_value=1.0)
    state = optimizer.state[0]
    assert (state["square_avg"] == 1).all()
    assert not state["grad_avg"].any()
    assert not state["momentum_buffer"].any()


LAYOUTS = {
    "C": lambda: np.ones((4, 3, 2)),
    "Fortran": lambda: np.ones((4, 3, 2), order="F"),
    "channels-last": lambda: np.ones((2, 4, 5, 3)).transpose(0, 3, 1, 2),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_state_lies_in_memory_like_its_parameter(make):
    param = make()
    optimizer = rmsprop.RMSprop(param, momentum=0.9, centered=True)
    for name in optimizer.state_names:
        array = optimizer.state[0][name]
        assert array.strides == param.strides
        assert array.dtype == param.dtype
        assert array.flags.owndata or array.base.flags.owndata
        assert not np.shares_memory(array, param)


def test_state_of_a_strided_parameter_is_dense():
    param = np.ones((6, 8))[::2, ::-2]
    array = rmsprop.RMSprop(param).state[0]["square_avg"]
    assert array.shape == param.shape
    assert array.nbytes == param.size * 8
    assert array.flags.c_contiguous


def test_state_is_a_mapping_from_parameters_to_their_arrays():
    optimizer = rmsprop.RMSprop([np.ones(3), np.ones(2)])
    assert list(optimizer.state) == [0, 1]
    assert len(optimizer.state) == 2
    assert 1 in optimizer.state
    assert 2 not in optimizer.state
    assert "0" not in optimizer.state
    for key in (2, -1, "weight", None):
        with pytest.raises(KeyError):
            optimizer.state[key]
    with pytest.raises(KeyError, match="2: the parameters are 0, 1"):
        optimizer.state[2]
    with pytest.raises(KeyError, match=r"'b': the parameters are 'w0', 'w1', .*, 'w9', \.\.\., 'w29'"):
        rmsprop.RMSprop({f"w{i}": np.ones(3) for i in range(30)}).state["b"]
    assert list(rmsprop.RMSprop({"w": np.ones(3)}).state) == ["w"]
    assert list(rmsprop.RMSprop(np.ones(3)).state) == [0]


def test_state_of_a_parameter_has_the_names_it_needs_and_no_others():
    optimizer = rmsprop.RMSprop(np.ones(3))
    state = optimizer.state[0]
    assert list(state) == ["step", "square_avg"]
    assert len(state) == 2
    assert "square_avg" in state
    assert "grad_avg" not in state
    with pytest.raises(KeyError, match="'grad_avg': these hyperparameters have not needed it so far"):
        state["grad_avg"]
    with pytest.raises(KeyError, match=r"'sum': the state of this optimizer is 'step', 'square_avg', 'grad_avg', "):
        state["sum"]
    with pytest.raises(KeyError, match="'sum'"):
        state["sum"] = np.ones(3)
    assert list(rmsprop.RMSprop(np.ones(3), centered=True).state[0]) == ["step", "square_avg", "grad_avg"]
    assert list(rmsprop.RMSprop(np.ones(3), momentum=0.9).state[0]) == ["step", "square_avg", "momentum_buffer"]
    assert list(rmsprop.Adagrad(np.ones(3)).state[0]) == ["step", "sum"]


@pytest.mark.parametrize(
    "delete",
    [
        lambda state: state.__delitem__("square_avg"),
        lambda state: state.__delitem__("step"),
        lambda state: state.pop("square_avg"),
        lambda state: state.clear(),
    ],
    ids=["del", "del step", "pop", "clear"],
)
def test_state_is_not_deleted(delete):
    optimizer = rmsprop.RMSprop(np.ones(3))
    with pytest.raises(TypeError, match=r"^state entries can be replaced, not deleted$"):
        delete(optimizer.state[0])
    assert list(optimizer.state[0]) == ["step", "square_avg"]
    optimizer.step(np.ones(3))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("square_avg", [1.0, 1.0, 1.0], TypeError, "square_avg: got list, wanted a numpy.ndarray"),
        ("square_avg", None, TypeError, "square_avg: got NoneType, wanted a numpy.ndarray"),
        ("momentum_buffer", 1.0, TypeError, "momentum_buffer: got float, wanted a numpy.ndarray"),
        ("step", 1.0, TypeError, "step: got float, wanted an int"),
        ("step", True, TypeError, "step: got bool, wanted an int"),
        ("step", "1", TypeError, "step: got str, wanted an int"),
        ("step", None, TypeError, "step: got NoneType, wanted an int"),
        ("step", -1, ValueError, "step: got -1, wanted a count >= 0"),
        ("step", 2**63, ValueError, f"step: got {2**63}, wanted a count >= 0"),
    ],
)
def test_wrong_state_is_refused_when_it_is_set(name, value, error, message):
    optimizer = rmsprop.RMSprop(np.ones(3))
    optimizer.step(np.ones(3))
    before = {key: np.copy(entry) for key, entry in optimizer.state[0].items()}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        optimizer.state[0][name] = value
    assert list(optimizer.state[0]) == list(before)
    for key, entry in before.items():
        assert_same_bits(optimizer.state[0][key], entry)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_arrays_put_into_the_state_are_used_and_updated_in_place(optimizer_class):
    param, grad, own = values(np.random.default_rng(0), (3, 33))
    own *= own
    expected = Expected(optimizer_class, param)
    name = optimizer_class.state_names[0]
    expected.state[name][...] = own
    optimizer = optimizer_class(param, lr=0.1)
    old = optimizer.state[0][name]
    optimizer.state[0][name] = own
    optimizer.step(grad)
    expected.step(grad, lr=0.1)
    assert optimizer.state[0][name] is own
    expected.assert_same_bits_as(param, optimizer.state[0])
    assert not old.any()


def test_state_changed_in_place_is_what_the_next_step_reads():
    param, grad = values(np.random.default_rng(0), (2, 33))
    expected = Expected(rmsprop.RMSprop, param, accumulator=0.5)
    optimizer = rmsprop.RMSprop(param, lr=0.1)
    optimizer.state[0]["square_avg"][:] = 0.5
    optimizer.step(grad)
    expected.step(grad, lr=0.1)
    expected.assert_same_bits_as(param, optimizer.state[0])


def test_state_held_while_a_group_is_added_follows_the_optimizer():
    optimizer = rmsprop.RMSprop([np.ones(3)])
    everything, first = optimizer.state, optimizer.state[0]
    optimizer.add_param_group({"params": np.ones(2)})
    optimizer.step([np.ones(3), np.ones(2)])
    assert first["step"] == 1
    assert everything[0]["step"] == 1
    first["step"] = 7
    assert optimizer.state[0]["step"] == 7


@pytest.mark.parametrize(
    "count", [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**32 + 5, 2**53 + 1, np.int64(2**40), 10**18]
)
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_step_count_is_exact_however_large(optimizer_class, count):
    if optimizer_class is rmsprop.RMSprop:
        changes = {"alpha": 1 - 1e-9, "bias_correction": True, "centered": True}
    else:
        changes = {"lr_decay": 1e-7}
    param, grad = values(np.random.default_rng(0), (2, 33), np.float64)
    expected = Expected(optimizer_class, param, accumulator=1.0)
    expected.step_count = int(count)
    asked = []
    optimizer = optimizer_class(
        param, lr=lambda step: asked.append(step) or 0.1, initial_accumulator_value=1.0, **changes
    )
    asked.clear()
    optimizer.state[0]["step"] = count
    assert optimizer.state[0]["step"] == int(count)
    assert type(optimizer.state[0]["step"]) is int
    for _ in range(3):
        optimizer.step(grad)
        expected.step(grad, lr=0.1, **changes)
    assert asked == [int(count), int(count) + 1, int(count) + 2]
    expected.assert_same_bits_as(param, optimizer.state[0])


# ---- Copies ----------------------------------------------------------------------------------------------------------


def constant(step):
    """Be a schedule that can be pickled."""
    return 0.1


FORMS = {
    "array": (lambda params: params[0], lambda grads: grads[0]),
    "list": (list, list),
    "dict": (lambda params: dict(zip("abc", params, strict=True)), lambda grads: dict(zip("abc", grads, strict=True))),
    "groups": (lambda params: [{"params": params[:1], "lr": 0.2, "name": "a"}, {"params": params[1:]}], list),
}


def copied_by_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("copied", [copy.deepcopy, copied_by_pickle], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize(("params_form", "grads_form"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_copy_of_an_optimizer_goes_on_by_itself_with_the_same_bits(optimizer_class, params_form, grads_form, copied):
    changes = {"lr_decay": 0.1}
    if optimizer_class is rmsprop.RMSprop:
        changes = {"momentum": 0.9, "bias_correction": True, "centered": True}
    params, grads = arrays(), grads_form(arrays(seed=1))
    original = optimizer_class(params_form(params), lr=constant, num_threads=1, nonfinite="skip", **changes)
    original.step(grads)
    not_finite = arrays(seed=2)
    not_finite[0].flat[0] = np.nan
    original.step(grads_form(not_finite))

    def everything(optimizer):
        own = [param for group in optimizer.param_groups for param in group["params"]]
        return [*own, *(np.asarray(entry) for state in optimizer.state.values() for entry in state.values())]

    copy_of_it = copied(original)
    assert repr(copy_of_it) == repr(original)
    assert (copy_of_it.num_threads, copy_of_it.nonfinite, copy_of_it.skipped_steps) == (1, "skip", 1)
    before = [array.copy() for array in everything(original)]
    copy_of_it.step(grads)
    copy_of_it.step(grads)
    after = [array.copy() for array in everything(copy_of_it)]
    for array, old in zip(everything(original), before, strict=True):
        assert_same_bits(array, old)
    original.step(grads)
    original.step(grads)
    for array, wanted in zip(everything(original), after, strict=True):
        assert_same_bits(array, wanted)
    copy_of_it.param_groups[0]["lr"] = 0.5
    assert original.param_groups[0]["lr"] != 0.5


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
def test_model_and_optimizer_copied_together_stay_together(copied):
    model = {"w": np.ones(3), "b": np.zeros(2)}
    both = {"model": model, "optimizer": rmsprop.RMSprop(model, lr=0.1)}
    other = copied(both)
    other["optimizer"].step({"w": np.ones(3), "b": np.ones(2)})
    assert (other["model"]["w"] != 1).all()
    assert (model["w"] == 1).all()
    other["optimizer"].add_param_group({"params": {"c": np.ones(1)}})
    assert "c" not in both["optimizer"].state


# ---- What is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_optimizer_shows_its_groups_and_every_hyperparameter(optimizer_class):
    groups = [{"params": [np.ones((500, 3)), np.ones(5)], "name": "body"}, {"params": np.ones(2), "lr": 0.5}]
    optimizer = optimizer_class(groups, lr=0.1)
    others = [f"    {name}: {value}" for name, value in optimizer.defaults.items() if name != "lr"]
    assert repr(optimizer).splitlines() == [
        f"{optimizer_class.__name__} (",
        "parameter group 0: 2 arrays, 1,505 elements",
        "    lr: 0.1",
        *others,
        "    name: body",
        "parameter group 1: 1 arrays, 2 elements",
        "    lr: 0.5",
        *others,
        ")",
    ]
    assert "    eps: 1e-08" in others


def test_state_shows_its_arrays():
    optimizer = rmsprop.Adagrad({"w": np.ones(2)})
    optimizer.step({"w": np.array([1.0, 2.0])})
    assert repr(optimizer.state["w"]) == "{'step': 1, 'sum': array([1., 4.])}"
    assert repr(optimizer.state) == "{'w': {'step': 1, 'sum': array([1., 4.])}}"
