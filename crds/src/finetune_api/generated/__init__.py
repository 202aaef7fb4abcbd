"""Modules that `make generate` writes from finetune_api/failures. Do not edit them."""
