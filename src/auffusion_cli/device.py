"""Device and precision to compute in, by the names that the command line has for them."""

from __future__ import annotations

import os

import torch

from auffusion_cli.errors import UsageError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is CUDA, else Apple's MPS, else the CPU.

    Of several GPUs it is the first, and in a launch of several processes one for each of them.

    Raises:
        UsageError: it is not a device, or not one of this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is not a device; try auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no CUDA device here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: torch sees no MPS device here")
    local_rank = os.environ.get("LOCAL_RANK", "")
    if device.type == "cuda" and device.index is None and local_rank.isdecimal():
        return torch.device("cuda", int(local_rank) % torch.cuda.device_count())
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision called `name`; `auto` is fp16 on CUDA and fp32 elsewhere.

    Raises:
        UsageError: it is not a precision.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"--dtype {name!r} is not known; valid: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a precision: fp32, fp16 or bf16."""
    return next(name for name, known in DTYPES.items() if known == dtype)
