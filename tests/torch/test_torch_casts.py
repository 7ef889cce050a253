"""Parameters whose dtype changes between steps: their state follows at the next step, all of it or nothing."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_snapshots import OURS, Unchanged  # noqa: E402

CASTS = {
    "double": (lambda m: m.double(), torch.float64),
    "half": (lambda m: m.half(), torch.float32),
    "bfloat16": (lambda m: m.to(torch.bfloat16), torch.float32),
    "double and back": (lambda m: m.double().float(), torch.float32),
}


def stepped(ours, count=2):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    more = {"momentum": 0.9, "centered": True} if ours.rule.name == "rmsprop" else {}
    optimizer = ours(layer.named_parameters(), lr=0.1, **more)
    for _ in range(count):
        give_gradients(layer)
        optimizer.step()
    return layer, optimizer


def give_gradients(layer):
    for param in layer.parameters():
        param.grad = torch.linspace(-1, 1, param.numel()).reshape(param.shape).to(param.dtype)


@OURS
@pytest.mark.parametrize("cast", CASTS)
def test_state_is_cast_at_the_next_step_and_keeps_its_values(ours, cast):
    change, dtype = CASTS[cast]
    layer, optimizer = stepped(ours)
    change(layer)
    expected = copy.deepcopy(optimizer)
    for entry in expected.state.values():
        entry.update({name: value.to(dtype) for name, value in entry.items() if name != "step"})
    for each in (optimizer, expected):
        for param in each.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        each.step()
    for (param, entry), (twin, other) in zip(optimizer.state.items(), expected.state.items(), strict=True):
        assert torch.equal(param, twin)
        assert {name: value.dtype for name, value in entry.items() if name != "step"} == dict.fromkeys(
            [name for name in entry if name != "step"], dtype
        )
        assert all(torch.equal(value, other[name]) for name, value in entry.items())


@OURS
def test_a_narrower_dtype_is_followed_too(ours):
    layer, optimizer = stepped(ours)
    layer.double()
    give_gradients(layer)
    optimizer.step()
    layer.float()
    give_gradients(layer)
    optimizer.step()
    assert all(value.dtype == torch.float32 for e in optimizer.state.values() for n, value in e.items() if n != "step")


@OURS
def test_a_step_that_fails_after_a_cast_leaves_the_state_as_it_was(ours):
    layer, optimizer = stepped(ours)
    layer.double()
    give_gradients(layer)
    layer.bias.grad = layer.bias.data
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"params\['bias'\]"):
        optimizer.step()


@OURS
def test_only_parameters_with_a_gradient_have_their_state_cast(ours):
    layer, optimizer = stepped(ours)
    layer.double()
    layer.zero_grad()
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    name = ours.rule.accumulator
    assert optimizer.state[layer.weight][name].dtype == torch.float64
    assert optimizer.state[layer.bias][name].dtype == torch.float32


@OURS
def test_state_of_a_cast_parameter_can_be_saved_and_loaded(ours):
    layer, optimizer = stepped(ours)
    layer.double()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert optimizer.state[layer.weight][ours.rule.accumulator].dtype == torch.float64
    give_gradients(layer)
    optimizer.step()


@OURS
def test_a_group_can_be_added_after_a_cast(ours):
    layer, optimizer = stepped(ours)
    layer.double()
    optimizer.add_param_group({"params": [("more", torch.ones(3, requires_grad=True))]})
    give_gradients(layer)
    optimizer.step()


@OURS
def test_a_step_in_the_backward_pass_casts_too(ours):
    import rmsprop.torch

    layer, optimizer = stepped(ours)
    layer.zero_grad()
    registration = rmsprop.torch.step_in_backward(layer, optimizer)
    layer.double()
    layer(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    registration.remove()
    assert layer.weight.grad is None
    assert optimizer.state[layer.weight][ours.rule.accumulator].dtype == torch.float64


# ---- Gradients of another dtype than the parameter's -----------------------------------------------------------------

PACKED = pytest.mark.parametrize("packed", [torch.bfloat16, torch.float16], ids=str)
HAS_GRAD_DTYPE = pytest.mark.skipif(
    not hasattr(torch.Tensor, "grad_dtype"), reason="this PyTorch has one dtype for both"
)


def stepped_along(ours, values, grads, dtype):
    """Step a parameter along gradients of any dtype, its values rounded to `dtype` after each step."""
    param = torch.nn.Parameter(values.clone())
    param.grad_dtype = None
    optimizer = ours([param], lr=0.1)
    for grad in grads:
        param.grad = grad
        optimizer.step()
        param.data.copy_(param.data.to(dtype))
    return param, optimizer.state[param][ours.rule.accumulator]


@OURS
@PACKED
@HAS_GRAD_DTYPE
def test_a_16_bit_parameter_steps_along_a_float32_gradient_that_is_not_rounded(ours, packed):
    grads = [torch.linspace(-1, 1, 9) * (1 + 2**-20), torch.linspace(1, -1, 9)]
    values = torch.linspace(-2, 2, 9).to(packed)
    param, state = stepped_along(ours, values, grads, packed)
    wide, expected = stepped_along(ours, values.float(), grads, packed)
    assert torch.equal(param, wide.to(packed))
    assert torch.equal(state, expected)
