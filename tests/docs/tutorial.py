"""A page of the tutorial as a reader follows it: its files are saved, its commands are run, in the order of the page.

A block of code says by its first line what it is. `bash` is run; `bash exit=64` is run and has to end with that code;
`yaml title="first.yaml"` and others with a title are saved under it; `bash values` holds the reader's own values, which
the test gives as environment variables.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_SHARED = {"build", "adapters", ".git"}


class Tutorial:
    """One page, and the folder in which it is followed.

    Attributes:
        folder: a folder like a clone of the repository, without what a reader makes in it.
        values: the names of the variables that the reader has to set.
    """

    def __init__(self, page: Path, folder: Path) -> None:
        # Else `make` in the folder would install the folder's files into the repository's .venv.
        subprocess.run(["make", "-s", "setup"], cwd=ROOT, check=True)
        self.folder = folder
        self._blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
        self.values = {name for language, about, text in self._blocks if about.strip() == "values"
                       for name in re.findall(r"(\w+)=", text)}
        for entry in ROOT.iterdir():
            if entry.name not in _NOT_SHARED:
                (folder / entry.name).symlink_to(entry)

    def script(self) -> str:
        """The page as one script, which ends with the first command that ends otherwise than the page says."""
        lines = ["set -e"]
        for number, (language, about, text) in enumerate(self._blocks):
            if title := re.search(r'title="([^"]+)"', about):
                lines += [f"cat > {title[1]} <<'END_OF_FILE_{number}'", text.rstrip("\n"), f"END_OF_FILE_{number}"]
            elif language == "bash" and about.strip() != "values":
                code = int(found[1]) if (found := re.search(r"exit=(\d+)", about)) else 0
                lines += ["set -x", text.rstrip("\n"), "{ set +x; } 2>/dev/null"] if not code else [
                    "set +e", text.rstrip("\n"), "code=$?", "set -e", f"test $code = {code}"]
        return "\n".join(lines) + "\n"

    def follow(self, values: Mapping[str, str] = {}, seconds: float = 1800) -> str:
        """Run the page; everything that it printed.

        Raises:
            AssertionError: a command ended otherwise than the page says; the message is what was printed.
        """
        assert set(values) >= self.values
        done = subprocess.run(
            ["bash", "-c", self.script()], cwd=self.folder, env={**os.environ, **values}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False)
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout
