"""FSDP2 for every device: the decoder layers of a model, spread over the processes.

Done here rather than by accelerate, which on a CPU silently replicates the model instead: so what
is tested on a CPU is what runs on GPUs. transformers' Trainer takes a model that it spread itself
when loading it as it is, and only puts its autocast around it: a model from here says it is one.
"""

from __future__ import annotations

from typing import Any

from vlmpipe.models.families import Family
from vlmpipe.models.wrapping import unwrapped


def shard_model(model: Any, family: Family, *, reshard_after_forward: bool = True) -> Any:
    """Spread the decoder layers over all processes, in place, and return the model.

    Each process keeps a part of each layer, the adapter's matrices in it included; a layer is
    gathered, in its own precision, while it is used. What is frozen outside of the layers (tower,
    embeddings, head) stays whole in each process: the tower runs where a batch has images, so not
    in all processes at once, and head and embeddings are needed during the whole step, when a
    gathered copy takes the same room. What is trained outside of the layers goes with the root.

    Expects the model with its adapter, on the CPU or on this process's device, the same weights in
    all processes; moves it to this process's device.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),), mesh_dim_names=("fsdp",))
    layers = unwrapped(model).get_submodule(f"{family.language_prefix}.layers")
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward)
    whole = {p for p in model.parameters() if not p.requires_grad and not is_spread(p)}
    for parameter in whole:
        parameter.data = parameter.data.to(_device(kind))
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
    unwrapped(model)._is_distributed_loading_by_transformers = True
    return model


def is_sharded(model: Any) -> bool:
    """Whether `shard_model` has been here."""
    return bool(getattr(unwrapped(model), "_is_distributed_loading_by_transformers", False))


def is_spread(tensor: Any) -> bool:
    """Whether a tensor lies in parts in the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gathered(tensor: Any) -> Any:
    """A tensor, whole and on the CPU; all processes must ask for the same ones in one order."""
    return (tensor.full_tensor() if is_spread(tensor) else tensor).detach().cpu()


def spread_like(whole: Any, parameter: Any) -> Any:
    """A whole tensor in parts as the parameter is; each process takes its own part of its copy."""
    from torch.distributed.tensor import distribute_tensor

    if not is_spread(parameter):
        return whole
    mesh = parameter.device_mesh
    local = whole.to(_device(mesh.device_type))
    return distribute_tensor(local, mesh, parameter.placements, src_data_rank=None)


def whole_state(model: Any) -> dict[str, Any]:
    """A model's state by its full names, whole and on the CPU, in every process.

    Of a model with an adapter, what is trained; of another one, everything. Names that share a
    tensor share it here too.
    """
    state = model.state_dict(keep_vars=True)
    if hasattr(model, "get_base_model"):
        state = {name: tensor for name, tensor in state.items() if tensor.requires_grad}
    whole = {id(tensor): gathered(tensor) for tensor in state.values()}
    return {name: whole[id(tensor)] for name, tensor in state.items()}


def whole_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """An optimiser's `state_dict`, as that of one process looks: it loads under any strategy."""
    state = optimizer.state_dict()
    moments = {
        number: {name: _gathered_or_plain(value) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": moments}


def load_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Load what `whole_optimizer_state` gave, or what one process saved."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=True))
    moments = {
        number: {name: _like(value, by_number[number]) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def load_adapter_state(model: Any, state: dict[str, Any]) -> None:
    """Put an adapter's weights, under the names that PEFT saves them by, into a sharded model."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    here = get_peft_model_state_dict(model)
    set_peft_model_state_dict(
        model, {name: spread_like(whole, here[name]) for name, whole in state.items()}
    )


def load_whole_state(model: Any, state: dict[str, Any]) -> None:
    """Put all of a model's weights, by their full names, into it, spread or not."""
    here = model.state_dict(keep_vars=True)
    model.load_state_dict({name: spread_like(whole, here[name]) for name, whole in state.items()})


def _gathered_or_plain(value: Any) -> Any:
    return gathered(value) if is_spread(value) else value


def _like(value: Any, parameter: Any) -> Any:
    """Moments have the parameter's shape; a step count has none."""
    same = getattr(value, "shape", None) == parameter.shape
    return spread_like(value, parameter) if same else value


def _device(kind: str) -> Any:
    import torch

    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
