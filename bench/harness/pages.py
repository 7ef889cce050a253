"""Where results are shown: the folder of a run, and the figures of the README."""

from pathlib import Path

from harness import results as files
from harness.machine import in_words
from harness.pictures import draw
from harness.tables import markdown, readable, table, times
from peers import OURS

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = files.FOLDER / "compare.json"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "compare.png"
BEGIN = "<!-- figures from bench/results/compare.json, written by python bench/report.py --readme -->"
END = "<!-- end of the figures -->"
README_PEERS = {
    "rmsprop": "rmsprop",
    "rmsprop.torch RMSprop": "rmsprop.torch",
    "torch RMSprop": "torch RMSprop",
    "torch RMSprop, compiled": "the same, compiled",
    "torch Adagrad, fused": "torch Adagrad, fused",
    "JAX optax, jit": "JAX optax, jit",
    "Numba, fused by hand": "Numba",
    "NumPy expression": "NumPy",
}
"""The peers of the README's table, with the heads of their columns."""


def readme_figures(results: files.Results) -> str:
    """Return the figures of the README: the plain rule, ours and some peers, and how near the limit we are."""
    entries = files.ordered(results, "plain")
    names = [name for name in README_PEERS if any(name in files.measured(entry) for entry in entries)]
    rows = []
    for entry in entries:
        measured = files.measured(entry)
        cells = [entry["title"]]
        for name in names:
            row = measured.get(name)
            ratio = "" if name == OURS or row is None or row["vs_ours"] is None else f" ({times(row['vs_ours'])})"
            cells.append(f"{readable(row['median_s'])}{ratio}" if row else "-")
        limit = files.limit_seconds(entry)
        rows.append([*cells, readable(limit) if limit else "-"])
    versions = results["versions"]
    named = [f"{name} {versions[name]}" for name in ("torch", "jax", "optax", "numba", "numpy") if name in versions]
    head = ["one step, float32", *(README_PEERS[name] for name in names), "limit"]
    lines = [
        f"`{results['command']}` wrote these figures, on {in_words(results['machine'])};",
        f"{', '.join(named)}.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines)


def between(text: str, figures: str) -> str:
    """Return a text with its figures replaced.

    Raises:
        files.ResultsError: it does not say where they belong.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise files.ResultsError(f"the page has no place for the figures, between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def write_all(results: files.Results, folder: Path) -> list[Path]:
    """Write the file of results, the page and the picture."""
    paths = [folder / f"compare.{ending}" for ending in ("json", "md", "png")]
    files.save(results, paths[0])
    paths[1].write_text(markdown(results), encoding="utf-8")
    draw(results, paths[2])
    return paths


def write_readme(results: files.Results, readme: Path = README, picture: Path = PICTURE) -> None:
    """Put the figures into the README, and draw its picture."""
    readme.write_text(between(readme.read_text(encoding="utf-8"), readme_figures(results)), encoding="utf-8")
    draw(results, picture)
