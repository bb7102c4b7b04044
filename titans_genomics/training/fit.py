"""Train a model on a token store: devices, resume, validation, checkpoints, curves, summary."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from titans_genomics.config import Config, TrainConfig
from titans_genomics.data.store import TokenStore
from titans_genomics.data.windows import HeldOutWindows, TrainWindows
from titans_genomics.files import write_json
from titans_genomics.progress import Progress
from titans_genomics.training.export import build_model, model_config, save_model, with_vocabulary
from titans_genomics.training.logs import Metrics, Wandb, hardware, say, versions
from titans_genomics.training.module import NextToken, learning_rate

LOG_EVERY = 10
"""Optimiser steps between two rows of metrics.csv."""

# Settings that change neither the weights nor the order of the data: a run may be resumed with other values.
_FREE = {"wandb", "checkpoint_every", "validate_every", "max_nonfinite", "accelerator", "strategy", "transformer"}


def train(config: Config, store: Path, out: Path, model: str = "titans", resume: bool = True) -> dict[str, Any]:
    """Train a model for next-token prediction.

    Leaves in ``out``: best.ckpt (lowest validation loss) and last.ckpt (Lightning), model.safetensors and model.json (the
    best weights, for `load_model`), metrics.csv, train.json (the summary, written last) and wandb/.

    Parameters
    ----------
    config : Config
        The run.
    store : Path
        Token store folder.
    out : Path
        Output folder.
    model : str
        What to train: "titans", "transformer" or a name in ``config.compare``.
    resume : bool
        Go on from ``out/last.ckpt`` when there is one. A killed run that is resumed ends with the weights it would have had.

    Returns
    -------
    dict
        The content of train.json.

    Raises
    ------
    ValueError
        When the devices of the config are not there, when last.ckpt comes from another config and its run is unfinished,
        when no stretch of the store is as long as one window, and after ``train.max_nonfinite`` non-finite steps in a row.
    """
    torch.set_flush_denormal(True)  # tiny surprises would make CPU kernels many times slower
    _quiet()
    store, out = Path(store), Path(out)
    trainer_settings = _devices(config)
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    turned = config.train.turned(tokens.tokenizer.text)
    config = config.model_copy(update={"train": config.train.model_copy(update={"reverse_complement": turned})})
    context, carry = config.train.context, config.train.carry
    settings = config.train
    windows = TrainWindows(
        tokens,
        context,
        config.seed,
        turned,
        carry=carry,
        temperature=settings.temperature,
        mark_soft_masked=settings.soft_mask_weight < 1,
        tiled=settings.sampling == "tiled",
    )
    held_out = HeldOutWindows(tokens, "validation", context * carry, -(-config.train.validation_windows // carry))
    identity = _identity(config, tokens, model)
    last = out / "last.ckpt"
    first_process = (_get_rank() or 0) == 0
    for source in sorted({run.source for run in tokens.runs("train") if tokens.weight(run.source)}):
        if first_process and source not in {run.source for run in windows.runs}:
            say(f"source {source} is not trained on: its training split is shorter than one window (train.context)")
    state = _resumable(last, identity, config.train.max_steps) if resume else None
    if first_process:
        out.mkdir(parents=True, exist_ok=True)
        if state is None:
            for name in ("last.ckpt", "best.ckpt", "model.safetensors", "model.json", "metrics.csv", "train.json"):
                (out / name).unlink(missing_ok=True)

    L.seed_everything(config.seed, verbose=False)
    module = NextToken(config.model_dump(mode="json"), model)
    module.read_tokens_of(tokens.tokenizer)
    module.windows, module.identity = windows, identity
    step = state["step"] if state else 0
    if trainer_settings["accelerator"] == "cpu":
        compile_kernels(module.model, say if first_process else lambda _: None)
    if step < config.train.max_steps:
        if step and first_process:
            say(f"going on from {last}, step {step} of {config.train.max_steps}")
        recorder = Recorder(config, tokens, out, model, held_out)
        try:
            trainer = L.Trainer(
                **trainer_settings,
                max_epochs=1,
                callbacks=[recorder],
                default_root_dir=out,
                accumulate_grad_batches=config.train.accumulate,
                precision=precision_of(config, trainer_settings["accelerator"]),
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
            )
            trainer.fit(module, ckpt_path=last if step else None)
        except (SIGTERMException, SystemExit) as stop:  # the latter is what Lightning makes of Ctrl-C
            if first_process:
                say(f"stopped at step {module.step}; the same command goes on from {last}, if there is one by now")
            raise SystemExit(143 if isinstance(stop, SIGTERMException) else 130) from None
        finally:
            recorder.close(failed=module.step < config.train.max_steps)
    else:
        module.on_load_checkpoint({"titans_genomics": state})
    summary = _summary(config, tokens, module, model)
    if first_process:
        best = torch.load(out / "best.ckpt", map_location="cpu", weights_only=True)
        plain = NextToken(config.model_dump(mode="json"), model)
        plain.load_state_dict(best["state_dict"])
        summary["best_step"] = best["titans_genomics"]["step"]
        save_model(out, model, model_config(config, model), plain.model, tokens, summary["best_step"])
        write_json(out / "train.json", summary)
    return summary


class Recorder(L.Callback):
    """After every optimiser step: progress; and when they are due validation, a row of metrics and checkpoints.

    All of one step is done before the checkpoint is written, so that a resumed run repeats nothing and misses nothing.
    """

    def __init__(self, config: Config, store: TokenStore, out: Path, name: str, held_out: HeldOutWindows) -> None:
        self.config, self.store, self.out, self.name, self.held_out = config, store, out, name, held_out
        self.unit = "byte" if store.tokenizer.text else "base"
        self.progress: Progress | None = None
        self.wandb: Wandb | None = None
        self.metrics: Metrics | None = None
        self._losses: list[float] = []
        self._logged_step = 0
        self._save_due = False
        self._logged_at = 0.0

    def on_train_start(self, trainer: L.Trainer, module: NextToken) -> None:  # type: ignore[override]
        """Open the logs."""
        self._tokens_per_step = (
            self.config.train.batch_size * self.config.train.context * self.config.train.accumulate * trainer.world_size
        )
        self._done = module.step
        if trainer.is_global_zero:
            self.metrics = Metrics(self.out / "metrics.csv", module.step)
            self.wandb = Wandb(self.config, self.name, self.out)
            self.wandb.artifact(f"{self.config.run}-tokens", "tokens", self.store.path, {"sha256": self.store.sha256})
            self.progress = Progress(
                self.config.train.max_steps * self._tokens_per_step, "tokens", f"training {self.name}"
            )
            self.progress.resume_at(module.step * self._tokens_per_step)
        self._logged_step, self._logged_at = module.step, time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: NextToken, *_: Any) -> None:  # type: ignore[override]
        """What is due after this step."""
        step, settings = module.step, self.config.train
        if step == self._done:  # gradients are still being accumulated
            return
        self._done = step
        if module.skipped_in_a_row == 0:
            self._losses.append(module.loss)
        if self.progress is not None:
            bits = f"{module.loss / math.log(2):.3f} bits per {self.unit}"
            self.progress.update(self._tokens_per_step, note=f"step {step} of {settings.max_steps}, {bits}")
        final = step == settings.max_steps
        validate = final or step % settings.validate_every == 0
        stopping = trainer.received_sigterm and trainer.world_size == 1  # a cluster's notice before it kills
        self._save_due |= stopping or step % settings.checkpoint_every == 0
        # a carried memory is not kept in checkpoints: they are written where the next window begins with an empty one
        save = final or (self._save_due and step % settings.carry == 0)
        self._save_due &= not save
        if not (validate or save or step % LOG_EVERY == 0):
            return
        row = self._row(module)
        if validate:
            loss = self._validate(trainer, module)
            row |= {"val_loss": loss, "val_bits_per_base": loss / math.log(2)}
            if self.progress is not None:
                say(f"step {step} of {settings.max_steps}: validation {loss / math.log(2):.4f} bits per {self.unit}")
            if loss < module.best or not (self.out / "best.ckpt").is_file():
                module.best = loss
                self._save(trainer, "best.ckpt")
        if self.metrics is not None and self.wandb is not None:
            self.metrics.log(row)
            self.wandb.log({k: v for k, v in row.items() if k != "step"}, step)
        if save:
            self._save(trainer, "last.ckpt")
        self._logged_step, self._logged_at = step, time.monotonic()  # validation and saving are not training time

    def on_train_end(self, trainer: L.Trainer, module: NextToken) -> None:  # type: ignore[override]
        """Record the checkpoint in W&B."""
        if self.wandb is not None:
            metadata = {"step": module.step, "val_bits_per_base": module.best / math.log(2)}
            self.wandb.artifact(f"{self.config.run}-{self.name}", "model", self.out / "best.ckpt", metadata)

    def close(self, failed: bool) -> None:
        """End the progress line and the W&B run."""
        if self.progress is not None:
            self.progress.close(failed=failed)
        if self.wandb is not None:
            self.wandb.finish()

    def _row(self, module: NextToken) -> dict[str, float]:
        """Training figures since the last row."""
        seconds, steps = time.monotonic() - self._logged_at, module.step - self._logged_step
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        self._losses.clear()
        row = {
            "step": module.step,
            "tokens": module.step * self._tokens_per_step,
            "loss": loss,
            "bits_per_base": loss / math.log(2),
            "lr": learning_rate(self.config.train, module.step - 1),
            "grad_norm": module.gradient_norm,
            "tokens_per_second": steps * self._tokens_per_step / seconds,
            "skipped": module.skipped,
        }
        return row | {key: float(value) for key, value in module.model.statistics().items()}

    def _validate(self, trainer: L.Trainer, module: NextToken) -> float:
        """Mean negative log-likelihood over the validation windows, nats per base, the same on every device."""
        rank, world, size = trainer.global_rank, trainer.world_size, self.config.train.batch_size
        count = len(self.held_out)
        total = torch.zeros(2, dtype=torch.float64, device=module.device)
        module.eval()
        with torch.no_grad():
            for first in range(0, count, size * world):
                mine = [i for i in range(first + rank * size, first + (rank + 1) * size) if i < count]
                batch = torch.stack([self.held_out[i] for i in mine or [0]]).to(module.device)
                part = trainer.strategy.validation_step(batch, 0)  # all take part, as sharded weights need
                if mine:
                    total += part
        module.train()
        if world > 1:
            dist.all_reduce(total)
        return float(total[0] / total[1].clamp(min=1))

    def _save(self, trainer: L.Trainer, name: str) -> None:
        """A whole checkpoint or none."""
        temporary = self.out / f".{name}.tmp"
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                os.replace(temporary, self.out / name)
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)
        trainer.strategy.barrier()


def _summary(config: Config, store: TokenStore, module: NextToken, name: str) -> dict[str, Any]:
    """What train.json says."""
    settings = config.train
    tokens = (
        module.step
        * settings.batch_size
        * settings.context
        * settings.accumulate
        * settings.devices
        * settings.num_nodes
    )
    return {
        "model": name,
        "steps": module.step,
        "tokens": tokens,
        "seconds": round(module.seconds, 3),
        "tokens_per_second": tokens / module.seconds if module.seconds else None,
        "parameters": sum(p.numel() for p in build_model(name, model_config(config, name)).parameters()),
        "skipped_steps": module.skipped,
        "best_val_loss": module.best,
        "best_val_bits_per_base": module.best / math.log(2),
        "seed": config.seed,
        "store": store.sha256,
        "hardware": hardware(),
        "versions": versions() | {"lightning": L.__version__},
    }


def _identity(config: Config, store: TokenStore, name: str) -> dict[str, Any]:
    """Every setting that a resumed run must share with the run that it resumes."""
    train_settings = {k: v for k, v in config.train.model_dump(mode="json").items() if k not in _FREE}
    sections = {"model": model_config(config, name).model_dump(mode="json"), "train": train_settings}
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    weights = {source.label: source.weight for source in config.data.sources}
    return {
        "class": name,
        "seed": config.seed,
        "token store": store.sha256,
        "data.sources weight": weights,
        **flat,
    }


def _resumable(last: Path, identity: dict[str, Any], max_steps: int) -> dict[str, Any] | None:
    """The state in ``last`` when this run can go on from it; None to start anew.

    A finished run of another config is started anew; an unfinished one is somebody's hours, so that is an error.
    """
    if not last.is_file():
        return None
    try:
        state = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["titans_genomics"]
        theirs = state["identity"]
    except Exception as error:
        raise ValueError(
            f"{last}: not a readable checkpoint of this program ({type(error).__name__}); delete it to train from the start"
        ) from None
    differing = sorted(key for key in {*identity, *theirs} if identity.get(key) != theirs.get(key))
    if not differing:
        return state
    if state["step"] >= theirs.get("train.max_steps", max_steps):
        return None
    shown = "\n".join(f"  {key}: {theirs.get(key)!r} in the checkpoint, {identity.get(key)!r} now" for key in differing)
    raise ValueError(
        f"{last}: the checkpoint of an unfinished run (step {state['step']}) with another config:\n{shown}\n"
        "Give the new config a run name of its own, or set these back to go on, or delete the checkpoint to train from the start."
    )


def compile_kernels(model: nn.Module, say: Callable[[str], None]) -> None:
    """Read two tokens forward and backward: what takes half a minute the first time on a processor is done, and said, now."""
    note = threading.Timer(
        3.0, say, ["compiling kernels for this processor, up to a minute; later runs find them ready"]
    )
    note.daemon = True
    note.start()
    logits, _ = model(torch.zeros(1, 2, dtype=torch.int64))
    logits.sum().backward()
    model.zero_grad(set_to_none=True)
    note.cancel()


def _devices(config: Config) -> dict[str, Any]:
    """Trainer arguments for the devices, or a ValueError that says what this machine lacks."""
    settings = config.train
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    accelerator = settings.accelerator if settings.accelerator != "auto" else ("gpu" if gpus else "cpu")
    if accelerator == "gpu" and not gpus:
        raise ValueError("train.accelerator is gpu, but PyTorch sees no GPU here: set train.accelerator to auto or cpu")
    if accelerator == "gpu" and settings.devices > gpus:
        raise ValueError(
            f"train.devices is {settings.devices}, but this machine has {gpus} GPU(s): lower train.devices"
        )
    if settings.strategy == "fsdp" and accelerator != "gpu":
        raise ValueError(
            "train.strategy fsdp shards a model over GPUs, and this run is on the CPU: set train.strategy to ddp (or auto), "
            "or run it where there are GPUs"
        )
    strategy: Any = settings.strategy
    several = settings.devices * settings.num_nodes > 1
    if strategy == "auto" and several:
        strategy = "ddp"
    if strategy == "ddp":
        strategy = DDPStrategy(
            process_group_backend="nccl" if accelerator == "gpu" else "gloo", timeout=timedelta(minutes=30)
        )
    elif strategy == "fsdp":
        blocks = {
            type(item)
            for part in build_model("titans", config.model).modules()
            if isinstance(part, nn.ModuleList)
            for item in part
        }
        strategy = FSDPStrategy(auto_wrap_policy=ModuleWrapPolicy(blocks), use_orig_params=True, state_dict_type="full")
    return {
        "accelerator": accelerator,
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": strategy,
        "plugins": _starter(settings),
    }


def _starter(settings: TrainConfig) -> LightningEnvironment | None:
    """Who starts the processes of several devices. None: whoever Lightning finds, this process when there is nobody.

    In a SLURM job Lightning takes it that srun has started one task per device, and would go on with one device of
    several in a job of one task, as the jobs of the SLURM profile are.
    """
    wanted, tasks = settings.devices * settings.num_nodes, int(os.environ.get("SLURM_NTASKS", "0"))
    if wanted == 1 or tasks in (0, wanted):
        return None
    if tasks == 1 and settings.num_nodes == 1:
        return LightningEnvironment()
    raise ValueError(
        f"train.devices x train.num_nodes is {wanted}, but this SLURM job has {tasks} task(s): start one task per device, for "
        "example with `srun --ntasks-per-node`, or one task on a single node"
    )


def precision_of(config: Config, accelerator: str) -> Any:
    """bf16-mixed where a GPU has it, unless the config says otherwise."""
    if config.train.precision != "auto":
        return config.train.precision
    return (
        "bf16-mixed" if accelerator == "gpu" and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    )


def _quiet() -> None:
    """Silence what a user of this program cannot act on."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*(num_workers|log_every_n_steps|isinstance\(treespec).*")
