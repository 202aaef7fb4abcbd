"""The name of a layer, as a user writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
"""The end of the full name of a linear layer, such as `q_proj`."""
