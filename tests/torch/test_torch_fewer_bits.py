"""State of PyTorch's optimizers in bfloat16 and in 8 bits: the numbers of NumPy's, state dicts, and casts."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.10")

import rmsprop  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from rmsprop.torch import Adagrad, RMSprop, step_in_backward  # noqa: E402

STATE_DTYPES = ["bfloat16", "8bit"]
OURS = [RMSprop, Adagrad]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 5))


def backward(module, number):
    torch.manual_seed(number)
    module.zero_grad()
    module(torch.randn(8, 40)).square().mean().backward()


def assert_same_run(ours, theirs):
    for a, b in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(a, b)
        assert ours.state[a].keys() == theirs.state[b].keys()
        for name, value in ours.state[a].items():
            assert torch.equal(value, theirs.state[b][name])


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_run_has_the_bits_of_one_in_numpy(ours, state_dtype, dtype):
    torch.manual_seed(1)
    param = torch.randn(30, 20).to(dtype).requires_grad_()
    mirror = param.detach().float().numpy().copy()
    as_numpy = rmsprop._optimizer.storage.rounded_to_bfloat16(mirror) if dtype == torch.bfloat16 else mirror
    as_numpy = as_numpy.astype(np.float16) if dtype == torch.float16 else as_numpy
    numpys = rmsprop.RMSprop if ours is RMSprop else rmsprop.Adagrad
    hyperparameters = {"lr": 0.01, "eps": 1e-8, "eps_in_sqrt": True, "state_dtype": state_dtype, "seed": 7}
    optimizer, expected = ours([param], **hyperparameters), numpys([as_numpy], **hyperparameters)
    if ours is RMSprop:
        expected.param_groups[0]["alpha"] = optimizer.param_groups[0]["alpha"]
    for _ in range(4):
        param.grad = torch.randn(30, 20).to(dtype)
        optimizer.step()
        expected.step([param.grad.float().numpy()])
    assert_same_bits(param.detach().float().numpy(), as_numpy.astype(np.float32))
    for name, value in optimizer.state[param].items():
        if name != "step":
            array = expected.state[0][name]
            assert_same_bits(value.view(torch.uint8).numpy(), np.ascontiguousarray(array).view(np.uint8))


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("ours", OURS)
def test_a_run_goes_on_with_the_same_bits_from_a_state_dict(ours, state_dtype):
    first, second = model(), model()
    optimizer = ours(first.parameters(), state_dtype=state_dtype, seed=3)
    for number in range(3):
        backward(first, number)
        optimizer.step()
    second.load_state_dict(first.state_dict())
    other = ours(second.parameters(), state_dtype=state_dtype, seed=3)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(3, 6):
        for module, run in ((first, optimizer), (second, other)):
            backward(module, number)
            run.step()
    assert_same_run(optimizer, other)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_step_in_the_backward_pass_has_the_random_bits_of_an_ordinary_one(state_dtype):
    first, second = model(), model()
    optimizer, other = (RMSprop(m.parameters(), momentum=0.9, state_dtype=state_dtype, seed=3) for m in (first, second))
    step_in_backward(second, other)
    for number in range(3):
        backward(first, number)
        optimizer.step()
        backward(second, number)
    assert_same_run(optimizer, other)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_state_of_pytorchs_own_class_is_rounded_to_fewer_bits(state_dtype):
    module = model()
    backward(module, 0)
    theirs = torch.optim.RMSprop(module.parameters(), momentum=0.9)
    theirs.step()
    optimizer = RMSprop(module.parameters(), momentum=0.9, state_dtype=state_dtype)
    optimizer.load_state_dict(theirs.state_dict())
    dtype = torch.bfloat16 if state_dtype == "bfloat16" else torch.uint8
    for param in module.parameters():
        assert optimizer.state[param]["square_avg"].dtype == dtype
        assert optimizer.state[param]["momentum_buffer"].dtype == dtype
    optimizer.step()


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_state_is_cast_when_the_option_changes(state_dtype):
    module = model()
    backward(module, 0)
    optimizer = RMSprop(module.parameters(), momentum=0.9)
    optimizer.step()
    (param, *_) = module.parameters()
    full = optimizer.state[param]["square_avg"].clone()
    optimizer.param_groups[0].update(state_dtype=state_dtype, alpha=1.0)
    optimizer.step()
    assert optimizer.state[param]["square_avg"].dtype != torch.float32
    optimizer.param_groups[0]["state_dtype"] = None
    optimizer.step()
    state = optimizer.state[param]
    assert state["square_avg"].dtype == torch.float32
    assert "square_avg_scale" not in state
    torch.testing.assert_close(state["square_avg"], full, rtol=2 * STEP[state_dtype], atol=0)


STEP = {"bfloat16": 2.0**-7, "8bit": 2.0**-3}


@pytest.mark.parametrize(
    ("scales", "found"),
    [(None, "none"), (torch.zeros(2, dtype=torch.uint8), "torch.uint8 of shape"), (torch.zeros(5), "torch.float32")],
    ids=["none", "too few", "floats"],
)
def test_codes_without_the_scales_of_their_blocks_are_not_loaded(scales, found):
    module = model()
    backward(module, 0)
    optimizer = RMSprop(module.parameters(), state_dtype="8bit")
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0]["square_avg_scale"]
    if scales is not None:
        saved["state"][0]["square_avg_scale"] = scales
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"'square_avg' of torch.uint8 needs 'square_avg_scale'.*got {found}"):
        optimizer.load_state_dict(saved)
    for number, entry in before["state"].items():
        for name, value in entry.items():
            assert torch.equal(optimizer.state_dict()["state"][number][name], value)


def test_a_parameter_of_float64_is_refused():
    with pytest.raises(ValueError, match=r"params\[0\]: got float64 with state_dtype '8bit', wanted float32"):
        RMSprop([torch.ones(3, dtype=torch.float64, requires_grad=True)], state_dtype="8bit")


@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gradient_may_have_another_16_or_32_bit_dtype(param_dtype, grad_dtype):
    torch.manual_seed(0)
    param = torch.randn(600).to(param_dtype).requires_grad_()
    twin = param.detach().clone().requires_grad_()
    param.grad_dtype = grad_dtype
    twin.grad_dtype = torch.float32
    param.grad = torch.randn(600).to(grad_dtype)
    twin.grad = param.grad.float()
    for parameter in (param, twin):
        RMSprop([parameter]).step()
    assert torch.equal(param, twin)
