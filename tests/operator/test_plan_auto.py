"""`compute.accelerator: auto`: the check chooses, and everything after uses what it chose."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api.status import AcceleratorChoice
from finetune_operator.decide.admission import spec_problems
from finetune_operator.observed.job import view_job
from finetune_operator.settings import Accelerator, Settings
from pydantic import ValidationError

from tests.operator.objects import actions_of, attempt, created, decide, reported, run_json
from tests.operator.test_plan_preflight import PASSED, THERE, ended, job

AUTO = {"accelerator": "auto"}
CHOICE = AcceleratorChoice(name="nvidia-a100-80", reason="it costs least", next_best="nvidia-l4")
CHOSEN = PASSED.model_copy(update={"accelerator": CHOICE})


def test_the_check_gets_the_gpus_of_the_catalogue_with_price_and_host_memory():
    content = run_json(decide(job(compute=AUTO)))
    assert content["accelerator"]["name"] == content["spec"]["compute"]["accelerator"] == "auto"
    assert "memoryBytes" not in content["accelerator"]
    assert {"name": "nvidia-a100-80", "memoryBytes": 80 * 2**30, "hostMemoryBytes": 24 * 2**30, "hourlyRate": "5.10",
            "currency": "USD"} in content["catalogue"]
    assert "cpu" not in {one["name"] for one in content["catalogue"]}


def test_price_memory_pods_and_run_configuration_are_those_of_the_chosen_one():
    first = decide(job(decide(job(compute=AUTO)).status, compute=AUTO), *ended(0, CHOSEN)).status
    assert first.preflight.accelerator == CHOICE
    assert first.cost.hourly_rate == Decimal("5.10")
    assert first.memory.accelerator_bytes == 80 * 2**30
    decided = decide(job(first, compute=AUTO))
    pod = created(decided, "Job")["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    content = run_json(decided)
    assert content["accelerator"]["name"] == content["spec"]["compute"]["accelerator"] == "nvidia-a100-80"
    assert content["accelerator"]["hourlyRate"] == "5.10"


def test_it_stays_chosen_for_every_attempt_whatever_the_catalogue_says_later():
    first = decide(job(decide(job(compute=AUTO)).status, compute=AUTO), *ended(0, CHOSEN)).status
    later = first.model_copy(update={"attempts": (attempt(reason="Stopped", end=60),)})
    cheaper = Settings(accelerators={name: one.model_copy(update={"hourly_price": Decimal("0.01")})
                                     if name == "nvidia-l4" else one for name, one in Settings().accelerators.items()})
    decided = decide(job(later, compute=AUTO), at=3600, settings=cheaper)
    assert run_json(decided)["accelerator"]["name"] == "nvidia-a100-80"
    assert decided.status.cost.hourly_rate == Decimal("5.10")


def test_the_digest_of_the_job_does_not_depend_on_the_choice():
    checked = decide(job(decide(job(compute=AUTO)).status, compute=AUTO), *ended(0, CHOSEN)).status
    assert checked.spec_hash == decide(job(decide(job()).status), *ended(0, PASSED)).status.spec_hash


def test_a_job_that_has_not_started_still_says_auto():
    assert view_job(job(compute=AUTO)).spec.compute.accelerator == "auto"


def test_a_spec_that_cannot_be_read_keeps_the_chosen_one_for_its_budget():
    first = decide(job(decide(job(compute=AUTO)).status, compute=AUTO), *ended(0, CHOSEN)).status
    raw = job(first, compute=AUTO)
    raw["spec"]["runPolicy"]["backoffLimit"] = "many"
    view = view_job(raw)
    assert view.spec is None
    assert view.limits[1].accelerator == "nvidia-a100-80"


@pytest.mark.parametrize(("said", "words"), [
    (PASSED, "the trainer's image is of a release that chooses none: write one of cpu, nvidia-a100-40"),
    (CHOSEN.model_copy(update={"accelerator": AcceleratorChoice(name="gone", reason="it costs least")}),
     "the catalogue no longer has gone"),
], ids=["an older trainer", "removed meanwhile"])
def test_a_choice_that_cannot_be_used_is_refused_with_what_to_write(said, words):
    decided = decide(job(decide(job(compute=AUTO)).status, compute=AUTO), *ended(0, said))
    assert reported(decided)[:2] == ("Pending", "BadConfig")
    assert words in reported(decided)[2]
    assert decided.status.start_time is None


def test_a_published_result_is_adopted_without_a_choice():
    decided = decide(job(decide(job(compute=AUTO)).status, compute=AUTO), *ended(0, THERE))
    assert decided.status.completion_time is not None
    assert decided.status.cost.spent == 0


def test_a_catalogue_without_gpus_of_known_memory_is_refused_before_the_check():
    settings = Settings(accelerators={"cpu": Accelerator(resource=None), "odd": Accelerator()})
    assert spec_problems(view_job(job(compute=AUTO)).spec, settings) == (
        "spec.compute.accelerator: auto chooses among the GPUs of the catalogue whose memory is known, and there is "
        "none; write one of cpu, odd",)
    decided = decide(job(compute=AUTO), settings=settings)
    assert actions_of(decided) == []


def test_no_entry_of_the_catalogue_is_named_auto():
    with pytest.raises(ValidationError, match="Give the entry another name"):
        Settings(accelerators={"auto": Accelerator()})


def _held(status=None, suspend=True):
    raw = job(status, compute=AUTO, runPolicy={"suspend": suspend, "preflight": "Required"})
    raw["metadata"]["annotations"] = {"finetune.dev/held-by-experiment": "true"}
    return raw


def test_a_job_of_an_experiment_keeps_what_its_check_chose_until_its_turn():
    checked = decide(_held(decide(_held()).status), *ended(0, CHOSEN)).status
    assert (checked.start_time, checked.preflight.accelerator) == (None, CHOICE)
    assert checked.memory.accelerator_bytes == 80 * 2**30
    assert actions_of(decide(_held(checked))) == [], "it is not checked again"
    first = decide(_held(checked, suspend=False)).status
    assert first.start_time is not None
    assert (first.preflight.accelerator, first.cost.hourly_rate) == (CHOICE, Decimal("5.10"))


def test_a_job_of_an_experiment_is_checked_again_if_the_catalogue_loses_what_was_chosen():
    checked = decide(_held(decide(_held()).status), *ended(0, CHOSEN)).status
    smaller = Settings(accelerators={name: one for name, one in Settings().accelerators.items() if name != CHOICE.name})
    assert "create Job tune-1-preflight" in actions_of(decide(_held(checked, suspend=False), settings=smaller))
