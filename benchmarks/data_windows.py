"""Windows out of a token store, the loader beside training, and opening a store; and copying the same bytes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.data_task import NAME, Spec, Task, config, status
from titans_genomics.data.store import Run, TokenStore

WINDOW, BATCH = 8_192, 64  # tokens of a window, windows read together
WARM_STEPS = 5


def touched(store: TokenStore) -> np.ndarray:
    """The tokens of a store, every page of them once read by this process."""
    codes = store.tokens(NAME)
    assert int(codes.max()) < 5
    return codes


def in_batches(spec: Spec) -> Task:
    """`Run.windows`, 64 windows a call."""
    store = TokenStore(spec["store"])
    run, codes = store.runs("train")[0], touched(store)
    starts = np.random.default_rng(0).integers(0, len(run) - WINDOW, spec["windows"])

    def work() -> None:
        for at in range(0, len(starts), BATCH):
            run.windows(starts[at : at + BATCH], WINDOW)

    def check(_: None) -> dict[str, Any]:
        whole = joined(run, codes, store.tokenizer.eos)
        few = starts[:BATCH]
        assert (run.windows(few, WINDOW) == np.stack([whole[at : at + WINDOW] for at in few])).all()
        return {"amount": len(starts) * WINDOW}

    run.windows(starts[:1], WINDOW)
    return Task(work, check)


def items(spec: Spec, reverse_complement: float) -> Task:
    """`TrainWindows`, one item after the other: int64 tensors."""
    from titans_genomics.data.windows import TrainWindows

    store = TokenStore(spec["store"])
    run, codes = store.runs("train")[0], touched(store)
    windows = TrainWindows(store, WINDOW, seed=1, reverse_complement=reverse_complement)

    def work() -> None:
        for i in range(spec["windows"]):
            windows[i]

    def check(_: None) -> dict[str, Any]:
        whole = joined(run, codes, store.tokenizer.eos).tobytes()
        for i in range(8):
            item = windows[i].numpy().astype(np.uint8)
            assert item.tobytes() in whole or store.tokenizer.turned(item).tobytes() in whole
        return {"amount": spec["windows"] * (WINDOW + 1)}

    windows[0]
    return Task(work, check)


def copies(spec: Spec, tensors: bool) -> Task:
    """As many tokens, copied from the memory map by NumPy; with `tensors` to what a model reads, int64 tensors."""
    if tensors:
        from torch import from_numpy

    codes = touched(TokenStore(spec["store"]))
    starts = np.random.default_rng(0).integers(0, len(codes) - WINDOW, spec["windows"]).tolist()

    def work() -> None:
        for start in starts:
            window = np.array(codes[start : start + WINDOW])
            if tensors:
                from_numpy(window.astype(np.int64))

    return Task(work, lambda _: {"amount": len(starts) * WINDOW})


def joined(run: Run, codes: np.ndarray, eos: int) -> np.ndarray:
    """All tokens of a run, put together without the package's kernel."""
    parts = []
    for offset, length, _, follows in run.places.tolist():
        parts += [codes[offset : offset + length], np.full(0 if follows else 1, eos, dtype=np.uint8)]
    return np.concatenate(parts)


def training(spec: Spec, real: bool) -> Task:
    """configs/default.yaml's model and batch for some steps; `real` or the first batch again and again."""
    import lightning as L
    import torch
    import yaml

    from benchmarks.machine import ROOT
    from titans_genomics.training.module import NextToken

    torch.set_flush_denormal(True)
    settings = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    train = {**settings["train"], "max_steps": WARM_STEPS + spec["steps"], "accelerator": "cpu"}
    whole = config(spec["file"], spec["block"], model=settings["model"], train=train, seed=settings["seed"])
    torch.manual_seed(0)
    module = NextToken(whole.model_dump(mode="json"))
    module.windows = windows_of(spec, train)
    ends: list[float] = []

    class Clock(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            ends.append(time.perf_counter())

    class Repeated:
        def __init__(self, batch: torch.Tensor) -> None:
            self.batch = batch

        def __len__(self) -> int:
            return train["max_steps"]

        def __iter__(self) -> Iterator[torch.Tensor]:
            return itertools.repeat(self.batch, len(self))

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )

    def work() -> None:
        first = torch.stack([module.windows[i] for i in range(train["batch_size"])])
        trainer.fit(module, train_dataloaders=None if real else Repeated(first))

    def check(_: None) -> dict[str, Any]:
        assert len(ends) == train["max_steps"]
        assert module.skipped == 0
        tokens = spec["steps"] * train["batch_size"] * train["context"]
        return {"amount": tokens, "seconds": ends[-1] - ends[WARM_STEPS - 1]}

    return Task(work, check)


def loader_alone(spec: Spec) -> Task:
    """The batches of that training, with nothing done with them."""
    import yaml
    from torch.utils.data import DataLoader

    from benchmarks.machine import ROOT
    from titans_genomics.training.module import StepOrder

    train = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())["train"]
    windows, steps, size = windows_of(spec, train), 20 * spec["steps"], train["batch_size"]

    def work() -> int:
        return sum(batch.numel() for batch in DataLoader(windows, batch_sampler=StepOrder(0, steps, size, 0, 1)))

    def check(tokens: int) -> dict[str, Any]:
        assert tokens == steps * size * (train["context"] + 1)
        return {"amount": steps * size * train["context"]}

    return Task(work, check)


def windows_of(spec: Spec, train: dict[str, Any]) -> Any:
    from titans_genomics.data.windows import TrainWindows

    return TrainWindows(TokenStore(spec["store"]), train["context"], 1, train["reverse_complement"])


def opening(spec: Spec) -> Task:
    """A store opened and its first window read, by a process that has read nothing yet."""
    from titans_genomics.data.windows import TrainWindows

    def work() -> dict[str, float | None]:
        resident, start = status("VmRSS")[0], time.perf_counter()
        store = TokenStore(spec["store"])
        assert len(store.runs("train")[0]) > 0
        opened, after = time.perf_counter(), status("VmRSS")[0]
        windows = TrainWindows(store, WINDOW, seed=1)
        windows[0]
        read = time.perf_counter()
        windows[1]
        return {
            "open_ms": 1e3 * (opened - start),
            "open_mb": None if after is None else after - resident,
            "first_window_ms": 1e3 * (read - opened),
            "next_window_ms": 1e3 * (time.perf_counter() - read),
        }

    return Task(work, lambda found: found)
