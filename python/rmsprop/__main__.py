"""``python -m rmsprop`` is the command ``rmsprop``."""

import sys

from rmsprop.cli import main

if __name__ == "__main__":
    sys.exit(main())
