"""What time on accelerators costs, for every program alike."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from finetune_api.messages import Accelerator
from finetune_api.status import Cost
from finetune_api.values.money import Price, cost_of, estimated_amount


@pytest.mark.parametrize(("duration", "price", "cost"), [
    (timedelta(hours=1), Price(Decimal("1.00"), "USD"), "1.0000"),
    (timedelta(minutes=90), Price(Decimal("0.80"), "EUR", 2), "2.4000"),
    (timedelta(seconds=1), Price(Decimal("1.00"), "USD"), "0.0003"),
    (timedelta(), Price(Decimal("1.00"), "USD"), "0.0000"),
])
def test_a_cost_is_the_duration_times_the_price_of_all_accelerators_with_four_decimals(duration, price, cost):
    assert str(cost_of(duration, price)) == cost


def test_a_cost_beyond_every_budget_still_has_its_decimals():
    assert str(cost_of(timedelta(days=999_999), Price(Decimal(10**30), "USD"))) == f"{10**18}.0000"


def test_an_estimated_amount_has_two_decimals_and_a_small_one_is_not_rounded_away():
    assert str(estimated_amount(Decimal("12.3456"))) == "12.35"
    assert str(estimated_amount(Decimal("0.00401"))) == "0.0040"


def test_a_price_keeps_the_currency_of_the_message_that_it_comes_from():
    euros = Accelerator(name="nvidia-l4", hourly_rate=Decimal("0.80"), currency="EUR").price(accelerators=4)
    assert (euros.per_hour, euros.in_words(Decimal("1.50"))) == (Decimal("3.20"), "1.50 EUR")
    assert Cost(spent=Decimal(0), hourly_rate=Decimal("0.80"), currency="EUR").price(1).currency == "EUR"
