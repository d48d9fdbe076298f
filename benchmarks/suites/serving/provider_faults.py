"""Every way in which a provider, a runtime or an engine is wrong or absent stops the load with its cause (goal G14).

What this machine really lacks is tried as it is; the faults of a GPU are tried with doubles of ONNX Runtime's GPU
build, of TensorRT and of the driver. A case that opens, on the CPU for instance, is a silent fault.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from ....core.session import PROVIDERS
from .bundle_runtime import PACKAGE
from .fault_cases import WORKER, Case, Told, told
from .findings import Finding, Report, at_least, at_most, figure
from .plan_faults import of_plans
from .running_server import serving
from .runtime_faults import Bundles, on_a_gpu_build, on_this_machine
from .served_networks import packed


def of_workers(bundles: Bundles) -> Iterator[Case]:
    """A real TorchServe whose worker has a CPU build, and an archive for each GPU provider."""

    def case(provider: str) -> Case:
        def load() -> object:
            out = bundles.folder / f"{provider}-mar"
            archive = packed(bundles.folder / "small.onnx", out, "--provider", provider)
            with serving([archive], "--workers", "1") as server:
                return server.url

        return Case(f"an archive for {provider}", WORKER, f"has no {PROVIDERS[provider][0]}; it has", load)

    yield from (case(provider) for provider in ("cuda", "tensorrt"))


def judged(found: Sequence[Told]) -> list[Finding]:
    """The goals of faults."""
    silent = [one.what for one in found if not one.error]
    findings = [figure(f"faults, {where}", number) for where, number in Counter(one.where for one in found).items()]
    findings.append(at_most("G14", "faults with which the model was opened", len(silent), 0))
    findings.append(at_least("G14", "faults whose error has the cause", sum(one.right for one in found), len(found)))
    return findings + [
        Finding("G14", one.what, one.error[:200] or "opened", one.where, False) for one in found if not one.right
    ]


def measure(folder: Path) -> Report:
    """The whole matrix, with a bundle's own runtime, and real servers for what this machine has not.

    Args:
        folder: where models and bundles are written; those that are there are used.
    """

    def load(bundle: Path, device: int) -> object:
        if PACKAGE not in sys.modules:
            sys.path.insert(0, str(bundle))
        return import_module(f"{PACKAGE}.serve.engine").Engine.load(bundle, device)

    bundles = Bundles.made(folder, load)
    bundles.load(folder / "cpu", 0)
    cases = [*on_this_machine(bundles), *on_a_gpu_build(bundles), *of_plans(folder / "plans"), *of_workers(bundles)]
    found = [told(case) for case in cases]
    details = {"faults": [asdict(one) for one in found]}
    return Report("providers", "", len(found), tuple(judged(found)), details)
