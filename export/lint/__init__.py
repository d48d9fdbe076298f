"""Rules that a file must follow to run well on its target; each fault has a reason and a remedy."""

from __future__ import annotations

import onnx

from ...core.options.stage_options import Target
from . import arm_rules, cpu_rules, placement_advice, qdq_rules, structure_rules, type_rules
from .graph_view import Finding, Verdict, View

__all__ = ["Finding", "Verdict", "lint", "rejected"]

RULES = {
    "tensorrt": (*structure_rules.RULES, *qdq_rules.RULES, *type_rules.RULES, *placement_advice.RULES),
    "cpu": (*structure_rules.GENERAL, *cpu_rules.RULES),
    "arm": (*structure_rules.GENERAL, *arm_rules.RULES),
}


def lint(model: onnx.ModelProto, target: Target = "tensorrt") -> list[Finding]:
    """All faults of a model for a target, the worst first, then in the order of the rules.

    Args:
        model: the model; external weights are not checked.
        target: the target of the model.
    """
    view = View(model)
    found = [finding for rule in RULES[target] for finding in rule(view)]
    order = {"reject": 0, "silent": 1, "advice": 2}
    return sorted(dict.fromkeys(found), key=lambda item: order[item.verdict])


def rejected(findings: list[Finding]) -> bool:
    """Whether TensorRT's parser refuses a file with these findings."""
    return any(finding.verdict == "reject" for finding in findings)
