"""Where gradients or parameters are spread over processes, what would be wrong is refused, with the way out.

One process is enough to see it: what decides is who wraps and who constructs.
"""

import pytest

from children import output_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rmsprop.torch  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no processes")

PREAMBLE = """
import copy, pathlib, tempfile, warnings
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from rmsprop.torch import Adagrad, RMSprop, step_in_backward

warnings.simplefilter("ignore")
folder = tempfile.TemporaryDirectory()
store = pathlib.Path(folder.name, "store").as_uri()
dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))

def fsdp(module):
    return FullyShardedDataParallel(module, use_orig_params=True, device_id=torch.device("cpu"))

def backward(module):
    module(torch.ones(1, 4)).sum().backward()

def refused(error, *parts):
    class Refused:
        def __enter__(self):
            return self
        def __exit__(self, kind, found, _):
            assert kind is error, (kind, found)
            assert all(part in str(found) for part in parts), found
            return True
    return Refused()
"""


def run(code):
    assert output_of(PREAMBLE + code + "\ndist.destroy_process_group()\nprint('done')", timeout=240) == "done"


def test_step_in_backward_refuses_modules_whose_gradients_are_completed_later():
    run("""
for wrap in (DistributedDataParallel, fsdp):
    wrapped = wrap(model())
    with refused(ValueError, "module: ", "DataParallel", "optimizer.step()"):
        step_in_backward(wrapped, RMSprop(wrapped.parameters()))
    outer = torch.nn.Sequential(wrapped)
    with refused(ValueError, "module: ", "DataParallel"):
        step_in_backward(outer, RMSprop(outer.parameters()))
""")


def test_step_in_backward_refuses_to_be_wrapped_later():
    run("""
for wrap in (DistributedDataParallel, fsdp):
    name = "DistributedDataParallel" if wrap is DistributedDataParallel else "FullyShardedDataParallel"
    for part in (lambda m: m, lambda m: m[0]):
        inner = model()
        registration = step_in_backward(part(inner), RMSprop(inner.parameters()))
        for module in (inner, torch.nn.Sequential(inner), inner[0]):
            with refused(RuntimeError, "step_in_backward", name, "remove()"):
                wrap(module)
        wrap(model())
        assert torch.nn.Sequential(inner)[0] is inner
        backward(inner)
        assert part(inner)._parameters.get("weight", inner[0].weight).grad is None
        registration.remove()
        wrapped = wrap(inner)
        backward(wrapped)
        assert all(param.grad is not None for param in wrapped.parameters())

forgotten = model()
step_in_backward(forgotten[2], RMSprop(forgotten.parameters()))
with refused(RuntimeError, "step_in_backward"):
    DistributedDataParallel(forgotten)
""")


def test_the_next_step_refuses_a_module_that_was_sharded_in_place_later():
    run("""
from torch.distributed.fsdp import fully_shard
for part in (lambda m: m, lambda m: m[0]):
    module = model()
    optimizer = RMSprop(module.parameters())
    registration = step_in_backward(module, optimizer)
    backward(module)
    optimizer.step()
    fully_shard(part(module))
    with refused(RuntimeError, "step_in_backward: fully_shard has replaced", "torch.optim"):
        optimizer.step()
    registration.remove()
    optimizer.step()
""")


def test_a_rank_that_has_a_part_of_the_gradients_neither_clips_by_norm_nor_skips():
    run("""
for cls in (RMSprop, Adagrad):
    for options, name in (({"clip_norm": 0.1}, "clip_norm: "), ({"nonfinite": "skip"}, "nonfinite: got 'skip'"),
                          ({"nonfinite": "raise"}, "nonfinite: got 'raise'")):
        with refused(ValueError, name, "ZeroRedundancyOptimizer", "before step()"):
            ZeroRedundancyOptimizer(model().parameters(), cls, lr=0.1, **options)
        with refused(ValueError, name, "FullyShardedDataParallel", "before step()"):
            cls(fsdp(model()).parameters(), lr=0.1, **options)
        for shard in (False, True):
            module = fsdp(model()) if shard else model()
            optimizer = cls(module.parameters()) if shard else ZeroRedundancyOptimizer(module.parameters(), cls)
            backward(module)
            optimizer.step()
            before = copy.deepcopy([param.detach() for param in module.parameters()])
            backward(module)
            ours = optimizer if shard else optimizer.optim
            if "clip_norm" in options:
                optimizer.param_groups[0].update(options)
            else:
                ours.nonfinite = options["nonfinite"]
            with refused(ValueError, name, "before step()"):
                optimizer.step()
            assert all(map(torch.equal, before, module.parameters()))
    with refused(ValueError, "clip_norm"):
        optimizer = cls(fsdp(model()).parameters())
        optimizer.add_param_group({"params": [torch.ones(3)], "clip_norm": 1.0})
    assert len(optimizer.param_groups) == 1
    cls(model().parameters(), clip_norm=0.1, nonfinite="skip").step()  # beside it all is as ever
    wrapped = DistributedDataParallel(model())  # whose gradients are the same on every rank
    cls(wrapped.parameters(), clip_norm=0.1, nonfinite="skip").step()
""")


def test_zero_redundancy_and_fsdp_take_the_steps_of_a_plain_optimizer():
    run("""
plain, zero, sharded = model(), model(), fsdp(model())
optimizers = [RMSprop(plain.parameters(), lr=0.1, momentum=0.9),
              ZeroRedundancyOptimizer(zero.parameters(), RMSprop, lr=0.1, momentum=0.9),
              RMSprop(sharded.parameters(), lr=0.1, momentum=0.9)]
for _ in range(4):
    for module, optimizer in zip((plain, zero, sharded), optimizers):
        optimizer.zero_grad()
        backward(module)
        optimizer.step()
for one, other, shard in zip(plain.parameters(), zero.parameters(), sharded.parameters()):
    assert torch.equal(one, other) and torch.equal(one.flatten(), shard.flatten())
""")


def test_distributed_tensors_are_refused_with_the_way_out():
    run("""
from torch.distributed.fsdp import fully_shard
for cls in (RMSprop, Adagrad):
    module = model()
    fully_shard(module)
    with refused(RuntimeError, "params['0.weight']: got DTensor", "use torch.optim", ".to_local()"):
        cls(module.named_parameters())
    param = torch.ones(3)
    optimizer = cls([param])
    with refused(RuntimeError, "params[1]: got DTensor", ".to_local()"):
        optimizer.add_param_group({"params": list(module.parameters())})
    assert len(optimizer.param_groups) == 1
""")


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flattened"])
def test_a_distributed_checkpoint_of_pytorchs_class_loads_with_a_planner_that_allows_missing_keys(flat):
    run(f"""
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict)

options = StateDictOptions(flatten_optimizer_state_dict={flat})
for theirs, ours in ((torch.optim.RMSprop, RMSprop), (torch.optim.Adagrad, Adagrad)):
    module = model()
    optimizer = theirs(module.parameters(), lr=0.1)
    backward(module)
    optimizer.step()
    optimizer.zero_grad()
    place = folder.name + "/" + theirs.__name__
    dcp.save({{"optimizer": get_optimizer_state_dict(module, optimizer, options=options)}}, checkpoint_id=place)

    def load(**more):
        module = model()
        loaded = ours(module.parameters(), lr=9.0, eps_in_sqrt=True)
        saved = {{"optimizer": get_optimizer_state_dict(module, loaded, options=options)}}
        dcp.load(saved, checkpoint_id=place, **more)
        set_optimizer_state_dict(module, loaded, saved["optimizer"], options=options)
        return loaded

    loaded = load(planner=DefaultLoadPlanner(allow_partial_load=True))
    assert loaded.param_groups[0]["lr"] == 0.1 and loaded.param_groups[0]["eps_in_sqrt"]
    for one, other in zip(optimizer.state.values(), loaded.state.values(), strict=True):
        assert one.keys() == other.keys()
        assert all(float(value.sum()) == float(other[name].sum()) for name, value in one.items())
    try:
        load()
    except BaseException as error:
        assert "Missing key in checkpoint" in str(error.failures), error
    else:
        raise AssertionError("it loads now: say so in docs/pytorch.md")
""")


def test_a_state_dict_in_the_layout_of_distributed_checkpoints_is_refused_with_the_way_out():
    optimizer = rmsprop.torch.RMSprop([torch.ones(3)])
    with pytest.raises(KeyError, match="set_optimizer_state_dict"):
        optimizer.load_state_dict({"state.weight.square_avg": torch.ones(3), "param_groups.weight.lr": 0.1})
