"""Programs that change, from within a step, what the step is looking at: the process lives, whatever the step does.

Nothing that Python can pass to a step may crash the process or hang it.
"""

import textwrap

import pytest

from malice import ARRAYS, assert_survived, outcomes_of

pytestmark = pytest.mark.timeout(900)  # all programs run before the first test

MALICE = {
    "number that leaves its group when it is asked for its value": """
        class Number(int):
            def __float__(self):
                del optimizer.param_groups[0]["eps"]
                raise OverflowError

        optimizer = rmsprop.RMSprop(big())
        optimizer.param_groups[0]["eps"] = Number(10**6)
        attempt(optimizer.step, big())
    """,
    "number that leaves its group when it is asked for its class": """
        class Number:
            @property
            def __class__(self):
                optimizer.param_groups[0].pop("eps", None)
                return str

        optimizer = rmsprop.RMSprop(big())
        optimizer.param_groups[0]["eps"] = Number()
        attempt(optimizer.step, big())
    """,
    "flag that leaves its group when it is asked for its class": """
        class Flag:
            @property
            def __class__(self):
                optimizer.param_groups[0].pop("centered", None)
                return str

        optimizer = rmsprop.RMSprop(big())
        optimizer.param_groups[0]["centered"] = Flag()
        attempt(optimizer.step, big())
    """,
    "limit that leaves its group when it is shown": """
        class Number(float):
            def __repr__(self):
                optimizer.param_groups[0].clear()
                return "nan"

        optimizer = rmsprop.RMSprop(big())
        optimizer.param_groups[0]["clip_value"] = Number("nan")
        attempt(optimizer.step, big())
    """,
    "schedule that leaves its group": """
        class Schedule:
            def __call__(self, step):
                if armed:
                    del optimizer.param_groups[0]["lr"]
                    gc.collect()
                return 0.1

        optimizer = rmsprop.RMSprop(big(), lr=Schedule())
        armed = True
        attempt(optimizer.step, big())
    """,
    "unknown key that clears its group when it is compared": """
        def on_compare(text):
            optimizer.param_groups[0].clear()

        optimizer = rmsprop.RMSprop(big())
        optimizer.param_groups[0][Text("unknown" * 20)] = 1
        armed = True
        attempt(optimizer.step, big())
    """,
    "key that moves parameters to another group when it is compared": """
        def on_compare(text):
            first, second = (group["params"] for group in optimizer.param_groups)
            second.extend(first[1:])
            del first[1:]

        def schedule(step):
            asked.append(step)
            return 0.1

        asked = []
        empty = [np.empty(0)] * 20_000
        optimizer = rmsprop.RMSprop([{"params": empty}, {"params": np.empty(0), "lr": schedule}])
        optimizer.param_groups[1][Text("lr")] = optimizer.param_groups[1].pop("lr")
        armed = True
        attempt(optimizer.step, [None] * 20_001)
        assert set(asked) == {0}, "a schedule was asked with what lay behind the step counts"
    """,
    "name of a gradient that drops parameters when it is compared": """
        def on_compare(text):
            if text.startswith("b"):
                optimizer.param_groups[0]["params"].clear()
                gc.collect()

        optimizer = rmsprop.RMSprop({"a": big(), "b": big()})
        grads = {Text("a"): big(), Text("b"): big()}
        armed = True
        attempt(optimizer.step, grads)
    """,
    "name of a gradient that drops gradients when it is compared": """
        def on_compare(text):
            grads.clear()

        optimizer = rmsprop.RMSprop({"a": big()})
        grads = {Text("unknown" * 20): big(), Text("other" * 20): big()}
        armed = True
        attempt(optimizer.step, grads)
    """,
    "parameters dropped while NumPy is asked about overlap": """
        def shares_memory(*arguments):
            optimizer.param_groups[0]["params"].clear()
            gc.collect()
            return False

        matrix = np.ones((1 << 17, 4))
        optimizer = rmsprop.RMSprop([matrix[:, :2], matrix[:, 2:]])
        optimizer.step([np.ones((1 << 17, 2)), np.ones((1 << 17, 2))])
        del matrix
        np.shares_memory = shares_memory
        attempt(optimizer.step, [np.ones((1 << 17, 2)), np.ones((1 << 17, 2))])
    """,
    "state resized while NumPy is asked about overlap": """
        def shares_memory(*arguments):
            state.resize(1, refcheck=False)
            return False

        matrix = np.ones((1 << 17, 4))
        optimizer = rmsprop.RMSprop([matrix[:, :2], matrix[:, 2:]])
        state = optimizer.state[0]["square_avg"]
        np.shares_memory = shares_memory
        attempt(optimizer.step, [np.ones((1 << 17, 2)), np.ones((1 << 17, 2))])
    """,
    "schedule that shrinks the arrays": """
        def schedule(step):
            if armed:
                for array in arrays:
                    array.resize(1, refcheck=False)
            return 0.1

        param, grad = big(), big()
        optimizer = rmsprop.RMSprop(param, lr=schedule)
        optimizer.step(grad)
        for arrays in ([param], [grad], [optimizer.state[0]["square_avg"]], []):
            armed = True
            attempt(optimizer.step, grad)
    """,
    "schedule that takes the optimizer apart": """
        def schedule(step):
            if armed:
                optimizer.__dict__.clear()
                gc.collect()
            return 0.1

        optimizer = rmsprop.RMSprop([big(), big()], lr=schedule)
        armed = True
        attempt(optimizer.step, [big(), big()])
    """,
    "sequence of gradients that steps and changes itself": """
        class Sequence:
            def __len__(self):
                return 2
            def __getitem__(self, index):
                attempt(optimizer.step, [big(), big()])
                optimizer.param_groups[0]["params"].pop()
                if index > 5:
                    raise IndexError
                return big()

        optimizer = rmsprop.RMSprop([big(), big()])
        attempt(optimizer.step, Sequence())
    """,
    "destructor that steps": """
        class Rate(float):
            def __del__(self):
                try:
                    optimizer.step(big())
                except RuntimeError as error:
                    refusals.append(str(error))

        def schedule(step):
            return Rate(0.1)

        refusals = []
        optimizer = rmsprop.RMSprop(big(), lr=schedule)
        optimizer.step(big())
        assert optimizer.state[0]["step"] == 1
        assert len(refusals) == 1 and "in the middle of another step" in refusals[0], refusals
    """,
    "gradients that share memory through DLPack, or say so": """
        class Gradient:
            def __init__(self, share):
                self.share = share
            def __dlpack__(self, **more):
                return self.share(**more)

        def fail(**more):
            raise MemoryError

        def step(**more):
            attempt(optimizer.step, big())
            return big().__dlpack__()

        def forget(**more):
            optimizer.param_groups[0]["params"].clear()
            gc.collect()
            return big().__dlpack__()

        used = big().__dlpack__()
        class Once:
            def __dlpack__(self, **more):
                return used
        np.from_dlpack(type("Once", (Once,), {"__dlpack_device__": lambda self: (1, 0)})())

        optimizer = rmsprop.RMSprop(big())
        for share in (lambda **more: 5, lambda **more: None, fail, lambda: 5, lambda **more: used, step):
            attempt(optimizer.step, Gradient(share))
        attempt(optimizer.step, Gradient)
        attempt(optimizer.step, used)
        attempt(optimizer.step, big().__dlpack__())
        attempt(optimizer.step, Gradient(forget))
        attempt(functional.adagrad_, Gradient(fail), Gradient(fail), Gradient(fail), lr=0.1)
    """,
    "schedule without end": """
        def schedule(step):
            functional.adagrad_(big(), big(), big(), lr=schedule)
            return 0.1

        sys.setrecursionlimit(200)
        attempt(functional.adagrad_, big(), big(), big(), lr=schedule)
    """,
    "masked arrays that cannot be imported": """
        class Array(np.ndarray):
            pass

        sys.modules["numpy.ma"] = None
        optimizer = rmsprop.RMSprop(big().view(Array))
        optimizer.step(big())
    """,
    "something else in the place of masked arrays": """
        class Array(np.ndarray):
            pass

        sys.modules["numpy.ma"] = type("Module", (), {"MaskedArray": 5})
        attempt(lambda: rmsprop.RMSprop(big().view(Array)).step(big()))
        np.ma = sys.modules["numpy.ma"] = type(sys)("numpy.ma")
        sys.modules["numpy.ma"].MaskedArray = 5
        attempt(lambda: rmsprop.RMSprop(big().view(Array)).step(big()))
    """,
    "name of the parameters that changes another group when it is compared": """
        def on_compare(key):
            for group in optimizer.param_groups:
                params = next(value for value in group.values() if type(value) is list)
                params[:] = [big() for _ in range(1000)] if grows else []

        for grows in (True, False):
            armed = False
            optimizer = rmsprop.RMSprop([{"params": [big(), big()]}, {"params": [big()]}])
            for i, group in enumerate(optimizer.param_groups):
                params = group.pop("params")
                group[Text("params")] = params
            armed = True
            for _ in range(3):
                attempt(optimizer.step, [big(), big(), big()])
            armed = False
    """,
    "name of the parameters that frees an array when it is compared": """
        def on_compare(key):
            optimizer.param_groups[0]["params"].clear()
            grads.clear()
            optimizer._columns.arrays[0][:] = [None] * 3
            gc.collect()

        optimizer = rmsprop.RMSprop([{"params": [big(), big()]}, {"params": [big()]}])
        params = optimizer.param_groups[1].pop("params")
        optimizer.param_groups[1][Text("params")] = params
        grads = [big(), big(), big()]
        armed = True
        for _ in range(3):
            attempt(optimizer.step, grads)
    """,
    "class of an array that changes everything when it is asked for an attribute": """
        class Meta(type):
            def __getattr__(cls, name):
                params.clear()
                grads.clear()
                gc.collect()
                raise AttributeError(name)

            def __getattribute__(cls, name):
                if armed:
                    params.clear()
                    grads.clear()
                    gc.collect()
                return super().__getattribute__(name)

        for place in range(3):
            class Thing(metaclass=Meta):
                pass

            armed = False
            optimizer = rmsprop.RMSprop([big(), big(), big()])
            params = optimizer.param_groups[0]["params"]
            grads = [big(), big(), big()]
            grads[place] = Thing()
            armed = True
            attempt(optimizer.step, grads)
            armed = False
            lists = [big(), big(), big()], [big(), big(), big()], [big(), big(), big()]
            params, grads, state = lists
            lists[place][1] = Thing()
            armed = True
            attempt(functional.adagrad_, params, grads, state, lr=0.1)
    """,
    "names of the parameters that free everything when a message is made of them": """
        class Name(str):
            def __repr__(self):
                optimizer.param_groups[0]["params"].clear()
                grads.clear()
                gc.collect()
                return "a name"

        optimizer = rmsprop.RMSprop({Name("a"): big(), Name("b"): big()})
        grads = {"a": big(), "b": np.ones(3)}
        attempt(optimizer.step, grads)
        grads = {"a": big(), "b": np.ones(1 << 17, np.float32)}
        attempt(optimizer.step, grads)
    """,
    "module that is asked for when arrays overlap, replaced by other code": """
        def shares_memory(*arguments):
            optimizer.param_groups[0]["params"].clear()
            optimizer._columns.arrays[0][:] = [None, None]
            gc.collect()
            return False

        memory = np.ones((1 << 9, 1 << 9))
        a = np.lib.stride_tricks.as_strided(memory, (1 << 8, 3), (8 * 7, 8 * 3))
        b = np.lib.stride_tricks.as_strided(memory[0, 1:], (1 << 8, 3), (8 * 7, 8 * 3))
        optimizer = rmsprop.RMSprop([big(), big()])
        grads = [big(), big()]
        np.shares_memory = shares_memory
        optimizer.param_groups[0]["params"][:] = [a, b]
        optimizer._columns.arrays[0][:] = [np.zeros(a.shape), np.zeros(b.shape)]
        attempt(optimizer.step, [np.ones(a.shape), np.ones(b.shape)])
    """,
    "a fork in the middle of a step of another thread": """
        def schedule(step):
            if armed:
                started.set()
                finish.wait(60)
            return 0.1

        started, finish = threading.Event(), threading.Event()
        optimizer = rmsprop.RMSprop([big()], lr=schedule)
        armed = True
        thread = threading.Thread(target=lambda: optimizer.step([big()]))
        thread.start()
        started.wait()
        armed = False
        child = os.fork()
        if child == 0:
            try:
                optimizer.step([big()])  # nobody is in the middle of it here
                optimizer.load_state_dict(optimizer.state_dict())
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        try:
            optimizer.step([big()])
        except RuntimeError as error:
            assert "in the middle of another step" in str(error)
        else:
            assert False, "two steps at once"
        finish.set()
        thread.join()
        assert optimizer.state[0]["step"] == 1
    """,
    "arrays dropped in the middle of a step by another thread": """
        # A busy machine may end the step before this thread goes on, which tells nothing: it is then tried again.
        def change_in_the_middle():
            def schedule(step):
                if armed:
                    started.set()
                return 0.1

            armed = False
            started = threading.Event()
            n = 8_000_000
            optimizer = rmsprop.RMSprop([np.ones(n), np.ones(n)], lr=schedule, num_threads=1)
            grads = [np.ones(n), np.ones(n)]
            arrays = [*optimizer.param_groups[0]["params"], *grads, optimizer.state[0]["square_avg"]]
            arrays = [weakref.ref(array) for array in arrays]
            armed = True
            thread = threading.Thread(target=lambda: optimizer.step(grads))
            thread.start()
            started.wait()
            optimizer.param_groups[0]["params"].clear()
            optimizer.state[0]["square_avg"] = np.ones(1)
            grads.clear()
            gc.collect()
            alive = [array() is not None for array in arrays]
            too_soon = not thread.is_alive()
            thread.join()
            if too_soon:
                return False
            assert all(alive), alive
            gc.collect()
            assert not any(array() is not None for array in arrays), "the step kept its arrays"
            return True

        # Nobody else runs until the engine itself lets go of the interpreter.
        sys.setswitchinterval(1000)
        assert any(change_in_the_middle() for _ in range(100)), "each step was over before the change"
    """,
}

# A step that must know of all gradients before it writes lets go of the interpreter twice.
DROPPED = MALICE["arrays dropped in the middle of a step by another thread"]
MALICE |= {
    "arrays dropped while the norm is taken": DROPPED.replace("num_threads=1", "num_threads=1, clip_norm=1.0"),
    "arrays dropped in the middle of a step that may raise": DROPPED.replace("num_threads=1", "nonfinite='raise'"),
    "arrays dropped in the middle of a step that is skipped": DROPPED.replace(
        "num_threads=1", "nonfinite='skip'"
    ).replace("grads = [np.ones(n), np.ones(n)]", "grads = [np.ones(n), np.full(n, np.nan)]"),
}

# Not public, but nothing that Python can pass to it may crash the process either.
RAW_CALLS = {
    "groups that are no list": "groups=5",
    "groups that are no dicts": "groups=[5]",
    "columns that are no tuple": "columns=5",
    "no columns": "columns=()",
    "too few columns": "columns=([0], state)",
    "keys that are no list": "columns=(5, state, steps)",
    "keys in a tuple": "columns=((0,), state, steps)",
    "keys in a str": "columns=('a', state, steps)",
    "too few keys": "columns=([], state, steps)",
    "state that is no tuple": "columns=([0], 5, steps)",
    "no kinds of state": "columns=([0], (), steps)",
    "too few kinds of state": "columns=([0], state[:1], steps)",
    "kinds of state that are no lists": "columns=([0], (state[0], *[5] * 6), steps)",
    "too little state": "columns=([0], ([],) * 7, steps)",
    "step counts in a list": "columns=([0], state, [0])",
    "step counts of another dtype": "columns=([0], state, np.zeros(1))",
    "big-endian step counts": "columns=([0], state, steps.astype('>i8'))",
    "too few step counts": "columns=([0], state, steps[:0])",
    "too many step counts": "columns=([0], state, np.zeros(2, np.int64))",
    "step counts in two dimensions": "columns=([0], state, steps[None])",
    "read-only step counts": "columns=([0], state, np.frombuffer(bytes(8), np.int64))",
}

RAW = """
    from rmsprop._core import Naming, Stepper

    def call(method, **changes):
        state, steps = (*([big()] for _ in range(3)), *([None] for _ in range(4))), np.zeros(1, np.int64)
        arguments = dict(groups=[group], columns=([0], state, steps))
        if method == "step":
            arguments |= dict(grads=[big()], grad_scale=1.0, more=None)
        getattr(Stepper("rmsprop", Naming.optimizer), method)(**arguments | changes)

    group = {**rmsprop.RMSprop([big()], momentum=0.9, centered=True).param_groups[0], "params": [big()]}
    call("step")  # what is right is accepted
    call("check")
    before = group["params"][0].copy()
    state, steps = (*([big()] for _ in range(3)), *([None] for _ in range(4))), np.zeros(1, np.int64)
    changes = dict(%s)
    for method in ("step", "check") if "again" not in changes else ("step",):
        try:
            call(method, **changes)
        except (TypeError, ValueError):
            assert (group["params"][0] == before).all()
        else:
            assert False, "accepted"
"""


@pytest.fixture(scope="module")
def outcomes():
    raw = {name: textwrap.dedent(RAW) % arguments for name, arguments in RAW_CALLS.items()}
    return outcomes_of(ARRAYS, MALICE | raw)


@pytest.mark.parametrize("name", MALICE)
def test_process_survives(name, outcomes):
    assert_survived(outcomes[name])


@pytest.mark.parametrize("name", RAW_CALLS)
def test_engine_refuses(name, outcomes):
    assert_survived(outcomes[name])
