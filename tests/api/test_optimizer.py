"""Which AdamW trains, by method, size and device."""

from __future__ import annotations

import pytest
from finetune_api.estimate import (
    MANY_PARAMETERS,
    Machine,
    Optimizer,
    TrainedParameters,
    checkpoint_bytes,
    choose_optimizer,
    read_architecture,
    trained_by,
)
from finetune_api.spec.method import MethodSpec

from tests.api.test_estimate import LLAMA_3, MISTRAL, SMOLLM

FUSED, EIGHT_BIT = Optimizer.FUSED_ADAMW, Optimizer.PAGED_ADAMW_8BIT


def method(**block):
    return MethodSpec.model_validate(block, strict=False)


def partial(**chosen):
    return method(type="Partial", partial=chosen)


@pytest.mark.parametrize(("config", "method", "expected"), [
    (MISTRAL, method(type="LoRA"), FUSED),
    (MISTRAL, method(type="LoRA", quantization="nf4", lora={"rank": 256}), FUSED),
    (MISTRAL, method(type="DoRA"), FUSED),
    (MISTRAL, method(type="Additive", additive={"technique": "Bottleneck"}), FUSED),
    (MISTRAL, method(type="Full"), EIGHT_BIT),
    (SMOLLM, method(type="Full"), EIGHT_BIT),
    ({**SMOLLM, "num_hidden_layers": 10}, method(type="Full"), FUSED),
    (MISTRAL, partial(lastLayers=1), EIGHT_BIT),
    (SMOLLM, partial(lastLayers=1), FUSED),
    (MISTRAL, partial(parameters=["*norm*"]), FUSED),
    (MISTRAL, partial(parameters=["*mlp*"]), EIGHT_BIT),
    # 525 million numbers, whose moments would have 32 bits either way.
    (LLAMA_3, partial(parameters=["*embed*"]), FUSED),
    # PPO needs moments of 32 bits, so the warm-up has room for them too.
    (MISTRAL, method(type="ReFT", reft={"policy": "Full"}), FUSED),
])
def test_on_a_gpu_8_bits_are_for_methods_that_train_much_of_the_model(config, method, expected):
    trained = trained_by(method, read_architecture(config))
    assert choose_optimizer(trained, True, False) is expected
    assert choose_optimizer(trained, True, True) is FUSED, "bitsandbytes' kernels take no sharded tensors"
    assert choose_optimizer(trained, False, False) is Optimizer.ADAMW


def test_the_limit_counts_the_numbers_of_the_model_itself_without_embeddings():
    def chosen(added, own, embeddings):
        trained = TrainedParameters(added, own, frozenset(), 1, embeddings=embeddings)
        return choose_optimizer(trained, True, False)

    assert chosen(0, MANY_PARAMETERS, 0) is EIGHT_BIT
    assert chosen(0, MANY_PARAMETERS, 1) is FUSED
    assert chosen(MANY_PARAMETERS, 0, 0) is FUSED


def test_a_checkpoint_has_the_state_of_the_optimizer_that_trains():
    model, gpu = read_architecture(MISTRAL), Machine(True, 2)
    adapter, layer = method(type="LoRA"), partial(lastLayers=1)
    assert checkpoint_bytes(model, adapter, gpu) == 12 * trained_by(adapter, model).parameters
    one = trained_by(layer, model).parameters
    assert checkpoint_bytes(model, layer, gpu) == pytest.approx(6.03 * one, rel=0.001)
    assert checkpoint_bytes(model, layer, gpu, 2) == 12 * one, "two processes shard it"
