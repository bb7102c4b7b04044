"""`models.LanguageModel` as models of transformers.

Axes: B rows of a batch, T tokens, D model width, V vocabulary. In ``attention_mask`` 0 is padding, at any place; it is never
read, and outputs there mean nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.utils import can_return_tuple

from titans_genomics.hf.cache import Read, TitansCache, real_places
from titans_genomics.hf.configuration import TitansPretrainedConfig
from titans_genomics.models import LanguageModel, State, Titans
from titans_genomics.models.pieces import LONG, PIECE, in_pieces
from titans_genomics.models.titans import Linear

MADE = "_is_hf_initialized"
"""The mark by which transformers knows weights that need no making."""


class TitansPreTrainedModel(PreTrainedModel):
    """What the models have in common."""

    config_class = TitansPretrainedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: modules make their own weights."""

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Weights that a checkpoint lacks become those of a new model."""
        missing = [name for name, weight in self.named_parameters() if not getattr(weight, MADE, False)]
        if missing:
            new = type(self)(self.config)
            for name in missing:
                self.get_parameter(name).copy_(new.get_parameter(name))

    def made(self) -> None:
        """To be called when the modules have made their weights."""
        for weight in self.parameters():
            if weight.device.type != "meta":
                setattr(weight, MADE, True)
        self.post_init()


def core(config: TitansPretrainedConfig) -> LanguageModel:
    """A new language model without its head."""
    model = Titans(config.shape)
    model.head = nn.Identity()
    return model


class TitansModel(TitansPreTrainedModel):
    """The model without a head: tokens in, final hidden states out."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^score\."]  # noqa: RUF012

    def __init__(self, config: TitansPretrainedConfig) -> None:
        super().__init__(config)
        self.core = core(config)
        self.gradient_checkpointing = False
        self.made()

    def get_input_embeddings(self) -> nn.Module:
        return self.core.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.core.embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: TitansCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: TitansCache | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Final hidden states.

        Parameters
        ----------
        input_ids : (B, T) int64, T > 0
        attention_mask : (B, T) or (B, earlier tokens + T), 0 where a token is padding; None: there is none
        cache : what an earlier call returned after the tokens just before these, which is changed; None: the beginning
        inputs_embeds : (B, T, D), instead of input_ids
        use_cache : return the state after the tokens; None: as the config says, and never in training
        output_hidden_states : return (B, T, D) of the embedding and after each block too, the last one normed
        past_key_values : another name of ``cache``

        Raises
        ------
        ValueError
            When not exactly one of input_ids and inputs_embeds is given, or they do not fit the mask or the cache.
        """
        cache = past_key_values if cache is None else cache
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if cache is not None and not isinstance(cache, TitansCache):
            raise ValueError(
                f"cache must be a TitansCache, got {type(cache).__name__}: the state of this model is its own"
            )
        x_BTD = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        real_BT = real_tokens(attention_mask, x_BTD)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        self.core.checkpoint_activations = self.gradient_checkpointing and self.training
        read = partial(self.in_turn, self.read_all if output_hidden_states else self.core.read)
        if cache is None and not use_cache:
            y = self.read_once(read, x_BTD, real_BT)
        else:
            cache = TitansCache(self.config.chunk) if cache is None else cache
            y = cache.read(read, x_BTD, real_BT)
        hidden = None
        if output_hidden_states:
            hidden = y.unbind(2)
            y = hidden[-1]
        return BaseModelOutputWithPast(last_hidden_state=y, cache=cache if use_cache else None, hidden_states=hidden)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings (B, T, D) of tokens; adapters and hooks of the layer take part."""
        if input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"input_ids must be (B, T) with T > 0, got {tuple(input_ids.shape)}")
        return self.core.embedding(input_ids)

    def in_turn(self, read: Read, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """`read`; long inputs piece by piece where no gradients are wanted, so that beside the outputs memory stays flat."""
        if torch.is_grad_enabled() or x.shape[1] <= LONG:
            return read(x, state)
        outputs = []
        for piece in x.split(PIECE, dim=1):
            y, state = read(piece, state)
            outputs.append(y)
        assert state is not None
        return torch.cat(outputs, dim=1), state

    def read_once(self, read: Read, x_BTD: Tensor, real_BT: Tensor | None) -> Tensor:
        """Outputs without a state afterwards: one pass, padding moved behind the tokens, where nothing that counts sees it."""
        if real_BT is None:
            return read(x_BTD, None)[0]
        places_BT, _ = real_places(real_BT)
        rows = torch.arange(len(x_BTD), device=x_BTD.device)[:, None]
        y = read(x_BTD[rows, places_BT], None)[0]
        back = torch.argsort(places_BT, dim=1)
        return y[rows, back].masked_fill(~real_BT[(..., *[None] * (y.dim() - 2))], 0)

    def read_all(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """What `LanguageModel.read` does, with the hidden states after every block: (B, T, blocks + 1, D)."""
        found, after = [x], []
        blocks = self.core.blocks
        for block, before in zip(blocks, state.blocks if state else [None] * len(blocks), strict=True):
            x, now = in_pieces(block, x, before, always=self.core.checkpoint_activations)
            found.append(x)
            after.append(now)
        return torch.stack([*found[:-1], self.core.norm(x)], dim=2), State(after)


def real_tokens(attention_mask: Tensor | None, x_BTD: Tensor) -> Tensor | None:
    """Which of the tokens are no padding, (B, T) bool; None where all are real. Raises ValueError for a mask that does not fit."""
    if attention_mask is None:
        return None
    B, T = x_BTD.shape[:2]
    if attention_mask.dim() != 2 or attention_mask.shape[0] != B or attention_mask.shape[1] < T:
        raise ValueError(
            f"attention_mask must be ({B}, {T} or more) with 0 at padding, got {tuple(attention_mask.shape)}"
        )
    real_BT = newest(attention_mask, x_BTD)
    return None if bool(real_BT.all()) else real_BT


def newest(attention_mask: Tensor, like_BT: Tensor) -> Tensor:
    """Where a mask has no padding, of the last T tokens, (B, T) bool on the device of a tensor (B, T, ...)."""
    return attention_mask[:, attention_mask.shape[1] - like_BT.shape[1] :].to(like_BT.device) != 0


def without_padding(labels_BT: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Labels, -100 where they are padding or where the token before them is: no logits of the model are for those."""
    if attention_mask is None:
        return labels_BT
    real_BT = newest(attention_mask, labels_BT)
    scored_BT = real_BT.clone()
    scored_BT[:, 1:] &= real_BT[:, :-1]
    return labels_BT.masked_fill(~scored_BT, -100)


class TitansForCausalLM(TitansPreTrainedModel, GenerationMixin):
    """The language model: logits of the next token, the loss, and ``generate()``."""

    def __init__(self, config: TitansPretrainedConfig) -> None:
        super().__init__(config)
        self.model = TitansModel(config)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        with torch.no_grad():
            self.lm_head.weight.mul_(0.1)
        self.made()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings  # type: ignore[assignment]

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any) -> None:
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation {generation_config.cache_implementation!r}: the cache of this model is its own state, "
                "which does not grow. Leave it out"
            )
        if generation_config.use_cache and model_kwargs.get("cache") is None:
            model_kwargs["cache"] = TitansCache(self.config.chunk)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: TitansCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: TitansCache | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, (B, T, V) float32.

        Parameters
        ----------
        labels : (B, T) int64, the tokens themselves: logits at t are scored against label t + 1; -100 is left out
        logits_to_keep : only so many logits at the end, or those at these places; 0: all
        others : as `TitansModel.forward`
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            cache=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = None
        if labels is not None:
            labels = without_padding(labels, attention_mask)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=outputs.cache, hidden_states=outputs.hidden_states
        )


class TitansForSequenceClassification(TitansPreTrainedModel):
    """A linear head over the state after the last token of a sequence: classes, labels or regression targets."""

    def __init__(self, config: TitansPretrainedConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = TitansModel(config)
        self.score = Linear(config.d_model, config.num_labels)
        with torch.no_grad():
            self.score.weight.mul_(0.1)
        self.made()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: TitansCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: TitansCache | None = None,
        **_: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Logits (B, num_labels) at the last real token of each row.

        Parameters
        ----------
        attention_mask : (B, T), 0 where a token is padding; None: tokens ``pad_token_id`` at the end or the beginning of a row are
        labels : (B,) int64 classes, (B, num_labels) float labels, or float targets (``problem_type`` of the config)
        others : as `TitansModel.forward`

        Raises
        ------
        ValueError
            As `TitansModel.forward`; and for a row of padding alone.
        """
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            inside = input_ids != self.config.pad_token_id
            attention_mask = (inside.cumsum(1) > 0) & (inside.flip(1).cumsum(1).flip(1) > 0)
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            cache=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            use_cache=bool(use_cache),
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        B, T = hidden.shape[:2]
        last = torch.full((B,), T - 1, device=hidden.device)
        if attention_mask is not None:
            inside = newest(attention_mask, hidden)
            if not bool(inside.any(1).all()):
                raise ValueError("attention_mask: a row has no token but padding")
            last = (inside * torch.arange(1, T + 1, device=hidden.device)).argmax(1)
        logits = self.score(hidden[torch.arange(B, device=hidden.device), last]).float()
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, cache=outputs.cache, hidden_states=outputs.hidden_states
        )
