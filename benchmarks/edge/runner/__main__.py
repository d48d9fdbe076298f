"""``python3 -m retort_edge``: see :mod:`.parts_in_turn`."""

import sys

from .parts_in_turn import main

sys.exit(main(sys.argv[1:]))
