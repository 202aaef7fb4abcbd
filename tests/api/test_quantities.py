"""Durations, money and quantities: what is read, what is refused, what is written back."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from finetune_api.values.quantities import (
    Quantity,
    format_duration,
    hours_in_words,
    parse_duration,
    parse_money,
    parse_quantity,
)

from tests.api.jobs import document, errors_of, job


@pytest.mark.parametrize(("text", "seconds", "written"), [
    ("90s", 90, "1m30s"),
    ("45m", 2700, "45m"),
    ("1h30m", 5400, "1h30m"),
    ("24h", 86400, "24h"),
    ("0.5h", 1800, "30m"),
    ("1500ms", 1.5, "1.5s"),
    ("1h1m1s1ms", 3661.001, "1h1m1.001s"),
    ("0s", 0, "0s"),
])
def test_a_duration_is_read_and_written_so_that_it_reads_the_same(text, seconds, written):
    duration = parse_duration(text)
    assert duration == timedelta(seconds=seconds)
    assert format_duration(duration) == written
    assert parse_duration(written) == duration


@pytest.mark.parametrize(("hours", "words"), [
    (0.000001, "0.0001"), (0.01234, "0.012"), (7.18, "7.2"), (21.6, "22"), (99.6, "100"), (388.6, "389"),
    (12034.4, "12034")])
def test_estimated_hours_are_short_and_never_with_an_exponent(hours, words):
    assert hours_in_words(hours) == words


@pytest.mark.parametrize("value", [
    "90", "1d", "h", "", "-5m", "1 h", "90s\n", "1h30", "five minutes", 90, 1.5, None, True])
def test_what_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match="write a duration with its unit, such as 90s, 45m or 1h30m"):
        parse_duration(value)


def test_a_duration_beyond_all_calendars_is_refused():
    with pytest.raises(ValueError, match="write a duration of at most 87600h"):
        parse_duration("9" * 20 + "h")


@pytest.mark.parametrize(("value", "amount"), [
    (0, "0"), (20, "20"), ("20", "20"), ("1.25", "1.25"), ("0.000001", "0.000001"), ("10.50", "10.50"),
    ("1000000000000.10", "1000000000000.10"),
])
def test_money_is_exact_and_written_back_as_it_was(value, amount):
    assert parse_money(value) == Decimal(amount)
    assert f"{parse_money(value):f}" == amount


@pytest.mark.parametrize("value", [
    "-1", -1, "1,25", "1.0000001", "1e3", "$5", "", "20\n", " 20", ".5", True, None, "NaN"])
def test_what_is_no_amount_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match=r'write an amount that is not negative, such as 20 or "1.25"'):
        parse_money(value)


def test_a_float_is_no_money_and_the_message_shows_the_quotes():
    with pytest.raises(ValueError, match=r'write the amount in quotes: "0\.1"'):
        parse_money(0.1)


@pytest.mark.parametrize(("value", "number"), [
    (4, "4"), ("4", "4"), ("500m", "0.5"), ("1.5", "1.5"), ("2k", "2000"), ("16Gi", 16 * 2**30), ("1G", 10**9),
    ("0.5Ki", "512"), ("1Ei", 2**60), ("3T", 3 * 10**12),
])
def test_a_quantity_has_an_exact_value(value, number):
    quantity = parse_quantity(value)
    assert quantity.value == Decimal(number)
    assert quantity == str(value)
    assert isinstance(quantity, Quantity)


@pytest.mark.parametrize("value", ["16 Gi", "16gi", "16GB", "-1", -1, "", "4\n", "Gi", 1.5, True, None, [4]])
def test_what_is_no_quantity_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match="write a Kubernetes quantity, such as 4, 500m or 16Gi"):
        parse_quantity(value)


def test_a_job_reads_them_and_writes_them_back():
    read = job(budget={"maxCost": "12.50", "hourlyRate": 2, "maxDuration": "90m"}, compute={"cpu": 4, "memory": "16Gi"})
    assert read.spec.budget.max_duration == timedelta(minutes=90)
    assert read.spec.model_dump(mode="json", exclude_unset=True)["budget"] == {
        "maxCost": "12.50", "hourlyRate": "2", "maxDuration": "1h30m"}
    assert read.spec.model_dump(mode="json", exclude_unset=True)["compute"] == {"cpu": "4", "memory": "16Gi"}


@pytest.mark.parametrize(("section", "field", "value"), [
    ("budget", "maxDuration", "0s"), ("compute", "cpu", 0), ("compute", "memory", "0Gi"),
])
def test_nothing_is_no_duration_and_no_resource(section, field, value):
    (error,) = errors_of(document(**{section: {field: value}}))
    assert (error.path, error.message) == (f"spec.{section}.{field}", "write a value above zero")


def test_a_budget_of_nothing_is_an_amount():
    assert job(budget={"maxCost": 0}).spec.budget.max_cost == 0


@pytest.mark.parametrize("value", ["9" * 5000, 10**5000, "9" * 41], ids=["text", "number", "41 digits"])
def test_an_amount_of_any_length_is_refused_and_not_reckoned_with(value):
    with pytest.raises(ValueError, match="write an amount of at most 1000000000000"):
        parse_money(value)
