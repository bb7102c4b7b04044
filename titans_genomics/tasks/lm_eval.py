"""Tasks of the lm-evaluation-harness on the models of a run, through the harness itself."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import io
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from titans_genomics.config import Config, LmEvalConfig
from titans_genomics.data.store import TokenStore
from titans_genomics.files import file_sha256, write_json
from titans_genomics.progress import Progress
from titans_genomics.tasks.lm_eval_faults import said, task_named, unreachable
from titans_genomics.tasks.sequences import device_of
from titans_genomics.training import check_model, load_model, with_vocabulary
from titans_genomics.training.logs import say

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

RESAMPLES = 1000
"""Bootstrap resamples of the standard errors that have no formula (perplexities)."""

LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "httpx", "httpx2", "urllib3", "filelock", "fsspec")
"""Loggers of the harness and of what it calls."""

INCLUDED = (".yaml", ".yml", ".py", ".jsonl", ".csv", ".tsv", ".txt", ".parquet")
"""Endings of the files in ``lm_eval.include`` whose change makes models be measured again."""

REMEDY = (
    "Without a network, fill the cache of Hugging Face datasets on a machine that has one and set HF_DATASETS_OFFLINE=1 here, or give "
    "a folder of tasks with local files as lm_eval.include"
)


def lm_eval(config: Config, store: Path, models: dict[str, Path], out: Path) -> dict[str, Any]:
    """Run tasks of the harness on trained models and write the figures as JSON.

    Parameters
    ----------
    config : Config
        The run; names of tasks, groups or tags, patterns such as ``arc_*`` too, stand in ``config.lm_eval.tasks``.
    store : Path
        Token store folder, of text.
    models : dict
        Name to the output folder of ``train``.
    out : Path
        The JSON file to write. Until all models are measured those that are stand in ``.part.json`` beside it. A model that stands in
        either, with the same settings and weights, is not measured again.

    Returns
    -------
    dict
        ``package``, ``version``, ``tasks``, ``limit``, ``fewshot`` (null: as each task has it), ``seed``, ``include`` (SHA-256 of its files);
        ``weights``: name to the SHA-256 of model.safetensors; ``details``: task to ``version``, ``fewshot`` and
        ``documents``; ``models``: name to task (groups too) to metric to ``value`` and ``stderr`` (null where there is none); ``not_finite``:
        name to the scored tokens for which the model gave no numbers.

    Raises
    ------
    FileNotFoundError, ValueError
        When lm-eval is not installed; there is no model, or it comes from another config or token store; the tokens are not of text; there is no such task, or its data
        cannot be had, or it asks for more examples than it has, or for what is not supported: names the task.
    """
    settings = config.lm_eval
    if not settings.tasks:
        raise ValueError("lm_eval.tasks is empty: name one or more tasks, such as wikitext")
    require()
    tokens = TokenStore(store)
    if not tokens.tokenizer.text:
        raise ValueError(
            f"{tokens.path}: its tokens are {tokens.tokenizer.kind} tokens of bases, and the tasks of lm-eval are text. Train on text "
            "(data.sources[].kind text), or empty lm_eval.tasks"
        )
    config = with_vocabulary(config, tokens)
    for folder in models.values():
        check_model(config, tokens, Path(folder))
    from lm_eval import __version__, simple_evaluate

    from titans_genomics.tasks.lm_eval_model import TitansLM

    torch.set_flush_denormal(True)
    device, stream = device_of(config), sys.stderr
    asked = {
        "package": "lm_eval",
        "version": __version__,
        "tasks": list(settings.tasks),
        "limit": settings.limit,
        "fewshot": settings.fewshot,
        "seed": config.seed,
        "include": _include(settings.include) if settings.include is not None else None,
    }
    out, weights = Path(out), {name: file_sha256(Path(folder) / "model.safetensors") for name, folder in models.items()}
    part = out.with_suffix(f".part{out.suffix}")
    result = asked | {"weights": {}, "details": {}, "models": {}, "not_finite": {}}
    for path in (out, part):
        _take_over(result, path, asked, weights)
    for name in result["models"]:
        say(f"lm-eval, {name}: measured before with these settings and weights")
    left = [name for name in models if name not in result["models"]]
    with quiet_logs():
        manager, tasks = load_tasks(settings) if left else (None, [])
        for name in left:
            model = TitansLM(
                load_model(models[name], device),
                tokens.tokenizer,
                settings.piece,
                settings.batch_tokens,
                seed=config.seed,
                name=name,
                stream=stream,
            )
            # the harness shows a bar for everything, and prints; what takes long shows its own progress
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
                task_named(settings),
            ):
                found = simple_evaluate(
                    model,
                    tasks=tasks,
                    num_fewshot=settings.fewshot,
                    limit=settings.limit,
                    bootstrap_iters=RESAMPLES,
                    log_samples=False,
                    task_manager=manager,
                )
            assert found is not None
            result["models"][name] = {task: _metrics(values) for task, values in found["results"].items()}
            result["not_finite"][name] = model.not_finite
            result["details"] = {
                task: {
                    "version": version,
                    "fewshot": found["n-shot"].get(task),
                    "documents": found["n-samples"].get(task, {}).get("effective"),
                }
                for task, version in found["versions"].items()
            }
            result["weights"][name] = weights[name]
            write_json(part, result)
    for key in ("weights", "models", "not_finite"):
        result[key] = {name: result[key][name] for name in models}
    write_json(out, result)
    part.unlink(missing_ok=True)
    return result


def _take_over(result: dict[str, Any], path: Path, asked: dict[str, Any], weights: dict[str, str]) -> None:
    """Put the models that stand in a file of ours into the result, if settings and weights are the same."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if any(earlier[key] != value for key, value in asked.items()):
            return
        same = [name for name, sha256 in weights.items() if earlier["weights"].get(name) == sha256]
        found = {key: {name: earlier[key][name] for name in same} for key in ("weights", "models", "not_finite")}
        found["details"] = earlier["details"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none there, or none of ours
        return
    for key, values in found.items():
        result[key] |= values


def _include(folder: Path) -> str:
    """One SHA-256 of the task files in a folder and their data; what datasets keeps there is left out."""
    files = sorted(path for path in folder.glob("**/*") if path.suffix in INCLUDED)
    listed = "".join(f"{file_sha256(path)} {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()


def require() -> None:
    """Raise ValueError when the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            "lm_eval.tasks: the package lm-eval is not installed: pip install 'titans-genomics[lm-eval]', or empty lm_eval.tasks"
        )


def find_tasks(settings: LmEvalConfig) -> tuple[TaskManager, list[str]]:
    """The harness's index of tasks, and the names that are asked for, patterns filled in.

    The thousands of task files of the harness are only read when a name is not in ``include``.

    Raises
    ------
    FileNotFoundError, ValueError
        ``include`` is no folder; a name or pattern that no task has: names those that are near.
    """
    from lm_eval.tasks import TaskManager

    include = settings.include
    if include is not None and not include.is_dir():
        raise FileNotFoundError(f"lm_eval.include: {include} is no folder; it should hold task files (YAML)")
    if include is not None:
        manager = TaskManager(include_path=str(include), include_defaults=False)
        if all(name in manager.all_tasks for name in settings.tasks):
            return manager, list(settings.tasks)
    manager = TaskManager(include_path=str(include) if include is not None else None)
    names: list[str] = []
    for asked in settings.tasks:
        found = [asked] if asked in manager.all_tasks else manager.match_tasks([asked])
        if not found:
            raise ValueError(f"lm_eval.tasks: the harness has no task {asked!r}{_near(asked, manager, include)}")
        names += [name for name in found if name not in names]
    return manager, names


def _near(asked: str, manager: TaskManager, include: Path | None) -> str:
    """What may have been meant, and a task file that cannot be read."""
    import yaml

    near = difflib.get_close_matches(asked, manager.all_tasks, 3)
    hint = f"; near it are {', '.join(near)}" if near else "; `lm-eval ls tasks` lists all"
    for path in sorted(include.glob("**/*.yaml")) if include is not None else ():
        try:
            yaml.compose(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            return f"{hint}; and {path} cannot be read: {' '.join(str(error).split())}"
    return hint


def load_tasks(settings: LmEvalConfig) -> tuple[TaskManager, list[Any]]:
    """The harness's index of tasks, and those that are asked for, with their data. Raises as `find_tasks` and `load_task`."""
    manager, names = find_tasks(settings)
    tasks = []
    with Progress(len(names), "tasks", "lm-eval: loading") as progress:
        for name in names:
            tasks += load_task(manager, name)
            progress.update(note=name)
    return manager, tasks


def load_task(manager: TaskManager, name: str) -> list[Any]:
    """The task, group or tasks of a tag by name, with their data.

    Raises ValueError when the data cannot be had, or the task cannot be set up: names the task and the cause.
    """
    try:
        loaded = manager.load([name])
    except Exception as error:  # every task may raise what its code raises
        if unreachable(error):
            first = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"lm_eval.tasks: the data of {name} could not be had ({first}). {REMEDY}") from error
        raise ValueError(f"lm_eval.tasks: {name} cannot be set up ({said(error)})") from error
    inside = {task for group in loaded["groups"].values() for task in _inside(group)}
    return [
        *(group for key, group in loaded["groups"].items() if key not in inside),
        *(task for key, task in loaded["tasks"].items() if key not in inside),
    ]


def _inside(group: Any) -> Sequence[str]:
    """Names of the tasks and groups within a group."""
    return [*(task.task_name for task in group.get_all_tasks()), *(inner.name for inner in group.get_all_groups())]


def _metrics(values: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Metric to value and standard error, of what the harness calls ``acc,none`` and ``acc_stderr,none``; a filter stays in the name."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = values.get(f"{metric}_stderr,{kind}")
        known = isinstance(stderr, (int, float)) and math.isfinite(stderr)
        name = metric if kind == "none" else f"{metric} ({kind})"
        found[name] = {"value": float(value), "stderr": float(stderr) if known else None}
    return found


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Only errors are logged, by the harness and what it calls; bars of downloads are shown on a terminal only; and it starts no processes, for its bootstrap or git."""
    import datasets
    from lm_eval import evaluator

    loggers = [logging.getLogger(name) for name in LOGGERS]
    before, process = [logger.level for logger in loggers], os.environ.get("DISABLE_MULTIPROC")
    bars = datasets.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    os.environ["DISABLE_MULTIPROC"] = "1"
    commit, evaluator.get_git_commit_hash = evaluator.get_git_commit_hash, lambda: None  # git says a word on stderr
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = commit
        if bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        if process is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = process
