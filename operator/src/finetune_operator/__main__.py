"""`finetune-operator`: serves FineTuneJobs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from finetune_operator.app import Options, operate
from finetune_operator.errors import ApiError, BadSettings, NoCluster, OperatorError
from finetune_operator.faults import FaultHook, no_fault
from finetune_operator.settings import load_settings
from finetune_operator.telemetry.logs import set_up_logs

_log = logging.getLogger("finetune_operator")


def main(arguments: list[str] | None = None, fault_hook: FaultHook = no_fault) -> int:
    """Run the operator.

    Args:
        arguments: of the command line; None for those of the process.
        fault_hook: called at each moment at which a test may kill the process.

    Returns:
        0 after SIGTERM, 1 after an error that ended the operator, 2 for settings that are not valid.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    set_up_logs(given.log_format, given.log_level)
    if given.kubeconfig:
        os.environ["KUBECONFIG"] = given.kubeconfig
    lease = tuple(given.lease.split("/", 1)) if given.lease else None
    if lease is not None and len(lease) != 2:
        parser.error("--lease: write NAMESPACE/NAME")
    options = Options(tuple(given.namespace), given.metrics_port, lease, given.identity, fault_hook)
    try:
        asyncio.run(operate(load_settings(given.settings), options))
    except asyncio.CancelledError:
        return 0  # Stopped before it served anything.
    except (BadSettings, NoCluster, OSError) as error:
        print(f"finetune-operator: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (ApiError, ExceptionGroup) as error:
        for cause in _causes(error):
            expected = isinstance(cause, OperatorError)
            _log.error("the operator stops: %s", cause, exc_info=None if expected else cause)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune-operator", description=__doc__)
    parser.add_argument("--settings", type=Path, help="YAML file with the operator's settings")
    parser.add_argument("--namespace", action="append", default=[], help="serve this namespace only (repeatable)")
    parser.add_argument("--kubeconfig", help="file to connect with (default: the pod's service account)")
    parser.add_argument("--metrics-port", type=int, default=9090, help="port of /metrics (0: any free port)")
    parser.add_argument("--lease", metavar="NAMESPACE/NAME", help="lead by this Lease (default: lead at once)")
    parser.add_argument("--identity", default=f"{socket.gethostname()}-{os.getpid()}", help="name in the Lease")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    return parser


def _causes(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for one in error.exceptions:
            yield from _causes(one)
    else:
        yield error


if __name__ == "__main__":
    raise SystemExit(main())
