"""Whether a step became slower since an earlier run, in ratios: python bench/regressions.py EARLIER.json LATER.json.

A time says as much about the machine as about the program, so times are never compared. What is compared is a step's
time divided by the limit's in the same rounds; where a run has no limit, divided by each peer's that both runs had in
the same version, of which the median change counts. A change within the noise is none.
"""

import argparse
import sys
from pathlib import Path

from harness.changes import THRESHOLD, report
from harness.results import ResultsError, load


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="EARLIER.json", help="results of the earlier run")
    parser.add_argument("after", type=Path, metavar="LATER.json", help="results of the later run")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="PART",
        help="what is no change: 0.1 allows a ratio to grow by a tenth (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        lines, slower = report(load(options.before), load(options.after), options.threshold)
    except ResultsError as error:
        parser.error(str(error))
    print("\n".join(lines))
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
