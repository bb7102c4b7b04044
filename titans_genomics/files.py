"""The files that stages leave for one another: written whole or not at all, and missed in words that help; their checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` that takes its place when the block succeeds, and is removed when it fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text (UTF-8) whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, command: str) -> dict[str, Any]:
    """The JSON that ``titans-genomics COMMAND`` leaves.

    Raises FileNotFoundError when it is not there, ValueError when it cannot be read; both name the command.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there yet; run `titans-genomics {command}` first")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); run `titans-genomics {command}` again") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises FileNotFoundError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
