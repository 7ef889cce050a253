"""Tensors, hooks and other threads that change what a step is looking at: the process lives, whatever the step does."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from malice import TENSORS, assert_survived, outcomes_of  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # all programs run before the first test

PREAMBLE = (
    TENSORS
    + """
BUSY = "in the middle of another step"

class Nosy(torch.Tensor):
    '''A tensor that calls `when[name]` whenever PyTorch's function of that name is called with it.'''
    when = {}
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        owner = getattr(getattr(function, "__self__", None), "__name__", "")
        for key in (name, owner):
            if key in cls.when:
                cls.when[key]()
        return super().__torch_function__(function, types, args, kwargs or {})
"""
)

# A busy machine may keep the other thread waiting until the step is over, which tells nothing: then it is tried again.
DROPPED = """
    def change_in_the_middle():
        def elsewhere():
            started.wait()
            {change}
            gc.collect()
            seen.append([tensor() is not None for tensor in tensors])
            over.append(done)

        params = [big(8_000_000), big(8_000_000)]
        optimizer = RMSprop([("a", params[0]), ("b", params[1])], num_threads=1, {options})
        optimizer.step()
        {before}
        tensors = [weakref.ref(t) for p in params for t in (p, p.grad, optimizer.state[p]["square_avg"])]
        started, seen, over, done = threading.Event(), [], [], False
        thread = threading.Thread(target=elsewhere)
        thread.start()
        del params
        started.set()
        ready = time.perf_counter() + 0.05
        while time.perf_counter() < ready:  # a sleep would let it in: it shall wait at the door
            pass
        error = attempt(optimizer.step)
        done = True
        thread.join()
        if over == [True]:
            return False
        assert all(seen[0]), seen
        {then}
        return True

    # Nobody else runs until the engine itself lets go of the interpreter.
    sys.setswitchinterval(1000)
    assert any(change_in_the_middle() for _ in range(100)), "each step was over before the change"
"""
DROP = "optimizer.param_groups[0]['params'][0].grad = optimizer.param_groups[0]['params'][1].grad = None; "
DROP += "optimizer.state.clear(); optimizer.param_groups[0].clear(); optimizer.param_groups.clear()"


def dropped(options="", before="", then=""):
    return DROPPED.format(change=DROP, options=options, before=before, then=then)


NAN = "params[1].grad[-1] = float('nan'); optimizer.nonfinite = "
RAISED = "assert 'got a NaN or an infinity' in error, error"
GONE = "gc.collect(); assert not any(t() is not None for t in tensors), 'the step kept its tensors'"

MALICE = {
    "tensors and groups dropped in the middle of a step by another thread": dropped(then=GONE),
    "tensors and groups dropped while the norm is taken": dropped("clip_norm=1.0", then=GONE),
    "tensors and groups dropped in the middle of a step that is skipped": dropped(
        before=NAN + "'skip'", then="assert optimizer.skipped_steps == 1; " + GONE
    ),
    "tensors and groups dropped in the middle of a step that raises": dropped(before=NAN + "'raise'", then=RAISED),
    "parameters replaced by what is none in the middle of a step by another thread": DROPPED.format(
        change="optimizer.param_groups[0]['params'][:] = [None, 5]", options="", before="", then="assert error is None"
    ),
    "gradient whose look-up removes parameters": """
        param = torch.ones(n).as_subclass(Nosy).requires_grad_()
        other = big()
        optimizer = RMSprop([param, other])
        param.grad = torch.ones(n)
        Nosy.when = {"grad": lambda: optimizer.param_groups[0]["params"].clear()}
        del param, other
        attempt(optimizer.step)
    """,
    "gradient whose look-up removes the state": """
        param = torch.ones(n).as_subclass(Nosy).requires_grad_()
        optimizer = RMSprop([param])
        param.grad = torch.ones(n)
        optimizer.step()
        Nosy.when = {"grad": optimizer.state.clear}
        attempt(optimizer.step)
        Nosy.when = {"grad": lambda: optimizer.state[param].clear()}
        attempt(optimizer.step)
    """,
    "gradient whose look-up removes the groups": """
        param = torch.ones(n).as_subclass(Nosy).requires_grad_()
        optimizer = RMSprop([{"params": [param]}, {"params": [big()]}])
        param.grad = torch.ones(n)
        Nosy.when = {"grad": optimizer.param_groups.clear}
        attempt(optimizer.step)
    """,
    "gradient that frees memory when it is asked whether it is lazy": """
        def free():
            for tensor in tensors:
                tensor.untyped_storage().resize_(0)

        for which in range(3):
            param = big(512, 256, grad=False)
            optimizer = RMSprop([param])
            param.grad = torch.ones(256, 512).t().as_subclass(Nosy)
            Nosy.when = {}
            optimizer.step()
            tensors = [[param], [optimizer.state[param]["square_avg"]], [param.grad]][which]
            Nosy.when = {"is_conj": free, "is_neg": free}
            message = attempt(optimizer.step)
            assert message, "it stepped memory that is gone"
    """,
    "gradient that replaces memory when it is asked whether it is lazy": """
        def replace():
            param.data = torch.zeros(512, 256)

        param = big(512, 256, grad=False)
        optimizer = RMSprop([param])
        param.grad = torch.ones(256, 512).t().as_subclass(Nosy)
        Nosy.when = {"is_neg": replace}
        optimizer.step()  # looks at memory after that
        assert param.detach().all()
        assert param.detach().unique().numel() == 1
    """,
    "state that replaces memory when it is asked whether it is lazy": """
        def replace():
            param.data = torch.zeros(512, 256)

        param = big(512, 256)
        optimizer = RMSprop([param])
        optimizer.step()
        optimizer.state[param]["square_avg"] = torch.ones(512, 256).as_subclass(Nosy)
        Nosy.when = {"is_neg": replace}
        assert "replaced or resized" in attempt(optimizer.step)
        assert not param.detach().any()
    """,
    "tensors whose destructor steps": """
        class Last(torch.Tensor):
            def __del__(self):
                messages.append(attempt(optimizer.step))

        messages = []
        param = big(grad=False)
        param.grad = torch.ones(n).as_subclass(Last)
        optimizer = RMSprop([param])
        optimizer.register_step_pre_hook(lambda *_: None)

        class Rate(float):
            def __del__(self):
                messages.append(attempt(optimizer.step))

        class Number:  # as a tensor has it
            def item(self):
                param.grad = torch.ones(n).as_subclass(Last)  # drops the one before
                return Rate(0.1)

        optimizer.param_groups[0]["lr"] = Number()
        attempt(optimizer.step)
        assert messages and all(BUSY in message for message in messages), messages
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
    """,
    "learning rate that takes the optimizer apart": """
        class Number:
            def item(self):
                optimizer.param_groups[0].clear()
                optimizer.state.clear()
                gc.collect()
                return 0.1

        optimizer = RMSprop([big(), big()])
        optimizer.step()
        optimizer.param_groups[0]["lr"] = Number()
        attempt(optimizer.step)
    """,
    "hooks that step without end": """
        optimizer = RMSprop([big()])
        optimizer.register_step_pre_hook(lambda optimizer, *_: optimizer.step())
        sys.setrecursionlimit(200)
        attempt(optimizer.step)
        optimizer = RMSprop([big()])
        optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.step())
        attempt(optimizer.step)
    """,
    "closure that steps": """
        param = big()
        optimizer = RMSprop([param])
        optimizer.step(lambda: optimizer.step())
        assert optimizer.state[param]["step"].item() == 2
    """,
    "hook in the backward pass that steps the whole optimizer": """
        layer = torch.nn.Linear(300, 400)
        optimizer = RMSprop(layer.parameters())
        rmsprop.torch.step_in_backward(layer, optimizer)
        layer.weight.register_post_accumulate_grad_hook(lambda param: optimizer.step())
        layer(torch.ones(2, 300)).sum().backward()
        assert optimizer.state[layer.weight]["step"].item() == 1
    """,
    "parameters that are asked for their hash": """
        class Odd(torch.nn.Parameter):
            def __hash__(self):
                if armed:
                    optimizer.param_groups[0]["params"].clear()
                    optimizer.state.clear()
                    gc.collect()
                return 5
            def __eq__(self, other):
                return True

        armed = False
        params = [Odd(torch.ones(n)) for _ in range(3)]
        for param in params:
            param.grad = torch.ones(n)
        optimizer = RMSprop([params[0]])
        del params
        armed = True
        attempt(optimizer.step)
    """,
    "step counts that are none": """
        class Odd:
            def __dlpack__(self, **more):
                optimizer.state.clear()
                return 5

        param = big()
        optimizer = RMSprop([param])
        optimizer.step()
        for odd in (Odd(), None, 1, "one", torch.ones(0), torch.ones(2), torch.ones(1, device="meta"), Odd):
            optimizer.state[param] = {"step": odd, "square_avg": torch.ones(n)}
            assert attempt(optimizer.step), odd
        step = torch.ones(())
        step.untyped_storage().resize_(0)
        optimizer.state[param] = {"step": step, "square_avg": torch.ones(n)}
        assert attempt(optimizer.step)
    """,
    "state that is no dict of dicts": """
        param = big()
        optimizer = RMSprop([param])
        for entry in (5, None, [], {"step": torch.ones(())}, {"square_avg": 5}, {5: 5}):
            optimizer.state.clear()
            optimizer.state[param] = entry
            attempt(optimizer.step)
        optimizer.state = 5
        attempt(optimizer.step)
        optimizer.state = None
        attempt(optimizer.step)
    """,
}


@pytest.fixture(scope="module")
def outcomes():
    return outcomes_of(PREAMBLE, MALICE)


@pytest.mark.parametrize("name", MALICE)
def test_process_survives(name, outcomes):
    assert_survived(outcomes[name])
