"""What a job could be instead: the other methods, and the order by cost."""

from __future__ import annotations

from decimal import Decimal

from finetune_api.estimate import alternative_methods, rank_by_cost
from finetune_api.spec.method import METHODS, MethodSpec, Technique
from finetune_api.values.money import Price


def _by_name(written):
    return {one.display_name: one for one in alternative_methods(MethodSpec.model_validate_json(written))}


def test_every_method_of_the_registry_is_an_alternative_with_and_without_nf4_where_that_is_possible():
    found = _by_name('{}')
    assert {str(one.type) for one in found.values()} == set(map(str, METHODS))
    assert {"LoRA", "QLoRA", "DoRA", "QDoRA", "Full", "Partial", "ReFT (LoRA)", "ReFT (QLoRA)"} < set(found)
    for technique in Technique:
        assert {str(technique), f"{technique} (nf4)"} < set(found)
    assert not {"QFull", "QPartial", "Full (nf4)", "Partial (nf4)"} & set(found), "their weights cannot be quantized"


def test_the_jobs_own_method_comes_first_and_keeps_its_settings():
    own = MethodSpec.model_validate_json('{"quantization": "int8", "lora": {"rank": 64, "dropout": 0.1}}')
    first, *others = alternative_methods(own)
    assert first is own
    assert {"LoRA", "QLoRA"} < {one.display_name for one in others}
    assert all(one.lora == own.lora for one in others if one.type == "LoRA")


def test_other_low_rank_adapters_take_the_settings_that_they_share_and_no_others():
    found = _by_name('{"lora": {"rank": 64, "initialization": "pissa"}}')
    assert found["QDoRA"].dora.rank == found["ReFT (LoRA)"].reft.lora.rank == 64
    assert found["IA3"].lora is None
    assert (found["LoRA"].lora.initialization, found["QLoRA"].lora.initialization) == ("pissa", "default")
    assert found["QLoRA"].lora.rank == 64
    backwards = _by_name('{"type": "DoRA", "dora": {"rank": 2, "keptNorms": false}}')
    assert backwards["QLoRA"].lora.rank == 2


def test_the_order_is_by_cost_and_not_by_the_price_of_an_hour():
    slow, fast = Price(Decimal("0.55"), "USD"), Price(Decimal("11.00"), "USD")
    assert rank_by_cost(0.09, fast) < rank_by_cost(12.0, slow)
    assert rank_by_cost(0.0001, slow) < rank_by_cost(0.0001, fast), "both are 0.00 when rounded"
    free = Price(Decimal(0), "USD")
    assert rank_by_cost(1.0, free) < rank_by_cost(2.0, free)
