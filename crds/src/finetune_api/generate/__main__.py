"""`python -m finetune_api.generate`: writes the generated files, or checks them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from finetune_api.generate.files import generated_files, generated_sections, with_section


def main() -> int:
    """Write or check the generated files; 1 where one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the repository's folder")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    wanted = {arguments.root / name: content for name, content in generated_files().items()}
    for name, section in generated_sections().items():
        path = arguments.root / name
        if path.exists():
            wanted[path] = with_section(path.read_text(encoding="utf-8"), section)
    stale = [path for path, content in wanted.items()
             if not path.exists() or path.read_text(encoding="utf-8") != content]
    for path in stale:
        if arguments.check:
            print(f"{path} is out of date: run `make generate`", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path}")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
