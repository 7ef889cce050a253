"""State dicts with more, less, or other things in them than this package puts there."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402
from torch_snapshots import OURS, Unchanged, named  # noqa: E402

# ---- What users keep in the state of a parameter ---------------------------------------------------------------------

EXTRAS = {
    "shared_step": torch.zeros(1, dtype=torch.int64),
    "a matrix": torch.ones(5, 2, dtype=torch.float64),
    "text": "some text",
    "a list": [1, "two", torch.ones(2)],
    "a dict": {"of": {"tensors": torch.ones(1, dtype=torch.float16)}},
    "a function": sorted,
    "nothing": None,
    3: (1, 2),
}


def through_torch_save(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def assert_extras(entry, expected):
    for name, value in expected.items():
        found = entry[name]
        assert type(found) is type(value)
        if isinstance(value, torch.Tensor):
            assert torch.equal(found, value)
            assert found.dtype == value.dtype
        elif not isinstance(value, (list, dict)):
            assert found == value
    assert torch.equal(entry["a list"][2], torch.ones(2))
    assert entry["a dict"]["of"]["tensors"].dtype == torch.float16


@OURS
@pytest.mark.parametrize("way", ["state dict", "file", "pickle", "copy"])
def test_entries_of_users_survive_untouched(ours, way):
    optimizer, weight, _ = named(ours)
    optimizer.state[weight].update(EXTRAS)
    optimizer.state["of no parameter"] = {"anything": [1]}
    if way in ("pickle", "copy"):
        other = pickle.loads(pickle.dumps(optimizer)) if way == "pickle" else copy.deepcopy(optimizer)
        new = other.param_groups[0]["params"][0]
    else:
        saved = optimizer.state_dict()
        other, new, _ = named(ours)
        other.load_state_dict(through_torch_save(saved) if way == "file" else saved)
    assert_extras(other.state[new], EXTRAS)
    assert other.state["of no parameter"] == {"anything": [1]}
    new.grad = torch.ones_like(new)
    for each in (other, optimizer):
        each.step()
    assert torch.equal(new, weight)
    assert_extras(other.state[new], EXTRAS)


@OURS
def test_entries_of_users_are_handed_over_as_in_pytorch(ours):
    """What is shared between processes must stay what it is."""
    optimizer, weight, _ = named(ours)
    optimizer.state[weight]["shared_step"] = shared = torch.zeros(1, dtype=torch.int64).share_memory_()
    other, new, _ = named(ours)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[new]["shared_step"] is shared
    optimizer.share_memory()
    assert optimizer.state[weight]["shared_step"] is shared


# ---- Groups of other optimizers --------------------------------------------------------------------------------------

OTHER_RULES = {
    "decoupled_decay": (True, False),
    "caution": (True, False),
    "corrected_weight_decay": (True, False),
    "amsgrad": (True, False),
    "dampening": (0.5, 0),
}


@OURS
@pytest.mark.parametrize("key", OTHER_RULES)
def test_a_hyperparameter_that_would_change_the_rule_is_refused_by_name_unless_it_is_neutral(ours, key):
    bad, neutral = OTHER_RULES[key]
    optimizer, *_ = named(ours)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][key] = bad
    with Unchanged(optimizer), pytest.raises(ValueError, match=rf"param_groups\[0\] has {key}={bad}"):
        optimizer.load_state_dict(saved)
    assert key not in optimizer.param_groups[0]
    saved["param_groups"][0][key] = neutral
    optimizer.load_state_dict(saved)
    optimizer.step()


@OURS
def test_a_hook_may_translate_what_would_be_refused(ours):
    def translate(_, state_dict):
        group = {**state_dict["param_groups"][0], "decoupled_weight_decay": True}
        del group["decoupled_decay"]
        return {**state_dict, "param_groups": [group]}

    optimizer, *_ = named(ours)
    optimizer.register_load_state_dict_pre_hook(translate)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["decoupled_decay"] = True
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


@OURS
def test_what_schedulers_and_users_leave_in_groups_stays(ours):
    own = {
        "initial_lr": 0.1,
        "max_lr": 1.0,
        "min_lr": 0,
        "lr_scale": 0.5,
        "name": "head",
        "is_bias": True,
        "fused": None,
    }
    optimizer, *_ = named(ours)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0].update(own)
    optimizer.load_state_dict(saved)
    assert own.items() <= optimizer.param_groups[0].items()
    optimizer.step()


# ---- Shared memory ---------------------------------------------------------------------------------------------------


@OURS
@pytest.mark.parametrize("through", ["itself", "copy", "pickle"])
def test_state_stays_shared_whatever_is_loaded_or_added(ours, through):
    optimizer, *_ = named(ours)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.share_memory()
    if through != "itself":
        optimizer = copy.deepcopy(optimizer) if through == "copy" else pickle.loads(pickle.dumps(optimizer))
    optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": [("more", torch.ones(5, requires_grad=True))]})
    params = [param for group in optimizer.param_groups for param in group["params"]]
    assert [len(optimizer.state[param]) for param in params] == [2, 2, 2]
    assert all(value.is_shared() for param in params for value in optimizer.state[param].values())
    if "momentum" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["momentum"] = 0.9
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
        assert optimizer.state[params[0]]["momentum_buffer"].is_shared()


def test_pickles_of_the_time_before_the_package_was_divided_can_be_read():
    optimizer, *_ = named(rmsprop.torch.RMSprop, nonfinite="skip", num_threads=1)
    made = {
        name: value
        for name, value in optimizer.__getstate__().items()
        if name in ("defaults", "state", "param_groups", "nonfinite", "num_threads", "skipped_steps")
    }
    old = rmsprop.torch.RMSprop.__new__(rmsprop.torch.RMSprop)
    old.__setstate__(copy.deepcopy(made))
    assert (old.nonfinite, old.num_threads, old.skipped_steps) == ("skip", 1, 0)
    for param in old.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    old.step()
    optimizer.step()
    for one, other in zip(old.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
        assert torch.equal(one, other)


@OURS
def test_pickles_name_the_public_module(ours):
    optimizer, *_ = named(ours)
    old_name = b"crmsprop.torch\n" + ours.__name__.encode()
    new_name = b"crmsprop.torch.optimizers\n" + ours.__name__.encode()
    written = pickle.dumps(optimizer, protocol=0)
    assert old_name in written or new_name in written
    assert type(pickle.loads(written.replace(new_name, old_name))) is ours
