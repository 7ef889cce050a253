"""Steps inside the backward pass: the bits of ordinary ones, with fewer gradients in memory."""

import copy
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402
from rmsprop.torch import step_in_backward  # noqa: E402

OPTIMIZERS = {
    "RMSprop": lambda params: rmsprop.torch.RMSprop(params, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda params: rmsprop.torch.Adagrad(params, lr=0.1, lr_decay=0.1),
}
BOTH = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))


def new_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def loss_of(model, t):
    x = torch.sin(torch.arange(12.0) + t).reshape(3, 4)
    return model(x).square().sum()


def assert_same_params(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@BOTH
def test_same_bits_as_ordinary_steps_under_a_scheduler(make):
    one = new_model()
    other = copy.deepcopy(one)
    optimizers = [make(model.parameters()) for model in (one, other)]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]
    step_in_backward(one, optimizers[0])
    for t in range(6):
        for model, optimizer, scheduler in zip((one, other), optimizers, schedulers, strict=True):
            loss_of(model, t).backward()
            if model is one:
                assert all(param.grad is None for param in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    assert_same_params(one, other)
    for mine, their in zip(one.parameters(), other.parameters(), strict=True):
        for name, value in optimizers[1].state[their].items():
            assert torch.equal(optimizers[0].state[mine][name], value)


@BOTH
def test_after_remove_steps_are_ordinary_again(make):
    model = new_model()
    registration = step_in_backward(model, make(model.parameters()))
    registration.remove()
    before = copy.deepcopy(model)
    loss_of(model, 0).backward()
    assert all(param.grad is not None for param in model.parameters())
    assert_same_params(model, before)


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"nonfinite": "skip"}, {"nonfinite": "raise"}], ids=str)
def test_what_needs_all_gradients_is_refused_at_once_by_name(options):
    model = new_model()
    with pytest.raises(ValueError, match=next(iter(options))):
        step_in_backward(model, rmsprop.torch.RMSprop(model.parameters(), **options))


def test_clipping_by_norm_switched_on_later_is_refused_in_the_backward_pass():
    model = new_model()
    optimizer = rmsprop.torch.RMSprop(model.parameters())
    step_in_backward(model, optimizer)
    optimizer.param_groups[0]["clip_norm"] = 1.0
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="clip_norm"):
        loss_of(model, 0).backward()
    assert_same_params(model, before)


@pytest.mark.parametrize(
    ("make_arguments", "error", "message"),
    [
        (lambda m: (list(m.parameters()), rmsprop.torch.RMSprop(m.parameters())), TypeError, "module: got list"),
        (lambda m: (m, torch.optim.RMSprop(m.parameters())), TypeError, "optimizer: got RMSprop"),
        (lambda m: (m, rmsprop.torch.RMSprop(new_model().parameters())), ValueError, "module: "),
    ],
    ids=["no module", "another optimizer", "no common parameter"],
)
def test_wrong_arguments_are_named(make_arguments, error, message):
    with pytest.raises(error, match=message):
        step_in_backward(*make_arguments(new_model()))


def test_peak_memory_is_lower_by_nearly_the_size_of_the_gradients():
    code = """if True:
        import pathlib, re, sys
        import torch, rmsprop.torch
        torch.set_num_threads(1)
        layers, width = 24, 1024  # 4 MiB each
        model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(layers)))
        optimizer = rmsprop.torch.RMSprop(model.parameters(), lr=1e-4, num_threads=1)
        if sys.argv[1] == "in backward":
            rmsprop.torch.step_in_backward(model, optimizer)
        for _ in range(2):
            model(torch.ones(1, width)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        status = pathlib.Path("/proc/self/status").read_text()
        print(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
    """

    # Every array in a mapping of its own: what is measured is what is alive, not what the allocator keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}

    def peak(kind):
        command = [sys.executable, "-c", code, kind]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout) / 1024

    assert peak("ordinary") - peak("in backward") > 0.8 * 24 * 4
