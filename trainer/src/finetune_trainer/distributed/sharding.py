"""Sharding: weights, gradients and optimizer state of a model, divided among the processes that train it.

Each process keeps one shard of every parameter, cut along its first dimension, and the same shard of the gradient and
of the optimizer state. FSDP gathers the weights of a decoder layer when the layer is computed, and frees them
afterwards (Rajbhandari et al., 2020, arXiv:1910.02054, stage 3; Zhao et al., 2023, arXiv:2304.11277). The parameters
become DTensors of torch, with the same names in the same order, so that checkpoints are the same as those of one
process.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.hardware.device import Device


def shard(model: PreTrainedModel, trained: Collection[str], device: Device, processes: int) -> None:
    """Shard a model in place, and unfreeze the chosen parameters in float32. A collective: only during training.

    The function goes layer by layer, so that a process never holds more than the model as loaded plus one layer in
    float32.

    Args:
        model: the whole model, the same in every process.
        trained: names of the parameters to train; all others keep their type.
        device: the device of this process.
        processes: the number of processes.
    """
    mesh = init_device_mesh(device.torch_device.type, (processes,))
    # Gradients are reduced in float32: a sum of many small gradients loses its small terms in bfloat16.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if device.dtype is torch.bfloat16 else \
        MixedPrecisionPolicy()
    # Ids, not references: a reference would keep the whole parameter in memory.
    chosen = {id(parameter) for name, parameter in model.named_parameters() if name in trained}
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # The model itself comes last. It takes the parameters outside all layers: embeddings, the last norm and the head,
    # which may share one weight with the embeddings.
    for module in (*layers, model):
        unfreeze([parameter for parameter in module.parameters() if id(parameter) in chosen])
        chosen -= {id(parameter) for parameter in module.parameters()}
        fully_shard(module, mesh=mesh, mp_policy=policy)
    # transformers' Trainer then leaves device placement and gradient reduction to the model, and does not wrap it. It
    # does the same with models that it has sharded itself.
    model._is_distributed_loading_by_transformers = True


def unfreeze(parameters: Collection[torch.nn.Parameter]) -> Callable[[], None]:
    """Make parameters trainable, in float32: an update of a hundred-thousandth is lost in the eight bits of bfloat16.

    Returns:
        A function that rounds each parameter to its earlier type after training. It never changes buffers: rounding
        the frequencies of RoPE to bfloat16 would change the model.
    """
    loaded = [(parameter, parameter.dtype) for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)

    def round_back() -> None:
        for parameter, dtype in loaded:
            parameter.data = parameter.data.to(dtype)

    return round_back


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether a model is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor; for a sharded one a collective, which gives it to every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def set_parameter(parameter: torch.nn.Parameter, value: torch.Tensor | None) -> None:
    """Set a parameter to a value of the same shape and type, bit for bit. A collective if the parameter is sharded.

    Args:
        parameter: the parameter.
        value: the whole value. For a sharded parameter only rank 0 needs it; the other processes pass None.
    """
    if isinstance(parameter, DTensor):
        with torch.no_grad():
            parameter.to_local().copy_(_shard_like(value, parameter).to_local())
    elif value is None:
        raise ValueError("a parameter that is not sharded needs its value in every process")
    else:
        # A copy: memory that was read from a file has another alignment than torch's own, and sums may differ in it.
        parameter.data = value.clone().to(parameter.device)


def gather_into(model: torch.nn.Module | None, sharded: torch.nn.Module) -> None:
    """Copy the parameters of a sharded model into a whole model of the same kind, and free the shards. A collective.

    Args:
        model: receives the parameters, in its own type, and the same `requires_grad`; None in a process that only
            takes part in the gathering.
        sharded: the sharded model; it is unusable afterwards.
    """
    targets = dict(model.named_parameters()) if model is not None else {}
    with torch.no_grad():
        for name, parameter in sharded.named_parameters():
            value = full_tensor(parameter.detach())
            if model is not None:
                targets[name].copy_(value)
                targets[name].requires_grad_(parameter.requires_grad)
    # Other objects still refer to the sharded model.
    sharded.to("meta")


def gather_optimizer_state(optimizer: Any, receives: bool) -> dict[str, Any]:
    """The state of an optimizer like its `state_dict`, with whole tensors in CPU memory. A collective.

    Args:
        optimizer: the optimizer of a sharded model.
        receives: whether this process gets the state; the others get an empty mapping.
    """
    state: dict[str, Any] = optimizer.state_dict()
    gathered: dict[int, dict[str, Any]] = {}
    for index, one in state["state"].items():
        gathered[index] = {}
        for name, value in one.items():
            value = full_tensor(value).cpu()
            if receives:
                gathered[index][name] = value
    return {**state, "state": gathered} if receives else {}


def load_optimizer_state(optimizer: Any, path: Path) -> bool:
    """Load what `gather_optimizer_state` returned. A collective.

    Args:
        optimizer: torch's AdamW over the parameters of a sharded model.
        path: the file that `torch.save` wrote; only rank 0 reads it, and sends each process its shards.

    Returns:
        False if the state is of another kind of optimizer; then nothing is loaded.
    """
    read = _memory_mapped(path) if dist.get_rank() == 0 else None
    # Values without a dimension, such as step counts and learning rates, go to every process as they are. Of all other
    # values only the names do.
    state = _broadcast(read and {**read, "state": {
        index: {name: None if value.dim() else value for name, value in one.items()}
        for index, one in read["state"].items()}})
    if not _has_adamw_moments(state):
        return False
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, one in state["state"].items():
        for name in [name for name, value in one.items() if value is None]:
            one[name] = _shard_like(read["state"][index][name] if read else None, parameters[index])
    optimizer.load_state_dict(state)
    return True


def is_torch_adamw_state(path: Path) -> bool:
    """Whether a saved optimizer state is that of torch's AdamW, and not that of an 8-bit optimizer."""
    return _has_adamw_moments(_memory_mapped(path))


def _has_adamw_moments(state: dict[str, Any]) -> bool:
    return all("exp_avg" in one for one in state["state"].values())


def _memory_mapped(path: Path) -> dict[str, Any]:
    # Mapped, not read: the whole state does not fit into memory at once.
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state


def _broadcast(state: dict[str, Any] | None) -> dict[str, Any]:
    """The state of rank 0, in every process; the others pass None. A collective. Received bytes cannot run code."""
    file = io.BytesIO()
    if state is not None:
        torch.save(state, file)
    size = torch.tensor(file.tell())
    dist.broadcast(size, 0)
    content = torch.frombuffer(file.getbuffer(), dtype=torch.uint8).clone() if state is not None else \
        torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    received: dict[str, Any] = torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    return received


def _shard_like(value: torch.Tensor | None, like: DTensor) -> DTensor:
    """Rank 0's whole tensor, sharded in the same way as another one; other processes pass None. A collective."""
    full = torch.empty(like.shape, dtype=like.dtype, device=like.device) if value is None else value.to(like.device)
    # Cloned, so that no shard keeps a mapped file open.
    sharded: Any = distribute_tensor(full, like.device_mesh, like.placements).clone()
    result: DTensor = sharded
    return result
