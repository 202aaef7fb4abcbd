"""Fine-tunes a language model as a `FineTuneJob` says."""

import logging

# bitsandbytes writes this when it is imported on a CPU with AVX512-BF16, and then uses its own kernel. PEFT and
# transformers import it, in any order, so the filter is set before all imports.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward"))
