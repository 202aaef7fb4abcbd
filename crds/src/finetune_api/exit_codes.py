"""Generated from failures/failure_classes.py, which has the exit code of each failure: the enum `ExitCode`."""

from finetune_api.generated.exit_codes import ExitCode

__all__ = ["ExitCode"]
