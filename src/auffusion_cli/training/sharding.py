"""Networks split over the processes of a launch, for those beyond one GPU; and made whole again.

Fully sharded data parallelism (Zhao et al. 2023, arXiv 2304.11277). accelerate's config, or
`accelerate launch --use_fsdp`, says whether and by which units; torch's `fully_shard` does it.
accelerate's own wrapping is not used: it leaves networks on CPUs whole, so that nothing could be
tested without GPUs.

A parameter that is split is a DTensor. Whatever makes one whole is collective: all processes have
to call it, in the same order.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from auffusion_cli.errors import UsageError
from auffusion_cli.training.config import TrainingConfig

Sharding = FullyShardedDataParallelPlugin
"""What accelerate's config says of it."""


def find_sharding(
    config: TrainingConfig, environment: Mapping[str, str] = os.environ
) -> Sharding | None:
    """What the launcher asks for; None where networks stay whole.

    Raises:
        UsageError: it asks for what is not possible, or not with `config`.
    """
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if environment.get("FSDP_VERSION", "1") != "2":
        raise UsageError(
            "FSDP version 1 is not supported",
            hint="accelerate launch --use_fsdp --fsdp_version 2, or fsdp_version: 2 in its config.",
        )
    try:
        sharding = FullyShardedDataParallelPlugin()
    except (ValueError, ImportError) as error:
        raise UsageError(f"FSDP as it was asked for is not possible: {error}") from error
    for is_asked, what, hint in (
        (config.stage != "diffusion", f"--stage {config.stage}", "Launch it without --use_fsdp."),
        (config.diffusion.lora.rank is not None, "--lora", "Launch it without --use_fsdp."),
        (config.loop.compile, "loop.compile", "Leave it out."),
        (config.loop.mixed_precision == "fp16", "loop.mixed_precision: fp16", "bf16 does."),
        (
            isinstance(sharding.cpu_offload, CPUOffloadPolicy),
            "fsdp_offload_params",
            "Leave it out.",
        ),
        (
            sharding.activation_checkpointing,
            "fsdp_activation_checkpointing",
            "diffusion.gradient_checkpointing: true does the same.",
        ),
    ):
        if is_asked:
            raise UsageError(f"{what} does not go with FSDP", hint=hint)
    return sharding


def split(network: nn.Module, sharding: Sharding, accelerator: Accelerator) -> nn.Module:
    """A copy of `network` on the accelerator's device, a part of every parameter in each process.

    `network` itself goes to the CPU in the main process; in the others it is left empty.
    """
    network.to("cpu")
    part = copy.deepcopy(network).to(accelerator.device)
    if not accelerator.is_main_process:
        network.to("meta")
    is_bf16 = accelerator.mixed_precision == "bf16"
    options = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        if is_bf16
        else MixedPrecisionPolicy(),
    }
    try:
        is_unit = fsdp2_prepare_auto_wrap_policy(sharding, part) or (lambda module: False)
    except ValueError as error:
        raise UsageError(f"fsdp_transformer_layer_cls_to_wrap: {error}") from error
    for module in reversed([*part.modules()][1:]):  # what is inside of another one comes first
        # Lists of modules are not called, and so cannot gather their parameters.
        if is_unit(module) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            fully_shard(module, reshard_after_forward=sharding.reshard_after_forward, **options)
    return fully_shard(part, **options)


def whole(value: Any) -> Any:
    """`value`, a tensor or lists and dicts of some, with all that is split in it whole, on the CPU.

    Collective.
    """
    if isinstance(value, DTensor):
        return value.detach().full_tensor().cpu()
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [whole(each) for each in value]
    return value


def split_like(value: Any, parameter: Tensor) -> Any:
    """A tensor of the shape of `parameter`, split as that is; anything else as it is.

    Not collective: each process has the whole, and keeps its part.
    """
    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    on_device = value.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(on_device, mesh, placements, src_data_rank=None)
