"""Size and SHA-256 of files below a folder, also of unfinished ones, whose names end in ``.part``.

The names come as a JSON list on the standard input; the folder is the argument.
"""

import hashlib
import json
import os
import sys


def main() -> None:
    """Print what is there."""
    folder, found = sys.argv[1], {}
    for name in json.load(sys.stdin):
        for path in (os.path.join(folder, name), os.path.join(folder, name + ".part")):
            if os.path.isfile(path):
                digest = hashlib.sha256()
                with open(path, "rb") as file:
                    for block in iter(lambda: file.read(1 << 20), b""):
                        digest.update(block)
                found[os.path.relpath(path, folder)] = [os.path.getsize(path), digest.hexdigest()]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
