"""Optimizers for PyTorch that live through anything, in any order, have the bits that the reference has.

A few seconds of it. `ci/state-machines` goes on for as long as it is told, with new examples every time.
"""

import copy
import io
import os
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis.stateful import initialize, precondition, rule

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from children import result_in_child  # noqa: E402
from model import Model, is_finite, number  # noqa: E402
from optimizer_machine import AnyOptimizerMachine  # noqa: E402

OPTIMIZERS = {"rmsprop": rmsprop.torch.RMSprop, "adagrad": rmsprop.torch.Adagrad}
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bfloat16, torch.float16)
SHAPES = ((), (0,), (1,), (7,), (67,), (3, 4, 5), (1, 2, 3, 4), (150, 300))  # the last one is shared by threads
COMMON = {
    "lr": (1e-3, 0.1, 0, torch.tensor(0.125), torch.tensor([0.3], dtype=torch.float64)),
    "eps": (1e-8, 0, 1e-3),
    "eps_in_sqrt": (False, True),
    "weight_decay": (0, 0.01),
    "decoupled_weight_decay": (False, True),
    "maximize": (False, True),
    "initial_accumulator_value": (0, 0.1, 1.0),
    "clip_value": (None, 0.5),
    "clip_norm": (None, 1.0, 0.1),
}
CHOICES = {
    "rmsprop": COMMON
    | {
        "alpha": (0.99, 0.9, 0, 1.0),
        "momentum": (0, 0.9),
        "nesterov": (False, True),
        "centered": (False, True),
        "lr_in_momentum": (False, True),
        "bias_correction": (False, True),
    },
    "adagrad": COMMON | {"lr_decay": (0, 0.1)},
}
VALUES = (0.0, -0.0, 1e-20, 1e-39, 1e20, 1e30)
NOT_FINITE = (np.nan, np.inf, -np.inf)
GRADIENT_KINDS = (
    "plain",
    "plain",
    "like the parameter",
    "strided",
    "transposed",
    "expanded",
    "conjugated",
    "not finite",
)

seeds = st.integers(0, 2**16)


def hyperparameters(algorithm):
    """Return a strategy for some of an algorithm's hyperparameters, the others left to their defaults."""
    choices = {name: st.sampled_from(values) for name, values in CHOICES[algorithm].items()}
    return st.fixed_dictionaries({}, optional=choices)


def together(own, defaults):
    """Return hyperparameters of a group that go together with the defaults: no looking ahead without momentum."""
    if {**defaults, **own}.get("nesterov") and not {**defaults, **own}.get("momentum"):
        return {**own, "nesterov": False}
    return own


# ---- Tensors ---------------------------------------------------------------------------------------------------------


def numbers(random, shape, dtype, *, finite=True):
    """Return ordinary numbers, and at times awkward ones among them."""
    parts = random.standard_normal((*shape, 2))
    special = random.random(parts.shape) < random.choice([0.0, 0.2])
    parts[special] = random.choice(VALUES if finite else VALUES + NOT_FINITE, int(special.sum()))
    real, imaginary = torch.from_numpy(parts).unbind(-1)
    values = (torch.complex(real, imaginary) if dtype.is_complex else real).to(dtype).contiguous()
    return torch.where(values.isfinite(), values, torch.ones_like(values)) if finite else values


def laid_out(values, kind):
    """Return a tensor with these values in another layout."""
    if kind == "strided" and values.dim():
        room = torch.zeros((*values.shape[:-1], 2 * values.shape[-1]), dtype=values.dtype)
        room[..., ::2] = values
        return room[..., ::2]
    if kind == "transposed":
        order = list(reversed(range(values.dim())))
        return values.permute(order).contiguous().permute(order)
    if kind == "conjugated" and values.is_complex():
        return values.conj().resolve_conj().conj()
    if kind == "expanded" and values.numel():
        return values.reshape(-1)[:1].reshape([1] * values.dim()).expand(values.shape)
    return values.contiguous()


def in_numpy(tensor):
    """Return a copy of a tensor as the model has it: 16-bit numbers in 32 bits."""
    tensor = tensor.detach().as_subclass(torch.Tensor).resolve_conj()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy().copy()


class TensorModel(Model):
    """Parameters of 16 bits are rounded after each step, and state is made when it is needed, or once it is shared."""

    def __init__(self, algorithm, nonfinite):
        super().__init__(algorithm, nonfinite)
        self.dtypes = {}
        self.is_shared = False

    def add_tensors(self, first_key, tensors, hyperparameters):
        keys = range(first_key, first_key + len(tensors))
        self.dtypes.update(zip(keys, (tensor.dtype for tensor in tensors), strict=True))
        self.add_group(dict(zip(keys, map(in_numpy, tensors), strict=True)), hyperparameters)
        if self.algorithm == "rmsprop" and not self.is_shared:
            for key in keys:
                self.state[key] = {}

    def keys_to_complete(self, grads):
        return grads

    def step_one(self, key, *args):
        super().step_one(key, *args)
        if self.dtypes[key] in (torch.bfloat16, torch.float16):
            self.params[key] = torch.from_numpy(self.params[key]).to(self.dtypes[key]).float().numpy()


# ---- An optimizer and its model --------------------------------------------------------------------------------------


class Pair:
    """An optimizer, and what it should be."""

    def __init__(self, optimizer, model):
        self.optimizer = optimizer
        self.model = model

    @property
    def params(self):
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def grads(self):
        return {key: None if p.grad is None else in_numpy(p.grad) for key, p in enumerate(self.params)}

    def state(self):
        entries = [self.optimizer.state.get(param, {}) for param in self.params]
        return [{name: in_numpy(value) for name, value in entry.items()} for entry in entries]

    def check(self):
        assert self.optimizer.skipped_steps == self.model.skipped_steps
        check_equal([in_numpy(param) for param in self.params], self.state(), self.model)
        for group, (_, own) in zip(self.optimizer.param_groups, self.model.groups, strict=True):
            assert {name: number(group[name]) for name in own} == {name: number(own[name]) for name in own}

    def snapshot(self):
        """Return all that a refused call must leave as it is."""
        arrays = [[in_numpy(p)] for p in self.params] + [list(entry.values()) for entry in self.state()]
        objects = [id(tensor) for entry in self.optimizer.state.values() for tensor in entry.values()]
        groups = [
            (id(group), [(name, id(value)) for name, value in group.items()]) for group in self.optimizer.param_groups
        ]
        return [[array.tobytes() for array in row] for row in arrays], objects, groups


def check_equal(params, state, model):
    for key, param in enumerate(params):
        assert_same_bits(param, model.params[key])
        assert state[key].keys() == model.state[key].keys()
        for name, value in model.state[key].items():
            if name == "step":
                assert float(state[key]["step"]) == value
            else:
                assert_same_bits(state[key][name], value)


class Refused:
    """Asserts that the block raises, and that nothing of the optimizer has changed."""

    def __init__(self, pair):
        self.pair = pair
        self.raises = pytest.raises((TypeError, ValueError, RuntimeError, KeyError))

    def __enter__(self):
        self.before = self.pair.snapshot()
        self.raises.__enter__()

    def __exit__(self, *error):
        caught = self.raises.__exit__(*error)
        assert self.pair.snapshot() == self.before
        return caught


BAD_CALLS = {
    "a group that is no dict": lambda optimizer: optimizer.add_param_group([torch.ones(1)]),
    "a parameter that is there": lambda optimizer: optimizer.add_param_group(
        {"params": optimizer.param_groups[0]["params"]}
    ),
    "a parameter of integers": lambda optimizer: optimizer.add_param_group({"params": [torch.ones(1).int()]}),
    "a parameter that is elsewhere": lambda optimizer: optimizer.add_param_group(
        {"params": [torch.ones(1, device="meta")]}
    ),
    "a negative learning rate": lambda optimizer: optimizer.add_param_group({"params": [torch.ones(1)], "lr": -1}),
    "an unknown option": lambda optimizer: setattr(optimizer, "nonfinite", "maybe"),
    "no threads": lambda optimizer: setattr(optimizer, "num_threads", 0),
    "a state dict with nothing in it": lambda optimizer: optimizer.load_state_dict({}),
    "a state dict that is a list": lambda optimizer: optimizer.load_state_dict([]),
    "a state dict without groups": lambda optimizer: optimizer.load_state_dict(
        {**optimizer.state_dict(), "param_groups": []}
    ),
    "a state dict with a bad number": lambda optimizer: optimizer.load_state_dict(
        {
            **optimizer.state_dict(),
            "param_groups": [{**group, "eps": -1} for group in optimizer.state_dict()["param_groups"]],
        }
    ),
    "a state of another shape": lambda optimizer: optimizer.load_state_dict(
        {
            **optimizer.state_dict(),
            "state": {0: {"step": torch.tensor(1.0), optimizer.rule.accumulator: torch.ones(9, 9)}},
        }
    ),
}
BAD_HYPERPARAMETERS = {
    "lr": (-0.1, np.nan, "0.1", None, torch.tensor(np.nan), torch.ones(2)),
    "eps": (-1e-8, np.inf, 1j),
    "weight_decay": (-1.0, "0"),
    "clip_norm": (-1.0, np.nan),
    "maximize": (1, None),
}


# ---- The machine -----------------------------------------------------------------------------------------------------


class TensorOptimizerMachine(AnyOptimizerMachine):
    """Does anything with some optimizers, in any order, and compares each with its model afterwards."""

    pairs = AnyOptimizerMachine.pairs
    saves = AnyOptimizerMachine.saves

    def __init__(self):
        super().__init__()
        self.threads_of_torch = torch.get_num_threads()

    def teardown(self):
        torch.set_num_threads(self.threads_of_torch)
        super().teardown()

    @staticmethod
    def new_params(data, random):
        shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3), "shapes")
        return [
            laid_out(
                numbers(random, shape, data.draw(st.sampled_from(DTYPES))),
                data.draw(st.sampled_from(["plain", "strided", "transposed"]), "layout"),
            ).requires_grad_()
            for shape in shapes
        ]

    @initialize(
        target=pairs,
        data=st.data(),
        algorithm=st.sampled_from(list(OPTIMIZERS)),
        nonfinite=st.sampled_from(["propagate", "propagate", "skip", "raise"]),
        num_threads=st.sampled_from([None, 1, 2, 3]),
        seed=seeds,
    )
    def construct(self, data, algorithm, nonfinite, num_threads, seed):
        random = np.random.default_rng(seed)
        defaults = together(data.draw(hyperparameters(algorithm), "defaults"), {})
        groups = [
            {"params": self.new_params(data, random), **together(data.draw(hyperparameters(algorithm)), defaults)}
            for _ in range(data.draw(st.integers(1, 2), "groups"))
        ]
        optimizer = OPTIMIZERS[algorithm](groups, **defaults, nonfinite=nonfinite, num_threads=num_threads)
        pair = Pair(optimizer, TensorModel(algorithm, nonfinite))
        for group in optimizer.param_groups:
            self.add_to_model(pair, group)
        return self.keep(pair)

    @staticmethod
    def add_to_model(pair, group):
        own = {name: group[name] for name in CHOICES[pair.model.algorithm]}
        pair.model.add_tensors(len(pair.model.params), group["params"], own)

    @rule(pair=pairs, data=st.data(), seed=seeds)
    def add_param_group(self, pair, data, seed):
        assume(len(pair.params) < 8)
        params = self.new_params(data, np.random.default_rng(seed))
        own = together(data.draw(hyperparameters(pair.model.algorithm)), pair.optimizer.defaults)
        pair.optimizer.add_param_group({"params": params, **own})
        self.add_to_model(pair, pair.optimizer.param_groups[-1])
        pair.check()

    # ---- Steps

    @rule(pair=pairs, data=st.data(), seed=seeds)
    def step(self, pair, data, seed):
        self.change_gradients(pair, data, seed)
        self.step_both(pair, pair.optimizer.step)

    def change_gradients(self, pair, data, seed):
        random = np.random.default_rng(seed)
        for param in pair.params:
            kind = data.draw(st.sampled_from(("as before", "none", *GRADIENT_KINDS)), "gradient")
            if kind == "none":
                param.grad = None
            elif kind == "like the parameter":
                param.grad = torch.empty_like(param).copy_(numbers(random, param.shape, param.dtype))
            elif kind != "as before":
                values = numbers(random, param.shape, param.dtype, finite=kind != "not finite")
                param.grad = laid_out(values, kind)

    @rule(pair=pairs)
    def step_after_backward(self, pair):
        """Have the gradients that autograd finds for the sum of squares."""
        for param in pair.params:
            param.grad = None
            (param * param.detach().conj()).real.sum().backward()
        self.step_both(pair, pair.optimizer.step)

    @rule(pair=pairs, set_to_none=st.booleans())
    def zero_grad(self, pair, set_to_none):
        for param in pair.params:
            if param.grad is not None and 0 in param.grad.stride():
                param.grad = param.grad.clone()  # PyTorch cannot write to an expanded one
        pair.optimizer.zero_grad(set_to_none)
        assert all(p.grad is None if set_to_none else p.grad is None or not p.grad.any() for p in pair.params)
        pair.check()

    def step_both(self, pair, step):
        type(self).steps_tried += 1
        grads = pair.grads()
        if pair.model.nonfinite == "raise" and not all(is_finite(g, 1.0) for g in grads.values() if g is not None):
            with Refused(pair):
                step()
        else:
            step()
            pair.model.step(grads)
        for before, after in zip(grads.values(), pair.grads().values(), strict=True):
            assert (before is None) == (after is None)
            assert before is None or before.tobytes() == after.tobytes()
        pair.check()

    @rule(pair=pairs, times=st.integers(1, 3))
    def step_again(self, pair, times):
        for _ in range(times):
            self.step_both(pair, pair.optimizer.step)

    @rule(pair=pairs, seed=seeds)
    def step_with_a_closure(self, pair, seed):
        random = np.random.default_rng(seed)
        grads = [numbers(random, param.shape, param.dtype) for param in pair.params]

        def closure():
            assert torch.is_grad_enabled()
            for param, grad in zip(pair.params, grads, strict=True):
                param.grad = grad
            return 17

        closure()  # so that the model sees these gradients, too
        with torch.no_grad():
            self.step_both(pair, lambda: pair.optimizer.step(closure) == 17 or pytest.fail("the loss is lost"))

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(pair=pairs)
    def step_in_a_forked_child(self, pair):
        """Which changes here what is in shared memory, and nothing else."""
        assume(pair.model.nonfinite != "raise")
        type(self).steps_tried += 1
        expected = pair.model.copy()
        expected.step(pair.grads())

        def step():
            torch.set_num_threads(1)  # PyTorch's own threads do not survive a fork
            pair.optimizer.step()
            assert rmsprop.get_num_threads() == 1
            return [in_numpy(param) for param in pair.params], pair.state()

        check_equal(*result_in_child(step), expected)
        for key, param in enumerate(pair.params):
            if param.is_shared():
                pair.model.params[key] = expected.params[key]
            for name, tensor in pair.optimizer.state.get(param, {}).items():
                if tensor.is_shared():
                    pair.model.state[key][name] = expected.state[key][name]
        pair.check()

    # ---- Changes

    @rule(pair=pairs, data=st.data())
    def change_hyperparameters(self, pair, data):
        index = data.draw(st.integers(0, len(pair.model.groups) - 1), "group")
        group = pair.optimizer.param_groups[index]
        name = data.draw(st.sampled_from(sorted(CHOICES[pair.model.algorithm])), "name")
        changes = {name: data.draw(st.sampled_from(CHOICES[pair.model.algorithm][name]), "value")}
        changes = together(changes, group)
        group.update(changes)
        pair.model.groups[index][1].update(changes)
        pair.check()

    @rule(pair=pairs, data=st.data(), seed=seeds, kind=st.sampled_from(["plain", "strided", "transposed"]))
    def swap_the_memory_of_a_parameter(self, pair, data, seed, kind):
        key = data.draw(st.integers(0, len(pair.params) - 1), "parameter")
        param = pair.params[key]
        param.data = laid_out(numbers(np.random.default_rng(seed), param.shape, param.dtype), kind)
        pair.model.params[key] = in_numpy(param)
        pair.check()

    @rule(pair=pairs)
    def share_memory(self, pair):
        for param in pair.params:
            param.share_memory_()
        pair.optimizer.share_memory()
        pair.model.complete_state(pair.model.params)
        pair.model.is_shared = True
        pair.check()

    @rule(num_threads=st.integers(1, 4))
    def change_the_threads_of_torch(self, num_threads):
        torch.set_num_threads(num_threads)

    # ---- Copies, saving and loading

    @rule(target=pairs, pair=pairs)
    def deepcopy(self, pair):
        return self.keep(Pair(copy.deepcopy(pair.optimizer), pair.model.copy()))

    @rule(target=pairs, pair=pairs)
    def pickle(self, pair):
        return self.keep(Pair(pickle.loads(pickle.dumps(pair.optimizer)), pair.model.copy()))

    @rule(target=pairs, pair=pairs)
    def save_whole_with_torch(self, pair):
        file = io.BytesIO()
        torch.save(pair.optimizer, file)
        file.seek(0)
        return self.keep(Pair(torch.load(file, weights_only=False), pair.model.copy()))

    @rule(target=saves, pair=pairs, through_a_file=st.booleans())
    def state_dict(self, pair, through_a_file):
        saved = pair.optimizer.state_dict()
        if through_a_file:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file)
        else:
            saved = copy.deepcopy(saved)
        return saved, pair.model.copy()

    @rule(target=pairs, save=saves)
    def load_into_a_fresh_optimizer(self, save):
        saved, model = save
        tensors = {key: torch.from_numpy(p).to(model.dtypes[key]).clone() for key, p in model.params.items()}
        groups = [{"params": [tensors[key].requires_grad_() for key in keys]} for keys, _ in model.groups]
        optimizer = OPTIMIZERS[model.algorithm](groups, nonfinite=model.nonfinite)
        optimizer.load_state_dict(saved)
        model = model.copy()
        model.skipped_steps, model.is_shared = 0, False
        return self.keep(Pair(optimizer, model))

    @rule(pair=pairs, save=saves)
    def load_into_any_optimizer(self, pair, save):
        """Into the one that was saved or another, which may have become another one meanwhile."""
        saved, of_saved = save
        if [keys for keys, _ in pair.model.groups] != [keys for keys, _ in of_saved.groups]:
            with Refused(pair):
                pair.optimizer.load_state_dict(saved)
            return
        assume(pair.model.algorithm == of_saved.algorithm and pair.model.dtypes == of_saved.dtypes)
        assume(all(param.shape == of_saved.params[key].shape for key, param in pair.model.params.items()))
        pair.optimizer.load_state_dict(saved)
        model = of_saved.copy()
        model.params = pair.model.params
        model.nonfinite, model.skipped_steps = pair.model.nonfinite, pair.model.skipped_steps
        model.is_shared = pair.model.is_shared
        pair.model = model
        pair.check()

    # ---- What must be refused

    @rule(pair=pairs, wrong=st.sampled_from(sorted(BAD_CALLS)))
    def call_badly(self, pair, wrong):
        with Refused(pair):
            BAD_CALLS[wrong](pair.optimizer)

    @rule(pair=pairs, data=st.data(), name=st.sampled_from(sorted(BAD_HYPERPARAMETERS)))
    def step_with_a_bad_hyperparameter(self, pair, data, name):
        group = data.draw(st.sampled_from(pair.optimizer.param_groups))
        before = group[name]
        group[name] = data.draw(st.sampled_from(BAD_HYPERPARAMETERS[name]))
        with Refused(pair):
            pair.optimizer.step()
        group[name] = before
        pair.check()

    @rule(pair=pairs, data=st.data())
    def step_with_a_gradient_that_the_step_would_write(self, pair, data):
        params = [param for param in pair.params if param.numel() > 0]
        assume(params)
        param = data.draw(st.sampled_from(params))
        before, param.grad = param.grad, param.detach()
        with Refused(pair):
            pair.optimizer.step()
        param.grad = before
        pair.check()

    @rule(pair=pairs, data=st.data())
    def step_with_a_sparse_gradient(self, pair, data):
        params = [param for param in pair.params if param.dim() and param.dtype == torch.float32]
        assume(params)
        param = data.draw(st.sampled_from(params))
        before, param.grad = param.grad, torch.zeros(param.shape).to_sparse()
        with Refused(pair):
            pair.optimizer.step()
        param.grad = before
        pair.check()


TestTensorOptimizers = TensorOptimizerMachine.TestCase
TestTensorOptimizers.settings = settings(max_examples=12, stateful_step_count=25)
