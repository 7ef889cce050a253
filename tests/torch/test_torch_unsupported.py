"""Tensors of kinds that have no step are refused by name, with the way out, and nothing changes."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402
from torch_snapshots import OURS, Unchanged  # noqa: E402


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


def two():
    from torch.testing._internal.two_tensor import TwoTensor

    return torch.nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))


PARAMETERS = {
    "fake": (fake, r"construct and step outside of FakeTensorMode"),
    "a subclass with memory elsewhere": (two, r"__torch_dispatch__: use torch\.optim"),
    "sparse": (lambda: torch.eye(3).to_sparse(), r"\.to_dense\(\)"),
}


@OURS
@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_parameter_of_an_unsupported_kind_is_refused_with_the_way_out(ours, kind):
    make, message = PARAMETERS[kind]
    with pytest.raises(RuntimeError, match=rf"params\['odd'\]: .*{message}"):
        ours([("fine", torch.ones(3)), ("odd", make())])
    optimizer = ours([("fine", torch.ones(3))])
    with Unchanged(optimizer), pytest.raises(RuntimeError, match=rf"params\['odd'\]: .*{message}"):
        optimizer.add_param_group({"params": [("odd", make())]})


@OURS
def test_a_sparse_gradient_is_refused_with_the_way_out(ours):
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = ours([("fine", torch.ones(3)), *embedding.named_parameters()])
    embedding(torch.tensor([1])).sum().backward()
    with Unchanged(optimizer), pytest.raises(RuntimeError, match=r"\['weight'\]\.grad: .*sparse=False.*\.to_dense\(\)"):
        optimizer.step()
    rmsprop.torch.step_in_backward(embedding, optimizer)
    embedding.weight.grad = None
    with Unchanged(optimizer), pytest.raises(RuntimeError, match=r"\['weight'\]\.grad: .*sparse=False"):
        embedding(torch.tensor([1])).sum().backward()


@OURS
def test_tensors_of_a_transform_are_refused_with_the_way_out(ours):
    def construct(x):
        ours([x])

    def step(x):
        param.grad = x
        optimizer.step()

    with pytest.raises(RuntimeError, match=r"params\[0\]: .*outside of vmap"):
        torch.func.vmap(construct)(torch.ones(2, 3))
    param = torch.ones(3)
    optimizer = ours([param])
    with Unchanged(optimizer), pytest.raises(RuntimeError, match=r"params\[0\]\.grad: .*outside of vmap"):
        torch.func.vmap(step)(torch.ones(2, 3))


@OURS
def test_inference_tensors_are_stepped_inside_inference_mode_alone(ours):
    with torch.inference_mode():
        param, more = torch.ones(3), torch.ones(2)
        optimizer = ours([param])
        param.grad = torch.ones(3)
        optimizer.step()
        after_one = param.clone()
    assert not torch.equal(after_one, torch.ones(3))
    with (
        Unchanged(optimizer),
        pytest.raises(RuntimeError, match="Inplace update to inference tensor outside Inference"),
    ):
        optimizer.step()
    later = ours([torch.ones(4)])
    more.grad = torch.ones_like(more)
    later.add_param_group({"params": [more]})
    with Unchanged(later), pytest.raises(RuntimeError, match="Inplace update to inference tensor outside Inference"):
        later.step()
    more.grad = None
    later.step()


@OURS
def test_state_that_is_made_in_inference_mode_is_usable_outside_of_it(ours):
    param = torch.ones(3, requires_grad=True)
    optimizer = ours([param])
    param.grad = torch.ones(3)
    with torch.inference_mode():
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    assert not any(value.is_inference() for value in optimizer.state[param].values())
    optimizer.step()
    torch.optim.RMSprop([param])  # and by PyTorch, which would refuse inference tensors
    optimizer.state[param]["step"].add_(1)
