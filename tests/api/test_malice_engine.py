"""Programs that turn what the engine itself relies on against it: its lists, locks, types, and forks.

Nothing that Python can pass to a step may crash the process or hang it.
"""

import pytest

from malice import ARRAYS, assert_survived, outcomes_of

pytestmark = pytest.mark.timeout(900)  # all programs run before the first test

MALICE = {
    "fork in the middle of a step, by the step itself": """
        def schedule(step):
            if armed:
                armed_once()
                child = os.fork()
                if child == 0:  # goes on with the step after this
                    optimizer.param_groups.append(optimizer.param_groups[0])
                    messages.append(attempt(optimizer.step, [big()] * 3))
                    thread = threading.Thread(target=lambda: messages.append(attempt(optimizer.step, [big()] * 3)))
                    thread.start()
                    thread.join()
                    optimizer.param_groups.pop()
                else:
                    children.append(child)
            return 0.1

        def armed_once():
            global armed
            armed = False

        messages, children = [], []
        optimizer = rmsprop.RMSprop([{"params": [big()]}, {"params": [big()], "lr": schedule}])
        armed = True
        optimizer.step([big()] * 2)
        assert optimizer.state[0]["step"] == 1
        optimizer.step([big()] * 2)  # free again, in both
        if not children:
            assert len(messages) == 2 and all("in the middle of another step" in m for m in messages), messages
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
    """,
    "class whose attributes run code when they are looked up in it": """
        def on_compare(text):
            for things in lists:
                things.clear()
            gc.collect()

        def made(name):
            return type("Thing", (), {Text(name): 1})()

        names = ("__dlpack_c_exchange_api__", "__torch_dispatch__", "__dlpack__", "__array_finalize__")
        for name in names:
            for place in range(3):
                for _ in range(20):  # more types than are kept
                    armed = False
                    params, grads, column = lists = [big(), big()], [big(), big()], [big(), big()]
                    lists[place].insert(0, made(name))
                    for other in lists:
                        if other is not lists[place]:
                            other.insert(0, big())
                    armed = True
                    columns = [0, 1, 2], (column, [None] * 3, [None] * 3), np.zeros(3, np.int64)
                    group = {**defaults, "params": params} if "defaults" in globals() else group_of()
                    defaults = group
                    attempt(Stepper("rmsprop", Naming.optimizer).step, [{**group, "params": params}], grads, columns,
                        1.0, None)
    """,
    "class that says that it is a tensor, and is asked for its class": """
        class Fake:
            @property
            def __class__(self):
                if armed:
                    for things in lists:
                        things.clear()
                    gc.collect()
                return int

        try:
            import torch
        except ImportError:
            pass
        else:
            Fake.__dlpack_c_exchange_api__ = torch.Tensor.__dict__.get("__dlpack_c_exchange_api__")
        for place in range(3):
            armed = False
            params, grads, column = lists = [big(), big()], [big(), big()], [big(), big()]
            lists[place][0] = Fake()
            columns = [0, 1], (column, [None] * 2, [None] * 2), np.zeros(2, np.int64)
            group = group_of()
            armed = True
            attempt(Stepper("rmsprop", Naming.optimizer).step, [{**group, "params": params}], grads, columns, 1.0, None)
    """,
    "arrays whose shape, strides, dtype and size change between any two looks": """
        def changes(array):
            yield lambda: array.resize(0, refcheck=False)
            yield lambda: array.resize(7, refcheck=False)
            yield lambda: setattr(array, "shape", (1 << 9, 1 << 8))
            yield lambda: setattr(array, "shape", (1,) * 62 + (1 << 9, 1 << 8))
            yield lambda: setattr(array, "dtype", np.float32)
            yield lambda: setattr(array, "dtype", np.complex128)
            yield lambda: setattr(array, "dtype", np.dtype((np.void, 8)))
            yield lambda: setattr(array, "strides", (0,))
            yield lambda: setattr(array.flags, "writeable", False)
            yield lambda: setattr(array, "data", np.ones(1 << 17).data)

        class Nosy(np.ndarray):
            def __array_finalize__(self, other):
                if armed:
                    change()

        class Number(int):
            def __float__(self):
                change()
                return 0.5

        def shares_memory(*arguments):
            change()
            return False

        shares, number_of_changes = np.shares_memory, 10
        for hook in ("schedule", "number", "overlap", "finalize", "length", "repr"):
            for which in range(4):
                for i in range(number_of_changes):
                    armed, change = False, lambda: None
                    param, grad = big(), big()
                    optimizer = rmsprop.RMSprop([param.view(Nosy) if hook == "finalize" else param], momentum=0.9)
                    arrays = param, grad, optimizer.state[0]["square_avg"], optimizer._columns.steps
                    act = [*changes(arrays[which])][i]
                    change = lambda: attempt(act)
                    group, grads = optimizer.param_groups[0], [grad]
                    if hook == "schedule":
                        group["lr"] = lambda step: change() or 0.1
                    elif hook == "number":
                        group["eps"] = Number()
                    elif hook == "overlap":
                        a, b = interleaved()
                        group["params"].extend([a, b])
                        np.shares_memory = shares_memory
                    elif hook == "length":
                        grads = type("Grads", (), {"__len__": lambda s: change() or 1, "__getitem__": lambda s,
                            j: [grad][j]})()
                    elif hook == "repr":
                        grads = [grad, type("Grad", (), {"__dlpack__": lambda s,
                            **_: change() or grad.__dlpack__()})()][1:]
                    armed = True
                    attempt(optimizer.step, grads)
                    armed, change = False, lambda: None
                    attempt(optimizer.step, [big()])
                    np.shares_memory = shares
    """,
    "module of NumPy whose names mean something else": """
        import subprocess
        for name, value in (("ndarray", "list"), ("generic", "5"), ("dtype", "lambda *_: 5"), ("ndarray", "5")):
            code = f'''if True:
                import numpy
                import rmsprop._core as core
                numpy.{name} = {value}
                for grads in ([[1.0] * 9], [1.0], [numpy.ones(3)]):
                    for params in ([[1.0] * 99], [numpy.ones(3)]):
                        columns = [0], (params, [None], [None]), numpy.zeros(1, "int64")
                        group = {{**core.rules["rmsprop"].defaults, "lr": 0.1, "params": params}}
                        stepper = core.Stepper("rmsprop", core.Naming.optimizer)
                        for call in (lambda: stepper.check([group], columns),
                                     lambda: stepper.step([group], grads, columns, 1.0, None)):
                            try:
                                call()
                            except Exception as error:
                                print(type(error))
            '''
            assert subprocess.run([sys.executable, "-c", code]).returncode == 0, name
    """,
    "signals, traces, profiles and collections in the middle of everything": """
        import signal

        def disturb(*_):
            gc.collect()
            if armed:
                messages.append(attempt(optimizer.step, grads))
                optimizer.param_groups[0]["params"].clear()

        class Grads(list):
            pass

        class Cycle:
            def __init__(self):
                self.me = self
            def __del__(self):
                disturb()

        def schedule(step):
            Cycle()
            signal.raise_signal(signal.SIGUSR1)
            return 0.1

        signal.signal(signal.SIGUSR1, disturb)
        messages, hooks = [], (sys.setprofile, sys.settrace,
            lambda f: gc.callbacks.append(f) if f else gc.callbacks.clear())
        for hook in hooks:
            optimizer = rmsprop.RMSprop([big(), big()], lr=schedule)
            grads = Grads([big(), big()])
            gc.set_threshold(1)
            armed = True
            hook(disturb)
            attempt(optimizer.step, grads)
            hook(None)
            armed = False
            gc.set_threshold(700)
        assert all("in the middle of another" in str(m) or "parameters" in str(m) for m in messages), set(map(str,
            messages))
    """,
}


@pytest.fixture(scope="module")
def outcomes():
    return outcomes_of(ARRAYS, MALICE)


@pytest.mark.parametrize("name", MALICE)
def test_process_survives(name, outcomes):
    assert_survived(outcomes[name])
