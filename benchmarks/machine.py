"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "titans-pytorch", "titans-unofficial", "mambapy", "x-transformers", "hyper-connections", "numpy")


def processor() -> str:
    """Model of the CPU, with family and model number, which tell apart what virtual machines call by one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    name = facts.get("model name", platform.machine())
    vector = next((v for v in ("avx512f", "avx2") if v in facts.get("flags", "")), "")
    return f"{name}, family {facts.get('cpu family', '?')} model {facts.get('model', '?')} {vector}".strip()


def memory_gb() -> float | None:
    """Main memory."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def huge_pages() -> str | None:
    """The setting of transparent huge pages: it changes what a page fault costs."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return path.read_text().split("[")[-1].split("]")[0] if path.is_file() else None


def installed(package: str) -> str | None:
    """Version of a package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that runs, with a + when files of the package or of the benchmarks differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "titans_genomics", "benchmarks/*.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"


def describe(threads: int) -> dict[str, Any]:
    """What stands above the tables."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": memory_gb(),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}".strip(),
        "huge_pages": huge_pages(),
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in PACKAGES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
