"""New state lies at another place of a page than its parameter, and is an ordinary tensor otherwise."""

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402

PAGE = 4096
NAMES = ("square_avg", "grad_avg", "momentum_buffer")
LAYOUTS = {
    "plain": lambda t: t,
    "transposed": lambda t: t.t(),
    "channels last": lambda t: t.reshape(8, 8, 32, -1).contiguous(memory_format=torch.channels_last),
    "a part of another": lambda t: torch.cat([torch.zeros(3, t.shape[1], dtype=t.dtype), t])[3:],
}


def stepped(values):
    param = values.detach().requires_grad_()
    param.grad = torch.full_like(param, 0.5)
    optimizer = rmsprop.torch.RMSprop([param], lr=0.1, centered=True, momentum=0.9)
    optimizer.step()
    return param, optimizer


def distance(one, other):
    """Return how far apart two tensors begin in a page, either way."""
    apart = (one.data_ptr() - other.data_ptr()) % PAGE
    return min(apart, PAGE - apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_state_lies_apart_from_its_parameter_and_from_other_state(layout, dtype):
    param, optimizer = stepped(LAYOUTS[layout](torch.ones(256, 512, dtype=dtype)))
    tensors = [param, *(optimizer.state[param][name] for name in NAMES)]
    for i, one in enumerate(tensors):
        assert all(distance(one, other) > PAGE // 8 for other in tensors[:i])
    for tensor in tensors[1:]:
        assert tensor.stride() == param.stride()
        assert tensor.data_ptr() % 64 == 0 or layout == "a part of another"
        assert tensor._base is None
        assert not tensor.requires_grad


def test_loaded_state_lies_apart_too():
    param, optimizer = stepped(torch.ones(256, 512))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(distance(param, optimizer.state[param][name]) > PAGE // 8 for name in NAMES)


def test_small_state_takes_no_more_memory_than_it_has_elements():
    param, optimizer = stepped(torch.ones(64, 64))
    assert {optimizer.state[param][name].untyped_storage().nbytes() for name in NAMES} == {64 * 64 * 4}


def test_large_state_can_be_saved_copied_shared_and_resized_like_any_tensor():
    param, optimizer = stepped(torch.ones(256, 512))
    before = {name: optimizer.state[param][name].clone() for name in NAMES}
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert len(file.getvalue()) < 3 * (before["square_avg"].nbytes + PAGE) + 16384
    file.seek(0)
    loaded = torch.load(file)["state"][0]
    copied = copy.deepcopy(optimizer).state
    for name in NAMES:
        assert torch.equal(loaded[name], before[name])
        assert torch.equal(next(iter(copied.values()))[name], before[name])
    optimizer.share_memory()
    for name in NAMES:
        tensor = optimizer.state[param][name]
        assert tensor.is_shared()
        assert torch.equal(tensor, before[name])
    optimizer.step()
    param, optimizer = stepped(torch.ones(256, 512))
    storage = optimizer.state[param]["square_avg"].untyped_storage()
    storage.resize_(storage.nbytes() + PAGE)
    optimizer.step()


def test_nothing_of_other_memory_is_saved_with_the_state():
    param, optimizer = stepped(torch.ones(256, 512))
    for name in NAMES:
        state = optimizer.state[param][name]
        storage = torch.empty(0).set_(state.untyped_storage())
        outside = torch.cat([storage[: state.storage_offset()], storage[state.storage_offset() + state.numel() :]])
        assert outside.numel() == PAGE // 4
        assert not outside.any()
