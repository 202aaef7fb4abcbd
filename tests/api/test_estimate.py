"""What a job needs, from published configurations alone."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api.estimate import (
    Accelerators,
    ForwardPass,
    Machine,
    RowLengths,
    UnknownArchitecture,
    advise_change,
    checkpoint_bytes,
    checkpointing_in_words,
    choose_plan,
    estimate_duration,
    estimate_memory,
    machine_for,
    operations_per_second,
    operations_per_token,
    read_architecture,
)
from finetune_api.resolve import resolve_defaults
from finetune_api.rules import SMALLEST_SPEC, merge_patch
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import MethodSpec, MethodType, PartialSpec, Quantization
from finetune_api.spec.training import Precision
from finetune_api.values.money import Price

GIB = 1024**3
L4 = 24 * GIB
CATALOGUE = {"nvidia-t4": 16 * GIB, "nvidia-l4": L4, "nvidia-a100-40": 40 * GIB, "nvidia-a100-80": 80 * GIB}
GPU = machine_for("nvidia-l4", Precision.AUTO)
ONE_L4 = Accelerators(GPU, L4)
ALL = 32

MISTRAL = {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "tie_word_embeddings": False}
LLAMA_3 = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False}
QWEN = {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False}
SMOLLM = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
          "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True}


def spec(method="LoRA", quantization="none", **training):
    """A resolved spec; Full too, which the rules of this version may refuse."""
    parsed = FineTuneJobSpec.model_validate(merge_patch(SMALLEST_SPEC, {"training": training}), strict=False)
    chosen = MethodSpec(type=MethodType(method), quantization=Quantization(quantization))
    return resolve_defaults(parsed.model_copy(update={"method": chosen}))


@pytest.mark.parametrize(("config", "parameters"), [
    (MISTRAL, 7_241_732_096), (LLAMA_3, 8_030_261_248), (QWEN, 7_615_616_512), (SMOLLM, 134_515_008),
], ids=["Mistral-7B-Instruct-v0.2", "Llama-3-8B", "Qwen2.5-7B", "SmolLM2-135M"])
def test_the_parameters_of_published_models_are_counted_to_the_last(config, parameters):
    assert read_architecture(config).parameters == parameters


@pytest.mark.parametrize(("config", "method", "quantization", "fits", "weights"), [
    (MISTRAL, "LoRA", "none", True, 13.5), (MISTRAL, "LoRA", "nf4", True, 3.8), (MISTRAL, "DoRA", "nf4", True, 3.8),
    (MISTRAL, "LoRA", "int8", True, 7.0), (MISTRAL, "Full", "none", False, 40.0),
    (LLAMA_3, "LoRA", "none", True, 15.0), (LLAMA_3, "LoRA", "nf4", True, 5.3), (LLAMA_3, "Full", "none", False, 42.9),
    (QWEN, "LoRA", "none", True, 14.2), (QWEN, "LoRA", "nf4", True, 5.2), (QWEN, "Full", "none", False, 40.5),
    (SMOLLM, "LoRA", "none", True, 0.25), (SMOLLM, "Full", "none", True, 0.7),
])
def test_what_fits_on_an_l4(config, method, quantization, fits, weights):
    plan = choose_plan(spec(method, quantization), read_architecture(config), ONE_L4)
    assert plan.fits == fits
    assert plan.memory.weights / GIB == pytest.approx(weights, abs=0.1)
    assert plan.memory.total == sum(size for _, size in plan.memory.terms())


def test_full_fine_tuning_of_seven_billion_is_refused_with_the_way_out():
    model = read_architecture(MISTRAL)
    assert not choose_plan(spec("Full"), model, ONE_L4).fits
    assert advise_change(spec("Full"), model, ONE_L4, CATALOGUE) == "write spec.method.type: LoRA"


def test_full_fine_tuning_of_seven_billion_fits_on_eight_l4_which_divide_it():
    model = read_architecture(MISTRAL)
    plan = choose_plan(spec("Full"), model, Accelerators(GPU, L4, 8))
    assert plan.fits
    memory, numbers = plan.memory, model.parameters / 8
    # 32 bits each of the weights, of the gradients, and of the two moments, since no 8-bit optimizer takes parts.
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * numbers, 4 * numbers, 8 * numbers)
    assert memory.total / GIB == pytest.approx(19.8, abs=0.1)
    assert memory.total == sum(size for _, size in memory.terms())
    assert not choose_plan(spec("Full"), model, Accelerators(GPU, L4, 4)).fits


def test_what_is_gathered_for_a_while_is_reckoned_with_a_block_at_a_time():
    model, more = read_architecture(MISTRAL), read_architecture({**MISTRAL, "num_hidden_layers": 64})
    method, forward_pass = spec("Full").method, ForwardPass(1024, 1024)
    block, outside = model.block_parameters, 2 * 32_000 * 4096 + 4096
    four = [estimate_memory(one, method, forward_pass, ALL, GPU, 4) for one in (model, more)]
    assert {memory.buffers for memory in four} == {block * 14 + outside * 8}, "however many blocks there are"


def test_a_model_that_is_divided_among_many_still_has_to_be_whole_in_the_first_process():
    model = read_architecture(MISTRAL)
    memory = estimate_memory(model, spec("Full").method, ForwardPass(256, 256), ALL, GPU, 64)
    assert memory.total >= 2 * model.parameters
    deep = read_architecture({**MISTRAL, "num_hidden_layers": 64})
    assert not choose_plan(spec("Full"), deep, Accelerators(GPU, L4, 64)).fits


def test_an_adapters_base_is_whole_in_every_process_and_the_chosen_weights_of_a_model_are_divided():
    model, forward_pass = read_architecture(MISTRAL), ForwardPass(1024, 1024)
    method = spec().method
    whole = estimate_memory(model, method, forward_pass, ALL, GPU)
    assert estimate_memory(model, method, forward_pass, ALL, GPU, 8) == whole
    partial = method.model_copy(update={"type": MethodType.PARTIAL, "partial": PartialSpec(last_layers=4)})
    one, eight = (estimate_memory(model, partial, forward_pass, ALL, GPU, processes) for processes in (1, 8))
    assert eight.weights < one.weights / 8
    assert eight.gradients == one.gradients / 8


@pytest.mark.parametrize(("changes", "words"), [
    ({"precision": "float32"}, "write spec.method.quantization: nf4"),
    ({"microBatchSize": 16, "gradientCheckpointing": "disabled", "maxLength": 1024},
     "write spec.training.microBatchSize: 1"),
    ({"gradientCheckpointing": "disabled", "maxLength": 4096}, "write spec.training.gradientCheckpointing: enabled"),
    ({"maxLength": 65536}, "choose spec.compute.accelerator: nvidia-a100-80 (80 GiB)"),
    ({"maxLength": 524288}, "write spec.training.maxLength: 16384"),
])
def test_the_smallest_change_that_makes_a_job_fit_is_named(changes, words):
    model, job = read_architecture(MISTRAL), spec(**changes)
    machine = machine_for("nvidia-l4", job.training.precision)
    assert not choose_plan(job, model, Accelerators(machine, L4)).fits
    assert advise_change(job, model, Accelerators(machine, L4), CATALOGUE) == words


def test_the_change_that_is_named_does_make_it_fit():
    model, job = read_architecture(MISTRAL), spec(maxLength=524288)
    assert choose_plan(spec(maxLength=16384), model, ONE_L4).fits
    assert not choose_plan(spec(maxLength=32768), model, ONE_L4).fits
    assert not choose_plan(job, model, Accelerators(GPU, CATALOGUE["nvidia-a100-80"])).fits


def test_a_small_model_needs_no_checkpointing_and_a_large_one_does():
    small = choose_plan(spec(), read_architecture(SMOLLM), ONE_L4)
    large = choose_plan(spec(), read_architecture(MISTRAL), ONE_L4)
    assert (small.micro_batch_size, small.checkpointed_layers) == (16, 0)
    assert (large.micro_batch_size, large.checkpointed_layers) == (1, 0)


def test_as_many_layers_keep_their_activations_as_memory_allows():
    model, job = read_architecture(MISTRAL), spec("LoRA", "nf4", maxLength=2048, microBatchSize=2)
    counts = [choose_plan(job, model, Accelerators(GPU, gib * GIB), RowLengths(2048, 1190)).checkpointed_layers
              for gib in (12, 16, 24, 32)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 16
    assert counts[2] <= 8, "an L4 with two rows of 1,190 tokens"
    assert counts[3] == 0
    plan = choose_plan(job, model, Accelerators(GPU, 16 * GIB), RowLengths(2048, 1190))
    forward_pass = ForwardPass(3238, 2048, packed=True)
    machine = GPU.computing(model, native=True, kernels=True)
    one_less = estimate_memory(model, job.method, forward_pass, plan.checkpointed_layers - 1, machine)
    assert plan.memory.total <= 0.92 * 16 * GIB < one_less.total


def test_a_job_that_fits_only_if_one_layer_is_left_out_fits():
    model, job = read_architecture(QWEN), spec("Additive", "nf4", maxLength=4096, microBatchSize=1)
    machine = GPU.computing(model, native=True, kernels=True)
    all_but_one, all_layers = (estimate_memory(model, job.method, ForwardPass(4096, 4096), layers, machine).total
                               for layers in (27, 28))
    assert all_but_one < all_layers, "PEFT's IA3 stores more at the peak than it saves"
    plan = choose_plan(job, model, Accelerators(GPU, int((all_but_one + all_layers) / 2 / 0.92)))
    assert (plan.fits, plan.checkpointed_layers) == (True, 27)


def test_triton_kernels_store_less():
    model = read_architecture(MISTRAL)
    kernels, torch = (choose_plan(spec("LoRA", "nf4", microBatchSize=1, kernels=kernels), model, ONE_L4).memory
                      for kernels in (None, "torch"))
    assert kernels.activations < torch.activations
    in_float32 = {"precision": "float32", "microBatchSize": 1}
    machine = Accelerators(machine_for("nvidia-l4", Precision.FLOAT32), L4)
    same = [choose_plan(spec("LoRA", "nf4", kernels=kernels, **in_float32), model, machine).memory
            for kernels in (None, "torch")]
    assert same[0] == same[1], "there are none for float32"


def test_of_plans_that_fit_the_fastest_is_chosen():
    model = read_architecture(MISTRAL)
    # Checkpointing all layers for a pass of 16 short rows would take half as long again.
    plan = choose_plan(spec("LoRA", "nf4"), model, ONE_L4, RowLengths(1024, 300))
    assert (plan.micro_batch_size, plan.checkpointed_layers < 8) == (8, True)
    # A pass of one short row costs more by the weights that it reads than checkpointing by what it computes again.
    narrow = choose_plan(spec("LoRA", "nf4", maxLength=128), model, Accelerators(GPU, 6 * GIB), RowLengths(128, 100))
    assert narrow.micro_batch_size > 1
    assert narrow.checkpointed_layers > 0


@pytest.mark.parametrize(("toggle", "layers"), [("enabled", 32), ("disabled", 0)])
def test_a_job_that_says_so_checkpoints_all_layers_or_none(toggle, layers):
    plan = choose_plan(spec("LoRA", "nf4", gradientCheckpointing=toggle), read_architecture(MISTRAL), ONE_L4)
    assert plan.checkpointed_layers == layers


def test_a_sharded_model_checkpoints_all_layers_or_none():
    plan = choose_plan(spec("Full"), read_architecture(MISTRAL), Accelerators(GPU, 40 * GIB, 8))
    assert plan.checkpointed_layers in (0, 32)


def test_hours_follow_the_number_of_checkpointed_layers():
    model, method = read_architecture(MISTRAL), spec("LoRA", "nf4").method
    none, half, every = (operations_per_token(model, method, layers) for layers in (0, 16, 32))
    assert half == pytest.approx(1.25 * none)
    assert every == pytest.approx(1.5 * none)
    last = method.model_copy(update={"type": MethodType.PARTIAL, "partial": PartialSpec(last_layers=4)})
    assert operations_per_token(model, last, 28) == operations_per_token(model, last, 0), "frozen layers below"


@pytest.mark.parametrize(("layers", "words"), [(0, "off"), (4, "in 4 of 32 layers"), (32, "in all layers")])
def test_checkpointing_is_said_in_words(layers, words):
    assert checkpointing_in_words(layers, 32) == words


def test_what_the_job_writes_is_not_chosen_otherwise():
    plan = choose_plan(spec(microBatchSize=2, gradientCheckpointing="enabled"), read_architecture(SMOLLM), ONE_L4)
    assert (plan.micro_batch_size, plan.checkpointed_layers, plan.fits) == (2, 30, True)


def test_each_cause_moves_its_own_term():
    model, method = read_architecture(MISTRAL), spec().method
    base = estimate_memory(model, method, ForwardPass(4096, 1024), 0, GPU)
    assert estimate_memory(model, method, ForwardPass(8192, 1024), 0, GPU).activations == 2 * base.activations
    assert estimate_memory(model, method, ForwardPass(4096, 1024), ALL, GPU).activations < base.activations / 10
    packed = estimate_memory(model, method, ForwardPass(4096, 1024, packed=True), 0, GPU)
    assert packed.activations > base.activations
    on_cpu = estimate_memory(model, method, ForwardPass(4096, 1024), 0, Machine(False, 4))
    assert (on_cpu.context, on_cpu.weights) == (0, 2 * base.weights)
    assert on_cpu.optimizer == base.optimizer, "an adapter's moments have 32 bits everywhere"


def test_a_gpu_without_bfloat16_computes_in_float32():
    assert machine_for("nvidia-t4", Precision.AUTO).dtype_bytes == 4
    assert machine_for("nvidia-l4", Precision.AUTO).dtype_bytes == 2


@pytest.mark.parametrize(("config", "words"), [
    ({"model_type": "mamba"}, "model_type mamba: known are gemma"),
    ({}, "model_type (none)"),
    ({"model_type": "llama", "hidden_size": 8}, "does not tell 'num_hidden_layers'"),
])
def test_a_model_of_an_unknown_shape_is_said_to_be_one(config, words):
    with pytest.raises(UnknownArchitecture) as caught:
        read_architecture(config)
    assert words in str(caught.value)


def duration(tokens, model, method, accelerator, price, checkpointed=ALL):
    return estimate_duration(tokens, operations_per_token(model, method, checkpointed),
                             operations_per_second(model, accelerator, cores=1), price)


def test_hours_follow_from_tokens_accelerators_and_price():
    model, method = read_architecture(MISTRAL), spec("LoRA", "nf4").method
    one = duration(1_000_000, model, method, "nvidia-l4", Price(Decimal("1.00"), "USD"))
    assert 0.3 < one.hours < 3, "an L4 trains a 7B model at some hundreds of tokens a second"
    assert one.cost == round(Decimal(one.hours), 4)
    two = duration(1_000_000, model, method, "nvidia-l4", Price(Decimal("1.00"), "USD", 2))
    assert (two.hours, two.cost) == (pytest.approx(one.hours / 2), one.cost)
    assert duration(1_000_000, model, method, "nvidia-h100", Price(Decimal(11), "USD")).hours < one.hours / 5


def test_the_speed_of_a_cpu_is_the_one_that_was_measured():
    free = Price(Decimal(0), "USD")
    rate = duration(1000, read_architecture(SMOLLM), spec().method, "cpu", free, checkpointed=0)
    assert rate.tokens_per_second == pytest.approx(112, rel=0.01)


def test_two_changes_are_named_where_one_is_not_enough():
    model, job = read_architecture(MISTRAL), spec(precision="float32", maxLength=65536)
    machine = machine_for("nvidia-l4", Precision.FLOAT32)
    words = advise_change(job, model, Accelerators(machine, L4), {})
    assert words == "write spec.method.quantization: nf4, and spec.training.maxLength: 16384"
    assert choose_plan(spec("LoRA", "nf4", precision="float32", maxLength=16384), model, Accelerators(machine, L4)).fits


def test_where_nothing_helps_that_is_said():
    huge = read_architecture({**LLAMA_3, "num_hidden_layers": 500})
    assert advise_change(spec(), huge, ONE_L4, CATALOGUE).startswith("no change of micro-batch")


def reft(quantization="none", **changes):
    """A resolved spec of ReFT with rows of 512 tokens at most."""
    parsed = FineTuneJobSpec.model_validate(merge_patch(SMALLEST_SPEC, {
        "method": {"type": "ReFT", "quantization": quantization, "reft": changes}, "training": {
            "maxLength": 512, "microBatchSize": 1}}),
        strict=False)
    return resolve_defaults(parsed)


def test_reft_reckons_with_the_frozen_start_and_with_a_response_whose_activations_are_all_kept():
    model = read_architecture(SMOLLM)
    adapter, full = (choose_plan(reft(policy=policy), model, ONE_L4).memory for policy in ("LoRA", "Full"))
    base = estimate_memory(model, spec().method, ForwardPass(1, 1), ALL, GPU)
    assert adapter.weights - base.weights == adapter.adapter
    # Policy and reference in float32, and two moments of float32 for every weight.
    assert full.weights >= 2 * 4 * model.parameters
    assert full.optimizer == 2 * 4 * model.parameters
    longer = choose_plan(reft(ppo={"maxNewTokens": 4096}), model, ONE_L4).memory
    assert longer.loss > adapter.loss


def test_reft_of_seven_billion_fits_an_l4_by_qlora_and_all_its_weights_do_not():
    model = read_architecture(MISTRAL)
    assert choose_plan(reft("nf4"), model, ONE_L4).fits
    assert not choose_plan(reft(policy="Full"), model, Accelerators(GPU, 80 * GIB)).fits
    assert advise_change(reft(policy="Full"), model, ONE_L4, CATALOGUE) == (
        "write spec.method.reft.policy: LoRA")


def test_a_checkpoint_holds_what_is_trained_the_optimizer_and_what_reft_compares_with():
    model = read_architecture(SMOLLM)
    count = model.parameters
    assert checkpoint_bytes(model, spec("Full").method, machine_for("cpu", Precision.AUTO)) == 12 * count
    words = 49_152 * 576  # Their optimizer state has 32 bits.
    assert checkpoint_bytes(model, spec("Full").method, GPU) == pytest.approx(
        4 * count + 2 * (1 + 1 / 64) * (count - words) + 8 * words, abs=1)
    assert checkpoint_bytes(model, reft(policy="Full").method, GPU) == 16 * count
    assert checkpoint_bytes(model, spec().method, GPU) < 50e6


def test_gradients_take_no_place_of_activations_where_ddp_keeps_buffers_for_them():
    model, method = read_architecture(LLAMA_3), spec("LoRA", "nf4").method
    def total(alone, processes):
        forward_pass = ForwardPass(2048, 2048, alone=alone)
        return estimate_memory(model, method, forward_pass, ALL, GPU, processes).total
    assert total(True, 1) < total(False, 1)
    assert total(True, 8) == total(False, 8) >= total(False, 1)


def test_the_first_blocks_activations_are_there_beside_nearly_all_gradients():
    memory = estimate_memory(read_architecture(SMOLLM), spec("Full").method, ForwardPass(4096, 4096, alone=True), 30,
                             GPU)
    assert memory.activations > 0
