"""Threads are used as long as they help; the bits of a step never depend on it."""

import pytest

from children import output_of, run_python

# Steps beside programs that keep CPUs busy, and prints a hash of all bits.
BESIDE_OTHERS = """
import hashlib, os, subprocess, sys, time
import numpy as np
import rmsprop

rng = np.random.default_rng(0)
sizes = [65_536, 3, 200_000, *[64] * 500]
params = [rng.standard_normal(size, dtype=np.float32) for size in sizes]
grads = [rng.standard_normal(size, dtype=np.float32) for size in sizes]
optimizer = rmsprop.RMSprop(params, lr=1e-3, clip_norm=5.0, num_threads=int(sys.argv[1]))
others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(int(sys.argv[2]))]
try:
    for _ in range(300):
        optimizer.step(grads)
finally:
    for other in others:
        other.kill()
        other.wait()
print(hashlib.sha256(b"".join(param.tobytes() for param in params)).hexdigest())
"""


def test_bits_are_the_same_while_the_number_of_threads_changes():
    alone = output_of(BESIDE_OTHERS, "1", "0", timeout=300)
    assert output_of(BESIDE_OTHERS, "2", "2", timeout=300, RMSPROP_THREADS="adaptive") == alone
    assert output_of(BESIDE_OTHERS, "7", "1", timeout=300, RMSPROP_THREADS="adaptive") == alone


@pytest.mark.parametrize(("text", "use"), [("fixed", "fixed"), ("adaptive", "adaptive"), ("", "adaptive")])
def test_the_environment_chooses_and_show_config_shows(text, use):
    shown = output_of("import rmsprop; rmsprop.show_config()", RMSPROP_THREADS=text)
    (line,) = (line for line in shown.splitlines() if line.startswith("threads "))
    assert line.endswith(f", {use}")


def test_an_unknown_choice_makes_the_import_fail_and_names_the_variable():
    result = run_python("import rmsprop", RMSPROP_THREADS="all")
    assert "ImportError: RMSPROP_THREADS: got 'all', wanted 'adaptive' or 'fixed'" in result.stderr
    assert result.returncode == 1
