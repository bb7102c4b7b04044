"""The public repeat-copy benchmark `recall-bench` on trained models: how far back does an exact earlier copy of a sequence help?

A segment of held-out sequence is repeated after `distance` bases. The copy advantage is the cross-entropy of its last occurrence where
something else stood before the gap, minus that where the segment itself did, nats per base, on the identical bases.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from titans_genomics.config import Config
from titans_genomics.data.alphabet import decode, encode
from titans_genomics.data.store import TokenStore
from titans_genomics.files import write_json
from titans_genomics.progress import Progress
from titans_genomics.tasks.haystack import Background
from titans_genomics.training import check_model, load_model, with_vocabulary

PACKAGE = "recall-bench"


def recall(
    config: Config,
    store: Path,
    models: dict[str, Path],
    out: Path,
    distances: tuple[int, ...] = (64, 256, 1024, 4096, 16_384, 65_536),
    trials: int = 32,
    segment: int = 256,
) -> dict[str, Any]:
    """Run recall-bench on trained models and write its rows as JSON.

    Parameters
    ----------
    config : Config
        The run; source and piece stand in ``config.needle``.
    store : Path
        Token store folder, nucleotide tokens; its test split is the background.
    models : dict
        Name to the output folder of ``train``.
    out : Path
        The JSON file to write.
    distances : tuple of int
        Bases between the two copies.
    trials : int
        Pairs of windows per distance, two or more.
    segment : int
        Bases of the copied segment.

    Returns
    -------
    dict
        ``package``, ``version``, ``segment``, ``trials``, ``split``, ``source``; ``models``: name to the rows of the package (``dist``,
        ``copy_advantage`` in nats per base, ``ci_lo``, ``ci_hi``, ``bg_contiguous``: whether the background is of one piece, ...).

    Raises
    ------
    FileNotFoundError, ValueError
        When the package is not installed; when there is no model, or it comes from another config or token store; when tokens are not
        bases or the split is empty.
    """
    try:
        import recall_bench
    except ImportError:
        raise ValueError(f"{PACKAGE} is not installed: pip install {PACKAGE}") from None
    if trials < 2 or segment < 1 or not distances or min(distances) < 1:
        raise ValueError(f"{PACKAGE}: two trials or more, and a segment and distances of at least one base are needed")
    tokens = TokenStore(store)
    config = with_vocabulary(config, tokens)
    for folder in models.values():
        check_model(config, tokens, Path(folder))
    sequence = Background(tokens, "test", config.needle.source)
    background = recall_bench.DNABackground.from_strings([decode(block) for block in sequence.blocks()])
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    rows: dict[str, Any] = {}
    for name, folder in models.items():
        model = load_model(folder, device)
        with Progress(None, "bases", f"{PACKAGE}, {name}") as progress:
            wrapped = recall_bench.CallableModel(
                Streamed(model, config.needle.piece, progress),
                lambda text: encode(text).tolist(),
                max_ctx=2**62,
                name=name,
                device=str(device),
            )
            rows[name] = recall_bench.evaluate(
                wrapped, distances, seg=segment, trials=trials, seed=config.seed, background=background, verbose=False
            )
    result = {
        "package": PACKAGE,
        "version": importlib.metadata.version(PACKAGE),
        "segment": segment,
        "trials": trials,
        "split": sequence.split,
        "source": sequence.source,
        "models": rows,
    }
    write_json(Path(out), result)
    return result


class Streamed:
    """Logits (1, T, V) float32 of tokens (1, T) int64, read ``piece`` tokens at a time: only the logits grow with T."""

    def __init__(self, model: Any, piece: int, progress: Progress) -> None:
        self.model, self.piece, self.progress = model, piece, progress

    @torch.inference_mode()
    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        logits, state = [], None
        for part in tokens.split(self.piece, dim=1):
            now, state = self.model(part, state)
            logits.append(now)
            self.progress.update(part.shape[1])
        return torch.cat(logits, dim=1)
