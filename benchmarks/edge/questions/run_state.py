"""How far the run in a folder is; the folder is the argument. A run whose process is gone is ``vanished``."""

import json
import os
import sys


def main() -> None:
    """Print the state."""
    try:
        with open(os.path.join(sys.argv[1], "out", "status.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        found = {"state": "absent"}
    if found["state"] == "running":
        try:
            os.kill(int(found["pid"]), 0)
            with open(f"/proc/{int(found['pid'])}/cmdline", "rb") as file:  # after a restart it may be another program
                alive = b"retort_edge" in file.read()
        except FileNotFoundError:
            alive = not os.path.isdir("/proc/self")
        except (OSError, OverflowError, ValueError):
            alive = False
        if not alive:
            found["state"] = "vanished"
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
