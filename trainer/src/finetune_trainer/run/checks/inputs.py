"""The inputs of a job: conversation format and rows. The run and preflight read and check them in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.messages import RunConfig
from finetune_api.spec.job import FineTuneJobSpec
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.data.answers.row_findings import schema_validator
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.chat.control_tokens import REASONING
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.rows import Finding, PreparedData, Severity
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.constrained import SchemaGuide
from finetune_trainer.evaluation.scores import absent
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.structure.positions import table_of_positions
from finetune_trainer.model.tokenizer import check_tokens, load_tokenizer
from finetune_trainer.rewards.rewards import Judge, with_right_answers

_SHOWN_FINDINGS = 5
_MINIMUM_LENGTH = 8
"""The minimum of `spec.training.maxLength`."""


def check_shares(spec: FineTuneJobSpec, processes: int) -> None:
    """Check that the processes can share each batch equally.

    Raises:
        BadConfig: the rows of a batch, or the responses of a mini-batch of PPO, are not a multiple of the processes.
    """
    if spec.training.batch_size % processes:
        raise BadConfig(f"spec.training.batchSize is {spec.training.batch_size}; it must be a multiple of the "
                        f"{processes} processes that train. Change batchSize or the number of GPUs")
    reft = spec.method.reft
    if reft and reft.ppo.mini_batch_size % processes:
        raise BadConfig(f"spec.method.reft.ppo.miniBatchSize is {reft.ppo.mini_batch_size}; it must be a multiple of "
                        f"the {processes} processes that train. Change miniBatchSize or the number of GPUs")


def load_tokenizer_and_chat_format(spec: FineTuneJobSpec, files: ModelFiles, today: date | None
                                   ) -> tuple[PreTrainedTokenizerBase, ChatFormat]:
    """The tokenizer of the model, and the format in which it writes a conversation.

    Args:
        spec: the job's spec with its defaults resolved.
        files: the files of the model.
        today: the date that a chat template may write; None takes the clock's.

    Raises:
        BadConfig: the tokenizer has no token that ends an answer; or the schema of the answers is invalid, or cannot be
            enforced during decoding.
    """
    tokenizer = load_tokenizer(files)
    chat = ChatFormat(tokenizer, spec.dataset.system, today)
    schema = spec.dataset.answer_format.json_schema
    schema_validator(schema)
    if spec.evaluation.constrained and schema is not None:
        SchemaGuide(tokenizer, schema, chat.end_of_turn, chat.form.lead)
    return tokenizer, chat


def read_rows(config: RunConfig, model_config: Mapping[str, Any], chat: ChatFormat, scratch: Path,
              note: Callable[[str], None]) -> tuple[PreparedData, Judge | None]:
    """The prepared rows, and the judge of answers if the method has a reward. Errors as in `prepare`.

    Args:
        config: the run configuration.
        model_config: the content of the model's config.json.
        chat: how the model writes a conversation.
        scratch: a folder for fetched files.
        note: receives the first warnings.
    """
    spec = config.spec
    judge = Judge(spec.method.reft.reward, config.allowed_plugins) if spec.method.reft else None
    schema = schema_validator(spec.dataset.answer_format.json_schema)
    data = prepare(spec, chat, scratch, partial(with_right_answers, judge=judge, schema=schema) if judge else None)
    warnings = [*_beyond_positions(spec, model_config, data), *_not_measured(spec, data), *_opened(chat)]
    data = replace(data, findings=(*warnings, *data.findings))
    for finding in data.findings[:_SHOWN_FINDINGS]:
        note(f"warning: {finding}")
    return data, judge


def check_embeddings(model: PreTrainedModel, data: PreparedData, tokenizer: PreTrainedTokenizerBase, source: str
                     ) -> None:
    """Check that the model has an embedding for each token of the rows. The model may be on the meta device.

    Raises:
        BadConfig: it has none for a token, which the message names.
    """
    embeddings = model.get_input_embeddings()
    rows = (ids for row in (*data.train, *(one.tokens for one in data.held_out)) for ids in (row.prompt, row.answer))
    check_tokens(tokenizer, rows, int(embeddings.weight.shape[0]), source)


def check_positions(spec: FineTuneJobSpec, model: PreTrainedModel, data: PreparedData, source: str) -> None:
    """Check that the model's table of positions is long enough for the rows. The model may be on the meta device.

    Raises:
        BadConfig: it is shorter; the message names the longest row that it can read.
    """
    table = table_of_positions(model)
    longest = max(len(row) for row in (*data.train, *(row.tokens for row in data.held_out)))
    virtual = spec.method.definition.virtual_tokens(spec.method.settings)
    if table is None or longest + virtual <= table:
        return
    limit = table - virtual
    if limit < _MINIMUM_LENGTH:
        raise BadConfig(f"spec.method.additive.virtualTokens is {virtual}; {source} has {table} positions, and the "
                        f"longest row needs {longest} of them. Lower virtualTokens")
    before = f" after {virtual} virtual tokens" if virtual else ""
    raise BadConfig(f"spec.training.maxLength: the longest row has {longest} tokens; {source} has positions for "
                    f"{limit}{before}. Set maxLength: {limit}")


def _beyond_positions(spec: FineTuneJobSpec, model_config: Mapping[str, Any], data: PreparedData) -> list[Finding]:
    """A warning if rows may be longer than the texts that the model was trained on."""
    most, positions = spec.training.max_length, _positions(model_config)
    if positions is None or most <= positions:
        return []
    rows = sum(len(row) > positions for row in (*data.train, *(row.tokens for row in data.held_out)))
    longer = "1 row is" if rows == 1 else f"{rows or 'No'} rows are"
    return [Finding(Severity.WARNING, "spec.training.maxLength", f"{most} is larger than the model's {positions} "
                    f"positions (max_position_embeddings). {longer} longer than that. Set maxLength: {positions}")]


def _opened(chat: ChatFormat) -> list[Finding]:
    """A warning if the chat template starts the answer: then a caller must start it in the same way."""
    opening = chat.form.opening
    if not REASONING.search(opening):
        return []
    return [Finding(Severity.WARNING, "spec.model.source", f"the chat template starts an answer with {opening!r}: "
                    "training makes it part of the prompt, except in rows that have their own reasoning. Ask the "
                    "trained model in the same way; many templates do so with enable_thinking=False")]


def _positions(content: Mapping[str, Any]) -> int | None:
    """The longest text that a model was made for, in tokens, by its config.json; None if that does not say."""
    found = (part.get(name) for part in (content, content.get("text_config")) if isinstance(part, dict)
             for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"))
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _not_measured(spec: FineTuneJobSpec, data: PreparedData) -> list[Finding]:
    why = absent([row.example.answer for row in data.held_out], spec.evaluation.metrics or (),
                 schema_validator(spec.dataset.answer_format.json_schema))
    return [Finding(Severity.WARNING, "spec.evaluation.metrics", why)] if why else []
