"""The modules of the commands: only that of the command which was asked for is imported, and only it is built."""

from __future__ import annotations

from copy import copy
from importlib import import_module
from typing import Any

MODULES = {
    "recipes": ("init", "check", "schema", "run"),
    "folders": ("runs", "clean"),
    "data_view": ("data",),
    "commands": ("show", "capture", "train", "distill", "prune", "sparsify", "quantize", "export"),
    "serving.packing": ("bundle", "pack"),
    "engines": ("engine", "lint", "trtexec"),
    "serving.servers": ("serve",),
    "serving.running_servers": ("status", "logs", "stop"),
    "serving.swapping": ("swap", "rollback"),
    "serving.safety": ("verify", "audit"),
    "serving.signing": ("keys", "sign"),
    "serving.deploying": ("deploy",),
    "predicting.predict": ("predict",),
    "predicting.explain": ("explain",),
    "doctor": ("doctor",),
    "benchmarks": ("report", "compare"),
}
"""The commands of each module of this package, in the order of `retort --help`."""


GROUPS = {
    "benching.bench_models": "bench",
    "benching.bench_gate": "bench",
    "benching.bench_noise": "bench",
    "benching.validating": "bench",
    "benching.loads": "bench",
    "benching.importing": "bench",
    "edge.edge_commands": "edge",
    "edge.device_commands": "edge",
}
"""The modules of the groups of commands, such as `retort edge run` and `retort bench gate`."""


def application(command: str = "") -> Any:
    """The command line with one command; with all commands if there is no such one, as for `--help`."""
    chosen = [module for module, names in MODULES.items() if command in names]
    chosen += [module for module, name in GROUPS.items() if command == name]
    chosen = chosen or [*MODULES, *GROUPS]
    for module in ("version", *chosen):
        import_module(f".{module}", __package__)
    from .app import app

    order = [name for names in MODULES.values() for name in names]
    wanted = {command} & {*order} or {*order}
    made = copy(app)  # typer reads the types of every registered command, also of those that other calls imported
    made.registered_commands = [known for known in app.registered_commands if known.name in wanted]
    groups = {command} & {*GROUPS.values()} or {*GROUPS.values()}
    alone = command in order
    made.registered_groups = [] if alone else [known for known in app.registered_groups if known.name in groups]
    made.registered_commands = [] if command in GROUPS.values() else made.registered_commands
    made.registered_commands.sort(key=lambda known: order.index(known.name or ""))
    return made
