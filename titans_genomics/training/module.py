"""The LightningModule: loss, optimiser groups, schedule, and the step that skips what is not finite.

Axes: B windows, T tokens of the context, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from titans_genomics.config import TrainConfig, parse_config
from titans_genomics.data.alphabet import EOS
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.data.windows import MASKED
from titans_genomics.training.export import build_model, model_config
from titans_genomics.training.logs import say
from titans_genomics.training.loss import BASES, next_token_nll, scored_bases


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of optimiser step ``step`` (0 is the first): linear warm-up, then a cosine from ``lr`` to ``min_lr * lr``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.max_steps - 1 - config.warmup)
    return config.lr * (config.min_lr + (1 - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class StepOrder:
    """Window numbers of each batch: a function of (batch, rank) alone, so that a resumed run sees what it would have seen.

    Batch b of rank r among w ranks holds stretches (b w + r) B ... (b w + r) B + B - 1, each of one window. With ``carry`` = n,
    a stretch is n windows, and the a batches of n optimiser steps read a w B stretches side by side.
    """

    def __init__(
        self, first: int, stop: int, size: int, rank: int, world: int, accumulate: int = 1, carry: int = 1
    ) -> None:
        self.first, self.stop, self.size, self.rank, self.world = first, stop, size, rank, world
        self.accumulate, self.carry = accumulate, carry

    def __len__(self) -> int:
        return max(0, self.stop - self.first)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first, self.stop):
            step, micro = divmod(batch, self.accumulate)
            turn, part = divmod(step, self.carry)
            start = ((turn * self.accumulate + micro) * self.world + self.rank) * self.size
            yield [stretch * self.carry + part for stretch in range(start, start + self.size)]


class NextToken(L.LightningModule):
    """Next-token training of a model on windows of a token store.

    Parameters
    ----------
    settings : dict
        A whole config as plain values (``Config.model_dump(mode="json")``), kept in the checkpoint.
    name : str
        Which of the run's models: "titans", "transformer" or a name in ``compare``.

    Attributes
    ----------
    step : int
        Optimiser steps done, skipped ones included; with the seed and the rank it fixes the data that comes next.
    skipped : int
        Steps skipped because the loss or a gradient was not finite.
    """

    def __init__(self, settings: dict[str, Any], name: str = "titans") -> None:
        super().__init__()
        self.save_hyperparameters()
        config = parse_config(settings, "the checkpoint's config")
        self.settings: TrainConfig = config.train
        self.model = build_model(name, model_config(config, name))
        self.model.checkpoint_activations = config.train.checkpoint
        self.model.watch(config.train.watch)
        self.windows: Dataset[Tensor] | None = None
        self.bases: Tensor
        self.register_buffer("bases", BASES.clone(), persistent=False)
        self.eos = EOS
        self.identity: dict[str, Any] = {}
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.best = math.inf
        self.seconds = 0.0
        self.loss = self.gradient_norm = math.nan
        self._losses: list[Tensor] = []
        self._carried: dict[int, Any] = {}  # batch of an optimiser step -> the state after its windows

    # ------------------------------------------------------------------------------------------ data

    def read_tokens_of(self, tokenizer: Tokenizer) -> None:
        """From now on tokens are those of ``tokenizer``; without, they are nucleotides."""
        self.bases = scored_bases(tokenizer).to(self.bases.device)
        self.eos = tokenizer.eos

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches from the present step on, (B, T + 1) int64."""
        assert self.windows is not None
        batches = self.settings.accumulate
        order = StepOrder(
            self.step * batches,
            self.settings.max_steps * batches,
            self.settings.batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
            batches,
            self.settings.carry,
        )
        cuda = self.device.type == "cuda"
        return DataLoader(self.windows, batch_sampler=order, num_workers=2 if cuda else 0, pin_memory=cuda)  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------------ loss

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self._read(tokens_BT, None)[0]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood per scored token, nats; soft-masked ones weigh ``train.soft_mask_weight``.

        With ``train.documents`` "reset" every document of a window is read with a memory of its own. With ``train.carry`` the state of the step before goes on, unless a new stretch of the genome begins.

        With ``train.piece`` the windows are read in pieces (truncated back-propagation): the state goes on, its history
        does not. All pieces but the last are differentiated here, the last by Lightning; their gradients add up.
        """
        masked, batch = batch >= MASKED, batch % MASKED
        inputs, targets = batch[:, :-1], batch[:, 1:]
        bases = self.bases[targets]
        weights = (bases > 0).float()
        if self.settings.soft_mask_weight < 1:
            weights = torch.where(masked[:, 1:], self.settings.soft_mask_weight * weights, weights)
        scored = weights.sum().clamp(min=1e-6)
        piece = self.settings.piece or inputs.shape[1]
        pieces = zip(*(x.split(piece, dim=1) for x in (inputs, targets, weights)), strict=True)
        micro = len(self._losses)
        state = self._carried.pop(micro, None) if self.step % self.settings.carry else None
        loss, total = torch.zeros(()), torch.zeros((), device=batch.device)
        for number, (tokens, following, weight) in enumerate(pieces):
            if number:
                with torch.autocast(batch.device.type, enabled=False):
                    (loss / self.settings.accumulate).backward()
                state = state.detach()
            logits, state = self._read(tokens, state)
            nll = next_token_nll(logits, following, self.bases)
            loss = (nll * weight).sum() / scored
            total += nll.detach().sum() / bases.sum().clamp(min=1)
        self._losses.append(total)
        if self.settings.carry > 1:
            self._carried[micro] = state.detach()
        if self.settings.carry > 1 or self.settings.piece is not None:
            # processes share gradients in the last backward pass, so every parameter must take part in it: M_0 would not
            loss = loss + 0 * sum(p.sum() for p in self.model.parameters())
        return loss

    def _read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits (B, T, V) and the state after them; of documents each with a memory of its own there is none."""
        if self.settings.documents == "join":
            return self.model(tokens, state)
        starts = F.pad(tokens[:, :-1] == self.eos, (1, 0), value=True)
        return self.model.packed(tokens, starts), None

    def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Sum of the negative log-likelihood (nats) and scored bases, (2,) float64."""
        targets = batch[:, 1:]
        nll = next_token_nll(self(batch[:, :-1]), targets, self.bases)
        return torch.stack([nll.sum(dtype=torch.float64), self.bases[targets].sum(dtype=torch.float64)])

    # ----------------------------------------------------------------------------------------- steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weight decay only for the parameters that ``model.no_decay()`` does not name."""
        plain = self.model.no_decay()
        groups: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups[name.replace("_fsdp_wrapped_module.", "") in plain].append(parameter)
        settings = self.settings
        return torch.optim.AdamW(
            [
                {"params": parameters, "weight_decay": decay}
                for parameters, decay in zip(groups, (settings.weight_decay, 0.0), strict=True)
                if parameters
            ],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One optimiser step, unless the loss or a gradient is not finite on any device: then weights and moments stay.

        The gradients are clipped here, because their norm is needed for the check anyway.

        Raises
        ------
        ValueError
            After ``train.max_nonfinite`` skipped steps in a row, with the cause.
        """
        assert optimizer_closure is not None
        closure_result = optimizer_closure()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss = torch.stack(self._losses).mean()
        self._losses.clear()
        self.loss, self.gradient_norm = self._agree(loss, torch.nn.utils.get_total_norm(gradients).to(loss))
        rate = learning_rate(self.settings, self.step)
        self.step += 1
        if not (math.isfinite(self.loss) and math.isfinite(self.gradient_norm)):
            self._skip(optimizer, rate)
            return
        self.skipped_in_a_row = 0
        if gradients and self.gradient_norm > self.settings.clip:
            torch._foreach_mul_(gradients, self.settings.clip / self.gradient_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        super().optimizer_step(epoch, batch_idx, optimizer, lambda: closure_result)
        optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Nothing: Lightning asks for it after `training_step`, which may have left gradients of pieces already."""

    def _agree(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """Mean loss and gradient norm over all devices: one NaN anywhere makes it NaN everywhere."""
        pair = torch.stack([loss.double(), norm.double() ** 2])
        if self.trainer.world_size > 1:
            dist.all_reduce(pair)
            sharded = self.trainer.strategy.__class__.__name__.startswith("FSDP")
            pair /= pair.new_tensor([self.trainer.world_size, 1 if sharded else self.trainer.world_size])
        mean, squared = pair.tolist()
        return mean, math.sqrt(squared) if squared >= 0 else math.nan

    def _skip(self, optimizer: Any, rate: float) -> None:
        """Count and report a step that is not finite; stop after too many in a row."""
        named = [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        optimizer.zero_grad()
        self._carried.clear()  # what was read may be what went wrong: go on with an empty memory
        self.skipped += 1
        self.skipped_in_a_row += 1
        if not math.isfinite(self.loss):
            cause = f"the loss is {self.loss}"
        else:
            cause = f"the loss is {self.loss:.4g} but the gradient norm is {self.gradient_norm}"
        if named:
            cause += (
                f"; gradients that are not finite: {len(named)}, first {named[0].replace('_fsdp_wrapped_module.', '')}"
            )
        if self.skipped_in_a_row >= self.settings.max_nonfinite:
            raise ValueError(
                f"training stopped: {self.skipped_in_a_row} steps in a row were not finite, the last at step {self.step} "
                f"(learning rate {rate:.3g}): {cause}{self._inner_step()}. Lower train.lr or model.theta_max, lengthen train.warmup, "
                "or set train.precision to 32-true; last.ckpt holds the run before it went wrong."
            )
        if self.trainer.is_global_zero and self.skipped <= 20:
            say(f"step {self.step} skipped, weights unchanged: {cause}")

    def _inner_step(self) -> str:
        """The largest inner step of the memory, for the cause of a failure."""
        steps = {k: float(v) for k, v in self.model.statistics().items() if k.startswith("inner_step")}
        if not steps:
            return ""
        layer = max(steps, key=lambda key: steps[key] if math.isfinite(steps[key]) else math.inf)
        return f"; largest inner step of the memory {steps[layer]:.3g} in layer {layer.split('/')[1]}"

    # ----------------------------------------------------------------------------------- checkpoints

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._started = time.monotonic() - self.seconds

    def clock(self) -> float:
        """Seconds of training so far, those of earlier processes of the same run included."""
        self.seconds = time.monotonic() - self._started
        return self.seconds

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run needs; the position in the data is ``step``, not Lightning's loop counters."""
        checkpoint.pop("loops", None)
        checkpoint["titans_genomics"] = {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "best": self.best,
            "seconds": self.clock(),
            "identity": self.identity,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the checkpoint was saved."""
        state = checkpoint["titans_genomics"]
        for key in ("step", "skipped", "skipped_in_a_row", "best", "seconds"):
            setattr(self, key, state[key])
