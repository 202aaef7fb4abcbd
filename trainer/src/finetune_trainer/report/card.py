"""The README.md of a published model: a Hugging Face model card with the facts of the run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune_api.messages import Outcome
from huggingface_hub import ModelCardData

from finetune_trainer.report.code import load_code
from finetune_trainer.report.facts import (
    MOST_COMMON_ANSWER,
    RunFacts,
    columns,
    comparisons,
    figures,
    human_seconds,
    row_counts,
    summary,
)
from finetune_trainer.report.page import encodable
from finetune_trainer.report.settings import settings

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~!$])")
OUTCOMES = {
    Outcome.SUCCEEDED: "Succeeded",
    Outcome.STOPPED_EARLY: "Stopped early",
    Outcome.QUALITY_GATE: "Quality gate not passed",
}


def render_card(facts: RunFacts) -> str:
    """The model card: YAML front matter, then Markdown. Texts from outside are escaped."""
    parts = [
        f"---\n{_front_matter(facts)}\n---",
        f"# {_escaped(facts.run.name)}",
        f"{_escaped(summary(facts))} {_escaped(outcome_words(facts))}",
        "## Results",
        _table(["metric", *(title for title, _ in columns(facts))],
               [[line.label, *line.cells] for line in comparisons(facts)], numbers=True),
        "\n".join(f"- {_escaped(note)}" for note in notes(facts)),
        "## Numbers",
        _table(["figure", "value", "note"], [[figure.label, figure.value, figure.note] for figure in figures(facts)]),
        "## How to load",
        _fenced(load_code(facts), "python"),
        _escaped(how_to_ask(facts)),
        "## Training",
        _table(["setting", "value"], [*settings(facts), ("device", facts.device)]),
        _list("Stages", [f"{stage} {human_seconds(seconds)}" for stage, seconds in facts.stage_seconds.items()]),
        "## Data",
        f"{_escaped(str(facts.run.spec.dataset.source))}, by rows:",
        _table(["rows", "number"], row_counts(facts)),
        "## Limits",
        _escaped(caveats(facts)),
        "## Versions",
        _list("Packages", [f"{name} {version}" for name, version in facts.packages.items()]),
    ]
    return encodable("\n\n".join(part for part in parts if part) + "\n")


def outcome_words(facts: RunFacts) -> str:
    """How the run ended, in one or two sentences."""
    return " ".join([f"{OUTCOMES[facts.outcome]}.", *reasons(facts)])


def reasons(facts: RunFacts) -> list[str]:
    """Sentences: why the run ended early, the result of its quality gate, and what is missing."""
    early = facts.stopped_early or ""
    found = [early[:1].upper() + early[1:], f"Quality gate: {facts.gate}" if facts.gate else "", facts.remark or "",
             *(missing[:1].upper() + missing[1:] for missing in facts.missing)]
    return [f"{reason.rstrip('.')}." for reason in found if reason]


def notes(facts: RunFacts) -> list[str]:
    """What the columns of the table mean."""
    titles = [title for title, _ in columns(facts)]
    same = "All columns are measured on the same" if len(titles) > 1 else "Measured on"
    found = [f"{same} {facts.after.rows:,} held-out rows, which are not used for training."]
    if MOST_COMMON_ANSWER in titles:
        found.append("“Most common answer” is the score of a model that always gives the most common value of each "
                     "field in the training rows. A model must score higher than this to be useful.")
    if any("constrained" in title for title in titles):
        found.append("“Constrained” answers are decoded so that they always match the JSON Schema.")
    if "reference" in titles and facts.run.spec.evaluation.reference:
        found.append(f"“Reference” is {facts.run.spec.evaluation.reference.model}, which answers the same questions.")
    for when, evaluation in (("before", facts.before), ("after", facts.after)):
        if evaluation and evaluation.unfinished:
            answers = "1 answer was" if evaluation.unfinished == 1 else f"{evaluation.unfinished:,} answers were"
            found.append(f"{answers} cut off at the maximum length {when} training.")
    return found


def caveats(facts: RunFacts) -> str:
    """What the numbers do not say."""
    words = (f"The model was evaluated only on {facts.after.rows:,} held-out rows of the same data set. The evaluation "
             "says nothing about other data, languages or tasks, or about safety. A difference of a few rows can be "
             "chance.")
    return words if facts.before else f"{words} The model was not evaluated before training."


def how_to_ask(facts: RunFacts) -> str:
    """How to ask the model in the same way as in training."""
    data = facts.run.spec.dataset
    system = ", with the system prompt of spec.dataset.system" if data.system else ""
    question = "conversation as it stands in the data" if data.messages else "question as spec.dataset.prompt writes it"
    return f"Ask the model as in training: with its own chat template{system}, and with the {question}."


def _front_matter(facts: RunFacts) -> str:
    spec = facts.run.spec
    model, data = spec.model.source, spec.dataset.source
    # The hub refuses a card whose base model is not on the hub.
    on_hub = model.scheme == "hub"
    return ModelCardData(
        base_model=facts.base_model if on_hub else None,
        base_model_relation=facts.loading.relation if on_hub else None,
        library_name=facts.loading.library, pipeline_tag="text-generation",
        tags=[*dict.fromkeys([f"{spec.method.type}".lower(), facts.method_name.split()[0].lower(), "sft"])],
        datasets=[f"{data.authority}/{data.path.partition('/')[0]}"] if data.scheme == "hf" else None,
    ).to_yaml()


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    rule = ["---", *(["---:"] if numbers else ["---"]) * (len(titles) - 1)]
    lines = [[_escaped(cell) for cell in row] for row in [titles, *rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _list(title: str, items: Sequence[str]) -> str:
    return f"{title}: {', '.join(_escaped(item) for item in items)}." if items else ""


def _escaped(text: str) -> str:
    """Text on one line that Markdown shows unchanged."""
    plain = _MARKDOWN.sub(r"\\\1", _one_line(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fenced(code: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
