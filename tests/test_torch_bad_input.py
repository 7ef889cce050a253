"""Bad input raises what PyTorch raises, names the parameter, and leaves every byte as it was."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop  # noqa: E402
import rmsprop.torch  # noqa: E402
from bits import assert_same_bits  # noqa: E402

OURS = pytest.mark.parametrize("ours", [rmsprop.torch.RMSprop, rmsprop.torch.Adagrad], ids=["RMSprop", "Adagrad"])


def bytes_of(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


class Unchanged:
    """Asserts that parameters and state are, to the byte, what they were at the start of the block."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        self.before = self.snapshot()

    def __exit__(self, error_type, error, traceback):
        if error is None:
            assert self.snapshot() == self.before

    def snapshot(self):
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        return [bytes_of(param) for param in params], [
            (id(param), [(name, id(value), bytes_of(value.reshape(-1))) for name, value in entry.items()])
            for param, entry in self.optimizer.state.items()
        ]


def named(ours, **options):
    """Return an optimizer with parameters "weight" and "bias" that took a step, and has gradients for another."""
    weight, bias = torch.ones(3, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer = ours([("weight", weight), ("bias", bias)], lr=0.1, **options)
    for param in (weight, bias):
        param.grad = torch.ones_like(param)
    optimizer.step()
    return optimizer, weight, bias


TENSORS_WITHOUT_A_STEP = {
    "meta": lambda: torch.ones(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "integers": lambda: torch.ones(3, dtype=torch.int64),
    "bools": lambda: torch.ones(3, dtype=torch.bool),
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


@OURS
def test_parameters_that_share_memory_are_refused(ours):
    base = torch.ones(6)
    with pytest.raises(ValueError, match=r"'b'.*shares memory with.*'a'|'a'.*shares memory with.*'b'"):
        ours([("a", base[:4].requires_grad_()), ("b", base[2:].requires_grad_())])


@OURS
def test_a_parameter_whose_own_elements_share_memory_is_refused(ours):
    with pytest.raises(ValueError, match=r"'wide'.*share memory"):
        ours([("wide", torch.ones(1).expand(4).requires_grad_())])


@OURS
def test_a_gradient_that_is_the_parameter_is_refused(ours):
    optimizer, weight, _ = named(ours)
    weight.grad = weight.detach()
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"'weight'.*shares memory"):
        optimizer.step()


BAD_STATE = {
    "shape": (lambda t: t[:2].clone(), ValueError),
    "dtype": (lambda t: t.double(), TypeError),
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
    optimizer, weight, bias = named(ours)
    entry = optimizer.state[weight]
    good, before = entry[ours.accumulator], bytes_of(weight)
    entry[ours.accumulator] = change(good)
    step_before = entry["step"].item()
    with pytest.raises(error, match=rf"'weight'.*{ours.accumulator}"):
        optimizer.step()
    entry[ours.accumulator] = good
    assert bytes_of(weight) == before
    assert entry["step"].item() == step_before == optimizer.state[bias]["step"].item()


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


BAD_GROUP = {
    "lr": float("nan"),
    "eps": -1.0,
    "weight_decay": "much",
    "clip_norm": -1.0,
    "clip_value": float("nan"),
}


@OURS
@pytest.mark.parametrize("name", BAD_GROUP)
def test_a_hyperparameter_out_of_range_is_named_and_nothing_changes(ours, name):
    optimizer, *_ = named(ours)
    optimizer.param_groups[0][name] = BAD_GROUP[name]
    with Unchanged(optimizer), pytest.raises((ValueError, TypeError), match=name):
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
}


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
    param = torch.ones(2_000_000, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = ours([param], num_threads=1)
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
    assert optimizer.state[param]["step"].item() == 1 + len(outcomes) - len(refused)


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
