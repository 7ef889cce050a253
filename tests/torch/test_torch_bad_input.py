"""Bad input raises what PyTorch raises, names the parameter, and leaves every byte as it was."""

import re
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop  # noqa: E402
import rmsprop.torch  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from torch_snapshots import OURS, Unchanged, bytes_of, named  # noqa: E402


def without_memory(tensor):
    """Free the memory of a tensor under it, as sharding libraries do between steps."""
    tensor.untyped_storage().resize_(0)
    return tensor


TENSORS_WITHOUT_A_STEP = {
    "meta": lambda: torch.ones(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "integers": lambda: torch.ones(3, dtype=torch.int64),
    "bools": lambda: torch.ones(3, dtype=torch.bool),
    "complex of two float16": lambda: torch.ones(3, dtype=torch.complex32),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "masked": lambda: torch.masked.MaskedTensor(torch.ones(3), torch.tensor([True, False, True])),
    "without memory any more": lambda: without_memory(torch.ones(3)),
}


@OURS
@pytest.mark.parametrize("kind", TENSORS_WITHOUT_A_STEP)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of sparse and of quantized tensors, on their future
def test_a_parameter_without_a_step_is_refused_by_name(ours, kind):
    with pytest.raises((RuntimeError, TypeError), match="'odd'") as error:
        ours([("fine", torch.ones(3, requires_grad=True)), ("odd", TENSORS_WITHOUT_A_STEP[kind]())])
    assert "wanted" in str(error.value)
    with pytest.raises((RuntimeError, TypeError), match=r"params\[1\]"):
        ours([torch.ones(3, requires_grad=True), TENSORS_WITHOUT_A_STEP[kind]()])


@OURS
def test_a_group_that_is_no_dict_is_refused_as_in_pytorch(ours):
    optimizer, *_ = named(ours)
    with Unchanged(optimizer), pytest.raises(TypeError, match="param_group must be a dict, but got <class 'list'>"):
        optimizer.add_param_group([torch.ones(3)])


@OURS
def test_a_refused_group_is_not_added(ours):
    optimizer, *_ = named(ours)
    with Unchanged(optimizer), pytest.raises(RuntimeError, match="'odd'"):
        optimizer.add_param_group({"params": [("odd", torch.ones(3, device="meta"))]})
    assert len(optimizer.param_groups) == 1


@OURS
def test_a_sparse_gradient_is_refused_by_name(ours):
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = ours(embedding.named_parameters())
    embedding(torch.tensor([1])).sum().backward()
    with Unchanged(optimizer), pytest.raises(RuntimeError, match=r"'weight'.*grad.*sparse"):
        optimizer.step()


# ---- Shared memory ---------------------------------------------------------------------------------------------------


def shifted(by):
    """Return two tensors of 12 elements, the second `by` elements after the first."""
    base = torch.ones(12 + abs(by))
    return base[max(0, -by) :][:12], base[max(0, by) :][:12]


def meeting():
    """Return two strided tensors whose elements interleave, and meet."""
    base = torch.ones(36)
    return base[1:24:2], base[::3]


# Each with two tensors that share memory.
SHARING = {
    "one and the same": lambda: (torch.ones(12),) * 2,
    "two views of one": lambda: shifted(0),
    "shifted by one element": lambda: shifted(1),
    "shifted back by one element": lambda: shifted(-1),
    "sharing the last element": lambda: shifted(11),
    "interleaved and meeting": meeting,
}


class Overlapping:
    """An optimizer with two parameters, state and gradients, in one group or in two."""

    def __init__(self, ours, number_of_groups):
        self.params = [torch.full((12,), float(i + 1)).requires_grad_() for i in range(2)]
        groups = [{"params": self.params[:1]}, {"params": self.params[1:]}]
        self.optimizer = ours(self.params if number_of_groups == 1 else groups, lr=0.1)
        for param in self.params:
            param.grad = torch.full((12,), 0.5)
        self.optimizer.step()
        self.accumulator = ours.rule.accumulator

    def put(self, what, tensor):
        kind, index = what
        if kind == "grad":
            self.params[index].grad = tensor
        elif kind == "state":
            self.optimizer.state[self.params[index]][self.accumulator] = tensor
        else:
            self.params[index].data = tensor

    def label(self, what):
        kind, index = what
        if kind == "state":
            return f"state[{index}]['{self.accumulator}']"
        return f"params[{index}]" + (".grad" if kind == "grad" else "")


# Which arrays share memory, in the order in which messages name them: those that are written first.
ROLES = {
    "gradient and its parameter": (("param", 0), ("grad", 0)),
    "gradient and another parameter": (("param", 1), ("grad", 0)),
    "gradient and its state": (("state", 0), ("grad", 0)),
    "gradient and the state of another": (("state", 1), ("grad", 0)),
    "state and its parameter": (("param", 0), ("state", 0)),
    "state and another parameter": (("state", 0), ("param", 1)),
    "state and the state of another": (("state", 0), ("state", 1)),
    "two parameters": (("param", 0), ("param", 1)),
}


@OURS
@pytest.mark.parametrize("number_of_groups", [1, 2], ids=["one group", "two groups"])
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("roles", ROLES)
def test_tensors_that_share_memory_are_refused_by_the_step(ours, roles, sharing, number_of_groups):
    subject = Overlapping(ours, number_of_groups)
    for what, tensor in zip(ROLES[roles], SHARING[sharing](), strict=True):
        subject.put(what, tensor)
    first, second = map(subject.label, ROLES[roles])
    for _ in range(2):  # what the first attempt learned about these tensors must not let the second one through
        with (
            Unchanged(subject.optimizer),
            pytest.raises(ValueError, match=f"^{re.escape(first)}: shares memory with {re.escape(second)}, "),
        ):
            subject.optimizer.step()


@OURS
@pytest.mark.parametrize("sharing", [kind for kind in SHARING if kind != "one and the same"])
def test_parameters_that_share_memory_are_refused_by_the_constructor(ours, sharing):
    first, second = (tensor.requires_grad_() for tensor in SHARING[sharing]())
    with pytest.raises(ValueError, match=r"'a'.*shares memory with.*'b'"):
        ours([("a", first), ("b", second)])
    with pytest.raises(ValueError, match=r"params\[0\].*shares memory with.*params\[1\]"):
        ours([{"params": [first]}, {"params": [second]}])
    optimizer = ours([("a", first)])
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"'a'.*shares memory with.*'b'"):
        optimizer.add_param_group({"params": [("b", second)]})


SELF_OVERLAPPING = {
    "expanded": lambda: torch.ones(1).expand(12),
    "sliding window": lambda: torch.ones(14).unfold(0, 3, 1).reshape(-1)[:12].as_strided((12,), (0,)),
    "overlapping by half": lambda: torch.ones(12).as_strided((4, 3), (2, 1)),
}


@OURS
@pytest.mark.parametrize("kind", SELF_OVERLAPPING)
def test_a_tensor_whose_own_elements_share_memory_is_refused_as_parameter_and_as_state(ours, kind):
    tensor = SELF_OVERLAPPING[kind]()
    with pytest.raises(ValueError, match=r"'wide'.*share memory"):
        ours([("wide", tensor.clone().set_(tensor).requires_grad_())])
    param = torch.ones(tensor.shape, requires_grad=True)
    param.grad = torch.ones(tensor.shape)
    optimizer = ours([("w", param)])
    optimizer.step()
    optimizer.state[param][ours.rule.accumulator] = tensor
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"state\['w'\]\['\w+'\]: .*share memory"):
        optimizer.step()


# ---- Wrong tensors, step counts and state dicts ----------------------------------------------------------------------


WITHOUT_MEMORY = {
    "param": lambda optimizer, param, ours: param,
    "grad": lambda optimizer, param, ours: param.grad,
    "state": lambda optimizer, param, ours: optimizer.state[param][ours.rule.accumulator],
    "step": lambda optimizer, param, ours: optimizer.state[param]["step"],
}


@OURS
@pytest.mark.parametrize("which", WITHOUT_MEMORY)
def test_memory_freed_between_steps_is_noticed(ours, which):
    optimizer, weight, bias = named(ours)
    before = bytes_of(bias)
    without_memory(WITHOUT_MEMORY[which](optimizer, weight, ours))
    with pytest.raises((RuntimeError, TypeError), match=r"wanted an array with memory of its own|as 'step'"):
        optimizer.step()
    assert bytes_of(bias) == before


MISMATCHED_GRADS = {
    "another shape": (lambda: torch.ones(2, 2), ValueError, r"shape \(2, 2\) does not match params\['bias'\] \(4,\)"),
    "one dimension more": (lambda: torch.ones(1, 4), ValueError, r"shape \(1, 4\) does not match"),
    "fewer elements": (lambda: torch.ones(3), ValueError, r"shape \(3,\) does not match"),
    "no elements": (lambda: torch.ones(0), ValueError, r"shape \(0,\) does not match"),
    "another dtype": (lambda: torch.ones(4).double(), TypeError, "dtype float64 does not match"),
    "complex numbers": (lambda: torch.ones(4, dtype=torch.complex64), TypeError, "dtype complex64 does not match"),
    "integers": (lambda: torch.ones(4).long(), TypeError, "int64"),
}


class Grad(torch.Tensor):
    """A parameter with any gradient at all; PyTorch lets a plain one have only what fits."""

    @property
    def grad(self):
        return self.any_grad


@OURS
@pytest.mark.parametrize("kind", MISMATCHED_GRADS)
def test_a_gradient_unlike_its_parameter_is_refused_by_name(ours, kind):
    make, error, message = MISMATCHED_GRADS[kind]
    weight, bias = torch.ones(3, requires_grad=True), torch.ones(4).as_subclass(Grad)
    weight.grad, bias.any_grad = torch.ones(3), torch.ones(4)
    optimizer = ours([("weight", weight), ("bias", bias)])
    optimizer.step()
    bias.any_grad = make()
    with Unchanged(optimizer), pytest.raises(error, match=r"params\['bias'\]\.grad: .*" + message):
        optimizer.step()


@OURS
@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3, 2), (1, 3), (2, 2), (1, 6), (6,), (2, 3, 1)], ids=str)
def test_a_gradient_that_got_another_shape_is_refused(ours, shape):
    """By assignment to its data, where PyTorch does not look."""
    param = torch.nn.Parameter(torch.ones(2, 3))
    param.grad = torch.ones(2, 3)
    optimizer = ours([param])
    optimizer.step()
    param.grad.data = torch.ones(shape)
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"^params\[0\]\.grad: shape .* does not match"):
        optimizer.step()


BAD_STATE = {
    "shape": (lambda t: t[:2].clone(), ValueError),
    "more elements": (lambda t: torch.cat([t, t]), ValueError),
    "complex numbers": (lambda t: t * 1j, TypeError),
    "integers": (lambda t: t.long(), (TypeError, RuntimeError)),
    "device": (lambda t: t.to("meta"), RuntimeError),
    "a NumPy array of another shape": (lambda t: np.ones(5, np.float32), ValueError),
    "a list": (lambda t: t.tolist(), (TypeError, RuntimeError)),
    "a string": (lambda t: "state", (TypeError, RuntimeError)),
}


@OURS
@pytest.mark.parametrize("kind", BAD_STATE)
def test_replaced_state_is_refused_by_name_and_nothing_changes(ours, kind):
    change, error = BAD_STATE[kind]
    optimizer, *params = named(ours)
    for name, param in zip(("weight", "bias"), params, strict=True):
        entry = optimizer.state[param]
        good = entry[ours.rule.accumulator]
        with Unchanged(optimizer):
            entry[ours.rule.accumulator] = change(good)
            with pytest.raises(error, match=rf"'{name}'.*{ours.rule.accumulator}"):
                optimizer.step()
            entry[ours.rule.accumulator] = good


@OURS
@pytest.mark.parametrize(
    "value", [torch.tensor(-1.0), torch.tensor(0.5), torch.tensor(float("nan")), torch.ones(2), 3, "one"], ids=str
)
def test_a_step_count_that_is_none_is_refused(ours, value):
    optimizer, weight, bias = named(ours)
    good = optimizer.state[bias]["step"]
    optimizer.state[bias]["step"] = value
    before = bytes_of(weight), bytes_of(bias)
    with pytest.raises((ValueError, TypeError), match="step"):
        optimizer.step()
    assert (bytes_of(weight), bytes_of(bias)) == before
    optimizer.state[bias]["step"] = good
    optimizer.step()


@OURS
def test_more_state_is_not_left_behind_by_a_step_that_fails(ours):
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = ours([("a", params[0]), ("b", params[1])])
    params[0].grad = torch.ones(3)
    params[1].grad = params[1].data
    with Unchanged(optimizer), pytest.raises(ValueError, match="'b'"):
        optimizer.step()


@OURS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("first_step", [True, False], ids=["first step", "later step"])
def test_a_skipped_step_changes_nothing_and_is_counted(ours, bad, first_step):
    """Not even state is there that the step would have been the first to need."""
    weight, bias = torch.ones(3, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer = ours([("weight", weight), ("bias", bias)], lr=0.1, nonfinite="skip")
    weight.grad, bias.grad = torch.ones(3, 4), torch.ones(4)
    if not first_step:
        optimizer.step()
    if "momentum" in optimizer.param_groups[0]:
        optimizer.param_groups[0].update(momentum=0.9, centered=True)
    bias.grad[2] = bad
    versions = weight._version, bias._version
    for count in (1, 2):
        with Unchanged(optimizer):
            optimizer.step()
        assert optimizer.skipped_steps == count
    assert (weight._version, bias._version) == versions
    bias.grad[2] = 1.0
    optimizer.step()
    assert optimizer.skipped_steps == 2
    assert optimizer.state[bias]["step"].item() == (1 if first_step else 2)


@OURS
def test_a_gradient_that_is_not_finite_can_be_an_error_before_anything_is_written(ours):
    optimizer, _, bias = named(ours, nonfinite="raise")
    bias.grad[2] = float("nan")
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"'bias'.*grad"):
        optimizer.step()


BAD_STATE_DICTS = {
    "another number of parameters": lambda d: {**d, "param_groups": [{**d["param_groups"][0], "params": [0]}]},
    "another number of groups": lambda d: {**d, "param_groups": d["param_groups"] * 2},
    "no state": lambda d: {"param_groups": d["param_groups"]},
    "another shape": lambda d: {
        **d,
        "state": {**d["state"], 0: {n: torch.ones(7) if n != "step" else v for n, v in d["state"][0].items()}},
    },
    "a negative learning rate": lambda d: {**d, "param_groups": [{**d["param_groups"][0], "lr": -1.0}]},
    "text as state": lambda d: {**d, "state": {**d["state"], 0: {n: "text" for n in d["state"][0]}}},
    "a list": lambda d: [d],
    "another dtype": lambda d: with_entries(d, lambda name, value: value.long() if name != "step" else value),
    "complex numbers": lambda d: with_entries(d, lambda name, value: value * 1j if name != "step" else value),
    "a negative step count": lambda d: with_entries(d, lambda name, value: value - 9 if name == "step" else value),
    "no accumulator": lambda d: {**d, "state": {key: {"step": torch.ones(())} for key in d["state"]}},
    "state of the other optimizer": lambda d: other_optimizer(d),
    "state of no parameter": lambda d: {**d, "state": {**d["state"], 7: d["state"][0]}},
}


def with_entries(state_dict, change):
    state = {key: {n: change(n, v) for n, v in entry.items()} for key, entry in state_dict["state"].items()}
    return {**state_dict, "state": state}


def other_optimizer(state_dict):
    is_adagrad = "sum" in state_dict["state"][0]
    optimizer, *_ = named(rmsprop.torch.RMSprop if is_adagrad else rmsprop.torch.Adagrad)
    return optimizer.state_dict()


@OURS
@pytest.mark.parametrize("kind", BAD_STATE_DICTS)
def test_a_state_dict_that_does_not_fit_changes_nothing(ours, kind):
    optimizer, *_ = named(ours)
    bad = BAD_STATE_DICTS[kind](optimizer.state_dict())
    groups = [dict(group) for group in optimizer.param_groups]
    with Unchanged(optimizer), pytest.raises((ValueError, TypeError, KeyError, RuntimeError)):
        optimizer.load_state_dict(bad)
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == [
        {k: v for k, v in g.items() if k != "params"} for g in groups
    ]
    optimizer.step()


@OURS
def test_fake_tensors_are_refused_by_name(ours):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(3)
    with pytest.raises((RuntimeError, TypeError), match="'fake'"):
        ours([("fake", fake)])


@OURS
def test_wrapper_subclasses_without_memory_of_their_own_are_refused_by_name(ours):
    from torch.testing._internal.two_tensor import TwoTensor

    pair = torch.nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))
    with pytest.raises((RuntimeError, TypeError), match="'pair'"):
        ours([("pair", pair)])


@OURS
def test_a_step_in_the_middle_of_a_step_is_refused(ours):
    param = torch.ones(4, 3).t().requires_grad_()
    optimizer = ours([("w", param)])

    class Nosy(torch.Tensor):
        errors = ()

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.is_conj or "is_neg" in getattr(function, "__name__", ""):
                try:
                    optimizer.step()
                except RuntimeError as error:
                    cls.errors = (*cls.errors, str(error))
            return super().__torch_function__(function, types, args, kwargs)

    param.grad = torch.ones(4, 3).t().as_subclass(Nosy)
    optimizer.step()
    assert Nosy.errors
    assert all("in the middle of another step" in error for error in Nosy.errors)


@OURS
def test_two_threads_in_one_optimizer_step_one_after_the_other_or_are_refused(ours):
    def make():
        param = torch.ones(2_000_000, requires_grad=True)
        param.grad = torch.ones_like(param)
        return param, ours([param], lr=0.1, num_threads=1)

    param, optimizer = make()
    optimizer.step()
    outcomes = []

    def work():
        for _ in range(30):
            try:
                optimizer.step()
                outcomes.append("step")
            except RuntimeError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if outcome != "step"]
    assert all("in the middle of another step" in text for text in refused)
    taken = 1 + len(outcomes) - len(refused)
    expected, alone = make()
    for _ in range(taken):
        alone.step()
    assert torch.equal(param, expected)
    assert optimizer.state[param]["step"].item() == taken
    accumulators = [each.state[own][ours.rule.accumulator] for each, own in ((optimizer, param), (alone, expected))]
    assert torch.equal(*accumulators)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize(
    "options", [{}, {"centered": True, "momentum": 0.9, "weight_decay": 0.1}, {"clip_norm": 0.5}], ids=str
)
def test_parameters_and_state_have_the_bits_of_the_numpy_api(dtype, options):
    start = np.linspace(-1, 1, 33).astype(dtype)
    array, tensor = start.copy(), torch.from_numpy(start.copy()).requires_grad_()
    shared = {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, **options}
    numpy_optimizer = rmsprop.RMSprop([array], eps_in_sqrt=False, **shared)
    torch_optimizer = rmsprop.torch.RMSprop([tensor], **shared)
    for t in range(10):
        grad = np.sin(np.arange(33) + t).astype(dtype)
        tensor.grad = torch.from_numpy(grad.copy())
        numpy_optimizer.step([grad])
        torch_optimizer.step()
    assert_same_bits(tensor.detach().numpy(), array)
    for name, value in numpy_optimizer.state[0].items():
        if name != "step":
            assert_same_bits(torch_optimizer.state[tensor][name].numpy(), value)


def test_the_optimizers_for_arrays_refuse_tensors_and_say_which_take_them():
    with pytest.raises(TypeError, match=r"params\['w'\]: got Tensor, wanted a numpy.ndarray; .* in rmsprop\.torch"):
        rmsprop.RMSprop({"w": torch.ones(3)})


@pytest.mark.parametrize("kind", [rmsprop.torch.RMSprop, rmsprop.torch.Adagrad])
@pytest.mark.parametrize("lazy", [lambda t: t.conj(), lambda t: t.conj().imag], ids=["conjugated", "negated"])
@pytest.mark.parametrize("role", ["param", "state"])
def test_a_parameter_or_a_state_that_is_lazily_conjugated_or_negated_is_refused(kind, role, lazy):
    other = lazy(torch.ones(3, dtype=torch.complex64))
    param = other if role == "param" else other.clone().resolve_conj().resolve_neg()
    if role == "param":
        with pytest.raises(ValueError, match="lazily conjugated or negated"):
            kind([param])
        return
    param.grad = torch.ones_like(param)
    optimizer = kind([param])
    optimizer.step()
    before = param.clone()
    entry = optimizer.state[param]
    entry[next(name for name in entry if name != "step")] = other
    with pytest.raises(ValueError, match="lazily conjugated or negated"):
        optimizer.step()
    assert torch.equal(param, before)
