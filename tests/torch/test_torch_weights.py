"""Weights of bfloat16 in PyTorch, split or rounded stochastically, and the average of the weights."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.10")

import rmsprop  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from rmsprop import reference  # noqa: E402
from rmsprop.torch import Adagrad, RMSprop, step_in_backward  # noqa: E402

OURS = [RMSprop, Adagrad]


def joined(param, low):
    words = param.detach().view(torch.int16).numpy().view(np.uint16)
    return reference.decode_split(words.reshape(-1), low.numpy().reshape(-1))


@pytest.mark.parametrize("ours", OURS)
def test_a_run_with_split_weights_has_the_bits_of_one_with_float32_weights(ours):
    torch.manual_seed(0)
    param = torch.randn(40, 30, dtype=torch.bfloat16, requires_grad=True)
    twin = param.detach().float().requires_grad_()
    optimizer, expected = ours([param], lr=1e-3, master_weights="split"), ours([twin], lr=1e-3)
    for _ in range(30):
        param.grad = torch.randn(40, 30).bfloat16()
        twin.grad = param.grad.float()
        optimizer.step()
        expected.step()
    assert optimizer.state[param]["param_low"].dtype == torch.int16
    assert_same_bits(joined(param, optimizer.state[param]["param_low"]), twin.detach().numpy().reshape(-1))


@pytest.mark.parametrize(
    "options", [{"master_weights": "split"}, {"stochastic_rounding": True, "seed": 4}, {"ema_decay": 0.9}], ids=str
)
def test_a_run_goes_on_from_a_state_dict(options):
    torch.manual_seed(1)
    first = torch.randn(600, dtype=torch.bfloat16, requires_grad=True)
    grads = [torch.randn(600).bfloat16() for _ in range(6)]
    optimizer = RMSprop([first], **options)
    for grad in grads[:3]:
        first.grad = grad
        optimizer.step()
    second = first.detach().clone().requires_grad_()
    other = RMSprop([second], **options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for grad in grads[3:]:
        for param, run in ((first, optimizer), (second, other)):
            param.grad = grad
            run.step()
    assert torch.equal(first, second)
    for name, value in optimizer.state[first].items():
        assert torch.equal(value, other.state[second][name])


def test_the_average_is_that_of_numpy_and_begins_with_the_weights():
    torch.manual_seed(2)
    param = torch.randn(300, requires_grad=True)
    mirror = param.detach().numpy().copy()
    optimizer = RMSprop([param], lr=0.01, ema_decay=0.9)
    expected = rmsprop.RMSprop(mirror, lr=0.01, alpha=0.99, eps_in_sqrt=False, ema_decay=0.9)
    for _ in range(4):
        param.grad = torch.randn(300)
        optimizer.step()
        expected.step(param.grad.numpy())
    assert_same_bits(optimizer.state[param]["ema"].numpy(), expected.state[0]["ema"])


def test_parameters_hold_their_average_inside_and_their_own_values_afterwards():
    torch.manual_seed(3)
    layer = torch.nn.Linear(4, 3)
    optimizer = RMSprop(layer.parameters(), lr=0.1, ema_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    own = [param.detach().clone() for param in layer.parameters()]
    with optimizer.ema_weights():
        for param in layer.parameters():
            assert torch.equal(param, optimizer.state[param]["ema"])
        with pytest.raises(RuntimeError, match="ema_weights"):
            optimizer.step()
    for param, before in zip(layer.parameters(), own, strict=True):
        assert torch.equal(param, before)


def test_without_an_average_there_is_nothing_to_hold():
    optimizer = RMSprop([torch.ones(3, requires_grad=True)])
    with pytest.raises(ValueError, match="ema_weights: no parameter has an average"), optimizer.ema_weights():
        pass


def test_a_step_in_the_backward_pass_updates_halves_and_averages():
    torch.manual_seed(4)
    first = torch.nn.Linear(40, 30).bfloat16()
    second = copy.deepcopy(first)
    options = {"master_weights": "split", "ema_decay": 0.9, "state_dtype": "8bit"}
    optimizer, other = RMSprop(first.parameters(), **options), RMSprop(second.parameters(), **options)
    step_in_backward(second, other)
    for number in range(3):
        for module, run in ((first, optimizer), (second, None)):
            torch.manual_seed(number)
            module.zero_grad()
            module(torch.randn(8, 40).bfloat16()).square().mean().backward()
            if run is not None:
                run.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in optimizer.state[a].items():
            assert torch.equal(value, other.state[b][name])


def test_a_low_half_of_another_dtype_is_not_loaded():
    param = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = RMSprop([param], master_weights="split")
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["param_low"] = saved["state"][0]["param_low"].float()
    with pytest.raises(TypeError, match=r"'param_low' of torch.float32 does not match"):
        optimizer.load_state_dict(saved)


def test_weights_that_cannot_be_split_are_refused_by_name():
    with pytest.raises(ValueError, match=r"params\[0\]: got float32 with master_weights 'split', wanted bfloat16"):
        RMSprop([torch.ones(3, requires_grad=True)], master_weights="split")
