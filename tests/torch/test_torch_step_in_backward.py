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


@BOTH
def test_a_module_with_a_parameter_that_has_no_shape_yet_is_refused_as_a_whole(make):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LazyLinear(3))
    optimizer = make(model.parameters())
    with pytest.raises(ValueError, match="uninitialized parameter"):
        step_in_backward(model, optimizer)
    model(torch.ones(1, 4)).sum().backward()
    assert all(param.grad is not None for param in model.parameters())
    step_in_backward(model, optimizer)
    model.zero_grad()
    model(torch.ones(1, 4)).sum().backward()
    assert [float(optimizer.state[param]["step"]) for param in model.parameters()] == [1] * 4


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


# ---- Gradients that are used more than once, or come in parts --------------------------------------------------------


class Tied(torch.nn.Module):
    """A weight that is used three times, once through another name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))


def steps_equal_ordinary_ones(make, new, backward):
    one, other = new(), new()
    optimizers = [make(model.parameters()) for model in (one, other)]
    step_in_backward(one, optimizers[0])
    for t in range(3):
        for model, optimizer in zip((one, other), optimizers, strict=True):
            backward(model, optimizer, t)
            optimizer.step()
            optimizer.zero_grad()
    assert_same_params(one, other)
    assert all(float(entry["step"]) == 3 for entry in optimizers[0].state.values())


@BOTH
def test_a_parameter_that_is_used_several_times_is_stepped_once_with_its_whole_gradient(make):
    steps_equal_ordinary_ones(make, Tied, lambda model, _, t: loss_of(model, t).backward())


@BOTH
def test_checkpointed_segments_step_as_ordinary_ones(make):
    def backward(model, _, t):
        x = torch.sin(torch.arange(12.0) + t).reshape(3, 4)
        for _ in range(2):
            x = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        x.square().sum().backward()

    steps_equal_ordinary_ones(make, Tied, backward)


@BOTH
def test_a_backward_pass_inside_another_is_refused_before_a_part_of_a_gradient_is_stepped(make):
    model = Tied()
    optimizer = make(model.parameters())
    step_in_backward(model, optimizer)
    before = copy.deepcopy(model)
    x = torch.ones(3, 4, requires_grad=True)
    for _ in range(2):
        x = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        x.square().sum().backward()
    assert_same_params(model, before)


@BOTH
def test_several_losses_in_one_backward_pass_are_one_step(make):
    def backward(model, _, t):
        torch.autograd.backward([loss_of(model, t), loss_of(model, t + 1)])

    steps_equal_ordinary_ones(make, new_model, backward)


@BOTH
def test_a_gradient_that_was_there_before_counts_as_in_an_ordinary_step(make):
    def backward(model, _, t):
        for param in model.parameters():
            param.grad = torch.full_like(param, 0.5)
        loss_of(model, t).backward()

    steps_equal_ordinary_ones(make, new_model, backward)


@BOTH
def test_gradients_that_are_asked_for_alone_take_no_step(make):
    def backward(model, _, t):
        torch.autograd.grad(loss_of(model, t + 7), list(model.parameters()))
        loss_of(model, t).backward()

    steps_equal_ordinary_ones(make, new_model, backward)


@BOTH
def test_a_second_backward_pass_through_changed_weights_is_an_error_as_with_torch(make):
    model = new_model()
    optimizer = make(model.parameters())
    step_in_backward(model, optimizer)
    loss = loss_of(model, 0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@BOTH
def test_hooks_that_are_registered_twice_step_once(make):
    one, other = new_model(), new_model()
    optimizers = [make(model.parameters()) for model in (one, other)]
    for _ in range(2):
        step_in_backward(one, optimizers[0])
    loss_of(one, 0).backward()
    loss_of(other, 0).backward()
    optimizers[1].step()
    assert_same_params(one, other)


@BOTH
def test_steps_count_as_changes_for_autograd(make):
    """A graph that was recorded before a step must not be used after it."""
    model = new_model()
    step_in_backward(model, make(model.parameters()))
    versions = [param._version for param in model.parameters()]
    loss_of(model, 0).backward()
    assert all(param._version > version for param, version in zip(model.parameters(), versions, strict=True))


# ---- Groups that change meanwhile ------------------------------------------------------------------------------------


def groups_of(model):
    return [{"params": [param], "lr": 0.01 * (1 + i)} for i, param in enumerate(model.parameters())]


CHANGES = {
    "reversed": lambda optimizer: optimizer.param_groups.reverse(),
    "first one removed": lambda optimizer: optimizer.param_groups.pop(0),
    "last one removed": lambda optimizer: optimizer.param_groups.pop(),
    "all removed but one": lambda optimizer: optimizer.param_groups.__delitem__(slice(1, None)),
    "all in one": lambda optimizer: (
        optimizer.param_groups[0]["params"].extend(p for g in optimizer.param_groups[1:] for p in g["params"]),
        optimizer.param_groups.__delitem__(slice(1, None)),
    ),
    "a parameter removed": lambda optimizer: optimizer.param_groups[1]["params"].clear(),
    "one inserted": lambda optimizer: optimizer.param_groups.insert(
        0, {**optimizer.param_groups[0], "params": [torch.ones(2)]}
    ),
    "state loaded": lambda optimizer: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
}


@BOTH
@pytest.mark.parametrize("change", CHANGES)
def test_groups_may_be_reordered_and_removed_and_steps_stay_those_of_the_optimizer(make, change):
    models = new_model(), new_model()
    optimizers = [make(groups_of(model)) for model in models]
    step_in_backward(models[0], optimizers[0])
    for t in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            if t == 2:
                CHANGES[change](optimizer)
            for param in model.parameters():
                param.grad = None
            loss_of(model, t).backward()
            if model is models[1]:
                optimizer.step()
    assert_same_params(*models)
    stepped = {id(param) for group in optimizers[0].param_groups for param in group["params"]}
    for param in models[0].parameters():
        assert (param.grad is None) == (id(param) in stepped)


def test_messages_name_the_parameter_by_its_name_or_its_number_in_the_optimizer():
    for named, label in ((True, r"params\['1'\]"), (False, r"params\[1\]")):
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(3)) for _ in range(2)])
        params = list(model.named_parameters() if named else model.parameters())
        optimizer = rmsprop.torch.RMSprop([{"params": [each]} for each in params])
        step_in_backward(model, optimizer)
        optimizer.state[model[1]]["square_avg"] = torch.ones(4)
        with pytest.raises(ValueError, match=label.replace("params", "state") + ".*does not match " + label):
            model[1].sum().backward()
