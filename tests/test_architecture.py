"""Data flows one way, and so do imports: sequence files -> tokens -> model -> training -> evaluation -> report."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "titans_genomics"

# What each room may import from its siblings. Everyone may read the version.
ALLOWED = {
    "config": {"config_data", "config_downstream", "config_tasks", "config_use", "suites"},
    "config_data": {"sheet"},
    "config_downstream": {"config_data"},
    "config_tasks": {"config_data"},
    "config_use": {"config_data", "sheet_rows"},
    "suites": {"config_data", "config_downstream"},
    "sheet": {"sheet_rows"},
    "sheet_rows": set(),
    "progress": set(),
    "markov": set(),
    "compiling": set(),
    "files": set(),
    "data": {"compiling", "config", "config_data", "config_downstream", "files", "progress", "sheet", "suites"},
    "ops": {"compiling"},
    "models": {"config", "ops"},
    "training": {"config", "files", "progress", "data", "models"},
    "evaluation": {"config", "files", "progress", "data", "markov", "models", "training"},
    "tasks": {
        "compiling",
        "config",
        "config_downstream",
        "config_tasks",
        "files",
        "progress",
        "data",
        "markov",
        "models",
        "suites",
        "training",
    },
    "use": {"compiling", "config", "data", "files", "models", "ops", "progress", "report", "tasks", "training"},
    "hf": {"config", "files", "data", "models", "training"},
    "report": {"config", "files"},
    "cli_use": {"use"},
    "cli": {
        "cli_use",
        "config",
        "config_data",
        "config_downstream",
        "data",
        "suites",
        "training",
        "evaluation",
        "tasks",
        "hf",
        "report",
    },
}
WITHOUT_TORCH = (
    "data",
    "config",
    "config_data",
    "config_downstream",
    "config_tasks",
    "config_use",
    "suites",
    "files",
    "progress",
    "markov",
    "report",
    "cli",
    "cli_use",
)
HEAVY = (
    "torch",
    "lightning",
    "numba",
    "scipy",
    "sklearn",
    "pyarrow",
    "matplotlib",
    "pysam",
    "transformers",
    "peft",
    "huggingface_hub",
    "datasets",
    "lm_eval",
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """The module or sub-package of titans_genomics that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    siblings = {name.split(".")[1] for name in imported(path) if name.startswith("titans_genomics.")}
    unexpected = siblings - ALLOWED[room(path)] - {room(path), "__version__"}
    assert not unexpected, f"{path.name} imports {', '.join(sorted(unexpected))}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_windows_bring_torch_into_data(path):
    if room(path) in WITHOUT_TORCH and path.name != "windows.py":
        assert "torch" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("module", ["cli", "config", "suites", "tasks.plan"])
def test_help_and_the_snakefile_need_no_heavy_imports(module):
    code = f"import sys, titans_genomics.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["use.run", "use.track", "use.score_variants", "evaluation", "tasks.needle"])
def test_reading_with_a_model_needs_nothing_of_training(module):
    """Lightning alone would take as long to import as a small genome to read."""
    heavy = ("lightning", "torchmetrics", "wandb", "transformers", "matplotlib", "torch._dynamo")
    code = f"import sys, titans_genomics.{module}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_snakefile_stays_a_table_of_contents():
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 40
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    assert "script:" not in rules
    assert "run:" not in rules
