"""The table of the metrics of an evaluation in docs/reference/output.md."""

from __future__ import annotations

import re

from finetune_api.spec.evaluation import Metric
from finetune_trainer.report.facts import METRIC_LABELS

from docs_tools.check import ROOT


def test_the_table_has_every_metric_in_order_with_its_name_in_reports():
    page = (ROOT / "docs/reference/output.md").read_text()
    section = page.partition("## What evaluation measures")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    assert rows == [(str(metric), METRIC_LABELS[metric]) for metric in Metric]
