"""A small genome, its token store and a small model trained on it, made once for all tests that need them."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from small import small_settings

from titans_genomics.config import Config, parse_config

# No deadline: a kernel may be compiled, or the machine be busy. The same examples each time, so that two runs of one commit agree;
# to look for new ones: make test TESTS=--hypothesis-profile=search
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: one that begins last would go on alone with the other cores idle, and those of a module stay in one process."""
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is None, not item.path.name.startswith("test_workflow"))
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that are no plain text are not part of a test's name: compressed ones hold the time, and every process must name tests alike."""
    return argname if isinstance(val, bytes) and re.search(rb"[^\t\n\r -~]", val) else None


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with genome.fa, 30 kb in which a base often repeats the one two before, and a few N."""
    rng = np.random.default_rng(5)
    bases = rng.integers(0, 4, 30_000)
    repeats = rng.random(30_000) < 0.5
    for i in range(2, len(bases)):
        if repeats[i]:
            bases[i] = bases[i - 2]
    letters = np.frombuffer(b"ACGT", np.uint8)[bases].copy()
    letters[rng.integers(0, 30_000, 20)] = ord("N")
    folder = tmp_path_factory.mktemp("small")
    sequence = letters.tobytes().decode()
    (folder / "genome.fa").write_text(f">one\n{sequence[:20_000]}\n>two\n{sequence[20_000:]}\n")
    return folder


@pytest.fixture(scope="session")
def small_config(small_folder: Path) -> Config:
    """The config of seconds."""
    return parse_config(small_settings(small_folder), "small")


@pytest.fixture(scope="session")
def small_store(small_folder: Path, small_config: Config) -> Path:
    """Its token store."""
    from titans_genomics.data.store import tokenize

    tokenize(small_config, small_folder / "tokens")
    return small_folder / "tokens"


@pytest.fixture(scope="session")
def small_model(small_folder: Path, small_config: Config, small_store: Path) -> Path:
    """The output folder of a short training run."""
    from titans_genomics.training import train

    train(small_config, small_store, small_folder / "model")
    return small_folder / "model"
