"""Where results are shown: the folder of a run, the figures of the README and those of the page on PyTorch."""

from pathlib import Path

from harness import results as files
from harness.machine import in_words
from harness.pictures import draw
from harness.tables import markdown, readable, table, times
from peers import OURS

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = files.FOLDER / "compare.json"
README = ROOT / "README.md"
PYTORCH_PAGE = ROOT / "docs" / "pytorch.md"
PICTURE = ROOT / "docs" / "compare.png"
BEGIN = "<!-- figures from bench/results/compare.json, written by python bench/report.py --readme -->"
END = "<!-- end of the figures -->"
ADAPTER = "rmsprop.torch RMSprop"
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


PYTORCH_WORKLOADS = ("16", "1000x64", "mlp", "resnet50", "64M")
PYTORCH_PEERS = {
    "torch RMSprop": "`torch.optim.RMSprop`",
    "torch Adagrad, fused": "fused Adagrad of PyTorch",
    "torch SGD, fused": "fused SGD of PyTorch",
}
"""The peers of the table for PyTorch users, with the heads of their columns."""


def pytorch_figures(results: files.Results) -> str:
    """Return the figures of the page on PyTorch: the adapter's time, and how many times that its peers take."""
    rows = []
    for workload in PYTORCH_WORKLOADS:
        entry = files.entry_for(results, workload, "plain")
        measured = files.measured(entry) if entry else {}
        if entry and ADAPTER in measured:
            adapter = measured[ADAPTER]
            found = [measured.get(name) for name in PYTORCH_PEERS]
            ratios = [times(row["vs_ours"] / adapter["vs_ours"]) if row else "-" for row in found]
            rows.append([entry["title"], readable(adapter["median_s"]), *ratios])
    head = ["one step, float32", "`rmsprop.torch`", *PYTORCH_PEERS.values()]
    where = f"PyTorch {results['versions'].get('torch', '(not measured)')}, {in_words(results['machine'])}:"
    return "\n".join([where, "", *table(head, rows)])


def between(text: str, figures: str, begin_mark: str = BEGIN, end_mark: str = END) -> str:
    """Return a text with its figures replaced.

    Raises:
        files.ResultsError: it does not say where they belong.
    """
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise files.ResultsError(f"the page has no place for the figures, between {begin_mark} and {end_mark}")
    return f"{before}{begin}\n{figures}\n{end}{after}"


def write_all(results: files.Results, folder: Path) -> list[Path]:
    """Write the file of results, the page and the picture."""
    paths = [folder / f"compare.{ending}" for ending in ("json", "md", "png")]
    files.save(results, paths[0])
    paths[1].write_text(markdown(results), encoding="utf-8")
    draw(results, paths[2])
    return paths


SHOWN = {README: readme_figures, PYTORCH_PAGE: pytorch_figures}
"""The pages with figures of the comparison, and what makes these."""


def write_pages(results: files.Results) -> None:
    """Put the figures into the pages, and draw the picture."""
    for page, figures in SHOWN.items():
        page.write_text(between(page.read_text(encoding="utf-8"), figures(results)), encoding="utf-8")
    draw(results, PICTURE)
