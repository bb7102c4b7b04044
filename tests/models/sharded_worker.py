"""One of two processes of test_sharded.py: half a batch through a model that is replicated (ddp) or sharded (fsdp), on the CPU."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from titans_genomics.models import Titans, TitansConfig


def make_model(variant: str) -> Titans:
    """The same weights in every process."""
    torch.manual_seed(0)
    return Titans(TitansConfig(variant=variant, d_model=32, n_heads=2, n_layers=2, chunk=8, segment=16, window=16))


def loss_of(model, tokens):
    """Next-token loss of tokens (B, T)."""
    logits, _ = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def main(mode: str, variant: str, rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    plain = make_model(variant)
    if mode == "fsdp":
        mesh = init_device_mesh("cpu", (2,))
        for block in plain.blocks:
            fully_shard(block, mesh=mesh)
        model = fully_shard(plain, mesh=mesh)
    else:
        model = DistributedDataParallel(plain)
    tokens = torch.randint(4, (4, 40), generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the second step sees the weights of the first
        optimiser.zero_grad()
        loss_of(model, tokens[2 * rank : 2 * rank + 2]).backward()
        optimiser.step()
    whole = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().contiguous()
        for name, p in plain.named_parameters()
    }
    save_file(whole, folder / f"weights-{rank}.safetensors")
    dist.barrier()
    os._exit(0)  # tearing DDP down in an orderly way can wait for a thread of gloo that waits for the interpreter


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
