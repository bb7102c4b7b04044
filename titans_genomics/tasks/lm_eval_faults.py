"""What went wrong in the lm-evaluation-harness, in words that name the task and the cause."""

from __future__ import annotations

import contextlib
import socket
import traceback
from collections.abc import Iterator

from titans_genomics.config import LmEvalConfig


def _causes(error: BaseException) -> list[BaseException]:
    """The error, then what it was raised from, innermost last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def unreachable(error: BaseException) -> bool:
    """Whether an error is about the network, and not about what came through it."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    network = (ConnectionError, TimeoutError, socket.gaierror, LocalEntryNotFoundError, HTTPError)
    return any(isinstance(cause, network) and not isinstance(cause, HfHubHTTPError) for cause in _causes(error))


def said(error: BaseException) -> str:
    """The innermost cause of an error, in one line."""
    cause = _causes(error)[-1]
    if isinstance(cause, KeyError) and cause.args != (None,):
        return f"its data has no split or column {cause}, which the task names"
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"


@contextlib.contextmanager
def task_named(settings: LmEvalConfig) -> Iterator[None]:
    """An error of a task of the harness becomes a ValueError that names it."""
    from lm_eval.api.task import Task

    try:
        yield
    except Exception as error:
        own = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        name = next((one.config.task for one in own if isinstance(one, Task)), None)
        if name is None:
            raise
        few = f". lm_eval.fewshot is {settings.fewshot}: give fewer examples" if "population" in str(error) else ""
        raise ValueError(f"lm_eval.tasks: {name}: {said(error)}{few}") from error
