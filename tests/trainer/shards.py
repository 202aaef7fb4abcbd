"""What the processes of a test about divided models do."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import torch

from tests.trainer.runs import pod


def counting_pod(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """The trainer's entry, which writes beside its log what lies in memory when the optimizer has stepped."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def count(optimizer, *_):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        log.with_suffix(".json").write_text(json.dumps({
            "weights": _bytes(parameters),
            "gradients": _bytes([parameter.grad for parameter in parameters]),
            "optimizer": _bytes([value for state in optimizer.state.values() for value in state.values()]),
            "everything": _bytes([one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]),
        }))

    register_optimizer_step_post_hook(count)
    pod(arguments, environment, log)


def _bytes(tensors) -> int:
    """The storage behind tensors of this process, each counted once."""
    from torch.distributed.tensor import DTensor

    stores = [(one._local_tensor if isinstance(one, DTensor) else one).untyped_storage() for one in tensors]
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


def train_in_bfloat16(rank: int, port: int, folder: Path) -> None:
    """One of two processes that train a divided model as GPUs with bfloat16 would, on CPUs."""
    import torch.distributed as dist
    from finetune_trainer.distributed.sharding import gather_into, shard
    from finetune_trainer.hardware.device import Device
    from transformers import AutoModelForCausalLM

    device = Device(torch.device("cpu"), torch.bfloat16)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, fresh = (AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16) for _ in range(2))
    shard(model, {name for name, _ in model.named_parameters()}, device, 2)
    seen = set()
    linear = model.model.layers[0].mlp.up_proj
    linear.register_forward_hook(lambda module, *_: seen.add(str(module.weight.dtype)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.arange(3, 43).reshape(2, 20)
    losses = []
    for _ in range(20):
        loss = model(input_ids=ids[rank:rank + 1], labels=ids[rank:rank + 1], use_cache=False).loss
        loss.backward()
        kept = {str(one.to_local().dtype) for parameter in model.parameters() for one in (parameter, parameter.grad)}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    gather_into(fresh if rank == 0 else None, model)
    whole = fresh(input_ids=ids[:1], labels=ids[:1]).loss.item() if rank == 0 else None
    (folder / f"seen-{rank}.json").write_text(json.dumps(
        {"computed": sorted(seen), "kept": sorted(kept), "losses": losses, "whole": whole}))
    dist.barrier()
    dist.destroy_process_group()
