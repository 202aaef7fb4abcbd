"""The check of the pages: each rule passes over a name that exists, and reports one that does not."""

from __future__ import annotations

import pytest

from docs_tools.check import (
    ROOT,
    broken_links,
    joined_blocks,
    main,
    missing_commands,
    missing_fields,
    missing_files,
    missing_metrics,
    missing_symbols,
    unlisted_decisions,
)
from docs_tools.generate import pages
from docs_tools.markdown import Page

CASES = [
    (broken_links, "[a](README.md)", "[a](NOWHERE.md)"),
    (broken_links, "[a](#words)\n\n# Words", "[a](#no-such-words)\n\n# Words"),
    (broken_links, "[a](docs/explanation/reft.md#the-reward)", "[a](docs/explanation/reft.md#the-punishment)"),
    (broken_links, "[a](https://example.com)", "[a\nb](no/such/folder)"),
    (missing_files, "`docs/reference/data.md`", "`docs/data.md`"),
    (missing_files, "`telemetry/metrics.py`", "`telemetry/no_operator_metrics.py`"),
    (missing_files, "    bash deploy/images.sh", "    bash deploy/no-images.sh"),
    (missing_files, "`tests/docs/test_names_in_pages.py::test_the_pages_name_only_what_exists`",
     "`tests/docs/test_names_in_pages.py::test_nothing`"),
    (missing_symbols, "`finetune_api.exit_codes.ExitCode`", "`finetune_api.exit_codes.EntryCode`"),
    (missing_symbols, "`finetune_trainer.data`", "`finetune_trainer.date`"),
    (missing_symbols, "    python -m docs_tools.check", "    python -m docs_tools.chek"),
    (missing_commands, "    .venv/bin/finetune run --rerun job.yaml", "    .venv/bin/finetune rum job.yaml"),
    (missing_commands, "`finetune run --port 0 FILE`", "`finetune run --ports 0 FILE`"),
    (missing_commands, "`make check`", "`make cheque`"),
    (missing_metrics, "`finetune_operator_reconcile_seconds_bucket`", "`finetune_operator_reconcile_minutes`"),
    (missing_metrics, "`FineTuneNobodyLeads`", "`FineTuneEverybodyLeads`"),
    (missing_fields, "`training.batchSize`", "`training.batchSizes`"),
    (missing_fields, "`spec.method.lora.rank: 8`", "`spec.method.lora.ranks: 8`"),
    (missing_fields, "`settings.trainerPort`", "`settings.trainerPorts`"),
    (joined_blocks, "These:\n\n- one\n- two", "These:\n- one\n- two"),
    (joined_blocks, "# A\n| a | b |\n|---|---|", "A:\n| a | b |\n|---|---|"),
]


@pytest.mark.parametrize(("check", "right", "wrong"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_name_that_exists_passes_and_one_that_does_not_is_reported(check, right, wrong):
    assert list(check(Page(ROOT / "page.md", right))) == []
    [(line, message)] = check(Page(ROOT / "page.md", f"First line.\n\n{wrong}"))
    assert line == 3 or check is joined_blocks, message


def test_the_pages_name_only_what_exists(capsys):
    assert main() == 0, capsys.readouterr().err


def test_every_decision_is_listed():
    assert unlisted_decisions() == []


def test_the_generated_pages_are_up_to_date():
    for path, content in pages().items():
        assert path.read_text(encoding="utf-8") == content, path
