"""The recipe "Adding a method" of CONTRIBUTING.md, walked in a copy of the repository: its files, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.models import save_tiny_model, tiny_job, write_rows
from tests.repository_copy import REPOSITORY, copy_repository

pytestmark = pytest.mark.slow


API = '''"""Biases: the biases of the model are trained in place (BitFit, Ben Zaken et al., 2021, arXiv:2106.10199)."""

from __future__ import annotations

from finetune_api.architecture import Architecture
from finetune_api.methods.method import Method
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.values.api_model import ApiModel


class BiasesSpec(ApiModel):
    """Which biases are trained."""

    attention_only: bool = False
    """Leave out the biases of the feed-forward layers."""


class Biases(Method[BiasesSpec]):
    """The biases are trained in place, all else is frozen."""

    name = "Biases"
    block = "biases"
    quantizable = False

    def resolved(self, settings: BiasesSpec | None) -> BiasesSpec:
        """The settings, or their defaults."""
        return settings or BiasesSpec()

    def learning_rate(self, settings: BiasesSpec | None) -> float:
        """Few numbers have to move fast."""
        return 5e-4

    def trained(self, settings: BiasesSpec | None, model: Architecture) -> TrainedParameters:
        """The biases of all layers."""
        biases = model.layers * sum(linear.outputs for linear in model.linears if linear.bias)
        return TrainedParameters(0, biases, frozenset(), model.layers)
'''
TRAIN = '''"""Biases: the biases of the model are trained in place."""

from __future__ import annotations

from finetune_api.methods.biases import BiasesSpec

from finetune_trainer.methods.partial.changed_parameters import ChangedParameters
from finetune_trainer.model.structure.layers import text_parameters
from finetune_trainer.training.base_weights import train_base_weights
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Train the biases; errors as in `fine_tune`."""
    settings: BiasesSpec = run.spec.method.settings
    names = {name for name in text_parameters(run.model)
             if name.endswith(".bias") and not (settings.attention_only and ".mlp." in name)}
    return train_base_weights(run, names, lambda model: ChangedParameters(model, {"biases": True}))
'''
REPORT = '''"""How the report shows which biases were trained."""

from __future__ import annotations

from finetune_api.methods.biases import BiasesSpec

from finetune_trainer.methods.trainer_method import ReportLines


def report_lines(settings: BiasesSpec) -> ReportLines:
    """Which biases were trained."""
    return [("trained biases", "attention" if settings.attention_only else "all")]
'''
PACKAGE = '''"""Biases."""

from finetune_trainer.methods.biases import report, train
from finetune_trainer.methods.trainer_method import TrainerMethod

METHOD = TrainerMethod(train.train, report.report_lines)
'''
NEW = {
    "crds/src/finetune_api/methods/biases.py": API,
    "trainer/src/finetune_trainer/methods/biases/__init__.py": PACKAGE,
    "trainer/src/finetune_trainer/methods/biases/train.py": TRAIN,
    "trainer/src/finetune_trainer/methods/biases/report.py": REPORT,
}
"""The method's own files; the sample is made from that of Partial."""

CHANGED = {
    "crds/src/finetune_api/spec/method.py": (
        ("from finetune_api.methods.dora import", "from finetune_api.methods.biases import Biases, BiasesSpec\n"
                                                  "from finetune_api.methods.dora import"),
        ('    FULL = "Full"\n', '    FULL = "Full"\n    BIASES = "Biases"\n'),
        ("    MethodType.FULL: Full(),\n", "    MethodType.FULL: Full(),\n    MethodType.BIASES: Biases(),\n"),
        ("    reft: ReftSpec | None = None\n",
         '    biases: BiasesSpec | None = None\n    """Settings of type Biases."""\n\n'
         "    reft: ReftSpec | None = None\n"),
    ),
    "trainer/src/finetune_trainer/methods/__init__.py": (
        ("import additive, dora,", "import additive, biases, dora,"),
        ("    MethodType.FULL: full.METHOD,\n",
         "    MethodType.FULL: full.METHOD,\n    MethodType.BIASES: biases.METHOD,\n"),
    ),
    "docs/explanation/methods.md": (
        ("| `type: Full` |", "| `type: Biases` | all biases, in place | none | `changed/` | arXiv:2106.10199 |\n"
                             "| `type: Full` |"),
    ),
}
"""The lines that the recipe adds to other files: what stands there, and what stands there afterwards."""

SAMPLE = "deploy/samples/biases.yaml"
GENERATED = {"crds/finetune.dev_finetuneexperiments.yaml", "crds/finetune.dev_finetunejobs.yaml",
             "crds/finetunejob.schema.json", "crds/finetuneexperiment.schema.json", "docs/reference/api.md"}
"""What `make generate` writes without Helm; the chart's copy of the definitions comes on top."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository with the method in it."""
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    for name, content in NEW.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    for name, changes in CHANGED.items():
        text = (folder / name).read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, after)
        (folder / name).write_text(text)
    sample = yaml.safe_load((folder / "deploy/samples/partial.yaml").read_text())
    sample["metadata"]["name"] = "biases"
    sample["spec"]["method"] = {"type": "Biases", "biases": {"attentionOnly": True}}
    (folder / SAMPLE).write_text(yaml.safe_dump(sample))
    _run(folder, sys.executable, "-m", "finetune_api.generate", ".")
    return folder


def _run(folder: Path, *command: str) -> str:
    """What a command of `make check` prints, with the packages of the copy in place of the installed ones."""
    sources = os.pathsep.join(str(folder / part / "src") for part in ("crds", "operator", "trainer", "cli"))
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": sources, "MYPYPATH": sources},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def _is_original(copy: Path, name: str) -> bool:
    original = REPOSITORY / name
    return original.is_file() and original.read_bytes() == (copy / name).read_bytes()


def test_the_recipe_touches_its_own_files_two_tables_the_docs_row_and_what_is_generated(copy):
    changed = {name for name in (str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
               if "__pycache__" not in name and not _is_original(copy, name)}
    assert changed == {*NEW, *CHANGED, SAMPLE, *GENERATED}


@pytest.mark.parametrize("command", [
    ("ruff", "check", "crds", "trainer"),
    ("mypy", "-p", "finetune_api"),
    ("lint-imports",),
], ids=lambda command: command[0])
def test_make_check_accepts_the_copy(copy, command):
    """Its commands that judge the new files; mypy of the API alone, for time."""
    _run(copy, str(Path(sys.executable).with_name(command[0])), *command[1:])


def test_generated_files_of_the_copy_are_up_to_date_and_hold_the_method(copy):
    _run(copy, sys.executable, "-m", "finetune_api.generate", "--check", ".")
    schema = yaml.safe_load((copy / "crds/finetune.dev_finetunejobs.yaml").read_text())
    method = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["method"]
    assert "Biases" in method["properties"]["type"]["enum"]
    assert "attentionOnly" in method["properties"]["biases"]["properties"]
    messages = [rule["message"] for rule in method["x-kubernetes-validations"]]
    assert any(message.startswith("the block biases belongs to type Biases") for message in messages)
    assert any(message.startswith("Biases, Full and Partial train the base weights") for message in messages)


RUN = """
import sys, yaml
from rich.console import Console
from finetune_api import parse_job
from finetune_trainer.run.local import LocalOptions, run_job
sys.exit(run_job(parse_job(yaml.safe_load(open(sys.argv[1]))), Console(), LocalOptions()))
"""


def test_the_method_trains_and_its_report_names_its_settings(copy, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 16)
    save_tiny_model(tmp_path / "model", biases=True)
    job = tiny_job(tmp_path, method={"type": "Biases", "biases": {"attentionOnly": True}, "lora": None},
                   training={"learningRate": 0.05})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    _run(copy, sys.executable, "-c", RUN, str(tmp_path / "job.yaml"))
    (path,) = tmp_path.rglob("manifest.json")
    result = json.loads(path.read_text())["result"]
    assert result["evaluation"]["after"]["loss"] < result["evaluation"]["before"]["loss"]
    (card,) = tmp_path.rglob("changed/README.md")
    assert "| method | Biases |" in card.read_text()
    assert "| trained biases | attention |" in card.read_text()
