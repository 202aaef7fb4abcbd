"""Checks that what the pages name exists: links, files, symbols, commands, metrics, alerts, fields, make targets.

`python -m docs_tools.check`, in the repository's root, prints a line for each name that does not exist, and ends with 1
where there is one. The records in docs/decisions/ are of their day: of these only the links are checked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

from docs_tools import named
from docs_tools.markdown import Page

_RETIRED_FIELDS = {"spec.dataset.answerFormat.schema"}
"""Fields that stored jobs may still have, and that no model documents."""

Problem = tuple[int, str]
"""A line of a page, and what is wrong in it."""

ROOT = named.ROOT
DECISIONS = ROOT / "docs" / "decisions"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**/*.md", "tests/**/*.md",
         "benchmarks/*.md")
_FILE = re.compile(r"(?<![\w./:@{<$*-])([\w.*-]+(?:/[\w.*-]+)*"
                   r"\.(?:py|md|ya?ml|sh|toml|go|lua|tpl|jsonl?|html|txt))(?![\w/*])")
_ROOTS = ("docs", "docs_tools", "crds", "operator", "trainer", "cli", "charts", "deploy", "tests", "benchmarks")
_FOLDER = re.compile(rf"(?<![\w./:@-])((?:{'|'.join(_ROOTS)})/[\w./*-]*)(?![\w*…<])")
_OF_USERS = {
    # What a run publishes or a pod is given (finetune_api.messages.layout, finetune_operator.manifests).
    "manifest.json", "metrics.jsonl", "row-scores.json", "answers.json", "experiment.json", "report.html",
    "adapter_config.json", "changed.json", "run.json", "limits.json",
    # What a model or a data set has.
    "config.json", "tokenizer.json", "tokenizer_config.json", "train.jsonl", "train-00000-of-00002.jsonl",
    "svamp-train-text-cot.jsonl", "svamp-train-program-cot.jsonl",
    # What the check on a GPU writes (benchmarks.gpu).
    "report.md", "log.txt", "reft-curves.html", "reft-program-metrics.jsonl", "reft-text-metrics.jsonl",
    # What a reader writes while reading.
    "finetunejob.yaml", "settings.yaml", "values.yaml", "first.yaml", "own.yaml", "tickets.csv", "test.jsonl",
    "NEEDED.txt",
}
"""Files that are not in the repository, but with those who use it."""


def broken_links(page: Page) -> Iterator[Problem]:
    """Links within the repository that lead to no file, or to no heading of it."""
    for line, target in page.links:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.path.parent / path).resolve() if path else page.path
        if path and not file.exists():
            yield line, f"the link {target} leads to no file"
        elif anchor and file.suffix == ".md" and anchor not in (page if not path else Page.read(file)).anchors:
            yield line, f"the link {target} leads to no heading of {file.name}"


def missing_files(page: Page) -> Iterator[Problem]:
    """Files and folders of the repository that are not there."""
    for code in page.code:
        for name in {*_FILE.findall(code.text), *(one.rstrip("./") for one in _FOLDER.findall(code.text))}:
            own = "/" not in name and (name in _OF_USERS or code.in_block)
            outside = re.match(r"(build|\.?~|https?|in|out|judgments|adapters|results|published)\b", name)
            if not own and not outside and name.rpartition("/")[2] not in _OF_USERS and not named.is_file(name):
                yield code.line, f"{name} is not in the repository"
        for test in re.findall(r"(tests/\S+\.py::\w+)", code.text):
            if not named.is_test(test):
                yield code.line, f"{test} is no test"


def missing_symbols(page: Page) -> Iterator[Problem]:
    """Modules and names of the workspace that are not there."""
    packages = "|".join(named.WORKSPACE)
    for code in page.code:
        for dotted in re.findall(rf"(?<![\w./-])((?:{packages})(?:\.\w+)*)", code.text):
            if not named.is_symbol(dotted):
                yield code.line, f"{dotted} is neither a module nor a name in one"
        for module in re.findall(r"python3? -m ([\w.]+)", code.text):
            if not named.is_module(module):
                yield code.line, f"python -m {module}: no such module"


def missing_commands(page: Page) -> Iterator[Problem]:
    """Commands and options of `finetune`, and targets of make, that are not there."""
    for code in page.code:
        for found in re.finditer(r"(?:^|[\s/(])finetune ([a-z-][^|#;&>()]*)", code.text):
            begins_the_line = not code.text[:found.start()].strip() or code.text[found.start()] == "/"
            if begins_the_line and not code.text.lstrip().startswith(("helm", "kubectl")):
                problem = named.command_error(found[1].split())
                if problem:
                    yield code.line, problem
        for target in re.findall(r"(?:^\s*|&& )make ([a-z][a-z-]*)", code.text):
            if target not in named.make_targets():
                yield code.line, f"make has no target {target}"


def missing_metrics(page: Page) -> Iterator[Problem]:
    """Metrics and alerts that are not there."""
    for code in page.code:
        for name in re.findall(r"(?<![\w/.-])(finetune_(?:jobs|job|operator|trainer)(?:_\w+)?)\b(?![./*])", code.text):
            package_or_prefix = name in named.WORKSPACE or name.endswith("_")
            if not package_or_prefix and name not in named.metrics():
                yield code.line, f"{name} is no metric"
        for name in re.findall(r"\b(FineTune[A-Z]\w+)", code.text):
            if not re.match(r"FineTune(Job|Experiment)(s|List|Spec|Status)?$", name) and name not in named.alerts():
                yield code.line, f"{name} is no alert"


def missing_fields(page: Page) -> Iterator[Problem]:
    """Fields of a job, settings of the operator and values of the chart that are not there."""
    sections = "|".join(("spec", "status", "settings", *named.SPEC_SECTIONS, *named.STATUS_SECTIONS))
    for code in page.code:
        if code.in_block:
            continue
        found = re.match(rf"(?:\{{?\.)?((?:{sections})(?:\.[a-zA-Z][a-zA-Z0-9]*)+)(?![\w/(\[])", code.text)
        if found and found[1] not in _OF_USERS and not re.search(r"\.(py|json|safetensors|yaml)$", found[1]):
            path = found[1]
            known = named.is_job_field(path) or named.is_setting(path) or named.is_chart_value(path)
            if not known and path not in _RETIRED_FIELDS:
                yield code.line, f"{path} is neither a field of a job nor a setting nor a value of the chart"


def joined_blocks(page: Page) -> Iterator[Problem]:
    """Lists and tables right behind a paragraph, which the site shows as part of it."""
    before = ""
    for number, line, in_block in page.lines:
        begins = re.match(r"([-*]|\d+\.) \S|\|.+\|\s*$", line)
        ends_a_paragraph = before.strip() and not re.match(r"\s*([-*]|\d+\.) |\||#|<|\s", before)
        if begins and not in_block and ends_a_paragraph:
            yield number, "a list or a table needs a blank line before it"
        before = "" if in_block else line


CHECKS: tuple[Callable[[Page], Iterator[Problem]], ...] = (
    broken_links, missing_files, missing_symbols, missing_commands, missing_metrics, missing_fields, joined_blocks)


def problems(page: Page) -> list[Problem]:
    """Everything that is wrong in a page."""
    checks = (broken_links,) if page.path.parent == DECISIONS else CHECKS
    return sorted(problem for check in checks for problem in check(page))


def unlisted_decisions() -> list[str]:
    """Records that the index of decisions does not list."""
    listed = {target for _, target in Page.read(DECISIONS / "index.md").links}
    return sorted(path.name for path in DECISIONS.glob("2*.md") if path.name not in listed)


def main() -> int:
    """Check every page; 1 where one names what does not exist."""
    found = [f"docs/decisions/index.md: {name} is not listed" for name in unlisted_decisions()]
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT)
            found += [f"{name}:{line}: {text}" for line, text in problems(Page.read(path))]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")  # noqa: T201
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
