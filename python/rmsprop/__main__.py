"""``python -m rmsprop`` is the command ``rmsprop``."""

import sys

from rmsprop._commands.main import main

if __name__ == "__main__":
    sys.exit(main())
