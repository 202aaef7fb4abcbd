"""The engine Unsloth, as far as that goes without a GPU: its image's packages, and our calls against their sources.

The packages are downloaded and read, never installed or imported.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from finetune_api import FineTuneJobSpec, resolve_defaults
from finetune_api.spec.method import Engine
from finetune_trainer.data.batches.collate import collate
from finetune_trainer.data.batches.steps import lay_out
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.distributed.collectives import World
from finetune_trainer.training import packing
from finetune_trainer.training.packing import Packing, choose_packing
from finetune_trainer.training.sft import layout_of

from tests.api.jobs import SMALLEST_SPEC
from tests.cluster.cache import cache_folder, locked
from tests.trainer.runs import run, workshop

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINER = ROOT / "trainer"
PINS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\]+)", (TRAINER / "requirements-unsloth.txt").read_text(), re.M))
SOURCES = sorted((TRAINER / "src").rglob("*.py"))
AUTO = ("transformers/models/auto/modeling_auto.py", "transformers/models/auto/tokenization_auto.py")
READ = ("unsloth", "transformers", "trl", "datasets", "accelerate", "peft")


@pytest.fixture(scope="module")
def wheels():
    """The packages whose names we use, at the image's versions, by package."""
    folder = cache_folder() / "unsloth-wheels"
    found = {}
    with locked(folder / ".lock"):
        for package in READ:
            pattern = f"{package}-{PINS[package]}-*.whl"
            if not list(folder.glob(pattern)):
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
                done = subprocess.run([*command, f"{package}=={PINS[package]}"], capture_output=True, timeout=300)
                if done.returncode:
                    pytest.skip(f"NOT CHECKED against {package} {PINS[package]}: it can't be downloaded here")
            (found[package],) = folder.glob(pattern)
    return {package: zipfile.ZipFile(path) for package, path in found.items()}


def tree_of(wheel, *paths):
    """The syntax tree of the first of these files that the wheel has, or None."""
    for path in paths:
        if path in wheel.namelist():
            return ast.parse(wheel.read(path))
    return None


def functions(tree, class_name):
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name]
    return {node.name: node.args for node in found.body if isinstance(node, ast.FunctionDef)}


def fields_of(wheel, path, class_name):
    (found,) = [node for node in ast.walk(tree_of(wheel, path)) if isinstance(node, ast.ClassDef)
                and node.name == class_name]
    return {node.target.id for node in found.body if isinstance(node, ast.AnnAssign)}


def calls(path, name):
    """The keyword names of every call whose function ends in this name."""
    return [{word.arg for word in node.keywords} for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name]


def test_every_call_to_unsloth_has_the_signature_of_its_source(wheels):
    ours = TRAINER / "src/finetune_trainer/engines/unsloth.py"
    loader = tree_of(wheels["unsloth"], "unsloth/models/loader.py")
    llama = tree_of(wheels["unsloth"], "unsloth/models/llama.py")
    load = functions(loader, "FastLanguageModel")["from_pretrained"]
    # FastLanguageModel.get_peft_model passes everything on to the architecture's own.
    attach = functions(llama, "FastLlamaModel")["get_peft_model"]
    for name, arguments in (("from_pretrained", load), ("get_peft_model", attach)):
        (given,) = calls(ours, name)
        assert given <= {argument.arg for argument in arguments.args + arguments.kwonlyargs}, name


def test_unsloth_gives_the_class_that_we_import(wheels):
    models = wheels["unsloth"].read("unsloth/models/__init__.py").decode()
    assert "FastLanguageModel" in models
    assert "from ._gpu_init import *" in wheels["unsloth"].read("unsloth/__init__.py").decode()
    assert "from .models import *" in wheels["unsloth"].read("unsloth/_gpu_init.py").decode()


def imported_names():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in READ[1:]:
                for alias in node.names:
                    yield path, node.module, alias.name


def test_what_we_import_exists_in_the_image_s_older_packages(wheels):
    missing = []
    seen = 0
    for path, module, name in imported_names():
        wheel = wheels[module.split(".")[0]]
        file = module.replace(".", "/")
        source = "".join(wheel.read(option).decode() for option in (f"{file}.py", f"{file}/__init__.py", *(
            AUTO if module == "transformers" else ())) if option in wheel.namelist())
        seen += 1
        # Packages that import lazily name what they give as text.
        if not re.search(rf"\b{name}\b", source):
            missing.append(f"{path.name}: from {module} import {name}")
    assert seen > 20
    assert missing == []


def test_the_training_settings_exist_in_the_image_s_older_packages(wheels):
    (given,) = calls(TRAINER / "src/finetune_trainer/training/trl_settings.py", "SFTConfig")
    known = fields_of(wheels["trl"], "trl/trainer/sft_config.py", "SFTConfig")
    base = tree_of(wheels["trl"], "trl/trainer/base_config.py")
    if base is not None:
        known |= fields_of(wheels["trl"], "trl/trainer/base_config.py", "_BaseConfig")
    known |= fields_of(wheels["transformers"], "transformers/training_args.py", "TrainingArguments")
    assert given - known == set()


def test_the_image_s_set_is_whole_exact_and_used_by_its_dockerfile():
    needed = tomllib.loads((TRAINER / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=!~\[]", line)[0] for line in needed} - {"finetune-api"}
    assert names | {"unsloth", "unsloth-zoo", "pydantic", "pyyaml"} <= PINS.keys()
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.+]*( ; .*)?", version) for version in PINS.values())
    dockerfile = (TRAINER / "Dockerfile.unsloth").read_text()
    assert "COPY trainer/requirements-unsloth.txt /opt/requirements.txt" in dockerfile
    assert "--requirements /opt/requirements.txt" in dockerfile


def test_the_set_keeps_to_what_unsloth_asks_for(wheels):
    from packaging.requirements import Requirement

    (path,) = [name for name in wheels["unsloth"].namelist() if name.endswith(".dist-info/METADATA")]
    wanted = [Requirement(line.partition(": ")[2]) for line in wheels["unsloth"].read(path).decode().splitlines()
              if line.startswith("Requires-Dist: ") and "extra ==" not in line and "win32" not in line]
    assert len(wanted) > 15
    assert [str(need) for need in wanted
            if not need.specifier.contains(PINS[need.name.replace("_", "-")].partition(" ")[0])] == []


def test_unsloth_is_in_its_own_image_alone():
    for path in (ROOT / "constraints.txt", TRAINER / "pyproject.toml", TRAINER / "Dockerfile"):
        assert "unsloth" not in path.read_text()
    found = [path for path in SOURCES if re.search(r"^\s*(import|from) unsloth\b", path.read_text(), re.MULTILINE)]
    assert [path.name for path in found] == ["unsloth.py"]


def test_without_a_gpu_a_job_ends_with_64_and_a_sentence(tmp_path):
    done = run(workshop(tmp_path), engine="unsloth")
    assert done.code == 64, done.output
    assert "spec.engine: unsloth needs an NVIDIA GPU, and this machine has none. Write engine: native" in done.output


def test_with_a_gpu_but_without_the_package_it_says_which_image_has_it(monkeypatch):
    import torch
    from finetune_trainer.engines import unsloth
    from finetune_trainer.errors import BadConfig

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadConfig, match=r"Unsloth isn't installed here; use the image of trainer/Dockerfile\.unsloth"):
        unsloth.prepare()


def test_unsloth_counts_no_load_of_ours(monkeypatch, wheels):
    import torch
    from finetune_trainer.engines import unsloth

    switch = "UNSLOTH_DISABLE_STATISTICS"
    assert f'"{switch}" in os.environ' in wheels["unsloth"].read("unsloth/models/_utils.py").decode()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "unsloth", ModuleType("unsloth"))
    monkeypatch.setenv(switch, "")
    monkeypatch.delenv(switch)
    unsloth.prepare()
    assert os.environ[switch] == "1"


def rows_that_unsloth_finds(wheel, positions):
    """The edges of the rows in a batch, by Unsloth's own function; None where it sees none."""
    tree = tree_of(wheel, "unsloth/utils/packing.py")
    wanted = ("_varlen_from_position_ids", "_seq_idx_from_cu_seqlens")
    functions: list[ast.stmt] = [node for node in tree.body
                                 if isinstance(node, ast.FunctionDef) and node.name in wanted]
    names: dict = {"torch": torch}
    exec(compile(ast.Module(functions, []), "packing.py", "exec"), names)
    found = names[wanted[0]](positions)
    return None if found is None else found[0].tolist()


def test_every_micro_batch_is_one_line_whose_rows_unsloth_finds(wheels):
    spec = resolve_defaults(FineTuneJobSpec.model_validate({**SMALLEST_SPEC, "engine": "unsloth"}, strict=False))
    assert spec.training.packing
    rows = [TokenRow(tuple(range(1, length)), (7, 7)) for length in (9, 3, 30, 4, 17, 5, 6, 25)]
    lengths = [len(row) for row in rows]

    def batches(engine):
        run: Any = SimpleNamespace(spec=spec.model_copy(update={"engine": engine}), world=World(), by_rows=False)
        return lay_out(range(len(rows)), lengths, layout_of(run, 4, 1))

    assert [len(lines) for lines in batches(Engine.UNSLOTH)] == [1, 1]
    for (line,) in batches(Engine.UNSLOTH):
        edges = [0, *itertools.accumulate(lengths[index] for index in line)]
        assert rows_that_unsloth_finds(wheels["unsloth"], collate([line], rows, 0)["position_ids"]) == edges
    # The native engine's lines: Unsloth would let their rows influence each other.
    several = max(batches(Engine.NATIVE), key=len)
    assert len(several) > 1
    assert rows_that_unsloth_finds(wheels["unsloth"], collate(several, rows, 0)["position_ids"]) is None


def test_unsloth_looks_for_rows_in_a_batch_of_one_line_without_a_mask(wheels):
    tree = tree_of(wheels["unsloth"], "unsloth/models/llama.py")
    (forward,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)
                  and node.name == "LlamaModel_fast_forward"]
    conditions = [ast.unparse(node.test) for node in ast.walk(forward) if isinstance(node, ast.If)
                  and "get_packed_info_from_kwargs" in ast.unparse(ast.Module(node.body, []))]
    assert conditions == [
        "kwargs.get('packed_seq_lengths') is None and batch_size == 1 and (attention_mask is None) and "
        "(past_key_values is None) and (position_ids is not None) and (get_cp_manager() is None)"]


def test_the_model_is_asked_whether_it_keeps_the_rows_of_a_line_apart(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    spec = resolve_defaults(FineTuneJobSpec.model_validate({**SMALLEST_SPEC, "engine": "unsloth"}, strict=False))
    rows, notes = [TokenRow((5, 6, 7), (8, 9))] * 4, []
    assert choose_packing(spec, model, rows, World(), notes.append) == Packing(spec)
    assert not notes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "rows_mix", lambda *_: True)
        assert not choose_packing(spec, model, rows, World(), notes.append).spec.training.packing
    assert len(notes) == 1
