"""Titans: embedding, a stack of blocks, a head over the vocabulary; and a Transformer of the same size beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from titans_genomics.config import TitansConfig
from titans_genomics.models.blocks import LMM, MAC, MAG, MAL, Block, CausalAttention, RMSNorm
from titans_genomics.models.memory import NeuralMemory
from titans_genomics.models.pieces import in_pieces
from titans_genomics.models.recurrent import DiagonalRecurrence, GatedDeltaNet
from titans_genomics.models.state import State, as_documents
from titans_genomics.ops.linear import Linear

MIXERS = {
    "lmm": LMM,
    "mac": MAC,
    "mag": MAG,
    "mal": MAL,
    "transformer": CausalAttention,
    "gated_deltanet": GatedDeltaNet,
    "diagonal": DiagonalRecurrence,
}


class LanguageModel(nn.Module):
    """Embedding, blocks, final norm, head. Causal, and recurrent through its state.

    Attributes
    ----------
    checkpoint_activations : bool, default False
        Training keeps only the input of each block and computes the rest again, piece by piece: less memory,
        more time. Inputs longer than `pieces.LONG` tokens are always read so.
    """

    checkpoint_activations = False

    def __init__(self, config: TitansConfig, mixer: type[nn.Module], hidden: int):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(mixer(config), config.d_model, hidden) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model)
        self.head = Linear(config.d_model, config.vocab_size)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            for block in self.blocks:
                block.feed_forward.to_output.weight.mul_((2 * config.n_layers) ** -0.5)

    def begin(self, batch: int) -> State:
        """The state before the first token of `batch` sequences."""
        return State([block.mixer.begin(batch) for block in self.blocks])

    def embed(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Final hidden states (B, T, D) of tokens (B, T) int64, and the state after them."""
        self.check(tokens, state)
        return self.read(self.embedding(tokens), state)

    def read(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Final hidden states (B, T, D) of what stands for tokens, x (B, T, D), and the state after it."""
        after = []
        for block, before in zip(self.blocks, state.blocks if state else [None] * len(self.blocks), strict=True):
            x, now = in_pieces(block, x, before, always=self.checkpoint_activations)
            after.append(now)
        return self.norm(x), State(after)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits of the next token.

        Parameters
        ----------
        tokens : (B, T) int64, T > 0, ids in [0, vocab_size)
        state : what an earlier call returned after the tokens just before these; None: the beginning

        Returns
        -------
        logits : (B, T, vocab_size) float32
        state : State after token T; any split of a sequence into pieces gives the same logits

        Raises
        ------
        ValueError
            When tokens or state do not fit the model.
        """
        x, state = self.embed(tokens, state)
        logits = self.head(x)
        return logits if logits.dtype == torch.float64 else logits.float(), state

    def packed(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """Logits (B, T, vocab_size) of rows that hold several documents, each read with a memory of its own.

        tokens (B, T) int64; starts (B, T) bool, True at the first token of every document; the first token of a row
        always starts one. The result is that of reading each document alone. Cost and memory are those of a batch in which every document
        is as long as the longest.
        """
        if starts.shape != tokens.shape or starts.dtype != torch.bool:
            raise ValueError(f"starts must be {tuple(tokens.shape)} bool, got {starts.dtype} {tuple(starts.shape)}")
        padded, place = as_documents(tokens, starts)
        logits, _ = self(padded)
        return logits.flatten(0, 1)[place]

    def check(self, tokens: Tensor, state: State | None) -> None:
        """Raise ValueError when tokens or state do not fit."""
        if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.shape[1] == 0:
            raise ValueError(f"tokens must be (B, T) int64 with T > 0, got {tokens.dtype} {tuple(tokens.shape)}")
        if state is not None:
            if len(state.blocks) != len(self.blocks):
                raise ValueError(
                    f"state has {len(state.blocks)} blocks, the model has {len(self.blocks)}: it is another model's"
                )
            if state.batch != tokens.shape[0]:
                raise ValueError(f"state is of a batch of {state.batch}, tokens of {tokens.shape[0]}")

    def statistics(self) -> dict[str, Tensor]:
        """Means of the gates and the like of the last forward pass in training mode: "alpha/0" is alpha of block 0."""
        figures = {}
        for index, block in enumerate(self.blocks):
            for name, value in getattr(getattr(block.mixer, "memory", None), "statistics", {}).items():
                figures[f"{name}/{index}"] = value
        return figures

    def watch(self, on: bool = True) -> None:
        """Debugging: from now on a memory that becomes NaN or infinite raises ValueError naming layer, head and token."""
        for index, block in enumerate(self.blocks):
            for module in block.modules():
                if isinstance(module, NeuralMemory):
                    module.watched = index if on else None

    def no_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone: all but the matrices of linear layers; also the gates."""
        gates = {id(m.to_gates.weight) for m in self.modules() if isinstance(m, NeuralMemory | GatedDeltaNet)}
        decayed = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)} - gates
        return {name for name, parameter in self.named_parameters() if id(parameter) not in decayed}

    def parameter_count(self) -> int:
        """Number of learned parameters."""
        return sum(p.numel() for p in self.parameters())


class Titans(LanguageModel):
    """The model of a `TitansConfig`, baselines among them: `logits, state = model(tokens, state=None)`."""

    def __init__(self, config: TitansConfig):
        super().__init__(config, MIXERS[config.variant], round(config.ff_expansion * config.d_model))


class Transformer(LanguageModel):
    """A Transformer of the width, depth, heads and (within 1%) parameter count of `Titans(config)`.

    Rotary causal attention over the last `config.window` tokens; the wider SwiGLU makes up for the parameters
    that the memory would have.
    """

    def __init__(self, config: TitansConfig):
        with torch.device("meta"):
            wanted = Titans(config).parameter_count()
            narrow = LanguageModel(config, CausalAttention, 1).parameter_count()
        more = round((wanted - narrow) / (3 * config.d_model * config.n_layers))
        super().__init__(config, CausalAttention, 1 + max(0, more))


def with_parameters(config: TitansConfig, wanted: int) -> TitansConfig:
    """The config of a Titans model whose SwiGLU is as wide as it takes for ``wanted`` parameters, to half a column of each block.

    Raises ValueError when the rest of the model alone has more than ``wanted``.
    """
    column = 3 * config.d_model * config.n_layers
    with torch.device("meta"):
        narrow = Titans(config.model_copy(update={"ff_expansion": 1 / config.d_model})).parameter_count()
    hidden = 1 + round((wanted - narrow) / column)
    if hidden < 1:
        raise ValueError(f"has {narrow:,} parameters without its SwiGLU, {wanted:,} are wanted")
    return config.model_copy(update={"ff_expansion": hidden / config.d_model})
