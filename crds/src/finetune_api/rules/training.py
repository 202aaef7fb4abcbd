"""What joins the fields of `spec.training`, and those with the number of processes."""

from __future__ import annotations

from finetune_api.rules.rule import Rule, Section

CEL_PROCESSES = ("(has(self.compute) ? self.compute.nodes * "
                  "(self.compute.accelerator == 'cpu' ? 1 : self.compute.gpusPerNode) : 1)")


def processes(spec: Section) -> int:
    """How many processes train together; `CEL_PROCESSES` is the same in CEL, where `self` is the spec."""
    compute = spec.get("compute", {})
    gpus: int = 1 if compute.get("accelerator") == "cpu" else compute.get("gpusPerNode", 1)
    nodes: int = compute.get("nodes", 1)
    return nodes * gpus or 1  # Nought has an error of its own.


RULES: tuple[Rule, ...] = (
    Rule(
        "spec.training", "maxSteps",
        lambda training: not ("epochs" in training and "maxSteps" in training),
        "!has(self.epochs) || !has(self.maxSteps)",
        "write epochs or maxSteps, not both",
        accepts={"maxSteps": 10}, refuses={"epochs": 1, "maxSteps": 10},
    ),
    Rule(
        "spec.training", "microBatchSize",
        lambda training: training.get("microBatchSize", 1) <= training.get("batchSize", 16),
        "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
        "microBatchSize is a part of batchSize: write a number no larger than batchSize (16 by default)",
        accepts={"batchSize": 8, "microBatchSize": 8}, refuses={"batchSize": 8, "microBatchSize": 9},
    ),
    Rule(
        "spec", "training.batchSize",
        lambda spec: spec.get("training", {}).get("batchSize", 16) % processes(spec) == 0,
        f"(has(self.training) ? self.training.batchSize : 16) % {CEL_PROCESSES} == 0",
        "the rows of a step are shared equally among all GPUs: write a multiple of compute.nodes × compute.gpusPerNode "
        "(batchSize is 16 by default)",
        accepts={"training": {"batchSize": 24}, "compute": {"nodes": 3, "gpusPerNode": 4}},
        refuses={"compute": {"nodes": 3, "gpusPerNode": 4}},
    ),
)
