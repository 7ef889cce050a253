"""One OpenMP runtime in a process, whoever is imported first, and the same bits with the threads of others about."""

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rmsprop

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is loaded is read from /proc/self/maps"),
    pytest.mark.skipif(rmsprop._core.openmp_version() == 0, reason="this build has no OpenMP runtime"),
]

# Imports the packages named by the arguments in their order, then lets each of them work on several threads, twice
# over, so that each has its threads waiting while the others work. Prints the OpenMP runtimes that are mapped.
PROGRAM = """
import importlib, json, os, re, sys
import numpy as np

loaded = [importlib.import_module(name) for name in sys.argv[1:]]
rng = np.random.default_rng(0)

def step_of_rmsprop():
    import rmsprop
    from rmsprop import reference
    param, grad, square_avg = rng.standard_normal((3, 300_003)).astype(np.float32)
    square_avg = np.abs(square_avg)
    expected, expected_avg = param.copy(), square_avg.copy()
    rmsprop.functional.rmsprop_(param, grad, square_avg, lr=0.1, weight_decay=0.1, num_threads=3)
    reference.rmsprop_(expected, grad, expected_avg, lr=0.1, weight_decay=0.1)
    assert param.tobytes() == expected.tobytes() and square_avg.tobytes() == expected_avg.tobytes()

def step_of_torch():
    import torch
    torch.set_num_threads(3)
    a = torch.from_numpy(rng.standard_normal(1 << 20))
    assert torch.equal(torch.sqrt(a * a), torch.abs(a))
    torch.mm(a[: 1 << 18].reshape(512, 512), a[: 1 << 18].reshape(512, 512))

def step_of_sklearn():
    from sklearn.ensemble import HistGradientBoostingClassifier
    x = rng.standard_normal((2000, 4))
    HistGradientBoostingClassifier(max_iter=3).fit(x, x[:, 0] > 0)

works = {"rmsprop": step_of_rmsprop, "torch": step_of_torch, "sklearn": step_of_sklearn}
for _ in range(2):
    for name in sys.argv[1:]:
        works[name]()
threads = len(os.listdir("/proc/self/task"))
paths = {line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/" in line}
print(json.dumps([threads, sorted(path for path in paths if re.search(r"/lib(g|i)?omp5?[^/]*\\.so", path))]))
"""


@functools.cache
def runtimes_after(*names):
    """Return the paths of the OpenMP runtimes in a process that imports packages in this order and lets each work."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**os.environ, "OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    threads, paths = json.loads(result.stdout)
    assert threads >= 3, "nothing ran on several threads, so nothing was tested"
    return set(paths)


def orders_of(*names):
    """Return all orders of some packages as parameters that are skipped where one of them is not installed."""
    missing = ", ".join(name for name in names if importlib.util.find_spec(name) is None)
    mark = pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")
    return [pytest.param(order, marks=mark, id="-".join(order)) for order in itertools.permutations(names)]


def test_rmsprop_alone_has_one_runtime():
    assert len(runtimes_after("rmsprop")) == 1


@pytest.mark.parametrize("order", orders_of("rmsprop", "torch"))
def test_pytorch_and_rmsprop_share_one_runtime_and_keep_their_bits(order):
    assert len(runtimes_after(*order)) == 1


@pytest.mark.parametrize("order", orders_of("rmsprop", "sklearn"))
def test_scikit_learn_keeps_a_runtime_of_its_own_and_the_bits_are_the_same(order):
    """Its wheels bring one under a name of their own; built from source it shares the system's."""
    assert len(runtimes_after(*order)) <= 2


@pytest.mark.parametrize("order", orders_of("rmsprop", "torch", "sklearn"))
def test_with_all_three_rmsprop_adds_no_runtime_to_those_of_the_others(order):
    others = tuple(name for name in order if name != "rmsprop")
    assert len(runtimes_after(*order)) == len(runtimes_after(*others))
