"""The optimizers do what every optimizer of PyTorch does."""

import copy
import gc
import io
import pickle
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import rmsprop.torch  # noqa: E402

PAIRS = {
    "RMSprop": (rmsprop.torch.RMSprop, torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "Adagrad": (rmsprop.torch.Adagrad, torch.optim.Adagrad, {"lr_decay": 0.1}),
}
OURS = pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS.values()], ids=list(PAIRS))
BOTH = pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS.values(), ids=list(PAIRS))


def run_python(code):
    """Run code in a Python of its own and return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def new_params(count=2):
    return [torch.linspace(-1, 1, 6 + i, dtype=torch.float64).requires_grad_() for i in range(count)]


def step(optimizer, t, *, closure=None):
    for group in optimizer.param_groups:
        for i, param in enumerate(group["params"]):
            param.grad = torch.sin(torch.arange(param.numel(), dtype=param.dtype) + t + i).reshape(param.shape)
    return optimizer.step(closure)


def all_params(optimizer):
    return [param for group in optimizer.param_groups for param in group["params"]]


def assert_close(actual, expected):
    for mine, their in zip(all_params(actual), all_params(expected), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-12)


def assert_equal(actual, expected):
    for mine, their in zip(all_params(actual), all_params(expected), strict=True):
        assert torch.equal(mine, their)
        assert actual.state[mine].keys() == expected.state[their].keys()
        for name, value in expected.state[their].items():
            assert torch.equal(actual.state[mine][name], value)
            assert actual.state[mine][name].dtype == value.dtype


# ---- Groups, closures, hooks -----------------------------------------------------------------------------------------


@BOTH
def test_groups_with_names_and_their_own_hyperparameters(ours, theirs, options):
    optimizers = []
    for optimizer_class in (ours, theirs):
        params = new_params(3)
        groups = [{"params": [("a", params[0]), ("b", params[1])]}, {"params": [("c", params[2])], "lr": 0.5}]
        optimizers.append(optimizer_class(groups, lr=0.1, **options))
    for t in range(5):
        for optimizer in optimizers:
            step(optimizer, t)
    assert_close(*optimizers)
    assert [group["param_names"] for group in optimizers[0].param_groups] == [["a", "b"], ["c"]]
    assert optimizers[0].state_dict()["param_groups"][1]["param_names"] == ["c"]


@OURS
def test_a_closure_is_called_with_gradients_enabled_and_its_loss_returned(ours):
    param = torch.ones(3, requires_grad=True)
    optimizer = ours([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 3.0
    assert (param < 1).all()
    assert optimizer.step() is None


@OURS
def test_zero_grad_frees_or_zeroes(ours):
    param = torch.ones(3, requires_grad=True)
    optimizer = ours([param])
    param.grad = torch.ones(3)
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(param.grad, torch.zeros(3))
    optimizer.zero_grad()
    assert param.grad is None


@OURS
def test_a_skipped_step_makes_no_state(ours):
    param = torch.ones(3, requires_grad=True)
    optimizer = ours([param], nonfinite="skip")
    before = dict(optimizer.state.get(param, {}))
    param.grad = torch.full((3,), float("nan"))
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert dict(optimizer.state.get(param, {})) == before


@OURS
def test_step_hooks_of_the_optimizer_and_global_ones_run_in_order(ours):
    optimizer = ours(new_params())
    seen = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: seen.append("global post")),
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append("pre")),
        optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append("post")),
    ]
    try:
        step(optimizer, 0)
        assert sorted(seen[:2]) == ["global pre", "pre"]
        assert sorted(seen[2:]) == ["global post", "post"]
    finally:
        for handle in handles:
            handle.remove()
    step(optimizer, 1)
    assert len(seen) == 4


@OURS
@pytest.mark.parametrize("kind", ["global pre", "global post", "pre", "post"])
def test_a_hook_runs_where_it_is_the_only_one(ours, kind):
    optimizer = ours(new_params())
    register = {
        "global pre": register_optimizer_step_pre_hook,
        "global post": register_optimizer_step_post_hook,
        "pre": optimizer.register_step_pre_hook,
        "post": optimizer.register_step_post_hook,
    }
    seen = []
    handle = register[kind](lambda *_: seen.append(kind))
    step(optimizer, 0)
    handle.remove()
    step(optimizer, 1)
    assert seen == [kind]


@OURS
def test_loading_leaves_no_hook_behind_whether_it_succeeds_or_not(ours):
    optimizer = ours(new_params())
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    assert not optimizer._optimizer_load_state_dict_pre_hooks


@OURS
def test_only_the_accumulator_starts_at_its_initial_value(ours):
    (param,) = new_params(1)
    more = {"momentum": 0.9, "centered": True} if ours is rmsprop.torch.RMSprop else {}
    optimizer = ours([param], lr=0.1, initial_accumulator_value=0.5, **more)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    for name in ours.rule.state:
        expected = 0.5 * optimizer.param_groups[0].get("alpha", 1.0) if name == ours.rule.accumulator else 0.0
        torch.testing.assert_close(optimizer.state[param][name], torch.full_like(param, expected).detach())


@OURS
def test_state_dict_hooks_run(ours):
    optimizer = ours(new_params())
    seen = []
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append("pre save"))
    optimizer.register_state_dict_post_hook(lambda opt, state_dict: {**state_dict, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda opt, state_dict: seen.append("pre load"))
    optimizer.register_load_state_dict_post_hook(lambda opt: seen.append("post load"))
    saved = optimizer.state_dict()
    assert saved["extra"] == 1
    optimizer.load_state_dict(saved)
    assert seen == ["pre save", "pre load", "post load"]


@OURS
def test_the_profiler_shows_the_label_of_a_step(ours):
    optimizer = ours(new_params())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(optimizer, 0)
    assert f"Optimizer.step#{ours.__name__}.step" in {event.key for event in profile.key_averages()}


# ---- Learning rates --------------------------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.9**t),
    "MultiplicativeLR": lambda opt: torch.optim.lr_scheduler.MultiplicativeLR(opt, lambda t: 0.9),
    "StepLR": lambda opt: torch.optim.lr_scheduler.StepLR(opt, 2),
    "MultiStepLR": lambda opt: torch.optim.lr_scheduler.MultiStepLR(opt, [2, 4]),
    "ConstantLR": lambda opt: torch.optim.lr_scheduler.ConstantLR(opt, total_iters=3),
    "LinearLR": lambda opt: torch.optim.lr_scheduler.LinearLR(opt),
    "ExponentialLR": lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.9),
    "PolynomialLR": lambda opt: torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=6),
    "CosineAnnealingLR": lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6),
    "CosineAnnealingWarmRestarts": lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 3),
    "CyclicLR": lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, 0.01, 0.1, 2, cycle_momentum=False),
    "OneCycleLR": lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9, cycle_momentum=False),
    "ReduceLROnPlateau": lambda opt: torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=1),
    "SequentialLR": lambda opt: torch.optim.lr_scheduler.SequentialLR(
        opt, [torch.optim.lr_scheduler.ConstantLR(opt), torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
    "ChainedScheduler": lambda opt: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.ConstantLR(opt), torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
    "SWALR": lambda opt: torch.optim.swa_utils.SWALR(opt, swa_lr=0.02, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_tried():
    base = torch.optim.lr_scheduler.LRScheduler
    names = set(torch.optim.lr_scheduler.__all__) - {"LRScheduler"}
    assert {name for name in names if issubclass(getattr(torch.optim.lr_scheduler, name), base)} <= set(SCHEDULERS)


@BOTH
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(ours, theirs, options, name, tensor_lr):
    optimizers = []
    for optimizer_class in (ours, theirs):
        lr = torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1
        optimizers.append(optimizer_class(new_params(), lr=lr, **options))
    for optimizer in optimizers:
        scheduler = SCHEDULERS[name](optimizer)
        for t in range(8):
            step(optimizer, t)
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert_close(*optimizers)
    first, second = (float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers)
    assert first == second


# ---- Saving and loading ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_state_dicts_of_torch_can_be_loaded_either_way_and_runs_continue_equal(ours, theirs, options, direction):
    source, target = (theirs, ours) if direction == "from torch" else (ours, theirs)
    first = source(new_params(), lr=0.1, **options)
    for t in range(4):
        step(first, t)
    second = target([param.detach().clone().requires_grad_() for param in all_params(first)], lr=9.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch's class would share the tensors
    if direction == "to torch":
        for entry in second.state.values():
            assert entry.keys() <= {"step", "square_avg", "grad_avg", "momentum_buffer", "sum"}
    for t in range(4, 12):
        step(first, t)
        step(second, t)
    assert_close(first, second)
    assert [float(e["step"]) for e in second.state.values()] == [12.0, 12.0]


def loaded_into_another(optimizer, state_dict):
    other = type(optimizer)([p.detach().clone().requires_grad_() for p in all_params(optimizer)], lr=9.0)
    other.load_state_dict(state_dict)
    return other


def through_torch_save(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return loaded_into_another(optimizer, torch.load(file, weights_only=True))


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "torch.save": through_torch_save,
    "state_dict": lambda optimizer: loaded_into_another(optimizer, optimizer.state_dict()),
}


@BOTH
@pytest.mark.parametrize("way", WAYS)
def test_copies_continue_with_the_same_bits_and_share_nothing(ours, theirs, options, way):
    optimizer = ours(new_params(), lr=0.1, **options)
    for t in range(3):
        step(optimizer, t)
    other = WAYS[way](optimizer)
    assert_equal(other, optimizer)
    before = [param.detach().clone() for param in all_params(other)]
    step(optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, all_params(other), strict=True))
    step(other, 3)
    assert_equal(other, optimizer)


@pytest.mark.parametrize("way", WAYS)
def test_copies_may_be_made_before_the_step_that_first_needs_more_state(way):
    optimizer = rmsprop.torch.RMSprop(new_params(), lr=0.1)
    step(optimizer, 0)
    optimizer.param_groups[0].update(centered=True, momentum=0.9)
    before = {param: dict(entry) for param, entry in optimizer.state.items()}
    other = WAYS[way](optimizer)
    assert dict(optimizer.state) == before, "a copy left state behind in what was copied"
    step(optimizer, 1)
    step(other, 1)
    assert_equal(other, optimizer)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@OURS
def test_copies_keep_what_is_not_in_groups(ours, way):
    optimizer = ours(new_params(), nonfinite="skip", num_threads=1)
    for param in all_params(optimizer):
        param.grad = torch.full_like(param, float("nan"))
    optimizer.step()
    other = WAYS[way](optimizer)
    assert (other.nonfinite, other.num_threads, other.skipped_steps) == ("skip", 1, 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@OURS
def test_processes_share_state_and_parameters(ours, method):
    output = run_python(f"""
        import sys
        import torch, rmsprop.torch

        def work(param, optimizer, count):
            for _ in range(count):
                param.grad = torch.ones_like(param)
                optimizer.step()

        def main():
            param = torch.zeros(8, dtype=torch.float64).share_memory_().requires_grad_()
            optimizer = rmsprop.torch.{ours.__name__}([param], lr=0.1)
            optimizer.share_memory()
            assert all(value.is_shared() for value in optimizer.state[param].values())
            context = torch.multiprocessing.get_context({method!r})
            for count in (3, 4):
                process = context.Process(target=WORK, args=(param, optimizer, count))
                process.start()
                process.join()
                assert process.exitcode == 0, process.exitcode
            alone = torch.zeros(8, dtype=torch.float64, requires_grad=True)
            work(alone, rmsprop.torch.{ours.__name__}([alone], lr=0.1), 7)
            assert optimizer.state[param]["step"].item() == 7
            assert torch.equal(param, alone), (param, alone)
            print("equal")

        WORK = work
        if {method!r} == "spawn":
            import pathlib, tempfile
            folder = tempfile.TemporaryDirectory()
            pathlib.Path(folder.name, "worker_of_test.py").write_text(
                "import torch, rmsprop.torch\\n"
                "def work(param, optimizer, count):\\n"
                "    for _ in range(count):\\n"
                "        param.grad = torch.ones_like(param)\\n"
                "        optimizer.step()\\n"
            )
            sys.path.insert(0, folder.name)
            import worker_of_test
            WORK = worker_of_test.work
        main()
    """)
    assert output.split() == ["equal"]


# ---- With autograd, AMP and the compiler -----------------------------------------------------------------------------


@BOTH
def test_a_stale_backward_raises_as_with_torch(ours, theirs, options):
    for optimizer_class in (ours, theirs):
        param = torch.ones(3, requires_grad=True)
        optimizer = optimizer_class([param], **options)
        stale = param.square().sum()
        param.sum().backward()
        version = param._version
        optimizer.step()
        assert param._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            stale.backward()


@OURS
def test_parameters_that_were_not_stepped_keep_their_version(ours):
    params = new_params()
    params[0].grad = torch.ones_like(params[0])
    versions = [param._version for param in params]
    ours(params).step()
    assert params[0]._version > versions[0]
    assert params[1]._version == versions[1]


@BOTH
@pytest.mark.parametrize("clips", [False, True], ids=["", "clipped"])
def test_grad_scaler_skips_overflows_and_leaves_gradients_as_with_torch(ours, theirs, options, clips):
    optimizers, grads = [], []
    for optimizer_class in (ours, theirs):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        param = torch.ones(4, requires_grad=True)
        optimizer = optimizer_class([param], lr=0.1, **options)
        optimizers.append(optimizer)
        for factor in (1.0, float("inf"), 2.0):
            optimizer.zero_grad()
            scaler.scale((param * factor).sum()).backward()
            before = param.detach().clone()
            if clips:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([param], 0.5)
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(param, before) == (factor == float("inf"))
            grads.append(param.grad)
        assert optimizer.state[param]["step"].item() == 2
        assert scaler.get_scale() == 4.0
    for mine, their in zip(grads[:3], grads[3:], strict=True):
        torch.testing.assert_close(mine, their, equal_nan=True)
    for mine, their in zip(*map(all_params, optimizers), strict=True):
        torch.testing.assert_close(mine, their)


@pytest.mark.parametrize("what", ["a training step", "step alone"])
def test_what_is_compiled_with_several_shapes_and_no_state_yet_has_the_bits_of_an_eager_one(what):
    output = run_python(f"""
        import torch, rmsprop.torch

        def trained(ours, compiled):
            shapes = ((4,), (2, 3), (), (5, 1))
            params = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
            optimizer = getattr(rmsprop.torch, ours)(params, lr=0.1)

            def loss(x):
                return sum((param * x).square().sum() for param in params)

            def train(x):
                optimizer.zero_grad()
                loss(x).backward()
                optimizer.step()

            step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
            run = torch.compile(train, backend="aot_eager") if compiled else train
            for t in range(4):
                x = torch.tensor(1.0 + t, dtype=torch.float64)
                if {what!r} == "step alone":
                    optimizer.zero_grad()
                    loss(x).backward()
                    step()
                else:
                    run(x)
                if t == 1 and ours == "RMSprop":
                    optimizer.param_groups[0].update(momentum=0.9, centered=True)
                if t == 2:
                    params.append(torch.ones(7, dtype=torch.float64, requires_grad=True))
                    optimizer.add_param_group({{"params": params[-1:]}})
            assert [optimizer.state[param]["step"].item() for param in params] == [4, 4, 4, 4, 1]
            return params

        for ours in ("RMSprop", "Adagrad"):
            print(all(map(torch.equal, trained(ours, True), trained(ours, False))))
    """)
    assert output.split() == ["True", "True"]


# ---- Parameters that come, go and change -----------------------------------------------------------------------------


@BOTH
def test_a_group_can_be_added_later(ours, theirs, options):
    optimizers = [optimizer_class(new_params(1), lr=0.1, **options) for optimizer_class in (ours, theirs)]
    for optimizer in optimizers:
        step(optimizer, 0)
        optimizer.add_param_group({"params": new_params(2), "lr": 0.3})
        for t in range(1, 4):
            step(optimizer, t)
    assert_close(*optimizers)


@BOTH
def test_parameters_without_a_gradient_stay(ours, theirs, options):
    params = new_params()
    before = params[1].detach().clone()
    optimizer = ours(params, **options)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert torch.equal(params[1], before)
    assert optimizer.state[params[0]]["step"].item() == 1
    assert optimizer.state[params[1]].get("step", torch.tensor(0.0)).item() == 0


@BOTH
def test_memory_may_be_replaced_between_steps(ours, theirs, options):
    optimizers = [optimizer_class(new_params(1), lr=0.1, **options) for optimizer_class in (ours, theirs)]
    for optimizer in optimizers:
        (param,) = all_params(optimizer)
        step(optimizer, 0)
        old = param.data
        kept = old.clone()
        param.data = param.data.clone() + 1
        step(optimizer, 1)
        assert torch.equal(old, kept)
        gradient = torch.zeros(1, dtype=param.dtype)
        gradient.resize_(param.shape).fill_(0.5)
        param.grad = gradient
        optimizer.step()
    gc.collect()
    assert_close(*optimizers)


@BOTH
def test_a_parameter_may_grow_before_the_first_step(ours, theirs, options):
    layer = torch.nn.LazyLinear(3)
    optimizer = ours(layer.parameters(), lr=0.1, **options)
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert optimizer.state[layer.weight][ours.rule.accumulator].shape == (3, 4)


class OwnParameter(torch.nn.Parameter):
    """A subclass, as libraries have them."""


@OURS
def test_subclasses_of_parameter_are_stepped_and_their_state_is_plain(ours):
    param, plain = OwnParameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    for each in (param, plain):
        each.grad = torch.tensor([1.0, 2.0, 3.0])
        optimizer = ours([each])
        optimizer.step()
        assert {type(value) for value in optimizer.state[each].values()} == {torch.Tensor}
    assert torch.equal(param.detach(), plain.detach())
