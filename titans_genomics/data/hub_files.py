"""Files of a repository of the Hugging Face Hub: which of them are a split of a dataset, what is shown while they come, and git's hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titans_genomics.progress import Progress

_ENDINGS = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson"),
    "text": (".txt", ".txt.gz"),
    "json": (".json", ".json.gz"),  # often no data but what tools say of them
}
_ABOUT = re.compile(r"dataset_infos?\.json|.*metadata.*\.json", re.IGNORECASE)
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def bar_of(progress: Progress) -> Any:
    """A class of bars for ``hf_hub_download`` that show nothing, and hand on what was received to the progress of all files."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})
            progress.update(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            progress.update(n or 0)

    return Bar


def git_hash(path: Path) -> str:
    """The name that git gives a file's content, which sums up a header too; the Hub has it of small files, of large ones SHA-256."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: digest).hexdigest()


def choose_files(
    names: Sequence[str], configs: Sequence[dict[str, Any]], subset: str, split: str, address: str
) -> tuple[str, list[str]]:
    """The format and the sorted files of one split of a dataset, of the first format that it has: Parquet, JSONL, text.

    Files that end in .json are taken as JSONL when the card names them, or when there is nothing else.

    Parameters
    ----------
    names
        All files of the repository.
    configs
        ``configs`` of its card, which say what belongs to each subset and split; without, folders and names say it.
    subset, split
        Empty: the only or default subset; the split train.
    address
        The dataset, for error messages.

    Raises
    ------
    ValueError
        No such subset or split, or several subsets and none was named; the message lists them.
    """
    split = split or "train"
    found = sorted(names)
    splits = _of_card(found, configs, subset, address) if configs else _of_names(found, subset)
    if not any(splits.values()):
        if subset and not configs and _of_names(found, ""):
            raise ValueError(_which_subset(_folders(found), subset, address))
        return "", []
    if not splits.get(split):
        there = ", ".join(name for name, files in splits.items() if files)
        raise ValueError(f"{address}: no split {split!r} in this dataset; there is {there}. Write hf://...?split=NAME")
    kind = next((kind for kind in _ENDINGS if _of_kind(splits[split], kind)), "")
    if not configs and not subset:
        several = _folders([name for files in splits.values() for name in _of_kind(files, kind)])
        if len(several) > 1:
            raise ValueError(_which_subset(several, subset, address))
    chosen = _of_kind(splits[split], kind)
    if kind == "jsonl" and configs:
        chosen = sorted(chosen + _of_kind(splits[split], "json"))
    return "jsonl" if kind == "json" else kind, chosen


def _of_kind(files: Sequence[str], kind: str) -> list[str]:
    return [name for name in files if kind and name.lower().endswith(_ENDINGS[kind])]


def _is_data(name: str) -> bool:
    return any(_of_kind([name], kind) for kind in _ENDINGS) and not _ABOUT.fullmatch(name.rpartition("/")[2])


def _of_card(found: list[str], configs: Sequence[dict[str, Any]], subset: str, address: str) -> dict[str, list[str]]:
    """Files by split, as the card of the dataset has them."""
    by_name = {str(entry.get("config_name", "default")): entry for entry in configs}
    default = [name for name, entry in by_name.items() if entry.get("default") or name == "default"]
    chosen = subset or (default[0] if default else next(iter(by_name)) if len(by_name) == 1 else "")
    if chosen not in by_name:
        raise ValueError(_which_subset(list(by_name), subset, address))
    from fsspec.utils import glob_translate  # knows / and **

    entry = by_name[chosen]
    patterns = entry.get("data_files")
    if patterns is None:
        base = str(entry.get("data_dir", "")).strip("/")
        return _by_split([name for name in found if _is_data(name) and (not base or name.startswith(f"{base}/"))])
    if isinstance(patterns, str) or all(isinstance(one, str) for one in patterns):
        patterns = [{"split": "train", "path": patterns}]
    splits: dict[str, list[str]] = {}
    for one in patterns:
        globs = [one["path"]] if isinstance(one["path"], str) else one["path"]
        globs = [glob.removeprefix("./") for glob in globs]
        try:
            matches = [re.compile(glob_translate(glob)).match for glob in globs]
        except ValueError as error:
            raise ValueError(f"{address}: its card has patterns of files that cannot be read ({error})") from None
        splits[str(one["split"])] = [
            name for name in found if name in globs or (_is_data(name) and any(match(name) for match in matches))
        ]
    return splits


def _of_names(found: list[str], subset: str) -> dict[str, list[str]]:
    """Files by split, as their folders and names tell."""
    found = [name for name in found if _is_data(name)]
    if subset:
        found = [name for name in found if subset in _folders([name]) and name.startswith(f"{subset}/")]
    return _by_split(found)


def _folders(files: Sequence[str]) -> list[str]:
    """Folders at the top that may be subsets."""
    folders = dict.fromkeys(name.split("/")[0] for name in files if "/" in name)
    return [folder for folder in folders if folder != "data" and not _split_of(folder)]


def _which_subset(there: Sequence[str], subset: str, address: str) -> str:
    said = f"no subset {subset!r} in this dataset" if subset else "the dataset has several subsets"
    return f"{address}: {said}; there is {', '.join(there) or 'none'}. Write hf://...?subset=NAME"


def _by_split(found: list[str]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for name in found:
        splits.setdefault(_split_of(name) or "train", []).append(name)
    return splits


def _split_of(name: str) -> str | None:
    """The split that a path speaks of; None when of none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, spelled in _SPLITS.items() if any(word in spelled for word in words)), None)
