"""Fails where a file has blanks at the end of a line, or no line break at its end."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def faults(text: str) -> list[str]:
    """What is wrong with the whitespace of a text, each with its line."""
    found = [f"{number}: blanks at the end of the line" for number, line in enumerate(text.split("\n"), start=1)
             if re.search(r"[ \t\r]+$", line)]
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        found.append(f"{text.count(chr(10)) + 1}: the file has to end with one line break")
    return found


def main() -> int:
    """Check the files that are named; 1 where one is at fault."""
    lines = [f"{name}:{fault}\n" for name in sys.argv[1:] for fault in faults(Path(name).read_text(encoding="utf-8"))]
    sys.stderr.writelines(lines)
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main())
