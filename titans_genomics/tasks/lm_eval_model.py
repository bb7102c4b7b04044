"""A trained model as the lm-evaluation-harness sees one: text in, log-likelihoods and text out. Imports lm_eval, an optional extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from lm_eval.api.model import TemplateLM

from titans_genomics.data.tokenizers import load_tokenizer
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.progress import Progress
from titans_genomics.tasks.lm_eval_generate import generate, ways
from titans_genomics.tasks.lm_eval_read import score
from titans_genomics.training import load_model

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class TitansLM(TemplateLM):
    """A language model of ours for the lm-evaluation-harness.

    Documents are read from their first token to their last with the state carried on: there are no windows, and no
    longest length. A document, and a continuation without a context, stands behind the end-of-text token, as documents do in training.

    Parameters
    ----------
    model : LanguageModel
        In evaluation mode; read on its device.
    tokenizer : Tokenizer
        That of the tokens it was trained on; of text.
    piece, batch_tokens : int
        See `lm_eval_read.score`.
    share : bool
        Read a context that several continuations follow once.
    seed : int
        Seed of what is drawn, for tasks that sample.
    name : str
        Name of the model in progress messages.
    stream : TextIO, optional
        Where progress is shown; default: standard error.

    Attributes
    ----------
    not_finite : int
        Scored tokens so far for which the model gave no numbers; all tokens count as equally likely there.

    Raises
    ------
    ValueError
        The tokens are not those of text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        piece: int = 4096,
        batch_tokens: int = 16_384,
        share: bool = True,
        seed: int = 0,
        name: str = "titans",
        stream: TextIO | None = None,
    ) -> None:
        super().__init__()
        if not tokenizer.text:
            raise ValueError(f"lm-eval asks in text, and the tokens of this model are {tokenizer.kind} tokens of bases")
        self.model, self.codes = model, tokenizer
        self.piece, self.batch_tokens, self.share, self.seed = piece, batch_tokens, share, seed
        self.name, self.stream = name, stream
        self.not_finite = 0
        self._device = next(model.parameters()).device

    @classmethod
    def load(cls, model: str | Path, tokenizer: str | Path, device: str = "cpu", **settings: Any) -> TitansLM:
        """The model of a folder that ``train`` wrote, and the tokenizer.json of its token store.

        Raises
        ------
        FileNotFoundError, ValueError
            As `load_model`, `load_tokenizer` and `TitansLM`.
        """
        return cls(load_model(model, device), load_tokenizer(Path(tokenizer)), **settings)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self.codes.eos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of text. No special tokens are added, and text that spells one is text."""
        return self.encode(string).tolist()

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens; special ones stand for none, and bytes that are no UTF-8 are replaced."""
        return self.codes.decode(np.asarray(tokens, dtype=np.int64)).tobytes().decode("utf-8", "replace")

    def encode(self, string: str) -> np.ndarray:
        """Tokens of text, (tokens,); half of a surrogate pair, which JSON may hold, is three bytes that are no UTF-8."""
        return self.codes.encode(np.frombuffer(string.encode("utf-8", "surrogatepass"), dtype=np.uint8))

    def pair(self, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a context and of what follows it.

        Spaces at the end of the context go to the continuation, and both are encoded together, as the harness does. Where a
        token would reach over the border they are encoded one by one, so that exactly the continuation is scored. An
        empty context is the end-of-text token.
        """
        kept = context.rstrip()
        context, continuation = kept, context[len(kept) :] + continuation
        if not context:
            return np.array([self.prefix_token_id]), self.encode(continuation)
        before, whole = self.encode(context), self.encode(context + continuation)
        if np.array_equal(whole[: len(before)], before) and (len(whole) > len(before) or not continuation):
            return before, whole[len(before) :]
        return before, self.encode(continuation)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood, nats, of each continuation given its context, and whether it is what greedy decoding gives."""
        made = [(tuple(request.args), *self.pair(*request.args)) for request in requests]
        return self._loglikelihood_tokens(made, disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Any, Any]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The same of (context, continuation) as text and as tokens."""
        pairs = [(np.asarray(before, np.int64), np.asarray(after, np.int64)) for _, before, after in requests]
        found = self._score(pairs, "requests", "continuations")
        for (texts, _, _), result in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood, nats, of whole documents, each read at one stretch; that of an empty one is 0."""
        prefix = np.array([self.prefix_token_id])
        pairs = [(prefix, self.encode(request.args[0])) for request in requests]
        found = [value for value, _ in self._score(pairs, "documents", "documents")]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model goes on with, up to a stop string, the end-of-text token or the limit.

        Raises ValueError for generation settings that are not supported; names the task.
        """
        how = []
        for request in requests:
            try:
                how.append(ways(request.args[1]))
            except ValueError as error:
                raise ValueError(f"lm_eval.tasks: {request.task_name}: {error}") from None
        prompts = [self.encode(request.args[0]) for request in requests]
        prompts = [prompt if len(prompt) else np.array([self.prefix_token_id]) for prompt in prompts]
        with self._progress(len(requests), "answers", "answers") as progress:
            made = generate(
                self.model, self.codes, prompts, how, self.seed, self.piece, self.batch_tokens, progress
            )  # fmt: skip
        found = [text.decode("utf-8", "replace") for text in made]
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _score(self, pairs: list[tuple[np.ndarray, np.ndarray]], unit: str, what: str) -> list[tuple[float, bool]]:
        with self._progress(len(pairs), unit, what) as progress:
            scores = score(self.model, pairs, self.piece, self.batch_tokens, self.share, progress)
        self.not_finite += scores.not_finite
        return list(zip(scores.log_likelihood.tolist(), scores.greedy.tolist(), strict=True))

    def _progress(self, total: int, unit: str, what: str) -> Progress:
        return Progress(total, unit, f"lm-eval, {self.name}: {what}", stream=self.stream)
