"""`make test-fast` leaves out what starts a training run, an operator or a cluster, and what is marked slow."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAST = "tests/api/test_uris.py"
SLOW = ("tests/e2e/test_tutorial.py", "tests/operator/test_queue.py", "tests/trainer/test_reft_gain.py")


def _collected(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments], cwd=ROOT,
        capture_output=True, text=True, check=False)
    return {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}


def test_fast_tests_start_no_training_run_and_no_cluster():
    assert _collected("--fast", FAST, *SLOW) == {FAST}
    assert _collected(FAST, *SLOW) == {FAST, *SLOW}
