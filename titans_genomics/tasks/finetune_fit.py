"""The loop that trains a network on labelled sequences: seeded, stopped early, resumable after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from titans_genomics.data.labelled import Labelled
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.files import replacing
from titans_genomics.models.classifier import CNN, Network
from titans_genomics.progress import Progress
from titans_genomics.tasks.metrics import metrics_of
from titans_genomics.tasks.sequences import Strands, batches, encoded, padded, predict, token_budget
from titans_genomics.training.logs import say


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    ``warmup``: share of the steps in which the learning rate rises, then it falls to 0 (cosine); None: it stays ``lr``.
    ``clip``: largest gradient norm; None: any. ``bf16``: products in bfloat16 (GPU). ``max_nonfinite``: steps in a row.
    """

    lr: float
    batch_size: int
    epochs: int
    patience: int
    warmup: float | None
    weight_decay: float
    betas: tuple[float, float]
    clip: float | None
    max_nonfinite: int
    strands: Strands
    seed: int
    bf16: bool

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` (from 0) of ``steps``."""
        if self.warmup is None:
            return self.lr
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def optimiser(network: Network, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay only where ``network.no_decay()`` does not forbid it."""
    plain = network.no_decay()
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[name in plain].append(parameter)
    decays = (schedule.weight_decay, 0.0)
    chosen = [{"params": own, "weight_decay": decay} for own, decay in zip(groups, decays, strict=True) if own]
    return torch.optim.AdamW(chosen, lr=schedule.lr, betas=schedule.betas, fused=True)


def trained_weights(network: Network) -> dict[str, Tensor]:
    """What a fit changes, on the CPU: trained parameters, and buffers. Frozen weights stay in the file they came from."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    trained |= {name for name, _ in network.named_buffers()}
    return {name: value.detach().cpu() for name, value in network.state_dict().items() if name in trained}


def loss_of(task: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of outputs (B, outputs): cross-entropy of class numbers (B,), binary cross-entropy of several labels, or squared error.

    Of regression both are in units of the training targets' spread.
    """
    if task == "classification":
        return F.cross_entropy(outputs, targets)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(outputs, targets)
    return F.mse_loss(outputs, targets)


class Fitting:
    """One network on its way; what it was after an epoch, and after the best one, is in ``out/last.ckpt``.

    ``out/model.safetensors`` is written at the end only: a workflow removes the outputs of a job that was killed.
    Order, strands and dropout of an epoch follow from the seed and its number, so a process that goes on after an epoch does
    what the one before it would have done.

    Attributes
    ----------
    history : list of dict
        Of every epoch: epoch (from 1), loss, validation, seconds.
    best : dict of Tensor
        What `trained_weights` gave after the best epoch.
    best_epoch : int
        That of the best validation metric; of equal ones, or where it is not defined, that of the lower validation loss. 0: none yet.
    trained_seconds : float
        Time of training alone, all processes together.
    steps, skipped : int
        Optimiser steps, and those of them that were skipped because loss or gradient was not finite.
    """

    def __init__(
        self,
        network: Network,
        data: Labelled,
        train: np.ndarray,
        validation: np.ndarray,
        tokenizer: Tokenizer | None,
        schedule: Schedule,
        identity: dict[str, Any],
        device: torch.device,
        out: Path,
        what: str = "training",
    ) -> None:
        self.network, self.data, self.tokenizer, self.schedule = network.to(device), data, tokenizer, schedule
        self.train, self.validation = np.asarray(train), np.asarray(validation)
        self.identity, self.device, self.out, self.what = identity, device, out, what
        self.optimizer = optimiser(network, schedule)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = self.steps = self.skipped = self.skipped_in_a_row = 0
        self.trained_seconds = self.seconds = 0.0
        self.per_epoch = -(-len(self.train) // schedule.batch_size)
        self.whole = isinstance(network, CNN)  # batch normalisation sees a whole batch; the strand is that given

    @property
    def finished(self) -> bool:
        """Whether no epoch is left, or the last ones were not better than one before them."""
        done = len(self.history)
        return done >= self.schedule.epochs or (done > 0 and done - self.best_epoch >= self.schedule.patience)

    def run(self, log: Callable[[dict[str, float], int], None]) -> None:
        """Train until finished, and write the weights of the best epoch. ``log(figures, epoch)`` is called after every epoch.

        Raises
        ------
        ValueError
            Too many steps in a row were not finite, or the network's answers of no epoch were.
        """
        schedule, done = self.schedule, len(self.history)
        with Progress(schedule.epochs * len(self.train), "sequences", self.what) as progress:
            progress.resume_at(done * len(self.train))
            while not self.finished:
                row = self.epoch(len(self.history) + 1, progress)
                validation, loss = row["validation"], row["loss"]
                figures = {f"validation/{key}": value for key, value in validation.items()}
                log(figures if loss is None else {"loss": loss, **figures}, row["epoch"])
                trained = "not finite" if loss is None else f"{loss:.4f}"
                shown = ", ".join(
                    f"{key} {validation[key]:.4f}" for key in (self.data.metric, "loss") if key in validation
                )
                say(f"epoch {row['epoch']} of {schedule.epochs}: loss {trained}; validation {shown or 'not finite'}")
        if not self.best_epoch:
            raise ValueError(
                f"{self.out}: after none of {len(self.history)} epochs were the answers finite: lower "
                f"downstream.finetune.lr (now {schedule.lr:g}), or set train.precision to 32-true"
            )
        with replacing(self.out / "model.safetensors") as temporary:
            temporary.write_bytes(save(self.best))

    def epoch(self, number: int, progress: Progress) -> dict[str, Any]:
        """Train for one epoch, validate, keep what came out."""
        schedule, size = self.schedule, self.schedule.batch_size
        started = time.monotonic()
        rng = np.random.default_rng([schedule.seed, number])
        torch.manual_seed(int(rng.integers(2**63)))  # of dropout
        order = rng.permutation(self.train)
        turned = (rng.random(len(order)) < 0.5) & (schedule.strands == "both" and not self.whole)
        self.network.train()
        total, counted = 0.0, 0
        for first in range(0, len(order), size):
            batch = slice(first, first + size)
            loss = self.step(order[batch], turned[batch])
            if math.isfinite(loss):
                total, counted = total + loss * len(order[batch]), counted + len(order[batch])
            progress.update(len(order[batch]), note=f"epoch {number} of {schedule.epochs}, loss {loss:.3f}")
        trained = time.monotonic() - started
        validation = self.validate()
        row = {
            "epoch": number,
            "loss": total / counted if counted else None,
            "validation": validation,
            "seconds": round(time.monotonic() - started, 3),
        }
        self.history.append(row)
        if validation and (not self.best_epoch or self._rank(row) > self._rank(self.history[self.best_epoch - 1])):
            self.best_epoch = number
            self.best = {name: value.clone() for name, value in trained_weights(self.network).items()}
        self.trained_seconds += trained
        self.seconds += time.monotonic() - started
        self.save()
        return row

    def _rank(self, row: dict[str, Any]) -> tuple[float, float]:
        """Larger is better: the headline metric, then the loss."""
        validation = row["validation"]
        return validation.get(self.data.metric, -math.inf), -validation["loss"]

    def step(self, rows: np.ndarray, turned: np.ndarray) -> float:
        """One optimiser step; the mean loss of its sequences. Not finite: weights and moments stay."""
        sequences: list[np.ndarray] = [np.empty(0)] * len(rows)
        for strand in np.unique(turned).tolist():
            places = np.flatnonzero(turned == strand)
            for place, tokens in zip(places, encoded(self.data, rows[places], self.tokenizer, strand), strict=True):
                sequences[place] = tokens
        lengths = np.array([len(tokens) for tokens in sequences])
        parts = [np.arange(len(rows))] if self.whole else batches(lengths, self._budget())
        total = torch.zeros((), device=self.device)
        for part in parts:
            tokens_BT, lengths_B = (x.to(self.device) for x in padded([sequences[i] for i in part]))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.bf16):
                outputs = self.network(tokens_BT, lengths_B)
            loss = loss_of(self.data.task, outputs, self._targets(rows[part])) * (len(part) / len(rows))
            loss.backward()
            total += loss.detach()
        self._apply(float(total))
        return float(total)

    def _budget(self) -> int:
        """Tokens that are trained on together: fewer of a larger model, whose activations take more memory."""
        size = self.network.backbone.config.d_model * self.network.backbone.config.n_layers  # type: ignore[union-attr]
        return max(1, min(token_budget(self.device), token_budget(self.device) * 256 // size))

    def _targets(self, rows: np.ndarray) -> Tensor:
        targets = torch.from_numpy(self.data.targets[rows]).to(self.device)
        if self.data.task == "regression":
            return (targets - self.network.center) / self.network.scale
        return targets

    def _apply(self, loss: float) -> None:
        """Clip, set the learning rate, move the weights; or skip, count and say so."""
        schedule = self.schedule
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        rate = schedule.rate(self.steps, schedule.epochs * self.per_epoch)
        self.steps += 1
        if math.isfinite(loss) and math.isfinite(norm):
            self.skipped_in_a_row = 0
            if schedule.clip is not None and norm > schedule.clip:
                torch._foreach_mul_(gradients, schedule.clip / norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
            cause = f"the loss is {loss:.4g} and the gradient norm {norm:.4g}"
            if self.skipped_in_a_row >= schedule.max_nonfinite:
                raise ValueError(
                    f"{self.out}: training stopped, {self.skipped_in_a_row} steps in a row were not finite, the last at step "
                    f"{self.steps} (learning rate {rate:.3g}): {cause}. Lower downstream.finetune.lr or model.theta_max, or "
                    "set train.precision to 32-true"
                )
            if self.skipped <= 20:
                say(f"step {self.steps} skipped, weights unchanged: {cause}")
        self.optimizer.zero_grad()

    def validate(self) -> dict[str, float]:
        """Metrics and loss on validation; empty when the network's answers are not finite."""
        scores = predict(self.network, self.data, self.validation, self.tokenizer, self.schedule.strands, self.device)
        if not np.isfinite(scores).all():
            return {}
        targets = self.data.targets[self.validation]
        outputs = torch.from_numpy(scores).to(self.device)
        if self.data.task == "regression":
            outputs = (outputs - self.network.center) / self.network.scale
        loss = float(loss_of(self.data.task, outputs, self._targets(self.validation)))
        metrics = {key: float(value) for key, value in metrics_of(self.data.task, scores, targets).items()}
        return {key: value for key, value in metrics.items() if math.isfinite(value)} | {"loss": loss}

    def save(self) -> None:
        """Write ``last.ckpt``, whole or not at all."""
        state = {
            "identity": self.identity,
            "weights": trained_weights(self.network),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in _KEPT},
        }
        with replacing(self.out / "last.ckpt") as temporary:
            torch.save(state, temporary)

    def resume(self) -> bool:
        """Go on from ``last.ckpt``; False when there is none that this fit could go on from."""
        path = self.out / "last.ckpt"
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            if state["identity"] != self.identity:
                say(f"{path}: comes from other settings; training begins anew")
                return False
            self.network.load_state_dict(state["weights"], strict=False)
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = {name: value.cpu() for name, value in state["best"].items()}
            for name in _KEPT:
                setattr(self, name, state[name])
        except Exception as error:
            raise ValueError(f"{path}: not a readable checkpoint ({type(error).__name__}); delete it") from None
        return True


_KEPT = ("history", "best_epoch", "steps", "skipped", "skipped_in_a_row", "trained_seconds", "seconds")
