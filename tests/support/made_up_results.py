"""Results of comparisons that never ran, for the tests of what is made of results."""

import peers
from harness import results

TIMES = {"limit: memory traffic": 0.8, "limit: root and quotient": 1.0, "rmsprop": 1.25, "torch RMSprop": 8.0}


def made_up(times=TIMES, spread=0.02, unit=1e-3, workloads=("16M",), rule="plain", versions=None):
    """Return results in which each peer takes so many units, give or take half the spread."""
    limit = max((times.get(name, 0) for name in peers.LIMITS), default=0)
    rows = [
        {
            "peer": name,
            "median_s": time * unit,
            "q1_s": time * unit * (1 - spread / 2),
            "q3_s": time * unit * (1 + spread / 2),
            "rounds": 15,
            "steps_per_round": 2,
            "vs_ours": time / times["rmsprop"],
            "vs_limit": time / limit if limit else None,
            "state_bytes": 1 << 26,
            "temporary_bytes": 0,
            "peak_bytes": 3 << 26,
        }
        for name, time in times.items()
    ]
    absent = {"peer": "JAX optax, jit", "reason": "jax is not installed", "kind": "missing"}
    check = {"from_ours": 7.0, "from_its_formula": 1e-6, "verdict": "another formula", "why": "eps is outside"}
    return {
        "schema": results.SCHEMA,
        "command": "python bench/compare.py",
        "finished": "2026-01-01T00:00:00+00:00",
        "machine": {"cpu": "a CPU", "cores": 4, "threads": 4, "instruction_set": "baseline"},
        "versions": {"torch": "2.13.0", **(versions or {})},
        "settings": {"rounds": 15, "placements": 3, "block_seconds": 0.02, "patience": 120},
        "agreement": {rule: {"torch RMSprop": check}},
        "results": [
            {
                "workload": workload,
                "title": f"title of {workload}",
                "rule": rule,
                "elements": 1 << 24,
                "tensors": 1,
                "rows": [dict(row) for row in (*rows, absent)],
            }
            for workload in workloads
        ],
        "install": {"JAX optax, jit": "pip install jax optax"},
    }
