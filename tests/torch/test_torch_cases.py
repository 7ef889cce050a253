"""PyTorch's own list of cases for its optimizers: every one, ours beside theirs."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="PyTorch's own case list needs expecttest")

from torch.testing._internal.common_optimizers import optim_db  # noqa: E402

import rmsprop.torch  # noqa: E402

STEPS = 25
OURS = {torch.optim.RMSprop: rmsprop.torch.RMSprop, torch.optim.Adagrad: rmsprop.torch.Adagrad}
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-13}}
LAYOUTS = {
    "contiguous": lambda t: t.clone(),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda t: torch.stack([t, torch.zeros_like(t)], dim=-1)[..., 0],
}


def cases(kind):
    found = [
        pytest.param(
            info.optim_cls, case, id=f"{info.optim_cls.__name__}-{getattr(case, 'optimizer_error_input', case).desc}"
        )
        for info in optim_db
        if info.optim_cls in OURS
        for case in getattr(info, kind)(device="cpu", dtype=torch.float32)
    ]
    assert {param.values[0] for param in found} == set(OURS)
    return found


def random_tensors(shapes, dtype, seed, layout):
    generator = torch.Generator().manual_seed(seed)
    return [LAYOUTS[layout](torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("extra", [{}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize(("theirs", "case"), cases("optim_inputs_func"))
def test_every_case_equals_torch_to_rounding(theirs, case, extra, dtype, layout):
    shapes = [(5, 7), (3, 4, 2), (6,)]
    made = [[t.requires_grad_() for t in random_tensors(shapes, dtype, seed=0, layout=layout)] for _ in range(2)]
    expected, actual = made
    theirs_optimizer = theirs(expected, **{**case.kwargs, "foreach": False})
    our_optimizer = OURS[theirs](actual, **{**case.kwargs, **extra})
    for t in range(STEPS):
        grads = random_tensors(shapes, dtype, seed=1 + t, layout=layout)
        for params in made:
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
        theirs_optimizer.step()
        our_optimizer.step()
    for mine, their in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, their, **TOLERANCE[dtype])
        for name, value in theirs_optimizer.state[their].items():
            torch.testing.assert_close(
                our_optimizer.state[mine][name], value, **TOLERANCE[dtype], check_dtype=name != "step"
            )


def test_fused_is_accepted_and_takes_the_same_step():
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    for param, fused in zip(params, (True, None), strict=True):
        param.grad = torch.tensor([1.0, -2.0, 0.5])
        rmsprop.torch.Adagrad([param], lr=0.1, fused=fused).step()
    assert torch.equal(*params)


@pytest.mark.parametrize("name", ["differentiable", "capturable"])
def test_what_only_gpus_and_autograd_need_is_refused_by_name(name):
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=f"{name}: got True, wanted False"):
        rmsprop.torch.RMSprop([param], **{name: True})
    opt = rmsprop.torch.RMSprop([param])
    with pytest.raises(ValueError, match=f"{name}: got True"):
        opt.add_param_group({"params": [torch.ones(2, requires_grad=True)], name: True})
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize(("theirs", "case"), cases("optim_error_inputs_func"))
def test_every_error_input_raises_what_torch_raises_and_names_the_argument(theirs, case):
    inputs = case.optimizer_error_input
    params = [torch.ones(2, requires_grad=True)] if inputs.params is None else inputs.params
    bad = [name for name in inputs.kwargs if name != "lr"] or list(inputs.kwargs) or ["param"]
    if issubclass(case.error_type, Warning):
        # Torch warns that this will be an error. Here it is one: the parameter would be stepped twice.
        with (
            pytest.warns(case.error_type, match=case.error_regex),
            pytest.raises(ValueError, match=r"params\[0\]: shares memory with params\[1\]"),
        ):
            OURS[theirs](params, **inputs.kwargs)
        return
    with pytest.raises(case.error_type, match=bad[0]) as error:
        OURS[theirs](params, **inputs.kwargs)
    assert type(error.value) is case.error_type
