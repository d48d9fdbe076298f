"""Torch-Pruning in a separate Python environment: cuts one model to a share of its multiply-accumulates.

    PEER/bin/python -m retort.benchmarks.suites.pruning_peer JOB.json

The job names a network of the examples, its weights, example inputs and the share to keep. The pruned module and its
results as JSON are written next to the job. Of Retort, only the definition of the network is used.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 12
STEP = 8


def load(path: str) -> Any:
    """Load a module that :func:`main` saved; a factory for ``retort capture``."""
    import torch

    return torch.load(path, weights_only=False)


def main(job: Path) -> None:
    """Run a job."""
    asked = json.loads(job.read_text())
    started = time.perf_counter()
    try:
        found = _prune(asked)
    except Exception as error:  # any error of the peer is its result
        message = str(error).splitlines()[0] if str(error) else f"in {_place(error)}"
        found = {"ok": False, "error": f"{type(error).__name__}: {message}"}
    found["all_seconds"] = time.perf_counter() - started
    job.with_suffix(".result").write_text(json.dumps(found))


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_name if trace is not None else "its code"


def _prune(asked: dict[str, Any]) -> dict[str, Any]:
    import torch
    import torch_pruning as tp  # type: ignore[import-not-found, unused-ignore]
    from safetensors.torch import load_file

    from retort.core.data.references import resolve

    torch.manual_seed(0)
    dense = resolve(f"retort.examples.pruning_nets:{asked['net']}", Path.cwd())().eval()
    dense.load_state_dict(load_file(asked["weights"]), strict=False)
    example = {name: torch.tensor(value) for name, value in asked["example"].items()}
    inputs = example if len(example) > 1 else next(iter(example.values()))
    whole = tp.utils.count_ops_and_params(dense, inputs)[0]
    low, high, best, seconds = 0.0, 0.98, None, 0.0
    for _ in range(ROUNDS):
        ratio = (low + high) / 2
        net = copy.deepcopy(dense)
        started = time.perf_counter()
        _cut(tp, net, inputs, ratio)
        seconds = max(seconds, time.perf_counter() - started)
        with torch.no_grad():
            net(**inputs) if isinstance(inputs, dict) else net(inputs)
        left = tp.utils.count_ops_and_params(net, inputs)[0] / whole
        if left <= asked["share"]:
            high, best = ratio, (net, left)
        else:
            low = ratio
    if best is None:
        raise RuntimeError(f"no ratio leaves {asked['share']:.0%} of the multiply-accumulates")
    torch.save(best[0], asked["out"])
    return {"ok": True, "share": best[1], "seconds": seconds, "version": tp.__version__}


def _cut(tp: Any, net: Any, inputs: Any, ratio: float) -> None:
    """Prune as in the documentation: group magnitude, without the classifier, with named heads; fix BERT's sizes."""
    from torch import nn

    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    attention = [
        module for module in net.modules() if hasattr(module, "query") and hasattr(module, "num_attention_heads")
    ]
    heads = {
        layer: module.num_attention_heads for module in attention for layer in (module.query, module.key, module.value)
    }
    heads |= {module: module.num_heads for module in net.modules() if isinstance(module, nn.MultiheadAttention)}
    pruner = tp.pruner.BasePruner(
        net,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=not heads,
        ignored_layers=[last],
        num_heads=heads,
        round_to=STEP,
    )
    pruner.step()
    for module in attention:
        module.attention_head_size = module.query.out_features // module.num_attention_heads
        module.all_head_size = module.query.out_features


if __name__ == "__main__":
    main(Path(sys.argv[1]))
