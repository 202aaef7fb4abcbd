"""Scores responses with the reward of the job, and checks that the rows have what the reward needs."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from finetune_api.methods.reft import REWARD_PLUGINS, RewardSpec, RewardType

from finetune_trainer.data.answers.categorical_fields import categorical_fields, not_categorical
from finetune_trainer.data.answers.json_answers import AnswerSchema, NotJson, parse_json
from finetune_trainer.data.rendering.row_template import RowTemplate, row_data
from finetune_trainer.data.rows import Example, Finding, Severity, SourceRow
from finetune_trainer.errors import BadConfig, BadData
from finetune_trainer.rewards.judging import (
    NO_ANSWER,
    Verdict,
    final_answer,
    json_answer,
    json_object,
    judge_answer,
    judge_fields,
    judge_json,
    number,
)
from finetune_trainer.rewards.program import run_programs, sandbox_fault, source_of

_FIELD = "spec.method.reft.reward"
_TRIED = 100
_SHOWN = 200
Plugin = Callable[[str, str, Mapping[str, Any]], float]


class Judge:
    """Scores responses to rows.

    Args:
        reward: the reward settings of the job.
        allowed_plugins: names of the plug-ins that the administrator allows.

    Raises:
        BadConfig: the plug-in is not allowed or cannot be loaded, or programs cannot be confined on this machine.
    """

    def __init__(self, reward: RewardSpec, allowed_plugins: Collection[str] = ()) -> None:
        self.reward = reward
        self._plugin = _load(reward.plugin, allowed_plugins) if reward.plugin else None
        if reward.type is RewardType.PROGRAM and (fault := sandbox_fault()):
            raise BadConfig(f"{_FIELD}.type: programs can't be run safely here: {fault}; they need Linux with seccomp "
                            "on x86_64 or aarch64")

    def judge(self, responses: Sequence[str], rows: Sequence[Example], strict: bool = False) -> list[Verdict]:
        """The verdict on each response. A response that cannot be scored gets the reward 0.

        Args:
            responses: the sampled responses.
            rows: the row of each response, in the same order.
            strict: raise an error if the plug-in fails. That is right before training. During training an error would
                lose the trained weights, so the report shows the error as the answer of the response.

        Raises:
            BadData: with `strict`, the plug-in fails or does not return a reward; the message names the row.
        """
        reward = self.reward
        pairs = list(zip(responses, rows, strict=True))
        if reward.type is RewardType.PROGRAM:
            assert reward.timeout is not None
            ran = run_programs([source_of(response) for response in responses], reward.timeout.total_seconds())
            return [judge_answer(one.answer, _right(row), reward.tolerance, reward.partial)
                    for one, row in zip(ran, rows, strict=True)]
        if reward.type is RewardType.PLUGIN:
            return [self._ask_plugin(response, row, strict) for response, row in pairs]
        if reward.type is RewardType.FIELDS_MATCH:
            return [judge_fields(json_object(response), parse_json(_right(row)), reward.partial)
                    for response, row in pairs]
        if reward.type is RewardType.JSON:
            return [judge_json(json_answer(response, reward.trigger), parse_json(_right(row)), reward.tolerance,
                               reward.partial) for response, row in pairs]
        return [judge_answer(final_answer(response, reward.trigger), _right(row), reward.tolerance, reward.partial)
                for response, row in pairs]

    def _ask_plugin(self, response: str, row: Example, strict: bool) -> Verdict:
        assert self._plugin is not None
        try:
            value = self._plugin(response, _right(row), row.columns)
            fault = None if not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1 else \
                f"returned {value!r} for {row.location}; a reward is a number from 0 to 1"
        except Exception as error:  # A plug-in may raise anything.
            fault = f"fails for {row.location}: {type(error).__name__}: {error}"
        if fault is None:
            return Verdict(float(value), value == 1) if value else NO_ANSWER
        message = f"{_FIELD}.plugin: {self.reward.plugin} {fault}"
        if strict:
            raise BadData(message)
        return Verdict(0.0, False, message[:_SHOWN])


def _right(row: Example) -> str:
    assert row.target is not None
    return row.target


def _load(name: str, allowed: Collection[str]) -> Plugin:
    """The plug-in of a name. An installed package defines what is imported, never the job."""
    if name not in allowed:
        raise BadConfig(f"{_FIELD}.plugin: {name} is not allowed: it has to be in the operator's settings "
                        f"(allowed.rewardPlugins), or given with finetune run --allow-plugin {name}")
    installed = entry_points(group=REWARD_PLUGINS)
    found = {point.value: point for point in installed if point.name == name}
    if len(found) > 1:
        raise BadConfig(f"{_FIELD}.plugin: {name} is the name of {len(found)} entry points "
                        f"({', '.join(sorted(found))}); rename one of them")
    if not found:
        raise BadConfig(f"{_FIELD}.plugin: {name} is no entry point of the group {REWARD_PLUGINS} in the trainer's "
                        f"image; there {'are ' + ', '.join(sorted(installed.names)) if installed else 'is none'}")
    (point,) = found.values()
    try:
        plugin: Plugin = point.load()
    except Exception as error:  # A package's module may raise anything.
        raise BadConfig(f"{_FIELD}.plugin: {name} ({point.value}) can't be loaded: {type(error).__name__}: {error}"
                        ) from error
    if not callable(plugin):
        raise BadConfig(f"{_FIELD}.plugin: {name} ({point.value}) is no function")
    return plugin


def with_right_answers(train: Sequence[Example], held_out: Sequence[Example], rows: Sequence[SourceRow], judge: Judge,
                       schema: AnswerSchema | None = None) -> tuple[list[Example], list[Example], list[Finding]]:
    """Examples with their right answers and columns, and findings about examples that no reward can be computed for.

    Args:
        train: the examples to learn from.
        held_out: the examples to evaluate on.
        rows: all source rows.
        judge: scores responses.
        schema: the schema of the answers, which lists the values of fields.

    Raises:
        BadConfig: the template is not valid, the trigger occurs in no row, or no field of the answers can be judged.
    """
    (learn, wrong), (held, more) = (_complete(examples, rows, judge.reward) for examples in (train, held_out))
    if judge.reward.type is RewardType.FIELDS_MATCH:
        # One choice for all rows: roll-outs and held-out answers are right by the same fields.
        fields = _fields_that_count([*learn, *held], schema)
        learn, held = ([_reduced(example, fields) for example in examples] for examples in (learn, held))
    return learn, held, [*wrong, *_wrong_rows(learn, judge), *more, *_wrong_rows(held, judge)]


def _complete(examples: Sequence[Example], rows: Sequence[SourceRow], reward: RewardSpec
              ) -> tuple[list[Example], list[Finding]]:
    """Examples with their right answers and columns, and findings about the others."""
    sources = {row.location: row for row in rows}
    if reward.type is RewardType.FINAL_ANSWER and examples and \
            not any(reward.trigger in example.answer for example in examples):
        raise BadConfig(f"{_FIELD}.trigger: {reward.trigger!r} occurs in no row's completion (the first is "
                        f"{examples[0].answer[-60:]!r}); write the words that the final answers follow there")
    template = RowTemplate(reward.answer, f"{_FIELD}.answer") if reward.answer is not None else None
    found, findings = [], []
    for example in examples:
        source = sources[example.location]
        try:
            target = template.render(row_data(source)) if template else _own_answer(example, reward)
        except ValueError as error:
            findings.append(Finding(Severity.ERROR, example.location, f"{_FIELD}.answer: the template fails: "
                                    + str(error).removeprefix("the template fails: ")))
            continue
        complete = replace(example, target=target, columns=source.columns)
        fault = _fault(complete, reward)
        if fault:
            findings.append(Finding(Severity.ERROR, example.location, fault))
        else:
            found.append(complete)
    return found, findings


def _fields_that_count(examples: Sequence[Example], schema: AnswerSchema | None) -> frozenset[str]:
    """The fields whose values are classes.

    Raises:
        BadConfig: there are answers, and none of their fields has classes.
    """
    answers = [parse_json(_right(example)) for example in examples]
    fields = frozenset(categorical_fields(answers, schema))
    if answers and not fields:
        why = "; ".join(f"{name}: {reason}" for name, reason in not_categorical(answers, schema).items())
        raise BadConfig(f"{_FIELD}.type: fieldsMatch compares fields whose values are classes, and the right answers "
                        f"have none ({why}); list a field's values as an enum in dataset.answerFormat.jsonSchema, or "
                        "write type: json, which compares all fields")
    return fields


def _reduced(example: Example, fields: Collection[str]) -> Example:
    """The example with the fields of its right answer that count."""
    answer = parse_json(_right(example))
    return replace(example, target=json.dumps({name: value for name, value in answer.items() if name in fields},
                                              ensure_ascii=False))


def _own_answer(example: Example, reward: RewardSpec) -> str:
    """The answer in the row's own completion; empty if it has none."""
    if reward.type is RewardType.FINAL_ANSWER:
        return final_answer(example.answer, reward.trigger) or ""
    if reward.type in (RewardType.JSON, RewardType.FIELDS_MATCH):
        by_fields = reward.type is RewardType.FIELDS_MATCH
        value = json_object(example.answer) if by_fields else json_answer(example.answer, reward.trigger)
        return json.dumps(value, ensure_ascii=False) if value else ""
    return example.answer


def _fault(example: Example, reward: RewardSpec) -> str | None:
    """Why no reward can be computed for a row, or why the warm-up cannot learn from it; None if all is right."""
    if reward.type is RewardType.FINAL_ANSWER:
        own = final_answer(example.answer, reward.trigger)
        if own is None:
            return f"its completion has no final answer after {reward.trigger!r} (reward.trigger)"
        if not example.answer.rpartition(reward.trigger)[0].strip():
            return f"its completion has no chain of thought before {reward.trigger!r}"
        if example.target and number(example.target) is not None and number(own) is None:
            return f"the right answer {example.target!r} is a number, but its completion ends in {own!r}"
    if not example.target:
        return "reward.answer gives no right answer"
    if reward.type in (RewardType.JSON, RewardType.FIELDS_MATCH):
        try:
            value = parse_json(example.target)
        except NotJson:
            value = None
        if not isinstance(value, dict) or not value:
            return f"the right answer {example.target[:60]!r} is not a JSON object with fields"
    if reward.type is RewardType.PROGRAM and not _defines_solution(source_of(example.answer)):
        return "its completion has no chain of thought: it is no Python that defines the function solution"
    return None


def _defines_solution(source: str) -> bool:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == "solution" for node in tree.body)


def _wrong_rows(examples: Sequence[Example], judge: Judge) -> list[Finding]:
    """Warnings about rows whose own completion is not right. Programs and plug-ins are slow: only the first rows."""
    slow = judge.reward.type in (RewardType.PROGRAM, RewardType.PLUGIN)
    tried = examples[:_TRIED] if slow else examples
    verdicts = judge.judge([example.answer for example in tried], tried, strict=True)
    return [
        Finding(Severity.WARNING, example.location,
                f"its own completion is not right: {verdict.answer!r}, and the right answer is {example.target!r}")
        for example, verdict in zip(tried, verdicts, strict=True) if not verdict.right
    ]
