"""What a run reads before any weights, and preflight too: conversation format and rows, checked the same in both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from finetune_api.messages import RunConfig
from finetune_api.spec.job import FineTuneJobSpec
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.data.answers.answer_checks import schema_validator
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
_LEAST_LENGTH = 8
"""The least `spec.training.maxLength`."""


def check_shares(spec: FineTuneJobSpec, processes: int) -> None:
    """Refuse a batch that so many processes can't share.

    Raises:
        BadConfig: its rows, or PPO's responses, are no multiple of the processes.
    """
    if spec.training.batch_size % processes:
        raise BadConfig(f"spec.training.batchSize: {spec.training.batch_size} rows can't be shared equally among "
                        f"{processes} processes; write a multiple of that")
    reft = spec.method.reft
    if reft and reft.ppo.mini_batch_size % processes:
        raise BadConfig(f"spec.method.reft.ppo.miniBatchSize: {reft.ppo.mini_batch_size} responses can't be shared "
                        f"equally among {processes} processes; write a multiple of that")


def open_chat(spec: FineTuneJobSpec, files: ModelFiles, today: date | None
              ) -> tuple[PreTrainedTokenizerBase, ChatFormat]:
    """The model's tokenizer, and how it writes a conversation.

    Args:
        spec: the job's spec with its defaults resolved.
        files: the model's files.
        today: the day that a chat template may write; None takes the clock's.

    Raises:
        BadConfig: there is no tokenizer that ends its answers, or the answers' schema can't be used, or not be forced
            while decoding.
    """
    tokenizer = load_tokenizer(files)
    chat = ChatFormat(tokenizer, spec.dataset.system, today)
    schema = spec.dataset.answer_format.json_schema
    schema_validator(schema)
    if spec.evaluation.constrained and schema is not None:
        SchemaGuide(tokenizer, schema, chat.end_of_turn, chat.form.lead)
    return tokenizer, chat


def read_rows(config: RunConfig, files: ModelFiles, chat: ChatFormat, scratch: Path, tell: Callable[[str], None]
              ) -> tuple[PreparedData, Judge | None]:
    """The prepared rows, and what judges answers to them, where the method has a reward; errors as in `prepare`.

    Args:
        config: the run configuration.
        files: the model's files.
        chat: how the model writes a conversation.
        scratch: where files from elsewhere are put.
        tell: told the first warnings.
    """
    spec = config.spec
    judge = Judge(spec.method.reft.reward, config.allowed_plugins) if spec.method.reft else None
    data = prepare(spec, chat, scratch, partial(with_right_answers, judge=judge) if judge else None)
    told = [*_beyond_positions(spec, files, data), *_not_measured(spec, data), *_opened(chat)]
    data = replace(data, findings=(*told, *data.findings))
    for finding in data.findings[:_SHOWN_FINDINGS]:
        tell(f"warning: {finding}")
    return data, judge


def check_embeddings(model: PreTrainedModel, data: PreparedData, tokenizer: PreTrainedTokenizerBase, source: str
                     ) -> None:
    """Refuse rows with tokens that the model, which may be without storage, has no embedding for.

    Raises:
        BadConfig: with such a token.
    """
    embeddings = model.get_input_embeddings()
    rows = (ids for row in (*data.train, *(one.tokens for one in data.held_out)) for ids in (row.prompt, row.answer))
    check_tokens(tokenizer, rows, int(embeddings.weight.shape[0]), source)


def check_positions(spec: FineTuneJobSpec, model: PreTrainedModel, data: PreparedData, source: str) -> None:
    """Refuse rows that are longer than the table in which the model, which may be without storage, looks positions up.

    Raises:
        BadConfig: with the longest that it can read.
    """
    table = table_of_positions(model)
    longest = max(len(row) for row in (*data.train, *(row.tokens for row in data.held_out)))
    virtual = spec.method.additive.virtual_tokens or 0 if spec.method.additive else 0
    if table is None or longest + virtual <= table:
        return
    room = table - virtual
    if room < _LEAST_LENGTH:
        raise BadConfig(f"spec.method.additive.virtualTokens: {virtual}, but {source} has {table} positions, of which "
                        f"the longest row needs {longest}; write fewer")
    before = f" after {virtual} virtual tokens" if virtual else ""
    raise BadConfig(f"spec.training.maxLength: the longest row has {longest} tokens, and {source} has positions for "
                    f"{room}{before}; write maxLength: {room}")


def _beyond_positions(spec: FineTuneJobSpec, files: ModelFiles, data: PreparedData) -> list[Finding]:
    """That rows may be longer than what the model has learnt positions for."""
    most, positions = spec.training.max_length, _positions(files)
    if positions is None or most <= positions:
        return []
    rows = sum(len(row) > positions for row in (*data.train, *(row.tokens for row in data.held_out)))
    exceeding = "1 row exceeds" if rows == 1 else f"{rows or 'no'} rows exceed"
    return [Finding(Severity.WARNING, "spec.training.maxLength", f"{most} is more than the model's {positions} "
                    f"positions (max_position_embeddings), which {exceeding}; write maxLength: {positions}")]


def _opened(chat: ChatFormat) -> list[Finding]:
    """That who asks the model has to begin its answer as training did."""
    opening = chat.form.opening
    if not REASONING.search(opening):
        return []
    return [Finding(Severity.WARNING, "spec.model.source", f"the chat template opens an answer with {opening!r}: it is "
                    "part of the prompt here, except in rows that bring their own reasoning; ask the trained model in "
                    "the same way, which many templates do with enable_thinking=False")]


def _positions(files: ModelFiles) -> int | None:
    """How many tokens of a text a model was made for, by its configuration; None where that doesn't tell."""
    try:
        config = json.loads((files.folder / "config.json").read_text("utf-8"))
    except (ValueError, OSError):
        return None
    parts = (config, config.get("text_config")) if isinstance(config, dict) else ()
    found = (part.get(name) for part in parts if isinstance(part, dict)
             for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"))
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _not_measured(spec: FineTuneJobSpec, data: PreparedData) -> list[Finding]:
    why = absent([row.example.answer for row in data.held_out], spec.evaluation.metrics or (),
                 schema_validator(spec.dataset.answer_format.json_schema))
    return [Finding(Severity.WARNING, "spec.evaluation.metrics", why)] if why else []
