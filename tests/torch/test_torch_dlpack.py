"""Tensors of PyTorch in the rest of the package, without a copy, and DLPack where there is no exchange API."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop  # noqa: E402
from bits import assert_same_bits  # noqa: E402
from rmsprop.functional import adagrad_, rmsprop_  # noqa: E402

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)


def tensors(dtype):
    """Return a parameter, a gradient and state: one transposed, so that layouts are read."""
    return torch.ones(3, 4, dtype=dtype), torch.arange(12).reshape(4, 3).t().to(dtype), torch.zeros(3, 4, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("step", [rmsprop_, adagrad_])
def test_functions_update_tensors_where_they_lie_with_the_bits_of_arrays(step, dtype):
    param, grad, state = tensors(dtype)
    arrays = [tensor.numpy().copy() for tensor in (param, grad, state)]
    addresses = param.data_ptr(), state.data_ptr()
    step(param, grad, state, lr=0.1)
    step(*arrays, lr=0.1)
    assert (param.data_ptr(), state.data_ptr()) == addresses
    assert_same_bits(param.numpy(), arrays[0])
    assert_same_bits(state.numpy(), arrays[2])


@pytest.mark.parametrize("step", [rmsprop_, adagrad_])
def test_functions_take_lists_of_tensors(step):
    several = [tensors(torch.float32), tensors(torch.float64)]
    alone = [tensors(torch.float32), tensors(torch.float64)]
    step(*(list(column) for column in zip(*several, strict=True)), lr=0.1)
    for param, grad, state in alone:
        step(param, grad, state, lr=0.1)
    for one, other in zip(several, alone, strict=True):
        assert all(map(torch.equal, one, other))


@DTYPES
@pytest.mark.parametrize("form", ["single", "list", "dict"])
@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
def test_gradients_of_optimizers_may_be_tensors(optimizer, form, dtype):
    wrap = {"single": lambda a: a, "list": lambda a: [a], "dict": lambda a: {"w": a}}[form]
    params = [np.ones((3, 4), tensors(dtype)[1].numpy().dtype) for _ in range(2)]
    grad = tensors(dtype)[1]
    optimizer(wrap(params[0])).step(wrap(grad))
    optimizer(wrap(params[1])).step(wrap(grad.numpy()))
    assert_same_bits(*params)


def test_a_lazily_conjugated_gradient_is_not_misread():
    grad = torch.tensor([1 + 2j, 3 - 1j]).conj()
    with pytest.raises(ValueError, match=r"resolve_conj"):
        rmsprop.RMSprop([np.ones(2, np.complex64)]).step([grad])


def test_a_tensor_of_integers_is_refused_by_name():
    with pytest.raises(TypeError, match=r"grads\[0\].*int64"):
        rmsprop.RMSprop([np.ones(2)]).step([torch.ones(2, dtype=torch.int64)])


def test_gradients_of_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    params = [np.ones(5, np.float32) for _ in range(2)]
    grad = jax.numpy.arange(5, dtype=jax.numpy.float32)
    rmsprop.RMSprop([params[0]]).step([grad])
    rmsprop.RMSprop([params[1]]).step([np.asarray(grad)])
    assert_same_bits(*params)


def test_ordinary_dlpack_gives_the_bits_of_the_exchange_api():
    code = """if True:
        import hashlib, sys
        import numpy as np, torch
        if sys.argv[1] == "ordinary":
            del torch.Tensor.__dlpack_c_exchange_api__
        import rmsprop, rmsprop.torch
        assert hasattr(torch.Tensor, "__dlpack_c_exchange_api__") == (sys.argv[1] == "exchange")
        digest = hashlib.sha256()
        for dtype in (torch.float32, torch.float64, torch.complex64, torch.bfloat16, torch.float16):
            for name, options in (("RMSprop", {"momentum": 0.9, "centered": True}), ("Adagrad", {})):
                base = torch.linspace(-1, 1, 24).to(dtype).reshape(2, 12)
                params = [base[0].requires_grad_(), base[1].reshape(3, 4).t().requires_grad_()]
                optimizer = getattr(rmsprop.torch, name)([("a", params[0]), ("b", params[1])], lr=0.1, **options)
                for t in range(5):
                    for param in params:
                        param.grad = torch.sin(torch.arange(12.0) + t).reshape(param.shape).to(dtype)
                    optimizer.step()
                digest.update(base.detach().contiguous().view(torch.uint8).numpy().tobytes())
                for entry in optimizer.state.values():
                    for value in entry.values():
                        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        param = np.ones(3)
        rmsprop.RMSprop([param]).step([torch.arange(3.0, dtype=torch.float64)])
        digest.update(param.tobytes())
        print(digest.hexdigest())
    """

    def digest(kind):
        return subprocess.run([sys.executable, "-c", code, kind], capture_output=True, text=True, check=True).stdout

    assert digest("ordinary") == digest("exchange")
