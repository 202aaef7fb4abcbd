"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os

import pytest

# Nothing in a test may reach for the network; set before transformers or datasets are imported.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TQDM_DISABLE="1",
                  HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A random Llama of two layers with a byte-level tokenizer."""
    from tests.models import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
