"""bfloat16 and float16 parameters are computed in float32 and rounded once, to nearest, ties to even."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from rmsprop import reference  # noqa: E402

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def with_every_kind_of_number(dtype, seed):
    """Return all 65,536 bit patterns, or as gradients those in another order."""
    patterns = np.arange(65536, dtype=np.uint16)
    if seed:
        patterns = np.random.default_rng(seed).permutation(patterns)
    return torch.from_numpy(patterns.view(np.int16)).view(dtype).clone()


def assert_same_16_bits(actual, expected):
    assert actual.dtype == expected.dtype
    nan = expected.isnan()
    assert torch.equal(actual.isnan(), nan)
    assert torch.equal(actual[~nan].view(torch.int16), expected[~nan].view(torch.int16))


@DTYPES
@pytest.mark.parametrize("options", [{}, {"centered": True}, {"momentum": 0.9, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("lr", [1e-3, 1e3], ids="lr={}".format)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_rmsprop_has_the_bits_of_the_reference_in_float32(dtype, options, lr):
    param = with_every_kind_of_number(dtype, 0).requires_grad_()
    state = {"square_avg": np.zeros(65536, np.float32)}
    if "centered" in options:
        state["grad_avg"] = np.zeros(65536, np.float32)
    if "momentum" in options:
        state["momentum_buffer"] = np.zeros(65536, np.float32)
    optimizer = rmsprop.torch.RMSprop([param], lr=lr, **options)
    for seed in range(1, 4):
        param.grad = with_every_kind_of_number(dtype, seed)
        expected = param.detach().float().numpy()
        reference.rmsprop_(
            expected, param.grad.float().numpy(), lr=lr, alpha=0.99, eps_in_sqrt=False, **options, **state
        )
        optimizer.step()
        assert_same_16_bits(param.detach(), torch.from_numpy(expected).to(dtype))
        for name, array in state.items():
            assert_same_bits(optimizer.state[param][name].numpy(), array)


@DTYPES
@pytest.mark.parametrize("lr", [1e-3, 1e3], ids="lr={}".format)
def test_adagrad_has_the_bits_of_the_reference_in_float32(dtype, lr):
    param = with_every_kind_of_number(dtype, 0).requires_grad_()
    total = np.zeros(65536, np.float32)
    optimizer = rmsprop.torch.Adagrad([param], lr=lr)
    for seed in range(1, 4):
        param.grad = with_every_kind_of_number(dtype, seed)
        expected = param.detach().float().numpy()
        reference.adagrad_(expected, param.grad.float().numpy(), total, lr=lr, eps=1e-10, eps_in_sqrt=False)
        optimizer.step()
        assert_same_16_bits(param.detach(), torch.from_numpy(expected).to(dtype))
        assert_same_bits(optimizer.state[param]["sum"].numpy(), total)


def stepped(optimizer_class, dtype, steps=3):
    param = torch.linspace(-1, 1, 9).to(dtype).requires_grad_()
    optimizer = optimizer_class([param], lr=0.01)
    for t in range(steps):
        param.grad = torch.full((9,), 0.1 + t).to(dtype)
        optimizer.step()
    return param, optimizer


@DTYPES
@pytest.mark.parametrize("name", ["RMSprop", "Adagrad"])
def test_float32_state_survives_state_dict_and_load_state_dict(dtype, name):
    optimizer_class = getattr(rmsprop.torch, name)
    param, optimizer = stepped(optimizer_class, dtype)
    twin = param.detach().clone().requires_grad_()
    other = optimizer_class([twin], lr=0.01)
    other.load_state_dict(optimizer.state_dict())
    entry = other.state[twin]
    key = optimizer_class.rule.accumulator
    assert entry[key].dtype == torch.float32
    assert torch.equal(entry[key], optimizer.state[param][key])
    param.grad = twin.grad = torch.full((9,), 0.3).to(dtype)
    optimizer.step()
    other.step()
    assert torch.equal(param, twin)


@DTYPES
@pytest.mark.parametrize("name", ["RMSprop", "Adagrad"])
def test_16_bit_state_of_torch_becomes_float32_and_goes_back(dtype, name):
    param, theirs = stepped(getattr(torch.optim, name), dtype)
    twin = param.detach().clone().requires_grad_()
    optimizer_class = getattr(rmsprop.torch, name)
    ours = optimizer_class([twin], lr=0.01)
    ours.load_state_dict(theirs.state_dict())
    key = optimizer_class.rule.accumulator
    assert ours.state[twin][key].dtype == torch.float32
    assert torch.equal(ours.state[twin][key], theirs.state[param][key].float())
    theirs.load_state_dict(ours.state_dict())
    theirs.step()


@DTYPES
@pytest.mark.parametrize("name", ["RMSprop", "Adagrad"])
def test_state_that_was_given_16_bits_becomes_float32_before_it_is_used(dtype, name):
    optimizer_class = getattr(rmsprop.torch, name)
    param, optimizer = stepped(optimizer_class, dtype)
    twin, expected = stepped(optimizer_class, dtype)
    key = optimizer_class.rule.accumulator
    optimizer.state[param][key] = optimizer.state[param][key].to(dtype)
    expected.state[twin][key].copy_(expected.state[twin][key].to(dtype))
    for each in (optimizer, expected):
        each.step()
    assert optimizer.state[param][key].dtype == torch.float32
    assert torch.equal(optimizer.state[param][key], expected.state[twin][key])
    assert torch.equal(param, twin)
