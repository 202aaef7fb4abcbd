"""`/progress` for the operator, `/metrics` for Prometheus."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType

from finetune_api.bounded_server import Bounded
from finetune_api.messages import ProgressMessage, Stage
from finetune_api.status import Rollouts
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from finetune_trainer.errors import BadConfig
from finetune_trainer.progress.state import RunState, StepReport

_NAMES = ("namespace", "job")


class Metrics:
    """The trainer's Prometheus series, labelled with the job."""

    def __init__(self, namespace: str, job: str) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"finetune_trainer_{name}", text, _NAMES, registry=self.registry).labels(namespace, job)

        self._loss = gauge("loss_nats", "Training loss of the last step, in nats per answer token.")
        self._rate = gauge("learning_rate", "Learning rate of the last step.")
        self._step = gauge("step", "Optimizer steps done.")
        self._total = gauge("total_steps", "Optimizer steps to do.")
        self._speed = gauge("tokens_per_second", "Tokens trained on per second, over the last ten steps.")
        self._memory = gauge("peak_memory_bytes", "Peak memory of one accelerator, or of the process on a CPU.")
        self._cost = gauge("cost_spent", "Money spent so far, earlier attempts included.")
        self._checkpoint = gauge("checkpoint_step", "Newest checkpoint that is complete in the output.")
        # Named after the fields, and only there once a step had roll-outs.
        self._rollouts = {
            name: Gauge(f"finetune_trainer_rollout_{name}", f"Last step of PPO: {field.description}", _NAMES,
                        registry=self.registry)
            for name, field in Rollouts.model_fields.items()
        }
        self._stage = Gauge("finetune_trainer_stage", "1 for what the trainer is doing.", (*_NAMES, "stage"),
                            registry=self.registry)
        self._tokens = Counter("finetune_trainer_tokens", "Tokens trained on.", _NAMES, registry=self.registry
                               ).labels(namespace, job)
        self._job = (namespace, job)
        self._current: Stage | None = None

    def on_stage(self, stage: Stage) -> None:
        """Move the 1 to the new stage."""
        if self._current is not None:
            self._stage.remove(*self._job, self._current)
        self._current = stage
        self._stage.labels(*self._job, stage).set(1)

    def on_step(self, report: StepReport, message: ProgressMessage) -> None:
        """Set the series of a step."""
        self._loss.set(report.loss)
        self._rate.set(report.learning_rate)
        self._step.set(report.step)
        self._total.set(report.total_steps)
        self._memory.set(report.peak_memory_bytes)
        self._tokens.inc(report.tokens)
        self._checkpoint.set(message.checkpoint_step)
        if message.progress and message.progress.tokens_per_second is not None:
            self._speed.set(message.progress.tokens_per_second)
        if report.rollouts:
            for name, value in report.rollouts:
                self._rollouts[name].labels(*self._job).set(value)
        if message.cost:
            self._cost.set(float(message.cost.spent))

    def on_answers(self, answered: int, total: int) -> None:
        """Change nothing: there is no series for it."""

    def on_note(self, text: str) -> None:
        """Change nothing: there is no series for it."""


class _Server(Bounded, HTTPServer):
    """Serves a trainer's progress."""


class ProgressServer:
    """Serves `/progress` and `/metrics` in a thread of its own, for as long as the context lasts."""

    def __init__(self, state: RunState, metrics: Metrics, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/progress":
                    self._answer(state.message().model_dump_json(exclude_none=True).encode(), "application/json")
                elif self.path == "/metrics":
                    self._answer(generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
                else:
                    self.send_error(404)

            def _answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass  # Every poll would be a line.

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise BadConfig(f"--port is {port}; it cannot be opened for /progress and /metrics: {error.strerror}. "
                            "Choose another port") from error
        self.port = self._server.server_address[1]

    def __enter__(self) -> ProgressServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
