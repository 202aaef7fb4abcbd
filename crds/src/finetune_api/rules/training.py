"""Rules that join fields of `spec.training` with each other and with the number of processes."""

from __future__ import annotations

from finetune_api.rule import CEL_PROCESSES, Rule, processes

RULES: tuple[Rule, ...] = (
    Rule(
        "spec.training", "maxSteps",
        lambda training: not ("epochs" in training and "maxSteps" in training),
        "!has(self.epochs) || !has(self.maxSteps)",
        "epochs and maxSteps exclude each other: remove one",
        accepts={"maxSteps": 10}, refuses={"epochs": 1, "maxSteps": 10},
    ),
    Rule(
        "spec.training", "microBatchSize",
        lambda training: training.get("microBatchSize", 1) <= training.get("batchSize", 16),
        "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
        "microBatchSize must not exceed batchSize (16 by default): lower microBatchSize, or raise batchSize",
        accepts={"batchSize": 8, "microBatchSize": 8}, refuses={"batchSize": 8, "microBatchSize": 9},
    ),
    Rule(
        "spec", "training.batchSize",
        lambda spec: spec.get("training", {}).get("batchSize", 16) % processes(spec) == 0,
        f"(has(self.training) ? self.training.batchSize : 16) % {CEL_PROCESSES} == 0",
        "batchSize (16 by default) must be a multiple of compute.nodes × compute.gpusPerNode, because every GPU "
        "gets the same number of rows: change one of them",
        accepts={"training": {"batchSize": 24}, "compute": {"nodes": 3, "gpusPerNode": 4}},
        refuses={"compute": {"nodes": 3, "gpusPerNode": 4}},
    ),
)
