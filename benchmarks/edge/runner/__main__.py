"""``python3 -m retort_edge``: see :mod:`.run`."""

import sys

from .run import main

sys.exit(main(sys.argv[1:]))
