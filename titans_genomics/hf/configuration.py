"""The config.json of an exported model: the keys of ``model``, and what tools that read such files ask for."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from titans_genomics.config import TitansConfig

UNLIMITED = 2**31 - 1
"""What stands for "no limit" where a tool wants the longest input of a model as a number."""


class TitansPretrainedConfig(PretrainedConfig):
    """Every key of the config section ``model`` under its own name, and the ids of the special tokens.

    The names that transformers uses elsewhere (``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``) are read and
    written as ``d_model``, ``n_layers`` and ``n_heads``. All keys are always written to config.json, so that a
    checkpoint means the same whatever the defaults of a later version are.

    Parameters
    ----------
    bos_token_id, eos_token_id, pad_token_id : int or None
        Special tokens of the tokenizer that the model was trained with.
    max_position_embeddings : int
        Longest input that tools may give, tokens. The state does not grow and positions are relative: no limit.
    use_cache : bool
        Whether calls outside of training return the state after the input.
    **options
        Keys of the section ``model``, and whatever `transformers.PretrainedConfig` takes.

    Raises
    ------
    ValueError
        When the keys do not make a model (pydantic.ValidationError, which names them).
    """

    model_type = "titans"
    attribute_map = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}  # noqa: RUF012
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012

    def __init__(
        self,
        *,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        max_position_embeddings: int = UNLIMITED,
        use_cache: bool = True,
        **options: Any,
    ) -> None:
        for theirs, ours in self.attribute_map.items():
            if theirs in options:
                options[ours] = options.pop(theirs)
        shape = TitansConfig(**{key: options.pop(key) for key in TitansConfig.model_fields if key in options})
        for key, value in shape.model_dump(mode="json").items():
            setattr(self, key, value)
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos_token_id, eos_token_id, pad_token_id
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        self.tie_word_embeddings = options.pop("tie_word_embeddings", False)
        super().__init__(**options)

    @property
    def shape(self) -> TitansConfig:
        """The section ``model`` that these keys are."""
        return TitansConfig(**{key: getattr(self, key) for key in TitansConfig.model_fields})

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        return super().to_diff_dict() | self.shape.model_dump(mode="json")
