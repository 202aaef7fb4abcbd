"""The table of docs/reference/alerts.md, from the rules that the chart installs."""

from __future__ import annotations

from pathlib import Path

import yaml

_RULES = Path(__file__).parents[1] / "charts" / "finetune-operator" / "files" / "alerts.yaml"
_BEGIN = "<!-- Generated from charts/finetune-operator/files/alerts.yaml by `make generate`. -->\n"
_END = "<!-- End of the generated table. -->\n"


def with_alerts_table(page: str) -> str:
    """The page with its table made anew.

    Raises:
        ValueError: the page has no place for the table.
    """
    before, _, rest = page.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise ValueError(f"the page of alerts needs the two lines {_BEGIN.strip()} and {_END.strip()}")
    return f"{before}{_BEGIN}\n{_table()}\n{_END}{after}"


def _table() -> str:
    lines = ["| alert | severity | fires after |", "|---|---|---|"]
    for group in yaml.safe_load(_RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            lines.append(f"| [{name}](#{name.lower()}) | {rule['labels']['severity']} | {rule.get('for', 'at once')} |")
    return "\n".join(lines) + "\n"
