"""The reference of the operator's settings, from their models."""

from __future__ import annotations

from finetune_api.explain.fields import document_field
from finetune_api.generate.api_page import field_tables
from finetune_operator.settings import DEFAULT_CATALOGUE, Accelerator, Settings

_HEAD = """\
# The operator's settings

Generated from finetune_operator by `make generate`; edit the models instead.

The settings are one YAML file (`finetune-operator --settings FILE`). The chart's value `settings` has the same fields.
Every field has a default. A field that does not exist is an error that names it.
"""


def settings_page() -> str:
    """Every field of the settings and of one accelerator in the catalogue, and the built-in catalogue."""
    return "\n".join([
        _HEAD,
        *field_tables(Settings, document_field(Settings, ""), "settings"),
        *field_tables(Accelerator, document_field(Accelerator, ""), "settings.accelerators.NAME"),
        "## The built-in catalogue", "",
        "The prices are examples. Write those of your cloud.", "",
        "| accelerator | node label | memory | price of one hour | disk |", "|---|---|---|---|---|",
        *(f"| `{name}` | {_labels(one)} | {one.memory or ''} | {one.hourly_price} | {one.ephemeral_storage} |"
          for name, one in DEFAULT_CATALOGUE.items()),
    ]).rstrip() + "\n"


def _labels(accelerator: Accelerator) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in accelerator.node_selector.items())
