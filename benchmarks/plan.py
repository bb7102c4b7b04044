"""What a run consists of: groups of sides that are measured in turn, and the aims that their ratios stand beside."""

from __future__ import annotations

from typing import Any, NamedTuple

SHORT, LONG, ONE_STEP, FAR, STREAM = 4_096, 65_536, 131_072, 1_048_576, 2_097_152
QUICK = {SHORT: 2_048, LONG: 8_192, ONE_STEP: 16_384, FAR: 65_536, STREAM: 131_072}  # lengths of `--quick`

# The same for every side. glibc takes large blocks from the system and gives them back at once unless told otherwise;
# every fresh page then costs a fault. "kept" lets it keep what it has.
ALLOCATORS = {
    "default": {},
    "kept": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 40),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(64 << 20),
    },
}

MEMORY = (
    "our memory",
    "titans-pytorch memory, default",
    "titans-pytorch memory, chunk by chunk",
    "mambapy Mamba",
)
MAC = ("our MAC", "titans-pytorch MAC, as shipped", "titans-pytorch MAC, one stream")
BLOCK = ("our LMM block", "Transformer block")
CHUNKS = (16, 32, 64, 128, 256, 512, 1024)
VARIANTS = ("lmm", "mac", "mag", "mal")


class Group(NamedTuple):
    """Sides that are measured in turn (A B C A B C ...), each time in a process of its own.

    `patience`: a side whose measurements took longer than this many seconds together is not measured again.
    """

    name: str
    sides: tuple[str, ...]
    spec: dict[str, Any]  # kind, tokens, ...
    allocators: tuple[str, ...] = ("default", "kept")
    rounds: int = 2
    patience: float = 45.0


class Aim(NamedTuple):
    """Ours against a peer: at least `speed` times the tokens per second, at most 1 / `memory` of the peak memory."""

    ours: str
    peer: str
    group: str
    speed: float | None
    memory: float | None = None


def groups(quick: bool) -> list[Group]:
    """Everything, in the order in which it runs."""
    at = (lambda tokens: QUICK[tokens]) if quick else (lambda tokens: tokens)
    short, long, far, stream = at(SHORT), at(LONG), at(FAR), at(STREAM)
    # quick: one round; slow peers at the long length would take most of the time
    few = {"rounds": 1, "allocators": ("default",)} if quick else {}
    wait = {"patience": 20.0, **few}
    train = {"kind": "train", "seconds": 2.0 if quick else 3.0}
    reads = [4_096 * 4**i for i in range(10) if 4_096 * 4**i <= far]
    return [
        Group("rates", (), {"kind": "rates"}, rounds=1 if quick else 2, allocators=("default",)),
        Group("memory, short", MEMORY, {**train, "tokens": short}, **few),
        Group("MAC, short", MAC, {**train, "tokens": short}, **few),
        Group("block, short", BLOCK, {**train, "tokens": short}, **few),
        Group(
            "chunks",
            (*(f"our memory, chunk {b}" for b in CHUNKS), "titans-pytorch memory, default, chunk 128"),
            {**train, "tokens": short},
            ("default",),
            1 if quick else 2,
        ),
        Group("limit", ("our dual form", "our dual form, L = 1"), {**train, "tokens": short}, **few),
        Group(
            "decode",
            ("our memory", "titans-pytorch memory, default", "titans-unofficial memory"),
            {"kind": "decode", "after": [short], "count": 256},
            ("default",),
            1 if quick else 2,
        ),
        Group("memory, long", MEMORY, {**train, "tokens": long}, **wait),
        Group("MAC, long", MAC, {**train, "tokens": long}, **wait),
        Group("block, long", BLOCK, {**train, "tokens": long}, **wait),
        Group("one step", ("default model",), {**train, "tokens": at(ONE_STEP)}, ("default",), 1),
        Group(
            "decode, far", ("our memory",), {"kind": "decode", "after": [short, far], "count": 1024}, ("default",), 1
        ),
        *(
            Group(f"cost per token, {tokens}", ("our memory",), {"kind": "stream", "tokens": tokens}, ("default",), 1)
            for tokens in reads
        ),
        *(
            Group(f"stream, {tokens}", VARIANTS, {"kind": "stream", "tokens": tokens, **small}, ("default",), 1)
            for small in ({"width": 128, "heads": 2},)
            for tokens in (min(long, stream // 2), stream)
        ),
    ]


AIMS = [
    Aim("our memory", "titans-pytorch memory, default", "memory, short", 1.3),
    Aim("our memory", "titans-pytorch memory, default", "memory, long", 1.3, 5),
    Aim("our memory", "titans-pytorch memory, chunk by chunk", "memory, short", 4),
    Aim("our memory", "titans-pytorch memory, chunk by chunk", "memory, long", 10),
    Aim("our MAC", "titans-pytorch MAC, as shipped", "MAC, short", 2),
    Aim("our MAC", "titans-pytorch MAC, as shipped", "MAC, long", 3, 8),
    Aim("our MAC", "titans-pytorch MAC, one stream", "MAC, short", 1),
    Aim("our MAC", "titans-pytorch MAC, one stream", "MAC, long", 1.5),
    Aim("our LMM block", "Transformer block", "block, short", None),
    Aim("our LMM block", "Transformer block", "block, long", 6),
    Aim("our memory", "mambapy Mamba", "memory, short", 5),
    Aim("our memory", "mambapy Mamba", "memory, long", 5, 10),
    Aim("our memory", "titans-pytorch memory, default", "decode", 8),
    Aim("our memory", "titans-unofficial memory", "decode", 4),
]
FRACTION = 0.5  # of the machine's multiply rate, forward and forward + backward
GROWTH = 1.10  # largest cost per token at the longest length, in units of that at the shortest
FLAT = 1.10  # largest peak memory of the longest stream, in units of that of the short one
