"""The pages of docs/reference/ that are made from code: command line, settings, metrics, and the table of alerts.

`python -m docs_tools.generate`, in the repository's root, writes them; with `--check` it only compares, and fails where
a page is out of date. The page of the API is made by `finetune_api.generate`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs_tools.alerts_page import with_alerts_table
from docs_tools.commands_page import commands_page
from docs_tools.metrics_page import metrics_page
from docs_tools.settings_page import settings_page

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Every generated page and its content."""
    alerts = REFERENCE / "alerts.md"
    return {
        REFERENCE / "cli.md": commands_page(),
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "metrics.md": metrics_page(),
        alerts: with_alerts_table(alerts.read_text(encoding="utf-8")),
    }


def main() -> int:
    """Write or check the pages; 1 where a checked page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    stale = [(path, content) for path, content in pages().items()
             if not path.exists() or path.read_text(encoding="utf-8") != content]
    for path, content in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: run `make generate`", file=sys.stderr)
        else:
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
