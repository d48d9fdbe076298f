"""NVIDIA's parser as a process for many files, which is started again if a file crashes it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import Any

SERVER = """
import json, os, struct, sys
import tensorrt_rtx as trt

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

class Quiet(trt.ILogger):
    def __init__(self):
        super().__init__()
    def log(self, severity, text):
        pass

logger = Quiet()
while True:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        break
    content = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(content)
    errors = [[parser.get_error(i).node_name(), parser.get_error(i).desc()[:300]] for i in range(parser.num_errors)]
    answers.write(json.dumps({"parsed": parsed, "outputs": network.num_outputs, "errors": errors}) + "\\n")
    answers.flush()
"""


class Oracle:
    """Parses one file after another."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.crashes = 0

    def ask(self, content: bytes) -> dict[str, Any]:
        """The parser's verdict; a crash counts as a rejection."""
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(struct.pack("<I", len(content)) + content)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.crashes += 1
        code = process.wait()
        self.close()
        return {"parsed": False, "outputs": 0, "errors": [["", f"the parser died with {code}"]]}

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SERVER]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
        self.process = None
