"""What the pages may name: files, modules, commands, metrics, alerts, fields, make targets."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml
from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.explain.fields import document_field
from finetune_api.job import FineTuneJob
from finetune_cli.main import finetune
from finetune_operator.settings import Accelerator, Settings
from pydantic import BaseModel

from docs_tools.metrics_page import metrics_page

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "finetune-operator"
WORKSPACE = {"finetune_api": "crds/src", "finetune_operator": "operator/src", "finetune_trainer": "trainer/src",
             "finetune_cli": "cli/src"}
SPEC_SECTIONS = tuple(field.path.removeprefix("spec.") for field in document_field(FineTuneJob, "spec").fields)
STATUS_SECTIONS = tuple(field.path.removeprefix("status.") for field in document_field(FineTuneJob, "status").fields)


@cache
def files() -> frozenset[str]:
    """Every file of the repository, and every folder, relative to its root."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.splitlines()
    there = {Path(name) for name in listed if (ROOT / name).exists()}
    return frozenset(str(path) for file in there for path in (file, *file.parents))


def is_file(name: str) -> bool:
    """Whether a file or folder ends in a name: `decide/plan.py` is one, and so is `plan.py`."""
    name = name.strip("/")
    pattern = re.compile("(^|.*/)" + re.escape(name).replace(r"\*", "[^/]*") + "$")
    return name in files() or any(pattern.match(file) for file in files())


def is_test(name: str) -> bool:
    """Whether `tests/…/test_x.py::test_name` is a test."""
    path, _, function = name.partition("::")
    return path in files() and re.search(rf"^def {re.escape(function)}\(", (ROOT / path).read_text("utf-8"), re.M
                                         ) is not None


@cache
def _names_of(source: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom():
                names.update(alias.asname or alias.name for alias in node.names)
    return frozenset(names)


def is_symbol(dotted: str) -> bool:
    """Whether a dotted name is a module of the workspace, or a name at the top of one. Nothing is imported."""
    package, *parts = dotted.split(".")
    place = ROOT / WORKSPACE[package] / package
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place /= part
            continue
        source = place / f"{part}.py"
        if source.exists():
            rest = parts[index + 1:]
            return not rest or rest[0] in _names_of(source)
        return part in _names_of(place / "__init__.py")
    return place.is_dir()


def is_module(dotted: str) -> bool:
    """Whether `python -m` finds a module."""
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:
        return False


def command_error(words: Sequence[str]) -> str | None:
    """What is wrong with `finetune WORDS…`: no such command, or no such option of it; None for nothing."""
    if not words or words[0] in ("--help", "--version"):
        return None
    command = finetune.commands.get(words[0])
    if command is None:
        return f"finetune has no command {words[0]}"
    options = {name for one in command.get_params(click.Context(command)) for name in one.opts}
    unknown = [word for word in words[1:] if word.startswith("-") and word.partition("=")[0] not in options]
    return f"finetune {words[0]} has no option {unknown[0]}" if unknown else None


@cache
def metrics() -> frozenset[str]:
    """Every metric, with the names that Prometheus gives to a histogram's series."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) ", metrics_page(), re.MULTILINE)
    return frozenset(f"{name}{suffix}" for name, kind in rows
                     for suffix in (("", "_bucket", "_sum", "_count") if kind == "histogram" else ("",)))


@cache
def alerts() -> frozenset[str]:
    """Every alert of the chart."""
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text("utf-8"))["groups"]
    return frozenset(rule["alert"] for group in groups for rule in group["rules"])


@cache
def make_targets() -> frozenset[str]:
    """Every target of the Makefile."""
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def is_job_field(path: str) -> bool:
    """Whether `training.batchSize`, `spec.…` or `status.…` is a field of a FineTuneJob or a FineTuneExperiment."""
    first = path.partition(".")[0]
    if first in ("spec", "status"):
        return _has(FineTuneJob, path) or _has(FineTuneExperiment, path)
    sections = ("spec", "spec.method", "spec.method.reft", "status")
    return _has(FineTuneExperiment, f"spec.{path}") or any(
        _has(FineTuneJob, f"{section}.{path}") for section in sections)


def is_setting(path: str) -> bool:
    """Whether a path such as `preflight.timeout` is a setting of the operator."""
    first, _, rest = path.partition(".")
    if first == "accelerators" and rest:
        below = rest.partition(".")[2]
        return not below or _has(Accelerator, below)
    return _has(Settings, path)


def is_chart_value(path: str) -> bool:
    """Whether a path is a value of the chart."""
    first, _, rest = path.partition(".")
    if first == "settings" and rest:
        return is_setting(rest)
    value: Any = _chart_values()
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


@cache
def _chart_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return values


def _has(model: type[BaseModel], path: str) -> bool:
    try:
        document_field(model, path)
    except KeyError:
        return False
    return True
