"""A step starts no more threads than its user, its libraries and its system allow, and never fails for want of them.

The limits are real ones, each put on a Python of its own. docs/threads.md says which comes before which.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from children import output_of
from rmsprop import _core

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="this limit is one of Linux")

# Takes a step that is long enough for three threads, and compares it with the reference. `used` is how many threads
# there are now that were not there before, and the caller.
STEP = """
import os, sys
import numpy as np
import rmsprop
from rmsprop import reference

def threads():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0

def step(**options):
    rng = np.random.default_rng(0)
    param, grad = rng.standard_normal((2, 100_000))
    expected, square_avg = param.copy(), np.zeros_like(param)
    before = threads()
    rmsprop.RMSprop(param, lr=0.1, **options).step(grad)
    reference.rmsprop_(expected, grad, square_avg, lr=0.1)
    assert param.tobytes() == expected.tobytes()
    return threads() - before + 1
"""

cpus = _core.available_cpus()
NEEDS_TWO_CPUS = pytest.mark.skipif(cpus < 2, reason="on one CPU there is nothing to limit")
NEEDS_OPENMP = pytest.mark.skipif(_core.openmp_version() == 0, reason="built without OpenMP, so there is one thread")


# ---- What users and libraries say ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["1", "2", "1000000", "0", "-1", "garbage", "", "2,1"])
def test_any_omp_num_threads_gives_a_number_of_threads_that_works(wanted):
    threads = int(output_of(STEP + "step(); print(rmsprop.get_num_threads())", OMP_NUM_THREADS=wanted))
    assert 1 <= threads <= cpus
    if wanted == "1":
        assert threads == 1


@pytest.mark.parametrize("variable", ["OMP_THREAD_LIMIT", "OMP_NUM_THREADS"])
@ON_LINUX
def test_openmp_variables_that_allow_one_thread_are_obeyed(variable):
    assert output_of(STEP + "print(step())", **{variable: "1"}) == "1"


@NEEDS_TWO_CPUS
@NEEDS_OPENMP
@ON_LINUX
def test_without_a_limit_a_step_takes_every_cpu():
    assert int(output_of(STEP + "print(step())")) == min(cpus, 20)  # a step of this length is worth twenty threads


@NEEDS_TWO_CPUS
@NEEDS_OPENMP
@ON_LINUX
def test_threadpoolctl_limits_the_threads_of_a_step_and_gives_them_back():
    pytest.importorskip("threadpoolctl")
    code = """
from threadpoolctl import threadpool_limits
default = rmsprop.get_num_threads()
with threadpool_limits(1):
    print(rmsprop.get_num_threads(), step())
    with threadpool_limits(2):
        print(rmsprop.get_num_threads())
assert rmsprop.get_num_threads() == default
print(step() == default)
"""
    assert output_of(STEP + code).split() == ["1", "1", "2", "True"]


@NEEDS_OPENMP
@ON_LINUX
def test_a_number_of_threads_that_was_asked_for_comes_before_limits_of_others():
    pytest.importorskip("threadpoolctl")
    code = """
from threadpoolctl import threadpool_limits
with threadpool_limits(1):
    print(step(num_threads=3))
    rmsprop.set_num_threads(4)
    print(rmsprop.get_num_threads(), step())
"""
    assert output_of(STEP + code, OMP_NUM_THREADS="1").split() == ["3", "4", "2"]  # two are there from before


@NEEDS_TWO_CPUS
@NEEDS_OPENMP
@ON_LINUX
def test_threads_of_torch_limit_those_of_a_step_if_both_have_one_runtime():
    pytest.importorskip("torch")
    code = """
import torch
mapped = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "libomp" in line}
step()
torch.set_num_threads(1)
print(len(mapped), rmsprop.get_num_threads())
"""
    runtimes, threads = map(int, output_of(STEP + code, timeout=120).split())
    assert threads == 1 or runtimes > 1


@NEEDS_OPENMP
def test_a_worker_of_joblib_steps_on_as_many_threads_as_joblib_gives_it():
    pytest.importorskip("joblib")
    code = """
import joblib, rmsprop
with joblib.parallel_config("loky", inner_max_num_threads=1):
    print(*joblib.Parallel(n_jobs=2)(joblib.delayed(rmsprop.get_num_threads)() for _ in range(2)))
"""
    assert output_of(code, timeout=120) == "1 1"


# ---- What the system says --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this operating system has no affinity masks")
def test_no_more_threads_than_the_affinity_mask_allows():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + STEP
    # The runtime itself obeys the mask if it is not told a number.
    assert output_of(code + "print(rmsprop.get_num_threads(), step())", OMP_NUM_THREADS="8") == "1 1"


@contextlib.contextmanager
def control_group(folder, **files):
    """Make a control group inside of another, write to its files, and remove it at the end."""
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this machine does not let a test make control groups: {error}")
    try:
        for name, value in files.items():
            (folder / name.replace("__", ".")).write_text(value)
        yield folder
    finally:
        folder.rmdir()


def output_in(groups, code):
    """Run code in a Python that joins control groups before anything else, and return what it prints."""
    join = (
        "import os, sys\nfor group in sys.argv[1:]:\n    open(group + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
    )
    return output_of(join + code, *map(os.fspath, groups))


CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
TASK_GROUPS = Path("/sys/fs/cgroup/pids")
UNIQUE = f"rmsprop-test-{os.getpid()}"


@pytest.mark.skipif(not (CPU_GROUPS / "cpu.cfs_period_us").exists(), reason="no control groups of version 1 here")
@pytest.mark.parametrize(("quota", "allowed"), [("100000", 1), ("50000", 1), ("150000", 2), ("-1", cpus)])
def test_no_more_threads_than_the_quota_of_a_control_group_pays_for(quota, allowed):
    with control_group(CPU_GROUPS / UNIQUE, cpu__cfs_quota_us=quota) as group:
        found = output_in([group], STEP + "print(rmsprop.get_num_threads(), step() <= rmsprop.get_num_threads())")
    assert found == f"{min(allowed, cpus)} True"


@pytest.mark.skipif(not (CPU_GROUPS / "cpu.cfs_period_us").exists(), reason="no control groups of version 1 here")
def test_the_quota_of_a_control_group_holds_for_groups_inside_of_it():
    with (
        control_group(CPU_GROUPS / UNIQUE, cpu__cfs_quota_us="100000") as outer,
        control_group(outer / "inner", cpu__cfs_quota_us="-1") as inner,
    ):
        assert output_in([inner], "import rmsprop; print(rmsprop.get_num_threads())") == "1"


# Version 2 is what this machine may not have. So a process gets a view of its own of the two places that tell of it:
# files in a private name space for mounts, which nobody else sees.
IN_OWN_VIEW = """
mount --bind "$0/groups" /sys/fs/cgroup && mount --bind "$0/own" /proc/$$/cgroup && exec "$@"
"""


@pytest.fixture
def own_view(tmp_path):
    (tmp_path / "groups").mkdir()
    (tmp_path / "own").write_text("0::/\n")
    command = ("unshare", "--mount", "sh", "-c", IN_OWN_VIEW, os.fspath(tmp_path))
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine gives a test no view of its own of the file system: {error}")
    return tmp_path, command


@ON_LINUX
@pytest.mark.parametrize(
    ("path", "limits", "allowed"),
    [
        ("/", {"": "100000 100000"}, 1),
        ("/a/b", {"a/b": "50000 100000"}, 1),
        ("/a/b", {"a": "20000 10000", "a/b": "max 100000"}, 2),
        ("/a/b", {"a": "100000 100000", "a/b": "max 100000"}, 1),
        ("/a/b", {"a": "max 100000", "a/b": "max 100000"}, cpus),
        ("/outside/of/the/container", {"": "100000 100000"}, 1),
        ("/a", {"a": "garbage"}, cpus),
        ("/a", {"a": "100000"}, cpus),
        ("/a", {}, cpus),
    ],
)
def test_quotas_of_control_groups_of_version_2_are_read(own_view, path, limits, allowed):
    folder, command = own_view
    (folder / "own").write_text(f"0::{path}\n")
    for group, limit in limits.items():
        (folder / "groups" / group).mkdir(parents=True, exist_ok=True)
        (folder / "groups" / group / "cpu.max").write_text(limit + "\n")
    found = output_of("import rmsprop; print(rmsprop.get_num_threads())", before=command)
    assert int(found) == min(allowed, cpus)


@NEEDS_OPENMP
@pytest.mark.skipif(not TASK_GROUPS.is_dir(), reason="no control groups of version 1 for tasks here")
@pytest.mark.parametrize("most", ["3", "7"])
def test_a_step_goes_on_with_fewer_threads_where_the_system_refuses_more(most):
    code = """
print(step(num_threads=8))
open(sys.argv[1] + "/pids.max", "w").write("max")
print(step(num_threads=8))
"""
    # OpenBLAS would end the process long before.
    code = "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n" + STEP + code
    with control_group(TASK_GROUPS / UNIQUE, pids__max=most) as group:
        assert output_in([group], code).split() == ["1", "8"]


@NEEDS_OPENMP
@ON_LINUX
def test_threads_that_were_there_once_are_not_taken_for_granted_under_a_new_limit():
    code = """
import resource
for n in (16, 2):
    step(num_threads=n)
with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20, resource.RLIM_INFINITY))
for n in (16, 2, 16):
    step(num_threads=n)
print("survived")
"""
    assert output_of(STEP + code) == "survived"


@NEEDS_OPENMP
@pytest.mark.skipif(not TASK_GROUPS.is_dir(), reason="no control groups of version 1 for tasks here")
def test_a_step_takes_the_last_threads_that_the_system_grants():
    code = """
import threading
for _ in range(50):  # each thread that steps has threads of its own, which end with it
    thread = threading.Thread(target=step, kwargs={"num_threads": 6})
    thread.start()
    thread.join()
    while threads() > 1:
        pass
print("survived")
"""
    code = "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n" + STEP + code
    with control_group(TASK_GROUPS / UNIQUE, pids__max="7") as group:  # Python's first thread, and these
        assert output_in([group], code) == "survived"


# Clipped by value and by norm, decayed and strided, in float64: what needs the most buffers.
STRIDED_STEP = """
import sys, threading
import numpy as np
import rmsprop
from rmsprop import reference

def step():
    rng = np.random.default_rng(0)
    param, grad = (array[:, 0] for array in rng.standard_normal((2, 100_000, 2)))
    options = dict(lr=0.1, momentum=0.9, centered=True, weight_decay=0.1, clip_value=0.5)
    expected, square_avg = param.copy(), np.zeros(100_000)
    state = dict(grad_avg=np.zeros(100_000), momentum_buffer=np.zeros(100_000))
    clip_scale = reference.clip_scale(reference.sum_of_squares([grad]), 1.0)
    optimizer = rmsprop.RMSprop(param, clip_norm=1.0, nonfinite="skip", num_threads=int(sys.argv[1]), **options)
    optimizer.step(grad)
    reference.rmsprop_(expected, grad, square_avg, clip_scale=clip_scale, **state, **options)
    print(param.tobytes() == expected.tobytes())
"""

WITH_LITTLE_STACK = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="under AddressSanitizer everything needs more stack"
)


@WITH_LITTLE_STACK
@ON_LINUX
def test_a_step_works_on_a_thread_with_32_kilobytes_of_stack():
    code = """
import os
threading.stack_size(max(32768, os.sysconf("SC_THREAD_STACK_MIN")))
thread = threading.Thread(target=step)
thread.start()
thread.join()
"""
    assert output_of(STRIDED_STEP + code, "1") == "True"


@WITH_LITTLE_STACK
@NEEDS_OPENMP
@ON_LINUX
def test_a_step_works_in_openmp_threads_with_16_kilobytes_of_stack():
    assert output_of(STRIDED_STEP + "step()", "3", OMP_STACKSIZE="16k") == "True"
