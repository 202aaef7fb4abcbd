"""Decisions, manifests and observations can reach no clock, no chance and no machine: ruff refuses the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PURE = ("decide/plan.py", "decide/stages/next_attempt.py", "manifests/pod/volumes.py", "observed/pod.py")


def refusals(source: str, file: str) -> list[str]:
    """What ruff's rule against impure names finds in a source, if it stands in a file of the operator."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "concise", "--no-cache",
         "--stdin-filename", f"operator/src/finetune_operator/{file}", "-"],
        input=source, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if "TID251" in line]


@pytest.mark.parametrize("file", PURE)
@pytest.mark.parametrize("source", [
    "from datetime import UTC, datetime\nnow = datetime.now(UTC)\n",
    "import datetime as dt\nnow = dt.datetime.now(dt.UTC)\n",
    "from datetime import datetime\nclock = datetime.utcnow\n",
    "from datetime import date\ntoday = date.today()\n",
    "import time\nnow = time.time()\n",
    "from time import monotonic\n",
    "import random\n",
    "import os\nhome = os.environ['HOME']\n",
], ids=lambda source: source.splitlines()[-1])
def test_a_pure_module_that_reads_the_clock_or_the_machine_is_refused(source, file):
    assert refusals(source, file)


@pytest.mark.parametrize("file", PURE)
def test_a_pure_module_may_calculate_with_the_time_that_it_is_given(file):
    source = ("from datetime import UTC, datetime, timedelta\n\n\ndef later(now: datetime) -> datetime:\n"
              "    return max(now.astimezone(UTC) + timedelta(seconds=1), datetime(2026, 1, 1, tzinfo=UTC))\n")
    assert refusals(source, file) == []


@pytest.mark.parametrize("file", ["app.py", "cluster/lease.py", "telemetry/health.py"])
def test_a_module_that_acts_may_read_the_clock(file):
    assert refusals("from datetime import UTC, datetime\nnow = datetime.now(UTC)\n", file) == []
