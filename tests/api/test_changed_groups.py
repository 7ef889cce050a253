"""Groups that change while, or after, they are read: a step has the hyperparameters that are in them by then."""

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits


def stepped(*rates, **options):
    """Return parameters after steps with these learning rates."""
    param = np.ones(5)
    optimizer = rmsprop.RMSprop([param], **options)
    for rate in rates:
        optimizer.lr = rate
        optimizer.step([np.ones(5)])
    return param


def test_a_schedule_that_puts_a_number_into_its_place_is_followed_by_that_number():
    def schedule(_):
        optimizer.lr = 0.25
        return 0.5

    param = np.ones(5)
    optimizer = rmsprop.RMSprop([param])
    optimizer.lr = schedule
    for _ in range(3):
        optimizer.step([np.ones(5)])
    assert_same_bits(param, stepped(0.5, 0.25, 0.25))


@pytest.mark.parametrize("name", ["lr", "alpha", "weight_decay"])
def test_a_number_that_changes_its_group_when_it_is_read_counts_for_later_steps(name):
    class Once(int):
        def __float__(self):
            optimizer.param_groups[0].update({name: 0.125, "eps": 1e-8})
            return 1e-8

    param, expected = np.ones(5), np.ones(5)
    optimizer, other = (rmsprop.RMSprop([array], lr=0.5, alpha=0.5) for array in (param, expected))
    optimizer.param_groups[0]["eps"] = Once()
    optimizer.step([np.ones(5)])
    other.step([np.ones(5)])
    param[:] = expected
    optimizer.state[0]["square_avg"][:] = other.state[0]["square_avg"]
    other.param_groups[0][name] = 0.125
    optimizer.step([np.ones(5)])
    other.step([np.ones(5)])
    assert_same_bits(param, expected)


def test_a_list_of_parameters_under_another_key_too_does_not_stay_when_the_parameters_are_replaced():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from rmsprop.torch import RMSprop

    first, second = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = RMSprop([first, second])
    optimizer.param_groups[0]["all"] = optimizer.param_groups[0]["params"]
    for param in (first, second):
        param.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["params"] = [second]
    before = first.detach().clone()
    optimizer.step()
    assert torch.equal(first.detach(), before)
    assert optimizer.state[second]["step"] == 2
