"""Every layout of parameters and gradients gives the right numbers, and nothing is written outside."""

import copy
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

import rmsprop.torch  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from many_elements import MANY, WINDOWS, many_elements  # noqa: E402
from rmsprop import reference  # noqa: E402

PAIRS = [(rmsprop.torch.RMSprop, torch.optim.RMSprop), (rmsprop.torch.Adagrad, torch.optim.Adagrad)]
BOTH = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["RMSprop", "Adagrad"])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_steps_like_torch(ours, theirs, make_param, make_grad, steps=4, **options):
    """Assert that parameters of one layout, with gradients of another, end where torch's end; returns ours."""
    mine, their = make_param().detach().requires_grad_(), make_param().detach().clone().requires_grad_()
    optimizers = ours([mine], lr=0.1, **options), theirs([their], lr=0.1, **options)
    for t in range(steps):
        mine.grad = make_grad(t)
        their.grad = make_grad(t).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(mine.detach(), their.detach(), rtol=1e-10, atol=1e-12)
    return mine


GRADS = {
    "contiguous": lambda t: randn(2, 3, 4, 5, seed=t),
    "channels last": lambda t: randn(2, 3, 4, 5, seed=t).to(memory_format=torch.channels_last),
    "transposed": lambda t: randn(5, 4, 3, 2, seed=t).permute(3, 2, 1, 0),
    "expanded": lambda t: randn(2, 1, 4, 1, seed=t).expand(2, 3, 4, 5),
    "expanded from one number": lambda t: randn(seed=t).expand(2, 3, 4, 5),
    "strided": lambda t: randn(2, 3, 4, 10, seed=t)[..., ::2],
}
PARAMS = {
    "contiguous": lambda: randn(2, 3, 4, 5, seed=99),
    "channels last": lambda: randn(2, 3, 4, 5, seed=99).to(memory_format=torch.channels_last),
    "transposed": lambda: randn(5, 4, 3, 2, seed=99).permute(3, 2, 1, 0),
    "strided": lambda: randn(2, 3, 4, 10, seed=99)[..., 1::2],
}


@BOTH
@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("param", PARAMS)
def test_parameter_and_gradient_of_any_layout(ours, theirs, param, grad):
    assert_steps_like_torch(ours, theirs, PARAMS[param], GRADS[grad])


# ---- The bits of the NumPy API, by logical index ---------------------------------------------------------------------

OURS = pytest.mark.parametrize(
    ("ours", "options"),
    [
        (rmsprop.torch.RMSprop, {"alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
        (rmsprop.torch.Adagrad, {"lr_decay": 0.1}),
    ],
    ids=["RMSprop", "Adagrad"],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)


def numbers(dtype, *shape, seed):
    real = randn(*shape, seed=seed)
    return (torch.complex(real, randn(*shape, seed=seed + 1000)) if dtype.is_complex else real).to(dtype)


def assert_bits_of_the_numpy_api(ours, options, params, grads_of_step, steps=3):
    """Assert that tensors, wherever they lie, end with the bits of dense arrays that take the same steps."""
    arrays = [np.array(param.detach().resolve_conj().numpy(), order="C") for param in params]
    numpy_class = getattr(rmsprop, ours.__name__)
    eps = 1e-8 if ours is rmsprop.torch.RMSprop else 1e-10
    expected = numpy_class(arrays, lr=0.1, eps=eps, eps_in_sqrt=False, **options)
    params = [param.requires_grad_() for param in params]
    optimizer = ours(params, lr=0.1, **options)
    for t in range(steps):
        grads = grads_of_step(t)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.step()
        expected.step([np.array(grad.resolve_conj().numpy(), order="C") for grad in grads])
    for index, (param, array) in enumerate(zip(params, arrays, strict=True)):
        assert_same_bits(param.detach().numpy(), array)
        for name, value in optimizer.state[param].items():
            if name != "step":
                assert_same_bits(value.numpy(), expected.state[index][name])


ARRANGEMENTS = {
    "contiguous": lambda t: t.clone(),
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "strided": lambda t: torch.stack([t, torch.zeros_like(t)], dim=-1)[..., 0],
    "unaligned": lambda t: unaligned(t.shape, t.dtype).copy_(t),
}


def unaligned(shape, dtype):
    """Return zeros that begin one byte after where a tensor may begin."""
    count = int(np.prod(shape))
    memory = bytearray(count * dtype.itemsize + 1)
    tensor = torch.frombuffer(memory, dtype=dtype, offset=1, count=count).reshape(shape)
    assert tensor.data_ptr() % 2 == 1
    return tensor


@OURS
@DTYPES
@pytest.mark.parametrize("grad", [*ARRANGEMENTS, "expanded"])
@pytest.mark.parametrize("param", ARRANGEMENTS)
def test_tensors_of_any_layout_have_the_bits_of_the_numpy_api(ours, options, dtype, param, grad):
    arranged = ARRANGEMENTS[param](numbers(dtype, 2, 3, 4, 5, seed=9))

    def grads_of_step(t):
        if grad == "expanded":
            return [numbers(dtype, 2, 1, 4, 1, seed=t).expand(2, 3, 4, 5)]
        return [ARRANGEMENTS[grad](numbers(dtype, 2, 3, 4, 5, seed=t))]

    assert_bits_of_the_numpy_api(ours, options, [arranged], grads_of_step)


@OURS
@DTYPES
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0,), (3, 0, 2)], ids=str)
def test_no_elements_and_no_dimensions_have_the_bits_of_the_numpy_api(ours, options, dtype, shape):
    assert_bits_of_the_numpy_api(
        ours, options, [numbers(dtype, *shape, seed=9)], lambda t: [numbers(dtype, *shape, seed=t)]
    )


@OURS
@DTYPES
def test_every_length_and_offset_has_the_bits_of_the_numpy_api_and_nothing_beside_is_written(ours, options, dtype):
    """All in one buffer, side by side, each at another offset from where a vector register would begin."""
    lengths = [*range(68), 127, 128, 129]
    gap = 3
    buffer = torch.full((sum(lengths) + gap * len(lengths) + gap,), 7, dtype=dtype)
    params, begin = [], gap
    for length in lengths:
        params.append(buffer[begin : begin + length])
        params[-1].copy_(numbers(dtype, length, seed=length))
        begin += length + gap
    between = buffer.clone()
    assert_bits_of_the_numpy_api(
        ours, options, params, lambda t: [numbers(dtype, length, seed=t + length) for length in lengths]
    )
    written = torch.zeros(len(buffer), dtype=torch.bool)
    for param in params:
        first = param.storage_offset()
        written[first : first + len(param)] = True
    assert torch.equal(buffer[~written], between[~written])


NEIGHBOURS = {
    "halves": lambda a: [a[:6], a[6:]],
    "columns": lambda a: list(a.t()),
    "blocks": lambda a: [a[:, :3], a[:, 3:]],
    "checkerboard": lambda a: [a[::2, ::2], a[1::2, 1::2], a[::2, 1::2], a[1::2, ::2]],
    "transposed blocks": lambda a: [a[:, :3].t(), a[:, 4:].t()],
    "frame and middle": lambda a: [a[0], a[-1], a[1:-1, 0], a[1:-1, -1], a[1:-1, 1:-1]],
    "none in the middle of others": lambda a: [a[:6], a[3:3], a[6:6], a[6:], a[:, 4:4]],
}


@OURS
@DTYPES
@pytest.mark.parametrize("cut", NEIGHBOURS)
def test_parameters_that_are_parts_of_one_tensor_have_the_bits_of_the_numpy_api(ours, options, dtype, cut):
    cut = NEIGHBOURS[cut]
    assert_bits_of_the_numpy_api(
        ours, options, cut(numbers(dtype, 12, 8, seed=9)), lambda t: cut(numbers(dtype, 12, 8, seed=t))
    )


@OURS
def test_parameters_in_a_mapped_file_are_updated_in_the_file(ours, options, tmp_path):
    path = tmp_path / "params"
    np.linspace(-1, 1, 50).tofile(path)
    param = torch.from_file(str(path), shared=True, size=50, dtype=torch.float64)
    assert_bits_of_the_numpy_api(ours, options, [param], lambda t: [numbers(torch.float64, 50, seed=t)])
    assert_same_bits(np.fromfile(path), param.detach().numpy())


@OURS
def test_a_tensor_that_shares_its_memory_until_it_is_written_leaves_the_other_alone(ours, options):
    original = numbers(torch.float64, 50, seed=1)
    before, clone = original.clone(), original._lazy_clone()
    assert_bits_of_the_numpy_api(ours, options, [clone], lambda t: [numbers(torch.float64, 50, seed=t)])
    assert torch.equal(original, before)


# ---- Beside the tensors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("column", [0, 2], ids="column {}".format)
def test_nothing_is_written_beside_a_strided_parameter(ours, dtype, column):
    base = torch.full((6, 3), 7.0, dtype=dtype)
    param = base[:, column].requires_grad_()
    alone = torch.full((6,), 7.0, dtype=dtype, requires_grad=True)
    for each in (param, alone):
        optimizer = ours([each], lr=0.5)
        for t in range(3):
            each.grad = randn(6, seed=t).to(dtype)
            optimizer.step()
    others = [c for c in range(3) if c != column]
    assert torch.equal(base.detach()[:, others], torch.full((6, 2), 7.0, dtype=dtype))
    assert torch.equal(param.detach(), alone.detach())
    assert not torch.equal(alone.detach(), torch.full((6,), 7.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS])
def test_16_bit_parameters_of_any_layout_have_the_bits_of_dense_ones(ours, dtype):
    dense = randn(4, 6).to(dtype).requires_grad_()
    transposed = randn(4, 6).to(dtype).t().contiguous().t().requires_grad_()
    optimizers = [ours([p], lr=0.1) for p in (dense, transposed)]
    for t in range(5):
        grad = randn(4, 6, seed=1 + t).to(dtype)
        dense.grad, transposed.grad = grad, grad.t().contiguous().t()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(dense, transposed)


@BOTH
def test_parametrized_modules(ours, theirs):
    torch.manual_seed(0)
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3).double())
    assert_models_train_alike(ours, theirs, model, randn(8, 4))


@BOTH
def test_tied_weights_are_stepped_once(ours, theirs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    assert_models_train_alike(ours, theirs, model, randn(8, 4))


class LastOfLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2).double()

    def forward(self, x):
        return self.lstm(x)[0]


@BOTH
def test_flat_weights_of_an_lstm(ours, theirs):
    torch.manual_seed(0)
    assert_models_train_alike(ours, theirs, LastOfLSTM(), randn(7, 2, 4))


@BOTH
def test_channels_last_convolution(ours, theirs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    model = model.to(memory_format=torch.channels_last)
    assert_models_train_alike(ours, theirs, model, randn(2, 3, 8, 8).to(memory_format=torch.channels_last))


def assert_models_train_alike(ours, theirs, model, x):
    models = model, copy.deepcopy(model)
    for each, optimizer_class in zip(models, (ours, theirs), strict=True):
        optimizer = optimizer_class(each.parameters(), lr=0.01)
        for _ in range(6):
            optimizer.zero_grad()
            (each(x) - 0.3).square().sum().backward()
            optimizer.step()
    for mine, their in zip(*(each.parameters() for each in models), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-8, atol=1e-10)


LAZY = {
    "conjugated": lambda t: torch.complex(randn(5, seed=t), randn(5, seed=50 + t)).conj(),
    "imaginary part of conjugated": lambda t: torch.complex(randn(5, seed=t), randn(5, seed=50 + t)).conj().imag,
    "one conjugated": lambda t: torch.complex(randn(1, seed=t), randn(1, seed=50 + t)).conj(),
    "one negated": lambda t: torch.complex(randn(1, seed=t), randn(1, seed=50 + t)).conj().imag,
    "negated without dimensions": lambda t: torch.complex(randn(seed=t), randn(seed=50 + t)).conj().imag,
}


@BOTH
@pytest.mark.parametrize("kind", LAZY)
def test_lazily_conjugated_and_negated_gradients_count_as_what_they_stand_for(ours, theirs, kind):
    grad = LAZY[kind]
    assert grad(0).is_conj() or grad(0).is_neg()

    def resolved(t):
        return grad(t).resolve_conj().resolve_neg()

    params = [torch.ones_like(resolved(0)).requires_grad_() for _ in range(2)]
    for param, make in zip(params, (grad, resolved), strict=True):
        optimizer = ours([param], lr=0.1)
        for t in range(4):
            param.grad = make(t)
            optimizer.step()
    assert torch.equal(*(param.detach() for param in params))
    if not params[0].is_complex():
        assert_steps_like_torch(ours, theirs, lambda: torch.ones_like(resolved(0)), resolved)


@BOTH
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}], ids=str)
def test_complex_parameters_step_like_torch(ours, theirs, options):
    def number(seed):
        return torch.complex(randn(3, 4, seed=seed), randn(3, 4, seed=100 + seed))

    assert_steps_like_torch(ours, theirs, lambda: number(7), number, **options)
    assert_steps_like_torch(ours, theirs, lambda: number(7).t(), lambda t: number(t).t(), **options)


@BOTH
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)], ids=str)
def test_one_number(ours, theirs, shape):
    assert_steps_like_torch(ours, theirs, lambda: randn(*shape, seed=9), lambda t: randn(*shape, seed=t))


@BOTH
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)], ids=str)
def test_empty_parameters_take_steps_too(ours, theirs, shape):
    param = torch.zeros(shape, requires_grad=True)
    optimizer = ours([param])
    param.grad = torch.zeros(shape)
    optimizer.step()
    assert optimizer.state[param]["step"].item() == 1


# ---- Many elements ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="pages that share their memory are made by Linux only")
def test_more_than_2_to_the_31_elements_have_the_bits_of_the_reference_up_to_the_last():
    rng = np.random.default_rng(0)
    with many_elements(1) as weights, many_elements(0) as grad, many_elements(0) as square_avg:
        expected = []
        for window in WINDOWS:
            for array in (weights, grad, square_avg):
                array[window] = rng.uniform(0.5, 1, array[window].shape)
            expected.append([array[window].copy() for array in (weights, grad, square_avg)])
        param = torch.from_numpy(weights).requires_grad_()
        param.grad = torch.from_numpy(grad)
        optimizer = rmsprop.torch.RMSprop([param], lr=0.1, alpha=0.9, eps_in_sqrt=True)
        optimizer.state[param] = {"step": torch.tensor(0.0), "square_avg": torch.from_numpy(square_avg)}
        optimizer.step()
        for window, (expected_param, window_grad, expected_avg) in zip(WINDOWS, expected, strict=True):
            reference.rmsprop_(expected_param, window_grad, expected_avg, lr=0.1, alpha=0.9)
            assert_same_bits(weights[window], expected_param)
            assert_same_bits(square_avg[window], expected_avg)
        assert param.numel() == MANY > 1 << 31
