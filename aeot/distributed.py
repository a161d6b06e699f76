"""Several processes under torchrun: who we are, how sums add up, who writes files.

The only module that imports ``torch.distributed``. Everything else takes a `Shard`, and runs the
same without.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from aeot._shard import Shard


def launched() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_writer() -> bool:
    """Whether this process writes files and prints: rank 0, or the only one there is."""
    return int(os.environ.get("RANK", "0")) == 0


def shard() -> Shard:
    """Return the share of this process of every sum over samples.

    Under torchrun the processes are connected on the first call (gloo, or nccl where there are
    GPUs, one for each process). Without torchrun it is the whole, and nothing is connected.

    Returns:
        The shard; its ``sum`` gives every process the same total, added in float64 or integers
        as it comes.

    Example:
        >>> whole = shard()
        >>> whole.index, whole.count
        (0, 1)
    """
    if not launched():
        return Shard()
    if not dist.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if gpu else "gloo")
    return Shard(dist.get_rank(), dist.get_world_size(), _total)


def agree(tensor: torch.Tensor) -> torch.Tensor:
    """Return rank 0's version of a tensor, so that every process goes on from the same numbers.

    Args:
        tensor: Of the same shape and dtype everywhere; not changed.
    """
    if not launched():
        return tensor
    shard()  # connects
    shared = tensor.detach().to(_transport_device()).clone()
    dist.broadcast(shared, src=0)
    return shared.to(tensor.device)


def wait() -> None:
    """Wait until every process has come here, for instance until rank 0 has written a file."""
    if launched():
        shard()
        dist.barrier()


def leave() -> None:
    """Disconnect; call it at the end of a program that called `shard`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _transport_device() -> torch.device:
    nccl = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def _total(part: torch.Tensor) -> torch.Tensor:
    total = part.detach().to(_transport_device()).clone()
    dist.all_reduce(total)
    return total.to(part.device)
