"""The PyTorch adapter in forked children, in pools of processes, and in several threads: the same bits in each.

Each runs in a Python of its own with a time limit: a hang is a failure.
"""

import pytest

from children import FORKS, RUNS, output_of

pytest.importorskip("torch", reason="PyTorch is not installed")

# A run, and what the NumPy API makes of it. No tensor of PyTorch's is computed with in a child: its own threads do not
# survive a fork.
RUN = (
    RUNS
    + """
import torch
import rmsprop.torch

def problem(seed):
    return np.random.default_rng(seed).standard_normal((2, SIZE)).astype(np.float32)

def make(seed):
    values, grad = problem(seed)
    param = torch.from_numpy(values).requires_grad_()
    param.grad = torch.from_numpy(grad)
    return param, rmsprop.torch.RMSprop([param], lr=0.1, momentum=0.9, eps_in_sqrt=True)

def run(seed):
    param, optimizer = make(seed)
    for _ in range(STEPS):
        optimizer.step()
    return param.detach().numpy().tobytes()

def expected(seed):
    param, grad = problem(seed)
    optimizer = rmsprop.RMSprop(param, lr=0.1, momentum=0.9, alpha=0.99)
    for _ in range(STEPS):
        optimizer.step(grad)
    return param.tobytes()

EXPECTED = {seed: expected(seed) for seed in range(4)}

rmsprop.set_num_threads(2)
"""
)


def run(code):
    return output_of(RUN + code, timeout=120)


@FORKS
def test_children_forked_while_other_threads_step_tensors_do_not_hang():
    code = """
run(3)  # PyTorch imports modules for the first optimizer, and a child cannot import what a thread was importing
stop, results = threading.Event(), []

def keep_stepping(seed):
    while not stop.is_set():
        results.append(run(seed) == EXPECTED[seed])

threads = [threading.Thread(target=keep_stepping, args=[seed]) for seed in (1, 2)]
for thread in threads:
    thread.start()
for i in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if run(0) == EXPECTED[0] else 1)
    assert os.waitpid(child, 0)[1] == 0, i
stop.set()
for thread in threads:
    thread.join()
print(all(results), len(results) > 0)
"""
    assert run(code) == "True True"


@FORKS
def test_a_child_goes_on_with_the_optimizer_it_was_forked_with():
    code = """
param, optimizer = make(0)
optimizer.step()
child = os.fork()
for _ in range(STEPS - 1):
    optimizer.step()
same = param.detach().numpy().tobytes() == EXPECTED[0]
if child == 0:
    os._exit(0 if same else 1)
print(same, os.waitpid(child, 0)[1])
"""
    assert run(code) == "True 0"


@FORKS
def test_a_pool_of_forked_processes_gets_the_same_bits():
    code = """
assert run(0) == EXPECTED[0]  # the threads of this process are there
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(run, range(4)) == list(EXPECTED.values()))
"""
    assert run(code) == "True"


def test_optimizers_of_their_own_in_several_threads_get_the_same_bits():
    code = """
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(all(got == EXPECTED[seed % 4] for seed, got in enumerate(pool.map(run, [0, 1, 2, 3] * 5))))
"""
    assert run(code) == "True"
