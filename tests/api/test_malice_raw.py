"""Programs that call the engine below the optimizers with anything, and change its lists under its hands.

Nothing that Python can pass to a step may crash the process or hang it.
"""

import pytest

from malice import ARRAYS, assert_survived, outcomes_of

pytestmark = pytest.mark.timeout(900)  # all programs run before the first test

MALICE = {
    "names that empty the list of names when a message is made of them": """
        class Name(str):
            def __repr__(self):
                keys.clear()
                gc.collect()
                return "a name"

        param = big()
        state, steps = ([big(), big()], [None] * 2, [None] * 2), np.zeros(2, np.int64)
        stepper = Stepper("rmsprop", Naming.optimizer)
        for params in ([param, param], [big(), np.ones(3)], [param, param[5:]]):
            keys = [Name("a" * 99), Name("b" * 99)]
            attempt(stepper.step, [group_of(*params)], {"a" * 99: big(), "b" * 99: big()}, (keys, state, steps), 1.0,
                None)
            keys = [Name("a" * 99), Name("b" * 99)]
            attempt(stepper.check, [group_of(*params)], (keys, state, steps))
    """,
    "names that are gone when NumPy finds that arrays overlap": """
        def shares_memory(*arguments):
            keys.clear()
            gc.collect()
            return True

        a, b = interleaved()
        np.shares_memory = shares_memory
        for _ in range(2):
            keys = list(range(2))
            state = [np.zeros(a.shape), np.zeros(a.shape)], [None] * 2, [None] * 2
            attempt(
                Stepper("rmsprop", Naming.optimizer).step, [group_of(a, b)], [np.ones(a.shape)] * 2,
                (keys, state, np.zeros(2, np.int64)), 1.0, None,
            )
    """,
    "step counts and names that shrink together while the engine is at work": """
        # A step without the engine's end may be over too soon, which tells nothing.
        def step(grads):
            stepper.step([group_of(*params, clip_norm=1.0)], grads, (keys, state, steps), 1.0, None)

        stepper = Stepper("rmsprop", Naming.optimizer)
        sys.setswitchinterval(1e-6)
        for attempts in range(40):
            params = [np.ones(1 << 20), *(np.ones(1) for _ in range(1 << 14))]
            grads = [np.ones(p.shape) for p in params]
            state = [np.zeros(p.shape) for p in params], [None] * len(params), [None] * len(params)
            keys, steps = list(range(len(params))), np.zeros(len(params), np.int64)
            thread = threading.Thread(target=attempt, args=(step, grads))
            thread.start()
            while thread.is_alive() and not params[0][0] < 1:
                pass
            keys.clear()
            steps.resize(0, refcheck=False)
            thread.join()
    """,
    "step counts that shrink in a schedule": """
        class Counts(np.ndarray):
            def __len__(self):
                if armed == "raise":
                    raise ValueError
                return 1 << 20

        def schedule(step):
            assert step == 0
            if armed == "resize":
                steps.resize(0, refcheck=False)
            return 0.1

        for armed in ("raise", "lie", "resize"):
            for count in (0, 1):
                steps = np.zeros(count, np.int64)
                counts = steps if armed == "resize" else steps.view(Counts)
                lists = [big()] * count, [None] * count, [None] * count
                attempt(
                    Stepper("rmsprop", Naming.optimizer).step, [group_of(*[big()] * count, lr=schedule)],
                    [big()] * count, (list(range(count)), lists, counts), 1.0, None,
                )
    """,
    "lock that is given back by who never had it": """
        def schedule(step):
            if armed:
                for hold in holds:
                    hold.__exit__(None, None, None)
                    hold.__exit__()
                messages.append(attempt(optimizer.step, [big()] * 2))
            return 0.1

        messages = []
        optimizer = rmsprop.RMSprop([{"params": [big()]}, {"params": [big()], "lr": schedule}])
        used = optimizer._stepper.hold("save")
        with used:
            assert "in the middle of save" in attempt(optimizer.step, [big()] * 2)
            assert "in the middle of save" in attempt(used.__enter__)
        holds = [optimizer._stepper.hold("save"), optimizer._stepper.twin().hold("odd"), used]
        armed = True
        optimizer.step([big()] * 2)
        assert len(messages) == 1 and "in the middle of another step" in messages[0], messages
        assert optimizer.state[0]["step"] == 1
    """,
    "lock that is thrown away": """
        optimizer = rmsprop.RMSprop([big()])
        optimizer._stepper.hold("save").__enter__()
        gc.collect()
        optimizer.step([big()])
    """,
    "objects that were never made": """
        for kind in (Stepper, Rule, Hold):
            for make in (lambda: kind.__new__(kind), lambda: object.__new__(kind), lambda: kind.__base__.__new__(kind)):
                try:
                    made = make()
                except TypeError:
                    continue
                for name in [*dir(made), "__reduce__"]:
                    if name not in ("__class__", "__init__", "__new__"):
                        attempt(lambda: getattr(made, name))
                for name, arguments in {
                    "step": ([], [], ([], ([],) * 3, np.zeros(0, np.int64)), 1.0, None), "check": ([], ()),
                    "step_tensors": ([], {}, 1.0, None, None), "check_tensors": ([], {}), "state_names": ({},),
                    "hold": ("step",), "twin": (), "__enter__": (), "__exit__": (), "__getstate__": (),
                }.items():
                    attempt(lambda: getattr(made, name)(*arguments))
                attempt(setattr, made, "nonfinite", "skip")
                attempt(pickle.dumps, made)
                attempt(functional._step, "rmsprop", {})

        class Late(Stepper):
            def __init__(self):
                self.nonfinite
        attempt(Late)
        class Late(Stepper):
            def __init__(self):
                pass
        attempt(Late)
    """,
    "pickles of nonsense": """
        for state in ((), (1, 2, 3, 4, 5), ("rmsprop",), ("rmsprop", Naming.torch, "skip", 1), ("odd", Naming.torch,
            1, 2, 3),
                      ("rmsprop", 5, "skip", None, 0), ("rmsprop", Naming.torch, "skip", -1, 0),
                      ("rmsprop", Naming.torch, "skip", None, 1 << 80), ("rmsprop", Naming.torch, None, None, None)):
            stepper = Stepper.__new__(Stepper)
            assert attempt(stepper.__setstate__, state) is not None, state
            assert attempt(lambda: stepper.nonfinite) != "propagate"
    """,
    "nonsense for every argument": """
        class Liar:
            def __getattr__(self, name):
                raise MemoryError
            def __len__(self):
                return -1 if armed else 1 << 62
            def __getitem__(self, index):
                return self
            def __iter__(self):
                return self
            def __next__(self):
                raise StopIteration
            def __index__(self):
                return 1 << 80
            def __call__(self, *_):
                return self
            __float__ = __bool__ = __index__

        nonsense = [None, 5, -1, 1 << 80, 0.5, float("nan"), 1j, "x", "\\ud800", b"x", (), [], {}, {5: 5}, [None],
            [[]], [{}],
                    ([], ([], [], []), np.zeros(0, np.int64)), object(), type, Liar, Liar(), np.ones(3), np.ones(()),
                        np.float64(1),
                    np.array([None]), np.ma.ones(3), memoryview(b"x"), range(3), iter([]), print, lambda *_: 5,
                        Naming.torch, Rule]
        for kind in ("optimizer", "function", "torch"):
            calls = {
                "step": lambda: [[group_of(big())], [big()], ([0], ([big()], [None], [None]), np.zeros(1, np.int64)),
                    1.0, None],
                "step_tensors": lambda: [[group_of()], {}, 1.0, None, None],
                "check": lambda: [[group_of(big())], ([0], ([big()], [None], [None]), np.zeros(1, np.int64))],
                "check_tensors": lambda: [[group_of()], {}],
                "state_names": lambda: [group_of()],
                "hold": lambda: ["step"],
                "__setstate__": lambda: [("rmsprop", Naming.torch, "skip", None, 0)],
            }
            stepper = Stepper("rmsprop", getattr(Naming, kind))
            for name, arguments in calls.items():
                for place in range(len(arguments())):
                    given = arguments()
                    for armed in (False, True):
                        for odd in nonsense:
                            given[place] = odd
                            attempt(getattr(stepper, name), *given)
                            if name == "step" and place == 2 or name == "check" and place == 1:
                                for inner in range(3):
                                    columns = [[0], ([big()], [None], [None]), np.zeros(1, np.int64)]
                                    columns[inner] = odd
                                    given[place] = tuple(columns)
                                    attempt(getattr(stepper, name), *given)
            for odd in nonsense:
                for name in ("nonfinite", "num_threads", "skipped_steps"):
                    attempt(setattr, stepper, name, odd)
                attempt(Stepper, odd, Naming.torch)
                attempt(Stepper, "rmsprop", odd)
                for name in group_of():
                    attempt(stepper.step, [{**group_of(big()), name: odd}], [big()], ([0], ([big()], [None], [None]),
                        np.zeros(1, np.int64)), 1.0, None)
    """,
    "a step while memory is refused": """
        try:
            import _testcapi
        except ImportError:
            print("this Python is built without the module that refuses memory")
        else:
            class Foreign:
                def __dlpack__(self, **options):
                    return big().__dlpack__()

            gc.disable()
            optimizer = rmsprop.RMSprop({"a": big(), "b": big()}, momentum=0.9)
            arrays = {"a": big(), "b": big()}
            optimizer.step(arrays)
            first = optimizer.param_groups[0]["params"][0]
            odd = [{**optimizer.param_groups[0], "unknown": 1.0}]
            for groups, grads in (
                (optimizer.param_groups, arrays), (optimizer.param_groups, {"a": Foreign(), "b": Foreign()}),
                (optimizer.param_groups, {"a": big(), 2: big()}), (odd, arrays),
            ):
                for start in range(40):
                    before = optimizer.state["a"]["step"], float(first[0])
                    _testcapi.set_nomemory(start, start + 1)
                    try:
                        optimizer._take(groups, grads, optimizer._columns.for_engine, 1.0, None)
                    except Exception:
                        pass
                    finally:
                        _testcapi.remove_mem_hooks()
                    after = optimizer.state["a"]["step"], float(first[0])
                    assert (before[0] == after[0]) == (before[1] == after[1]), (start, before, after)
            assert after[0] > 40
    """,
    "twin whose stepper is gone": """
        twin = Stepper("rmsprop", Naming.optimizer).twin()
        hold = twin.hold("save")
        with hold:
            del twin
            gc.collect()
        hold.__exit__()
    """,
}


@pytest.fixture(scope="module")
def outcomes():
    return outcomes_of(ARRAYS, MALICE)


@pytest.mark.parametrize("name", MALICE)
def test_process_survives(name, outcomes):
    assert_survived(outcomes[name])
