"""Programs that turn what PyTorch lets them hook into against a step: modes, devices, storages, and other threads."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from malice import TENSORS, assert_survived, outcomes_of  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # all programs run before the first test

PREAMBLE = (
    TENSORS
    + """
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

class Mode(TorchFunctionMode):
    '''Calls `on_call(name)` before each function of PyTorch.'''
    def __torch_function__(self, function, types, args=(), kwargs=None):
        on_call(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))
"""
)

MALICE = {
    "mode that frees what a function was given, whenever it is asked": """
        def on_call(name):
            for things in lists:
                things.clear()
            gc.collect()

        for count in (1, 3):
            lists = params, grads, state = [[torch.ones(n) for _ in range(count)] for _ in range(3)]
            columns = list(range(count)), (state, [None] * count, [None] * count), np.zeros(count, np.int64)
            group = {**RMSprop([big()]).param_groups[0], "params": params}
            stepper = Stepper("rmsprop", Naming.torch)
            with Mode():
                attempt(stepper.step, [group], grads, columns, 1.0, None)
            lists = grads, = [[torch.ones(n) for _ in range(count)]]
            with Mode():
                attempt(functional.adagrad_, [torch.ones(n)] * count, grads, [torch.ones(n)] * count, lr=0.1)
    """,
    "mode that changes memory, whatever it is asked": """
        def changes(tensor):
            yield lambda: tensor.untyped_storage().resize_(0)
            yield lambda: setattr(tensor, "data", torch.zeros(3))
            yield lambda: tensor.data.resize_(5)
            yield lambda: tensor.data.set_(torch.zeros(2, 2))
            yield lambda: tensor.data.as_strided_((2, 2), (0, 0))
            yield lambda: setattr(tensor, "data", torch.zeros(n, dtype=torch.complex64).conj().imag)

        def on_call(name):
            with torch._C.DisableTorchFunction():
                attempt(act)

        for with_state in (True, False):
            for which in range(4 if with_state else 2):
                for i in range(6):
                    param = big()
                    optimizer = RMSprop([param])
                    if with_state:
                        optimizer.step()
                    tensor = [param, param.grad, *list(optimizer.state[param].values())][which]
                    act = [*changes(tensor.detach() if i > 1 and which == 0 else tensor)][i]
                    with Mode():
                        attempt(optimizer.step)
    """,
    "another thread that frees memory while gradients are asked whether they are lazy": """
        # PyTorch lets other threads run whenever it is asked. A step of so few elements does not. The memory goes back
        # to the system at once.
        def free():
            while not stop:
                for tensor in tensors:
                    tensor.untyped_storage().resize_(0)
                    tensor.untyped_storage().resize_(80_000)
                    time.sleep(0)

        sys.setswitchinterval(1e-6)
        for kind in ("optimizer", "function"):
            params = [big(20_000), *(big(1) for _ in range(200)), big(20_000)]
            optimizer = RMSprop(params)
            optimizer.step()
            tensors, stop = [params[0].grad, params[-1].grad, optimizer.state[params[0]]["square_avg"]], False
            grads = [param.grad for param in params]
            square_avgs = [torch.zeros(n) for _ in params]
            thread = threading.Thread(target=free)
            thread.start()
            end = time.monotonic() + 2
            with torch.no_grad():
                while time.monotonic() < end:
                    attempt(optimizer.step) if kind == "optimizer" else attempt(
                        functional.rmsprop_, params, grads, square_avgs, lr=0.1
                    )
            stop = True
            thread.join()
    """,
    "storages that are smaller than the tensors in them": """
        for shape in ((n,), (20_000,), (500, 400)):
            for offset in (0, 3, 1 << 12, 1 << 20):
                for which in range(3):
                    for size in (0, 4, 4 * offset, 4 * offset + 4):
                        whole = torch.ones(offset + n * 2)
                        lists = [[torch.ones(shape)] for _ in range(3)]
                        tensor = lists[which][0] = whole[offset : offset + lists[0][0].numel()].view(shape)
                        tensor.untyped_storage().resize_(size)
                        message = attempt(functional.adagrad_, *lists, lr=0.1)
                        assert "memory of its own" in message, message
                        param = torch.ones(shape)
                        optimizer = RMSprop([param])
                        param.grad = torch.ones(shape)
                        optimizer.step()
                        if which == 0:
                            param.data = tensor
                        elif which == 2:
                            optimizer.state[param]["square_avg"] = tensor
                        else:
                            continue
                        message = attempt(optimizer.step)
                        assert "memory of its own" in message, message
    """,
    "state that is made under another default device": """
        for shape in ((), (5,), (n,), (512, 600)):
            for kind in (RMSprop, Adagrad):
                with torch.device("cpu"):
                    param = torch.ones(shape, requires_grad=True)
                    param.grad = torch.ones(shape)
                with torch.device("meta"):
                    optimizer = kind([param])
                    optimizer.step()
                    optimizer.step()
                    optimizer.load_state_dict(optimizer.state_dict())
                torch.set_default_device("meta")
                optimizer.step()
                torch.set_default_device("cpu")
                assert all(value.device.type == "cpu" for value in optimizer.state[param].values())
                assert optimizer.state[param]["step"] == 3
    """,
    "modes that make other memory than they are asked for": """
        class Small(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                if "empty" in function.__name__ and isinstance(result, torch.Tensor) and result.numel() > 5:
                    made.append(function.__name__)
                    return odd(result)
                return result

        made = []
        for odd in (
            lambda t: torch.zeros(1, dtype=t.dtype).expand(t.shape),
            lambda t: torch.zeros(0, dtype=t.dtype),
            lambda t: t.to("meta"),
            lambda t: t.untyped_storage().resize_(0) and t,
        ):
            for shape in ((n,), (10,)):
                param = big(*shape)
                optimizer = RMSprop([param])
                with Small():
                    attempt(optimizer.step)
        assert made

        def on_call(name):
            pass

        class Lying(Mode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                if getattr(function, "__name__", "") == "data_ptr":
                    return 64
                return function(*args, **(kwargs or {}))

        optimizer = RMSprop([big()])
        with Lying():
            attempt(optimizer.step)
    """,
    "tensors whose class gets a dispatch of its own later": """
        import operator

        class Later(torch.Tensor):
            pass

        class Builtin(torch.Tensor):
            __torch_dispatch__ = operator.call

        def wrapped(kind):
            return torch.Tensor._make_wrapper_subclass(
                kind, (n,), dispatch_sizes_strides_policy="sizes", dtype=torch.float32, device="cpu"
            )

        def dispatch(cls, function, types, args=(), kwargs=None):
            asked.append(function)
            params.clear(), grads.clear(), state.clear()
            gc.collect()
            return (n,)

        asked = []
        functional.adagrad_(*[torch.ones(n).as_subclass(Later) for _ in range(3)], lr=0.1)
        Later.__torch_dispatch__ = classmethod(dispatch)
        for kind in (Later, Builtin):
            for place in range(3):
                params, grads, state = lists = [[torch.ones(n), torch.ones(n)] for _ in range(3)]
                try:
                    lists[place][0] = wrapped(kind)
                except Exception as error:
                    print(error)
                    continue
                columns = [0, 1], (state, [None] * 2, [None] * 2), np.zeros(2, np.int64)
                group = {**RMSprop([big()]).param_groups[0], "params": params}
                attempt(Stepper("rmsprop", Naming.torch).step, [group], grads, columns, 1.0, None)
        assert not asked
    """,
    "callbacks that raise, step, and change everything when a step is written": """
        def clear():
            optimizer.state.clear()
            optimizer.param_groups.clear()
            gc.collect()

        def fail():
            raise ValueError

        for act in (clear, fail, lambda: attempt(optimizer.step), lambda: os.fork() or os._exit(0)):
            param = big()
            optimizer = RMSprop([param])
            optimizer.step()

            def on_written(written):
                calls.append(written)
                written.clear()
                act()

            calls = []
            attempt(
                optimizer._stepper.step_tensors, optimizer.param_groups, optimizer.state, 1.0,
                None, on_written,
            )
            assert calls and param[0] < 1
    """,
    "answers about missing state that are none": """
        param = big()
        for answer in (None, 5, [], {}, {param: 5}, {param: {}}, {param: {"step": 5, "square_avg": 5}}, {5: 5},
                       {param: {"step": torch.zeros(()), "square_avg": torch.zeros(3)}},
                       {param: {"step": torch.zeros(()), "square_avg": param}},
                       {param: {"step": param.detach()[:1], "square_avg": torch.zeros(n)}}):
            optimizer = RMSprop([param])
            attempt(optimizer._stepper.step_tensors, optimizer.param_groups, optimizer.state, 1.0, lambda: answer, None)
    """,
    "a step while memory is refused": """
        try:
            import _testcapi
        except ImportError:
            print("this Python is built without the module that refuses memory")
        else:
            gc.disable()
            params = [torch.ones(4, requires_grad=True) for _ in range(3)]
            for param in params:
                param.grad = torch.ones(4)
            optimizer = RMSprop(params, momentum=0.9)
            optimizer.step()
            take = optimizer._stepper.step_tensors
            whole = 0
            for start in range(40):
                before = [(float(p.detach()[0]), float(optimizer.state[p]["step"])) for p in params]
                _testcapi.set_nomemory(start, start + 1)
                try:
                    take(optimizer.param_groups, optimizer.state, 1.0, None, None)
                except Exception:
                    pass
                finally:
                    _testcapi.remove_mem_hooks()
                after = [(float(p.detach()[0]), float(optimizer.state[p]["step"])) for p in params]
                moved = [was[0] != now[0] and was[1] != now[1] for was, now in zip(before, after)]
                assert all(moved) or before == after, (start, before, after)
                whole += all(moved)
            assert 0 < whole < 40
    """,
    "hooks of optimizers, autograd and garbage that take everything apart": """
        class Cycle:
            def __init__(self):
                self.me = self
            def __del__(self):
                attempt(optimizer.step)

        def apart(*_):
            Cycle()
            gc.collect()
            layer.weight.data = torch.zeros(3)
            optimizer.state.clear()
            optimizer.param_groups.clear()

        for in_backward in (False, True):
            for place in ("pre", "post", "grad", "global"):
                layer = torch.nn.Linear(300, 400)
                optimizer = RMSprop(layer.parameters())
                handle = None
                if place == "pre":
                    optimizer.register_step_pre_hook(apart)
                elif place == "post":
                    optimizer.register_step_post_hook(apart)
                elif place == "global":
                    handle = register_optimizer_step_pre_hook(apart)
                if in_backward:
                    attempt(rmsprop.torch.step_in_backward, layer, optimizer)
                if place == "grad":
                    layer.bias.register_post_accumulate_grad_hook(apart)
                attempt(lambda: layer(torch.ones(2, 300)).sum().backward())
                attempt(optimizer.step)
                if handle:
                    handle.remove()
    """,
}


@pytest.fixture(scope="module")
def outcomes():
    return outcomes_of(PREAMBLE, MALICE)


@pytest.mark.parametrize("name", MALICE)
def test_process_survives(name, outcomes):
    assert_survived(outcomes[name])
