"""The command: `python -m benchmarks.gpu [STAGE ...]`, in the repository's root."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu import report
from benchmarks.gpu.runner import Runner, run_here
from benchmarks.gpu.settings import CHAINS, Settings
from benchmarks.gpu.stages import BY_NAME, STAGES


def main() -> int:
    """Run stages and write the report; 1 if a stage failed."""
    stages = "\n".join(f"  {stage.name:<12} {stage.about}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Check the trainer on a GPU, in stages:\n\n{stages}")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="the stages to run (default: all but reft-real)")
    parser.add_argument("--dry", action="store_true", help="on the CPU with tiny shapes: checks the check alone")
    parser.add_argument("--out", type=Path, help="folder for findings, log and report (default: build/gpu-check)")
    parser.add_argument("--limit", type=float,
                        help="seconds for all stages together (default: no limit)")
    parser.add_argument("--report", action="store_true", help="run nothing: write the report of what was found before")
    parser.add_argument("--model", type=Path, help="reft-real: a GGUF file or a folder of safetensors")
    parser.add_argument("--data", type=Path, help="reft-real: the folder of svamp-train-{program,text}-cot.jsonl")
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=CHAINS,
                        help="reft-real: chains of thought as programs, as words, or both (default)")
    parser.add_argument("--rollouts", type=int, default=10_000,
                        help="reft-real: roll-outs of all kinds of chains together (default: %(default)s)")
    parser.add_argument("--here", choices=tuple(BY_NAME), help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.stages) - set(BY_NAME))
    if unknown:
        parser.error(f"no such stage: {', '.join(unknown)}")
    if options.here:
        return run_here(BY_NAME[options.here], Settings.from_environment())
    settings = _settings(options)
    if not options.report:
        chosen = [stage for stage in STAGES if stage.name in options.stages or (
            not options.stages and (stage.by_default or (settings.model and settings.data) or settings.dry))]
        Runner(settings, options.limit).run(chosen)
    return report.write(settings)


def _settings(options: argparse.Namespace) -> Settings:
    settings = Settings.from_environment()
    if options.dry and not settings.dry:
        os.environ["GPU_CHECK_DRY"] = "1"
        settings = Settings.from_environment()
    return replace(settings, out=(options.out or Path("build/gpu-check")).resolve(), chains=tuple(options.chains),
                   model=options.model and options.model.resolve(), data=options.data and options.data.resolve(),
                   rollouts=options.rollouts)


if __name__ == "__main__":
    sys.exit(main())
