"""Hyperparameters of the PyTorch adapter: wrong ones are refused by name, at any time, and change nothing."""

import copy
import decimal
import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402
from hyperparameter_names import FLAGS, LIMITS, NUMBERS  # noqa: E402
from torch_snapshots import OURS, Unchanged, named  # noqa: E402

BAD_NUMBERS = (-0.001, math.nan, math.inf, -math.inf)
NOT_NUMBERS = ("0.1", None, 1j, True, [0.1], decimal.Decimal(1), lambda step: 0.1)
NOT_FLAGS = (1, 0.0, None, "yes")


def wrong_values(names, values, error):
    return [
        pytest.param(getattr(rmsprop.torch, ours), name, value, error, id=f"{ours}-{name}-{str(value)[:9]}")
        for ours, names_of_it in names.items()
        for name in names_of_it
        for value in values
        if not (name in LIMITS and value is None)
    ]


WRONG = [
    *wrong_values(NUMBERS, BAD_NUMBERS, ValueError),
    *wrong_values(NUMBERS, NOT_NUMBERS, TypeError),
    *wrong_values(FLAGS, NOT_FLAGS, TypeError),
    pytest.param(rmsprop.torch.RMSprop, "alpha", 1.5, ValueError, id="RMSprop-alpha-1.5"),
    pytest.param(rmsprop.torch.RMSprop, "alpha", 2, ValueError, id="RMSprop-alpha-2"),
]


@pytest.mark.parametrize(("ours", "name", "value", "error"), WRONG)
def test_a_wrong_hyperparameter_is_refused_by_name_wherever_it_comes_from(ours, name, value, error):
    message = rf"^(param_groups\[1\]: )?{name}: got .+, wanted "
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(error, match=message):
        ours([param], **{name: value})
    assert torch.equal(param.detach(), torch.ones(3))

    optimizer, *_ = named(ours)
    with Unchanged(optimizer), pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [("more", param)], name: value})
    assert len(optimizer.param_groups) == 1

    optimizer.param_groups[0][name] = value
    with Unchanged(optimizer), pytest.raises(error, match=message):
        optimizer.step()


def test_nesterov_without_momentum_is_refused():
    message = "nesterov: got True with momentum 0, wanted a momentum above 0 to look ahead with"
    with pytest.raises(ValueError, match=message):
        rmsprop.torch.RMSprop([torch.ones(3, requires_grad=True)], nesterov=True)
    optimizer, *_ = named(rmsprop.torch.RMSprop)
    optimizer.param_groups[0]["nesterov"] = True
    with Unchanged(optimizer), pytest.raises(ValueError, match=message):
        optimizer.step()


@OURS
@pytest.mark.parametrize("value", [*BAD_NUMBERS, 1j, True], ids=str)
def test_a_learning_rate_that_is_a_wrong_tensor_is_refused(ours, value):
    with pytest.raises((ValueError, TypeError), match=r"^lr: got "):
        ours([torch.ones(3, requires_grad=True)], lr=torch.tensor(value))
    optimizer, *_ = named(ours)
    optimizer.param_groups[0]["lr"] = torch.tensor(value)
    with Unchanged(optimizer), pytest.raises((ValueError, TypeError), match=r"^lr: got "):
        optimizer.step()


@OURS
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=str)
def test_a_scheduler_that_sets_a_wrong_learning_rate_later_is_noticed_by_the_step(ours, value):
    optimizer, *_ = named(ours)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 if t < 1 else value)
    optimizer.step()
    scheduler.step()
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"^lr: got "):
        optimizer.step()


@OURS
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_learning_rate_of_zero_leaves_the_parameters_and_advances_the_state(ours, lr):
    param = torch.linspace(-1, 1, 33, requires_grad=True)
    before = param.detach().clone()
    optimizer = ours([param], lr=lr)
    param.grad = torch.full((33,), 0.5)
    sums = []
    for count in (1, 2):
        optimizer.step()
        assert optimizer.state[param]["step"].item() == count
        sums.append(optimizer.state[param][ours.rule.accumulator].clone())
    assert torch.equal(param.detach(), before)
    assert (sums[0] > 0).all()
    assert (sums[1] > sums[0]).all()


@OURS
@pytest.mark.parametrize("count", [2**24, 2**31, 2**53 - 3])
def test_a_step_count_is_exact_past_what_float32_can_count(ours, count):
    params = [torch.ones(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    first, second = (ours([param], lr=0.1) for param in params)
    for param, optimizer in zip(params, (first, second), strict=True):
        param.grad = torch.full((5,), 0.5, dtype=torch.float64)
        optimizer.step()
    first.state[params[0]]["step"].fill_(count)
    saved = copy.deepcopy(first.state_dict())
    assert saved["state"][0]["step"].item() == count
    second.load_state_dict(saved)
    for more in (1, 2, 3):
        second.step()
        assert second.state[params[1]]["step"].item() == count + more


@OURS
@pytest.mark.parametrize(
    "params",
    [[[1.0]], [None], "ab", 5, None, [], torch.ones(3), [torch.ones(3).numpy()]],
    ids=["lists", "None among them", "str", "int", "None", "nothing", "a tensor", "arrays"],
)
def test_what_is_no_list_of_tensors_is_refused_and_never_copied(ours, params):
    with pytest.raises((TypeError, ValueError)):
        ours(params)


@OURS
def test_a_parameter_that_is_computed_from_others_is_refused(ours):
    with pytest.raises(ValueError, match="non-leaf"):
        ours([torch.ones(3, requires_grad=True) * 2])
