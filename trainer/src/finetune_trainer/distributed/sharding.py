"""A model whose weights, gradients and optimizer state are divided among the processes that train it.

Each process keeps a part of every parameter, cut along its first dimension, and of the gradient and the optimizer's
state that part alone; a decoder layer's weights are gathered when it is computed, and let go again (Rajbhandari et al.,
2020, arXiv:1910.02054, stage 3; Zhao et al., 2023, arXiv:2304.11277). The parameters are torch's DTensors then, under
the names and in the order that they had, so what is saved by name or by order is the same as in one process.
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
    """Divide a model in place, and let the chosen parameters be trained, in float32. In training only: a collective.

    Layer by layer, so that no process ever holds more than the model as it was loaded and one layer in float32.

    Args:
        model: whole, in every process the same.
        trained: names of its parameters that are trained; all others are divided as they are.
        device: what this process runs on.
        processes: how many there are.
    """
    mesh = init_device_mesh(device.torch_device.type, (processes,))
    # Sums are made in float32, since a bfloat16 forgets what many small gradients add up to.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if device.dtype is torch.bfloat16 else \
        MixedPrecisionPolicy()
    # Nobody may refer to the whole parameters, or they would stay.
    chosen = {id(parameter) for name, parameter in model.named_parameters() if name in trained}
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # The model itself comes last, and takes what lies in no layer: embeddings, the last norm and the head, which may be
    # one weight with the embeddings.
    for module in (*layers, model):
        thaw([parameter for parameter in module.parameters() if id(parameter) in chosen])
        chosen -= {id(parameter) for parameter in module.parameters()}
        fully_shard(module, mesh=mesh, mp_policy=policy)
    # So that transformers' Trainer leaves it to the model where its parameters lie and how gradients are summed up, as
    # it does with models that it has divided itself, and wraps it in nothing.
    model._is_distributed_loading_by_transformers = True


def thaw(parameters: Collection[torch.nn.Parameter]) -> Callable[[], None]:
    """Let parameters be trained, in float32: steps of a hundred-thousandth vanish in bfloat16's eight bits.

    Returns:
        What rounds each of them to the type that it was in, once they are trained. Buffers are never touched: RoPE's
        frequencies rounded to bfloat16 would be another model.
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
    """Whether a model is divided."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, gathered where it is divided; then a collective, and every process gets it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put(parameter: torch.nn.Parameter, value: torch.Tensor | None) -> None:
    """Give a parameter a value to the bit, of the same shape and type; for a divided one a collective.

    Args:
        parameter: what gets it.
        value: needed in the first process alone where the parameter is divided: each gets its part from there.
    """
    if isinstance(parameter, DTensor):
        with torch.no_grad():
            parameter.to_local().copy_(_part(value, parameter).to_local())
    else:
        assert value is not None
        # A copy: what is read from a file may lie in memory otherwise than what torch allocates, and add up so.
        parameter.data = value.clone().to(parameter.device)


def gather_into(model: torch.nn.Module | None, sharded: torch.nn.Module) -> None:
    """Copy a divided model's parameters into a whole model of the same kind, and let go of the parts. A collective.

    Args:
        model: what takes them, in its own type, with the same parameters requiring gradients; None in a process that
            only helps to gather.
        sharded: the divided model; it can't be used afterwards.
    """
    targets = dict(model.named_parameters()) if model is not None else {}
    with torch.no_grad():
        for name, parameter in sharded.named_parameters():
            value = whole(parameter.detach())
            if model is not None:
                targets[name].copy_(value)
                targets[name].requires_grad_(parameter.requires_grad)
    # Others still refer to it.
    sharded.to("meta")


def optimizer_state(optimizer: Any, keeps: bool) -> dict[str, Any]:
    """An optimizer's state, like its `state_dict`, in whole tensors in the CPU's memory. A collective.

    Args:
        optimizer: over a divided model's parameters.
        keeps: whether this process gets it; else it only helps to gather, and gets nothing.
    """
    state: dict[str, Any] = optimizer.state_dict()
    gathered: dict[int, dict[str, Any]] = {}
    for index, one in state["state"].items():
        gathered[index] = {}
        for name, value in one.items():
            value = whole(value).cpu()
            if keeps:
                gathered[index][name] = value
    return {**state, "state": gathered} if keeps else {}


def load_optimizer_state(optimizer: Any, path: Path) -> bool:
    """Take up what `optimizer_state` gave; False, and nothing is done, if it is of another kind. A collective.

    Args:
        optimizer: AdamW of torch over a divided model's parameters.
        path: what `torch.save` wrote; read in the first process alone, and each gets its part from there.
    """
    read = _mapped(path) if dist.get_rank() == 0 else None
    # What has no dimension is the same for all: counts of steps, learning rates. Of all else the names go around.
    state = _told(read and {**read, "state": {
        index: {name: None if value.dim() else value for name, value in one.items()}
        for index, one in read["state"].items()}})
    if not _is_of_torch(state):
        return False
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, one in state["state"].items():
        for name in [name for name, value in one.items() if value is None]:
            one[name] = _part(read["state"][index][name] if read else None, parameters[index])
    optimizer.load_state_dict(state)
    return True


def is_of_torch(path: Path) -> bool:
    """Whether an optimizer's saved state is that of torch's AdamW, and not of an 8-bit one."""
    return _is_of_torch(_mapped(path))


def _is_of_torch(state: dict[str, Any]) -> bool:
    return all("exp_avg" in one for one in state["state"].values())


def _mapped(path: Path) -> dict[str, Any]:
    # Mapped into memory and not read: there is no room for the state of all at once.
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state


def _told(state: dict[str, Any] | None) -> dict[str, Any]:
    """What the first process says, which alone gives it. A collective; nothing that is heard can run code."""
    file = io.BytesIO()
    if state is not None:
        torch.save(state, file)
    size = torch.tensor(file.tell())
    dist.broadcast(size, 0)
    content = torch.frombuffer(file.getbuffer(), dtype=torch.uint8).clone() if state is not None else \
        torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    told: dict[str, Any] = torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    return told


def _part(value: torch.Tensor | None, like: DTensor) -> DTensor:
    """A whole tensor of the first process, divided as another one is. A collective."""
    full = torch.empty(like.shape, dtype=like.dtype, device=like.device) if value is None else value.to(like.device)
    # A copy of its own, also where the part lies in a mapped file.
    part = distribute_tensor(full, like.device_mesh, like.placements).clone()
    assert isinstance(part, DTensor)
    return part
