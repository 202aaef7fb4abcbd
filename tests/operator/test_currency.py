"""The currency of the operator's settings stays with every price that the operator hands on."""

from __future__ import annotations

from decimal import Decimal

from finetune_api.status import Cost, FineTuneJobStatus
from finetune_api.values.money import Price
from finetune_operator.manifests.run_config import frozen_facts

TODAY = Price(Decimal("2.00"), "CHF")


def test_the_price_of_a_started_job_keeps_the_currency_of_its_start():
    status = FineTuneJobStatus(cost=Cost(spent=Decimal(0), hourly_rate=Decimal("0.80"), currency="EUR"))
    facts = frozen_facts(status, TODAY)
    assert (facts.price_per_accelerator_hour, facts.currency) == (Decimal("0.80"), "EUR")


def test_a_status_without_a_price_gets_that_of_the_catalogue_with_its_currency():
    facts = frozen_facts(FineTuneJobStatus(), TODAY)
    assert (facts.price_per_accelerator_hour, facts.currency) == (Decimal("2.00"), "CHF")
