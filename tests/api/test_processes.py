"""Processes that fork, spawn, have pools of processes or threads, or joblib: steps have the reference's bits in each.

Each runs in a Python of its own with a time limit: a hang is a failure.
"""

import subprocess
import sys

import pytest

from children import FORKS, RUNS, output_of

# A run, and what the reference makes of it.
RUN = (
    RUNS
    + """
from rmsprop import reference

def problem(seed):
    return np.random.default_rng(seed).standard_normal((2, SIZE))

def run(seed, **options):
    param, grad = problem(seed)
    optimizer = rmsprop.RMSprop(param, lr=0.1, momentum=0.9, **options)
    for _ in range(STEPS):
        optimizer.step(grad)
    return param

def expected(seed):
    param, grad = problem(seed)
    square_avg, buffer = np.zeros((2, SIZE))
    for _ in range(STEPS):
        reference.rmsprop_(param, grad, square_avg, lr=0.1, momentum=0.9, momentum_buffer=buffer)
    return param

def same(params, seeds):
    return [param.tobytes() for param in params] == [expected(seed).tobytes() for seed in seeds]

rmsprop.set_num_threads(3)
"""
)


def run(code, *arguments, **options):
    return output_of(RUN + code, *arguments, timeout=120, **options)


# ---- Forks -----------------------------------------------------------------------------------------------------------


@FORKS
def test_a_forked_child_steps_on_its_own_thread_and_gets_the_same_bits():
    code = """
assert same([run(0)], [0])
child = os.fork()
if child == 0:
    ok = same([run(0, num_threads=2)], [0]) and rmsprop.get_num_threads() == 1
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if same([run(1)], [1]) else 1)
    os._exit(0 if ok and os.waitpid(grandchild, 0)[1] == 0 else 1)
assert os.waitpid(child, 0)[1] == 0
assert rmsprop.get_num_threads() == 3
print(same([run(0)], [0]))
"""
    assert run(code) == "True"


@FORKS
def test_a_child_goes_on_with_the_optimizer_it_was_forked_with():
    code = """
param, grad = problem(0)
optimizer = rmsprop.RMSprop(param, lr=0.1)
optimizer.step(grad)
read, write = os.pipe()
child = os.fork()
optimizer.step(grad)
if child == 0:
    os.write(write, param[::100].tobytes())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(os.read(read, 1 << 16) == param[::100].tobytes())
"""
    assert run(code) == "True"


@FORKS
def test_children_forked_while_other_threads_step_do_not_hang():
    code = """
stop, results = threading.Event(), []

def keep_stepping(seed):
    while not stop.is_set():
        results.append(same([run(seed)], [seed]))

threads = [threading.Thread(target=keep_stepping, args=[seed]) for seed in (1, 2)]
for thread in threads:
    thread.start()
assert same([run(0)], [0])  # which starts the threads that a child of this one is without
for i in range(15):
    child = os.fork()
    if child == 0:
        os._exit(0 if same([run(0)], [0]) else 1)
    assert os.waitpid(child, 0)[1] == 0, i
stop.set()
for thread in threads:
    thread.join()
print(all(results), len(results) > 0)
"""
    assert run(code) == "True True"


@FORKS
def test_a_child_forked_in_the_middle_of_a_step_can_step_other_optimizers():
    code = """
children = []

def schedule(step):
    if armed:
        child = os.fork()
        if child == 0:
            os._exit(0 if same([run(1)], [1]) else 1)
        children.append(child)
    return 0.1

armed = False
param, grad = problem(0)
optimizer = rmsprop.RMSprop(param, lr=schedule)
armed = True
optimizer.step(grad)
print(len(children), os.waitpid(children[0], 0)[1])
"""
    assert run(code) == "1 0"


# ---- Pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("pool", ["Pool", "ProcessPoolExecutor"])
def test_every_kind_of_process_pool_gets_the_same_bits(method, pool, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this operating system has no {method}")
    # A file: what is spawned has to import what it is to run.
    main = """
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    assert same([run(0)], [0])  # the threads of this process exist
    seeds = range(4)
    if sys.argv[2] == "Pool":
        with context.Pool(2) as pool:
            params = pool.map(run, seeds)
    else:
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            params = list(pool.map(run, seeds))
    print(same(params, seeds), same([run(0)], [0]))
"""
    script = tmp_path / "script.py"
    script.write_text(RUN + main)
    command = [sys.executable, script, method, pool]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.stdout.strip() == "True True", finished.stderr


def test_optimizers_in_the_threads_of_a_pool_get_the_same_bits():
    code = """
seeds = [0, 1, 2, 3] * 3
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(same(pool.map(run, seeds), seeds))
"""
    assert run(code) == "True"


def test_an_optimizer_may_move_from_thread_to_thread():
    code = """
param, grad = problem(0)
optimizer = rmsprop.RMSprop(param, lr=0.1, momentum=0.9)
for _ in range(STEPS):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(optimizer.step, grad).result()
print(same([param], [0]))
"""
    assert run(code) == "True"


def test_threads_that_end_in_the_middle_of_the_process_do_not_disturb_others():
    """The OpenMP runtime keeps threads for each thread that ever stepped, and frees them as that one ends."""
    code = """
for seed in range(30):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(seed)))
    thread.start()
    thread.join()
    assert same(results, [seed])
print(same([run(0)], [0]))
"""
    assert run(code) == "True"


# ---- joblib ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_steps_inside_of_joblib_get_the_same_bits(backend):
    pytest.importorskip("joblib")
    code = """
import joblib
assert same([run(0)], [0])
seeds = range(4)
params = joblib.Parallel(n_jobs=2, backend=sys.argv[1])(joblib.delayed(run)(seed) for seed in seeds)
print(same(params, seeds), same([run(0)], [0]))
"""
    assert run(code, backend) == "True True"


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib_may_work_between_steps_and_in_the_middle_of_one(backend):
    """Gradients that workers compute, of parameters that the optimizer changes, and a learning rate that they find."""
    pytest.importorskip("joblib")
    code = """
import joblib

def part(param, i):
    return 0.5 * param[i::2]

def schedule(step):
    return max(joblib.Parallel(n_jobs=2, backend=sys.argv[1])(joblib.delayed(abs)(rate) for rate in (0.05, -0.1)))

param, _ = problem(0)
wanted, square_avg = param.copy(), np.zeros(SIZE)
optimizer = rmsprop.RMSprop(param, lr=schedule)
for _ in range(STEPS):
    parts = joblib.Parallel(n_jobs=2, backend=sys.argv[1])(joblib.delayed(part)(param, i) for i in range(2))
    optimizer.step(np.stack(parts, axis=1).ravel())
    reference.rmsprop_(wanted, 0.5 * wanted, square_avg, lr=0.1)
print(param.tobytes() == wanted.tobytes())
"""
    assert run(code, backend) == "True"


@pytest.mark.parametrize("options", ["num_threads=1", "clip_norm=1.0"])
def test_a_process_ends_beside_a_daemon_thread_that_is_in_the_middle_of_a_step(options):
    program = f"""
        import threading, time
        import numpy as np, rmsprop

        def step_for_ever():
            while True:
                optimizer.step([grad])
                is_stepping.set()

        grad = np.ones(8_000_000)
        optimizer = rmsprop.RMSprop([np.ones(8_000_000)], {options})
        is_stepping = threading.Event()
        threading.Thread(target=step_for_ever, daemon=True).start()
        is_stepping.wait()
        time.sleep(0.003)
        print("the end")
    """
    assert output_of(program) == "the end"
