"""What tells a file from another one, or from an older version of itself: its state, and the SHA-256 of its content."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

_PIECE = 1 << 22


class SourceFile:
    """A file as it is when a run first looks at it.

    Attributes
    ----------
    state : dict
        Path, size in bytes, time of change of content and of the entry (ns), inode. A file that replaces another one may
        have its size and its time of change (as after ``cp -p``), but never all of these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = _state(path)
        self._digest = hashlib.sha256()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def start(self) -> None:
        """Begin to compute the checksum, beside other work, if that has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def sha256(self) -> str:
        """The checksum, as hexadecimal digits; waits for it."""
        self.start()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """State and checksum, for `is_that_of`."""
        return self.state | {"sha256": self.sha256()}

    def is_that_of(self, facts: dict[str, Any]) -> bool:
        """Whether the content is that of these `facts`; looked at only when the state differs."""
        if self.state.items() <= facts.items():
            return True
        return facts.get("bytes") == self.state["bytes"] and facts.get("sha256") == self.sha256()

    def check_unchanged(self) -> None:
        """Raise ValueError when the file was written or replaced since."""
        now = _state(self.path)
        if any(now[key] != self.state[key] for key in ("bytes", "mtime_ns", "inode")):  # a new link is no new content
            raise ValueError(f"{self.path}: the file changed while it was read. Run again when it is complete")

    def _run(self) -> None:
        buffer = bytearray(_PIECE)
        try:
            with self.path.open("rb", buffering=0) as handle:
                while count := handle.readinto(buffer):
                    self._digest.update(memoryview(buffer)[:count])
        except OSError as error:
            self._error = error


def _state(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "path": str(path),
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }
