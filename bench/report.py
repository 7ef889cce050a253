"""Results as tables and a picture: python bench/report.py [RESULTS.json] [--readme], from what compare.py wrote."""

import argparse
import sys
from pathlib import Path

from harness import pages
from harness.pictures import draw
from harness.results import ResultsError, load
from harness.tables import markdown


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turn the results of bench/compare.py into a page, a picture, and the figures of the pages.",
        epilog="Without options, the page is printed.",
    )
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=pages.COMMITTED,
        metavar="RESULTS.json",
        help="what compare.py wrote (default: bench/results/compare.json)",
    )
    parser.add_argument(
        "--readme", action="store_true", help="write the figures into README.md, docs/pytorch.md and docs/compare.png"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the picture")
    options = parser.parse_args(arguments)
    try:
        results = load(options.results)
        if options.readme:
            pages.write_pages(results)
        if options.picture:
            draw(results, options.picture)
    except (ResultsError, OSError) as error:
        parser.error(str(error))
    if not options.readme and not options.picture:
        print(markdown(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
