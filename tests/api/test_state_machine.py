"""Optimizers that live through anything, in any order, have the bits and the state that the reference has.

A few seconds of it. `ci/state-machines` goes on for as long as it is told, with new examples every time.
"""

import copy
import os
import pickle
import tempfile
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis.stateful import initialize, precondition, rule

import rmsprop
from bits import assert_same_bits
from children import result_in_child
from model import Model, is_finite
from optimizer_machine import AnyOptimizerMachine
from rmsprop import _core, schedules
from runs import Unchanged, without_params

OPTIMIZERS = {"rmsprop": rmsprop.RMSprop, "adagrad": rmsprop.Adagrad}
DTYPES = ("float32", "float64", "complex64", "complex128")
SHAPES = ((), (0,), (1,), (3, 0, 2), (7,), (67,), (4, 5), (2, 3, 4), (150, 300))  # the last one is shared by threads
FORMS = ("one array", "list", "dict", "groups", "named groups", "nested groups")
NAMES = tuple("abcdefghijklmnopqrstuvwxyz")
PATHS = tuple(f"net.{name}" if index % 2 else f"net.{name}.deep" for index, name in enumerate(NAMES))


def names_for(form):
    """Return what the parameters of an optimizer are called, or None if by their indices."""
    return PATHS if form == "nested groups" else NAMES if form in ("dict", "named groups") else None


def in_containers(form, by_name):
    """Return a dict by name in containers within containers, if this form has them."""
    if form != "nested groups":
        return dict(by_name)
    root = {}
    for path, value in by_name.items():
        *outer, name = path.split(".")
        container = root
        for each in outer:
            container = container.setdefault(each, {})
        container[name] = value
    return root


def one_by_step(step):
    """Return a learning rate like any function of a user's."""
    return 1.0 / (1 + step)


LEARNING_RATES = (
    *(0.0, 1e-3, 0.1, 1, np.float32(0.25), np.float64(0.01), one_by_step),
    *(schedules.exponential(0.1, gamma=0.9), schedules.linear_warmup(0.1, 3, start_factor=0.0)),
)
COMMON = {
    "lr": LEARNING_RATES,
    "eps": (1e-8, 0.0, 0, 1e-3),
    "eps_in_sqrt": (True, False, np.bool_(True)),
    "weight_decay": (0.0, 0.01, 1),
    "decoupled_weight_decay": (False, True),
    "maximize": (False, True),
    "initial_accumulator_value": (0.0, 0.1, 1),
    "clip_value": (None, 0.5, 0.0),
    "clip_norm": (None, 1.0, np.float64(0.1), 0),
}
CHOICES = {
    "rmsprop": COMMON
    | {
        "alpha": (0.9, 0.99, 0.0, 1, 0.5),
        "momentum": (0.0, 0.9, 0, 1.5),
        "nesterov": (False, True),
        "centered": (False, True),
        "lr_in_momentum": (False, True),
        "bias_correction": (False, True),
    },
    "adagrad": COMMON | {"lr_decay": (0.0, 0.1, 2)},
}
GRAD_SCALES = (1.0, 1 / 3, -2, 0.0)
STEP_COUNTS = (0, 1, 100, 2**24, 2**31, 2**53 + 1, 2**62)
VALUES = (0.0, -0.0, 1e-20, 1e-39, 5e-324, 1e20, 1e30, 1e300)
NOT_FINITE = (np.nan, np.inf, -np.inf)

seeds = st.integers(0, 2**16)


def hyperparameters(algorithm):
    """Return a strategy for some of an algorithm's hyperparameters, the others left to their defaults."""
    choices = {name: st.sampled_from(values) for name, values in CHOICES[algorithm].items()}
    return st.fixed_dictionaries({}, optional=choices).map(without_impossible)


def without_impossible(chosen):
    """Return hyperparameters that go together: there is no looking ahead without momentum."""
    if chosen.get("nesterov") and not chosen.get("momentum"):
        chosen = {**chosen, "nesterov": False}
    return chosen


# ---- Arrays ----------------------------------------------------------------------------------------------------------


def numbers(random, shape, dtype, *, finite=True):
    """Return ordinary numbers, and at times awkward ones among them."""
    parts = random.standard_normal((*shape, 2))
    special = random.random(parts.shape) < random.choice([0.0, 0.2])
    values = VALUES if finite else VALUES + NOT_FINITE
    parts[special] = random.choice(values, int(special.sum()))
    dtype = np.dtype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        if dtype.kind == "c":
            array = parts.astype(np.empty(0, dtype).real.dtype).view(dtype)[..., 0]
        else:
            array = parts[..., 0].astype(dtype)
    return np.array(np.where(np.isfinite(array) | (not finite), array, dtype.type(1)), dtype)


class Placed:
    """An array of given numbers, somewhere in a piece of memory: in any order, with gaps, backwards, misaligned."""

    FILL = 0xA5

    def __init__(self, values, random):
        strides, stride = [0] * values.ndim, values.itemsize
        for axis in random.permutation(values.ndim):
            gap = random.choice([1, 1, 2])
            strides[axis] = int(stride * gap * random.choice([1, 1, 1, -1]))
            stride *= int(gap * max(values.shape[axis], 1))
        start = int(random.integers(0, 16)) * values.itemsize + int(random.random() < 0.1)
        spans = [(length - 1) * step for length, step in zip(values.shape, strides, strict=True)] if values.size else []
        start -= sum(min(span, 0) for span in spans)
        end = start + sum(max(span, 0) for span in spans) + values.itemsize

        def view(memory):
            return np.ndarray(values.shape, values.dtype, memory, start, strides)

        self.memory = np.full(end + 40, self.FILL, np.uint8)
        self.array = view(self.memory)
        self.array[...] = values
        mask = np.ones(end + 40, np.uint8)
        view(mask)[...] = 0
        self.gaps = mask.astype(bool)

    def assert_gaps_untouched(self):
        assert (self.memory[self.gaps] == self.FILL).all()


def gradient(random, param, kind):
    """Return a gradient for a parameter."""
    if kind == "none":
        return None
    values = numbers(random, param.shape, param.dtype, finite=kind != "not finite")
    if kind == "plain":
        return values
    if kind == "like the parameter":
        laid_out = np.empty_like(param, order="K", subok=False)
        laid_out[...] = values
        return laid_out
    if kind == "broadcast":
        return (
            np.broadcast_to(values.reshape(-1)[:1].reshape((1,) * values.ndim), values.shape) if values.size else values
        )
    if kind == "read-only":
        values.flags.writeable = False
        return values
    return Placed(values, random).array


GRADIENT_KINDS = (
    *("plain", "plain", "placed", "placed", "like the parameter", "broadcast", "read-only", "none", "not finite"),
)


# ---- An optimizer and its model --------------------------------------------------------------------------------------


class Pair:
    """An optimizer, and what it should be."""

    def __init__(self, form, optimizer, model, placed=()):
        self.form = form
        self.optimizer = optimizer
        self.model = model
        self.placed = list(placed)

    @property
    def params(self):
        arrays = [param for group in self.optimizer.param_groups for param in group["params"]]
        return dict(zip(self.optimizer.state, arrays, strict=True))

    @property
    def has_names(self):
        return names_for(self.form) is not None

    def in_form(self, grads):
        """Return gradients by key as `step` takes them."""
        if self.form == "one array":
            return grads[0]
        return in_containers(self.form, dict(reversed(grads.items()))) if self.has_names else list(grads.values())

    def step(self, grads, grad_scale):
        """Step both, and check that they agree, also on whether the step is refused."""
        is_refused = self.model.nonfinite == "raise" and not all(
            is_finite(grad, grad_scale) for grad in grads.values() if grad is not None
        )
        before = [None if grad is None else grad.tobytes() for grad in grads.values()]
        if is_refused:
            with Unchanged(self.optimizer), pytest.raises(ValueError, match="nonfinite is 'raise'"):
                self.optimizer.step(self.in_form(grads), grad_scale=grad_scale)
        else:
            self.optimizer.step(self.in_form(grads), grad_scale=grad_scale)
            self.model.step(grads, grad_scale)
        assert [None if grad is None else grad.tobytes() for grad in grads.values()] == before
        self.check()

    def check(self):
        optimizer, model = self.optimizer, self.model
        assert optimizer.skipped_steps == model.skipped_steps
        assert optimizer.nonfinite == model.nonfinite
        for key, param in self.params.items():
            assert_same_bits(param, model.params[key])
        check_state(optimizer.state, model.state)
        assert [without_params(group) for group in optimizer.param_groups] == [dict(group) for _, group in model.groups]
        for placed in self.placed:
            placed.assert_gaps_untouched()


def check_state(actual, expected):
    assert list(actual) == list(expected)
    for key, entry in expected.items():
        assert actual[key].keys() == entry.keys()
        for name, value in entry.items():
            assert_same_bits(actual[key][name], value)


def construct(algorithm, form, groups, options):
    """Make an optimizer of groups, each a dict of parameters by key and a dict of hyperparameters."""
    if "groups" in form:
        params = [
            {"params": in_containers(form, params) if names_for(form) else list(params.values()), **hyperparameters}
            for params, hyperparameters in groups
        ]
        return OPTIMIZERS[algorithm](params, **options)
    ((params, hyperparameters),) = groups
    params = params[0] if form == "one array" else dict(params) if form == "dict" else list(params.values())
    return OPTIMIZERS[algorithm](params, **{**options, **hyperparameters})


# ---- What must be refused --------------------------------------------------------------------------------------------


BAD_GRADIENTS = {
    "of another shape": lambda grad: np.zeros((*grad.shape, 2), grad.dtype),
    "of another dtype": lambda grad: np.zeros(grad.shape, np.int64),
    "bytes the other way round": lambda grad: grad.astype(grad.dtype.newbyteorder()),
    "not an array": lambda grad: object(),
    "masked": lambda grad: np.ma.masked_array(grad),
}
BAD_HYPERPARAMETERS = {
    "lr": (-0.1, np.nan, np.inf, "0.1", None, True, lambda step: np.nan, lambda step: 1 / 0),
    "eps": (-1e-8, np.nan, 1j, False),
    "weight_decay": (-1.0, np.inf, "0"),
    "clip_value": (-1.0, np.nan, [], True),
    "clip_norm": (-1.0, np.inf, "1"),
    "maximize": (1, None, "no"),
    "initial_accumulator_value": (-1.0, np.nan, None),
    "unknown": (1.0,),
}
ERRORS = (TypeError, ValueError, ZeroDivisionError)


def in_a_group(pair, param, **more):
    """Return a group with a parameter, in the form that the optimizer has others in."""
    return {"params": {"x": param} if pair.has_names else [param], **more}


def state_dict_with(pair, **changes):
    return {**pair.optimizer.state_dict(), **changes}


def with_another_first(items, **changes):
    return [{**items[0], **changes}, *items[1:]]


def no_grads(pair):
    return pair.in_form(dict.fromkeys(pair.params))


BAD_CALLS = {
    "a step with nothing": lambda pair, folder: pair.optimizer.step(),
    "a step with a number": lambda pair, folder: pair.optimizer.step(1.0),
    "a step with a str": lambda pair, folder: pair.optimizer.step("grads"),
    "too many gradients": lambda pair, folder: pair.optimizer.step([None] * (len(pair.params) + 1)),
    "unknown names": lambda pair, folder: pair.optimizer.step({"unknown": None}),
    "a scale that is NaN": lambda pair, folder: pair.optimizer.step(no_grads(pair), grad_scale=np.nan),
    "a scale that is a str": lambda pair, folder: pair.optimizer.step(no_grads(pair), grad_scale="1"),
    "an unknown option": lambda pair, folder: setattr(pair.optimizer, "nonfinite", "maybe"),
    "no threads": lambda pair, folder: setattr(pair.optimizer, "num_threads", 0),
    "no threads in the process": lambda pair, folder: rmsprop.set_num_threads(0),
    "a group without parameters": lambda pair, folder: pair.optimizer.add_param_group({"params": []}),
    "a group that is no dict": lambda pair, folder: pair.optimizer.add_param_group([np.ones(1)]),
    "a parameter that is a list": lambda pair, folder: pair.optimizer.add_param_group(in_a_group(pair, [1.0])),
    "a parameter of integers": lambda pair, folder: pair.optimizer.add_param_group(
        in_a_group(pair, np.ones(2, np.int32))
    ),
    "a parameter twice": lambda pair, folder: pair.optimizer.add_param_group(
        {"params": pair.params if pair.has_names else [np.ones(1)] * 2}
    ),
    "an unknown hyperparameter": lambda pair, folder: pair.optimizer.add_param_group(
        in_a_group(pair, np.ones(1), rate=1.0)
    ),
    "a negative learning rate": lambda pair, folder: pair.optimizer.add_param_group(
        in_a_group(pair, np.ones(1), lr=-1.0)
    ),
    "names beside numbers": lambda pair, folder: pair.optimizer.add_param_group(
        {"params": [np.ones(1)] if pair.has_names else {"x": np.ones(1)}}
    ),
    "a file that is not there": lambda pair, folder: pair.optimizer.load(f"{folder}/nothing"),
    "a file that is a folder": lambda pair, folder: pair.optimizer.load(folder),
    "a folder that is not there": lambda pair, folder: pair.optimizer.save(f"{folder}/nowhere/file"),
    "an empty state dict": lambda pair, folder: pair.optimizer.load_state_dict({}),
    "a state dict with too many groups": lambda pair, folder: pair.optimizer.load_state_dict(
        state_dict_with(pair, param_groups=pair.optimizer.state_dict()["param_groups"] * 2)
    ),
    "a state dict without state": lambda pair, folder: pair.optimizer.load_state_dict(state_dict_with(pair, state={})),
    "a state dict with a bad number": lambda pair, folder: pair.optimizer.load_state_dict(
        state_dict_with(pair, param_groups=with_another_first(pair.optimizer.state_dict()["param_groups"], eps=-1.0))
    ),
    "a state dict with an array of another shape": lambda pair, folder: pair.optimizer.load_state_dict(
        state_dict_with(
            pair,
            state={
                index: {**entry, pair.model.accumulator: np.ones((9, 9))}
                for index, entry in pair.optimizer.state_dict()["state"].items()
            },
        )
    ),
    "a key that is not there": lambda pair, folder: pair.optimizer.state["nobody"],
    "a step count below 0": lambda pair, folder: pair.optimizer.state[next(iter(pair.params))].update(step=-1),
}


# ---- The machine -----------------------------------------------------------------------------------------------------


class OptimizerMachine(AnyOptimizerMachine):
    """Does anything with some optimizers, in any order, and compares each with its model afterwards."""

    pairs = AnyOptimizerMachine.pairs
    saves = AnyOptimizerMachine.saves

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.instruction_set = rmsprop.instruction_sets().chosen

    def teardown(self):
        _core.use_instruction_set(self.instruction_set)
        self.folder.cleanup()
        super().teardown()

    # ---- Construction

    @initialize(
        target=pairs,
        data=st.data(),
        algorithm=st.sampled_from(list(OPTIMIZERS)),
        form=st.sampled_from(FORMS),
        nonfinite=st.sampled_from(["propagate", "propagate", "skip", "raise"]),
        num_threads=st.sampled_from([None, 1, 2, 3]),
        seed=seeds,
    )
    def construct(self, data, algorithm, form, nonfinite, num_threads, seed):
        random = np.random.default_rng(seed)
        defaults = data.draw(hyperparameters(algorithm), "defaults")
        count = data.draw(st.integers(1, 3), "groups") if "groups" in form else 1
        groups, placed = [], []
        for _ in range(count):
            own = data.draw(hyperparameters(algorithm), "of the group") if "groups" in form else {}
            params = self.new_params(data, form, random, len(placed))
            placed += params.values()
            groups.append(({key: each.array for key, each in params.items()}, own))
        options = {**defaults, "nonfinite": nonfinite, "num_threads": num_threads}
        groups = [(params, self.together(own, defaults)) for params, own in groups]
        optimizer = construct(algorithm, form, groups, options)
        model = Model(algorithm, nonfinite)
        for params, own in groups:
            model.add_group(params, {**optimizer.defaults, **own})
        return self.keep(Pair(form, optimizer, model, placed))

    @staticmethod
    def together(own, defaults):
        """Return hyperparameters of a group that go together with the defaults."""
        if {**defaults, **own}.get("nesterov") and not {**defaults, **own}.get("momentum"):
            return {**own, "nesterov": False}
        return own

    @staticmethod
    def new_params(data, form, random, first_index):
        shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=1 if form == "one array" else 3))
        names = names_for(form) or range(first_index + 9)
        params = {}
        for name, shape in zip(names[first_index:], shapes, strict=False):
            dtype = data.draw(st.sampled_from(DTYPES))
            params[name] = Placed(numbers(random, shape, dtype), random)
        return params

    @rule(pair=pairs, data=st.data(), seed=seeds)
    def add_param_group(self, pair, data, seed):
        assume(pair.form != "one array" and len(pair.params) < 10)
        own = self.together(data.draw(hyperparameters(pair.model.algorithm)), pair.optimizer.defaults)
        placed = self.new_params(data, pair.form, np.random.default_rng(seed), len(pair.params))
        params = {key: each.array for key, each in placed.items()}
        in_form = in_containers(pair.form, params) if pair.has_names else list(params.values())
        pair.optimizer.add_param_group({"params": in_form, **own})
        pair.placed += placed.values()
        pair.model.add_group(params, {**pair.optimizer.defaults, **own})
        pair.model.complete_state(pair.model.params)
        pair.check()

    # ---- Steps

    def new_grads(self, pair, data, seed, kinds=GRADIENT_KINDS):
        type(self).steps_tried += 1
        random = np.random.default_rng(seed)
        count = len(pair.params)
        kinds = data.draw(st.lists(st.sampled_from(kinds), min_size=count, max_size=count), "gradients")
        return {
            key: gradient(random, param, kind) for (key, param), kind in zip(pair.params.items(), kinds, strict=True)
        }

    @rule(pair=pairs, data=st.data(), seed=seeds, grad_scale=st.sampled_from(GRAD_SCALES))
    def step(self, pair, data, seed, grad_scale):
        pair.step(self.new_grads(pair, data, seed), grad_scale)

    @rule(pair=pairs, data=st.data(), seed=seeds, times=st.integers(2, 5))
    def step_some_times(self, pair, data, seed, times):
        for i in range(times):
            pair.step(self.new_grads(pair, data, seed + i, ("plain",)), 1.0)

    @rule(pair=pairs, data=st.data(), seed=seeds)
    def step_in_another_thread(self, pair, data, seed):
        grads, errors = self.new_grads(pair, data, seed), []

        def step():
            try:
                pair.step(grads, 1.0)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(pair=pairs, data=st.data(), seed=seeds)
    def step_in_a_forked_child(self, pair, data, seed):
        assume(pair.model.nonfinite != "raise")
        grads = self.new_grads(pair, data, seed)
        expected = pair.model.copy()
        expected.step(grads)

        def step():
            pair.optimizer.step(pair.in_form(grads))
            assert rmsprop.get_num_threads() == 1
            return pair.params, {key: dict(entry) for key, entry in pair.optimizer.state.items()}

        params, state = result_in_child(step)
        for key, param in params.items():
            assert_same_bits(param, expected.params[key])
        check_state(state, expected.state)
        pair.check()

    # ---- Changes

    @rule(pair=pairs, data=st.data())
    def change_hyperparameters(self, pair, data):
        index = data.draw(st.integers(0, len(pair.model.groups) - 1), "group")
        group = pair.optimizer.param_groups[index]
        name = data.draw(st.sampled_from(sorted(CHOICES[pair.model.algorithm])), "name")
        changes = {name: data.draw(st.sampled_from(CHOICES[pair.model.algorithm][name]), "value")}
        changes = {**changes, **self.together(changes, without_params(group))}
        group.update(changes)
        pair.model.groups[index][1].update(changes)
        pair.check()

    @rule(pair=pairs, rate=st.sampled_from(LEARNING_RATES))
    def change_the_learning_rate(self, pair, rate):
        if len(pair.model.groups) > 1:
            with Unchanged(pair.optimizer), pytest.raises(ValueError, match=r"^lr: there are"):
                pair.optimizer.lr = rate
        else:
            pair.optimizer.lr = rate
            pair.model.groups[0][1]["lr"] = rate
            assert pair.optimizer.lr == rate
        pair.check()

    @rule(pair=pairs, data=st.data(), count=st.sampled_from(STEP_COUNTS))
    def change_a_step_count(self, pair, data, count):
        key = data.draw(st.sampled_from(list(pair.params)))
        pair.optimizer.state[key]["step"] = pair.model.state[key]["step"] = count
        pair.check()

    @rule(pair=pairs, data=st.data(), seed=seeds)
    def replace_state(self, pair, data, seed):
        """By arrays with other numbers, in another layout."""
        random = np.random.default_rng(seed)
        key = data.draw(st.sampled_from(list(pair.params)))
        for name, old in pair.model.state[key].items():
            if name != "step":
                new = numbers(random, old.shape, old.dtype)
                pair.placed.append(Placed(new, random))
                pair.optimizer.state[key][name] = pair.placed[-1].array
                pair.model.state[key][name] = new
        pair.check()

    @rule(name=st.sampled_from(rmsprop.instruction_sets().available))
    def change_the_instruction_set(self, name):
        _core.use_instruction_set(name)

    # ---- Copies

    def twin(self, pair, optimizer):
        """Keep what should be a copy of an optimizer, parameters and all."""
        assert optimizer.num_threads == pair.optimizer.num_threads
        return self.keep(Pair(pair.form, optimizer, pair.model.copy()))

    @rule(target=pairs, pair=pairs)
    def deepcopy(self, pair):
        return self.twin(pair, copy.deepcopy(pair.optimizer))

    @rule(target=pairs, pair=pairs, protocol=st.integers(2, pickle.HIGHEST_PROTOCOL))
    def pickle(self, pair, protocol):
        return self.twin(pair, pickle.loads(pickle.dumps(pair.optimizer, protocol)))

    @rule(target=pairs, pair=pairs, save=saves, seed=seeds)
    def load_into_a_fresh_optimizer(self, pair, save, seed):
        path, saved = save
        random = np.random.default_rng(seed)
        placed = {key: Placed(param, random) for key, param in saved.model.params.items()}
        groups = [
            ({key: placed[key].array for key in keys}, {"lr": own["lr"]} if callable(own["lr"]) else {})
            for keys, own in saved.model.groups
        ]
        # A form that takes as many groups as there are by now.
        form = (
            saved.form
            if len(groups) == 1 or "groups" in saved.form
            else {"dict": "named groups"}.get(saved.form, "groups")
        )
        optimizer = construct(saved.model.algorithm, form, groups, {})
        optimizer.nonfinite = saved.model.nonfinite
        self.load(optimizer, path)
        model = saved.model.copy()
        model.skipped_steps = 0
        return self.keep(Pair(form, optimizer, model, placed.values()))

    # ---- Saving and loading

    @rule(target=saves, pair=pairs)
    def save(self, pair):
        path = os.path.join(self.folder.name, f"optimizer-{len(os.listdir(self.folder.name))}")
        pair.optimizer.save(path)
        return self.saved(pair, path)

    @rule(target=saves, pair=pairs)
    def state_dict(self, pair):
        return self.saved(pair, copy.deepcopy(pair.optimizer.state_dict()))

    @staticmethod
    def saved(pair, where):
        pair.check()
        model = pair.model.copy()
        model.complete_state(model.params)  # also of hyperparameters that were changed since the last step
        return where, Pair(pair.form, None, model)

    @staticmethod
    def load(optimizer, saved):
        if isinstance(saved, str):
            optimizer.load(saved)
        else:
            optimizer.load_state_dict(saved)

    @rule(pair=pairs, save=saves)
    def load_into_any_optimizer(self, pair, save):
        """Into the one that was saved or another, which may have become another one meanwhile."""
        where, saved = save
        if not self.fits(pair.model, saved.model, is_file=isinstance(where, str)):
            with Unchanged(pair.optimizer), pytest.raises((TypeError, ValueError)):
                self.load(pair.optimizer, where)
        else:
            self.load(pair.optimizer, where)
            model = saved.model.copy()
            for (keys, own), (_, before) in zip(model.groups, pair.model.groups, strict=True):
                if callable(own["lr"]) and isinstance(where, str):
                    own["lr"] = before["lr"]
                assert keys == [key for key in pair.params if key in keys]
            model.params, model.nonfinite = pair.model.params, pair.model.nonfinite
            model.skipped_steps = pair.model.skipped_steps
            pair.model = model
        pair.check()

    @staticmethod
    def fits(model, saved, is_file):
        """Tell whether an optimizer can load what another one saved."""
        if model.algorithm != saved.algorithm or [k for k, _ in model.groups] != [k for k, _ in saved.groups]:
            return False
        if any(
            param.shape != saved.params[key].shape or param.dtype != saved.params[key].dtype
            for key, param in model.params.items()
        ):
            return False
        return not is_file or all(
            callable(own["lr"]) or not callable(of_saved["lr"])
            for (_, own), (_, of_saved) in zip(model.groups, saved.groups, strict=True)
        )

    # ---- What must be refused

    @rule(pair=pairs, wrong=st.sampled_from(sorted(BAD_CALLS)))
    def call_badly(self, pair, wrong):
        with Unchanged(pair.optimizer), pytest.raises((*ERRORS, OSError, KeyError)):
            BAD_CALLS[wrong](pair, self.folder.name)
        pair.check()

    @rule(pair=pairs, data=st.data(), seed=seeds, wrong=st.sampled_from(sorted(BAD_GRADIENTS)))
    def step_with_a_bad_gradient(self, pair, data, seed, wrong):
        grads = self.new_grads(pair, data, seed, ("plain", "placed"))
        key = data.draw(st.sampled_from(list(grads)))
        self.refuse(pair, {**grads, key: BAD_GRADIENTS[wrong](grads[key])})

    @rule(pair=pairs, data=st.data(), seed=seeds, which=st.sampled_from(["params", "state", "shifted"]))
    def step_with_a_gradient_that_the_step_would_write(self, pair, data, seed, which):
        grads = self.new_grads(pair, data, seed, ("plain",))
        keys = [key for key, param in pair.params.items() if param.size > 1]
        assume(keys)
        key = data.draw(st.sampled_from(keys))
        if which == "shifted":
            memory = np.ones(grads[key].size + 1, grads[key].dtype)
            pair.optimizer.state[key][pair.model.accumulator] = state = memory[1:].reshape(grads[key].shape)
            pair.model.state[key][pair.model.accumulator] = state.copy()
            own = memory[:-1].reshape(grads[key].shape)
        else:
            own = pair.params[key] if which == "params" else pair.optimizer.state[key][pair.model.accumulator]
        self.refuse(pair, {**grads, key: own})

    @rule(pair=pairs, data=st.data(), seed=seeds)
    def step_a_read_only_parameter(self, pair, data, seed):
        grads = self.new_grads(pair, data, seed, ("plain",))
        params = data.draw(st.sampled_from(pair.optimizer.param_groups))["params"]
        index = data.draw(st.integers(0, len(params) - 1))
        before = params[index]
        params[index] = before.view()
        params[index].flags.writeable = False
        self.refuse(pair, grads)
        params[index] = before

    @rule(pair=pairs, data=st.data(), seed=seeds, name=st.sampled_from(sorted(BAD_HYPERPARAMETERS)))
    def step_with_a_bad_hyperparameter(self, pair, data, seed, name):
        grads = self.new_grads(pair, data, seed, ("plain", "none"))
        group = data.draw(st.sampled_from(pair.optimizer.param_groups))
        before = dict(group)
        group[name] = data.draw(st.sampled_from(BAD_HYPERPARAMETERS[name]))
        self.refuse(pair, grads)
        group.clear()
        group.update(before)

    @staticmethod
    def refuse(pair, grads):
        with Unchanged(pair.optimizer), pytest.raises(ERRORS):
            pair.optimizer.step(pair.in_form(grads))


TestOptimizers = OptimizerMachine.TestCase
TestOptimizers.settings = settings(max_examples=12, stateful_step_count=25)
