"""What an optimizer with one group for each parameter costs grows with their number, not with its square."""

import time

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from rmsprop.torch import step_in_backward  # noqa: E402
from torch_snapshots import OURS  # noqa: E402

FEW, MANY = 250, 4000
LINEAR = MANY / FEW  # 16; the square would be 256


def groups_of(count):
    return [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1} for _ in range(count)]


def constructing(ours, count):
    groups = groups_of(count)
    return lambda: ours(groups, num_threads=1)


def loading(ours, count):
    optimizer = ours(groups_of(count), num_threads=1)
    saved = optimizer.state_dict()
    return lambda: optimizer.load_state_dict(saved)


def stepping(ours, count):
    optimizer = ours(groups_of(count), num_threads=1)
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(2)
    optimizer.step()
    return optimizer.step


def registering(ours, count):
    optimizer = ours(groups_of(count), num_threads=1)
    module = torch.nn.ParameterList([group["params"][0] for group in optimizer.param_groups])
    return lambda: step_in_backward(module, optimizer)


def stepping_in_backward(ours, count):
    optimizer = ours(groups_of(count), num_threads=1)
    params = [group["params"][0] for group in optimizer.param_groups]
    step_in_backward(torch.nn.ParameterList(params), optimizer)
    return lambda: torch.autograd.backward([param.sum() for param in params])


KINDS = {
    "constructing": constructing,
    "stepping": stepping,
    "loading": loading,
    "registering step_in_backward": registering,
    "stepping in the backward pass": stepping_in_backward,
}


def shortest(kind, ours, count, repeats=3):
    times = []
    for _ in range(repeats):
        work = kind(ours, count)
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@OURS
@pytest.mark.parametrize("kind", KINDS)
def test_cost_is_linear_in_the_number_of_groups(ours, kind):
    shortest(KINDS[kind], ours, 8)
    ratios = [shortest(KINDS[kind], ours, MANY) / shortest(KINDS[kind], ours, FEW) for _ in range(2)]
    assert min(ratios) < 4 * LINEAR
