"""Nothing that a job, its data or its model names is run as code."""

import ast
from pathlib import Path

import pytest
from finetune_trainer.report.code import _quoted

SOURCES = Path(__file__).parents[2] / "trainer" / "src" / "finetune_trainer"
CALLS = [(path.relative_to(SOURCES).as_posix(), node) for path in sorted(SOURCES.rglob("*.py"))
         for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_what_transformers_chooses_by_a_models_files_is_loaded_without_code_of_theirs():
    choosing = [(name, node) for name, node in CALLS if isinstance(node.func, ast.Attribute)
                and node.func.attr in ("from_pretrained", "from_config") and isinstance(node.func.value, ast.Name)
                and node.func.value.id.startswith(("Auto", "Fast"))]
    assert len(choosing) > 5
    # Left out, a person at a terminal is asked whether to run it.
    assert [f"{name}:{node.lineno}" for name, node in choosing if not any(
        word.arg == "trust_remote_code" and ast.unparse(word.value) == "False" for word in node.keywords)] == []


def test_what_torch_wrote_is_read_without_objects_of_any_kind():
    reading = [(name, node) for name, node in CALLS if ast.unparse(node.func) == "torch.load"]
    assert reading
    assert all(any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
               for _, node in reading)


@pytest.mark.parametrize(("called", "where"), [
    ("exec", {"rewards/program_child.py"}), ("compile", {"rewards/program_child.py"}), ("eval", set()),
    ("__import__", set()), ("importlib.import_module", set()), ("import_module", set()), ("pickle.load", set()),
    ("pickle.loads", set()), ("entry_points", {"rewards/rewards.py"}),
])
def test_code_is_made_or_found_by_name_in_known_places_alone(called, where):
    assert {name for name, node in CALLS if ast.unparse(node.func) == called} == where


@pytest.mark.parametrize("text", [
    '"', "'", '"""', "\\", '\\" + 1/0 + "', "\n1/0\n", "\r1/0", "\u2028", "\x00", "{x}", "%s", "#"
])
def test_a_text_in_the_model_cards_lines_stays_a_text(text):
    assert ast.literal_eval(_quoted(text)) == text
