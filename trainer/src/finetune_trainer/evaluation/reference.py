"""Another model's answers to the held-out questions, over an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import httpx
from finetune_api.spec.evaluation import Metric, ReferenceSpec
from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.data.checks import schema_validator
from finetune_trainer.data.rows import EvaluationRow
from finetune_trainer.errors import MissingInput
from finetune_trainer.evaluation.scores import Scores, score

_TIMEOUT_SECONDS = 120.0
_TRIES = 5


def ask_reference(spec: FineTuneJobSpec, rows: Sequence[EvaluationRow], check: Callable[[], None]) -> Scores | None:
    """The reference model's scores on the rows; None where the job names no such model.

    Its loss can't be had over such an endpoint, so it is left out.

    Raises:
        MissingInput: the endpoint can't be reached or refuses; the message holds no key.
    """
    reference = spec.evaluation.reference
    if reference is None:
        return None
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answers = []
    with httpx.Client(timeout=_TIMEOUT_SECONDS, headers=headers) as client:
        for row in rows:
            check()
            answers.append(_ask(client, reference, spec.dataset.system, row, time.sleep))
    metrics = [m for m in spec.evaluation.metrics or () if m not in (Metric.LOSS, Metric.PERPLEXITY)]
    return score([row.example.answer for row in rows], answers, metrics,
                 schema_validator(spec.dataset.answer_format.json_schema))


def _ask(client: httpx.Client, reference: ReferenceSpec, system: str | None, row: EvaluationRow,
         sleep: Callable[[float], None]) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [dict(message) for message in row.example.messages]
    body = {"model": reference.model, "messages": messages, "temperature": 0}
    fault = ""
    for attempt in range(_TRIES):
        if attempt:
            sleep(min(30.0, 2.0**attempt))
        try:
            response = client.post(f"{reference.url.rstrip('/')}/chat/completions", json=body)
        except httpx.TransportError as error:
            fault = type(error).__name__
            continue
        if response.status_code == 429 or response.status_code >= 500:
            fault = f"it answered {response.status_code}"
            continue
        try:
            response.raise_for_status()
            return str(response.json()["choices"][0]["message"]["content"] or "").strip()
        except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
            raise MissingInput(f"spec.evaluation.reference: {reference.url} answered {response.status_code} for model "
                               f"{reference.model}; check url, model and the key OPENAI_API_KEY") from error
    raise MissingInput(f"spec.evaluation.reference: {reference.url} gave no answer after {_TRIES} tries ({fault})")
