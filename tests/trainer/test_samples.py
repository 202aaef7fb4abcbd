"""The samples, as users get them."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from finetune_api import load_job
from finetune_api.rules import merge_patch

from tests.models import save_tiny_model
from tests.trainer.runs import Running

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
    load_job(path)


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
