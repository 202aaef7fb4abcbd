"""Keeping other libraries from writing between the trainer's own lines."""

from __future__ import annotations

import logging
import os
import warnings


def silence_libraries() -> None:
    """Silence progress bars, logs and warnings of other libraries: the trainer reports what matters to a user.

    Call this before torch and transformers are imported, since they read the variables once.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
