"""Two processes, replicated or sharded, learn what one process learns."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_worker import loss_of, make_model


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_are_one(mode, variant, tmp_path):
    worker = Path(__file__).with_name("sharded_worker.py")
    processes = [
        subprocess.Popen(
            [sys.executable, worker, mode, variant, str(rank), tmp_path], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    model = make_model(variant)
    tokens = torch.randint(4, (4, 40), generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        loss_of(model, tokens).backward()
        optimiser.step()
    found, other = (load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(found[name], other[name]) for name in found)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")  # fmt: skip
