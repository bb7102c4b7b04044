"""The workflow on text, and on tasks without tokens: trained, measured, reported, exported; what is done is not done again."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from running import BIN, ran, snakemake

from titans_genomics.data.store import TokenStore
from titans_genomics.training import load_model

MODEL = {"d_model": 32, "n_layers": 1, "n_heads": 2, "chunk": 8, "memory_expansion": 1.0, "conv": 4, "window": 64}
WORDS = [
    "and",
    "the",
    "of",
    "in",
    "light",
    "day",
    "earth",
    "heaven",
    "water",
    "word",
    "king",
    "house",
    "people",
    "son",
    "land",
    "name",
]


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """A small text run through every stage that text has."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 60)) + "." for _ in range(150)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    tasks = folder / "tasks"
    tasks.mkdir()
    asked = [{"question": d[:40], "choices": [" the light", " a zebra"], "gold": 0} for d in documents[:12]]
    (tasks / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    task = {
        "task": "own_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "own.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (tasks / "own.yaml").write_text(yaml.safe_dump(task))
    settings = {
        "run": "words",
        "data": {
            "sources": [{"path": "text.jsonl", "name": "words"}],
            "tokenizer": {"kind": "byte"},
            "split": {"block": 1000, "validation": 0.1, "test": 0.2},
        },
        "model": MODEL,
        "compare": {"attention": {"variant": "transformer"}},
        "train": {"context": 64, "max_steps": 30, "warmup": 5, "validate_every": 30, "checkpoint_every": 30,
                  "reverse_complement": 0, "wandb": {"mode": "disabled"}},
        "evaluate": {"context": 128, "markov": [0, 1]},
        "lm_eval": {"tasks": ["own_choice"], "include": str(tasks), "limit": 8},
        "niah": {"kinds": ["pk"], "lengths": [512], "depths": [0.5], "samples": 2, "answer": 8},
    }  # fmt: skip
    (folder / "words.yaml").write_text(yaml.safe_dump(settings))
    said = snakemake(folder, config=folder / "words.yaml")
    return folder, said


def test_text_goes_through_all_stages(text_run):
    folder, said = text_run
    results = folder / "results" / "words"
    assert {"tokenize", "train", "evaluate", "lm_eval", "niah_model", "niah", "report"} <= ran(said)
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["evaluate"]["unit"] == "byte"
    for model in ("titans", "attention"):
        assert metrics["bits_per_base"]["overall"][model] < 8
        assert 0 <= metrics["lm_eval"]["models"][model]["own_choice"]["acc"]["value"] <= 1
        assert [row["length"] for row in metrics["niah"]["models"][model]["lengths"]] == [512]
    page = (results / "report.html").read_text()
    for piece in ('id="lm_eval"', 'id="niah"', "bits per byte", "own_choice", "S-NIAH PK"):
        assert piece in page
    assert 'id="states"' not in page


def test_what_is_measured_of_text_is_not_measured_again(text_run):
    folder, _ = text_run
    assert ran(snakemake(folder, "--dry-run", config=folder / "words.yaml")) == set()
    settings = yaml.safe_load((folder / "words.yaml").read_text())
    settings["niah"]["samples"] = 3
    (folder / "more.yaml").write_text(yaml.safe_dump(settings))
    assert ran(snakemake(folder, "--dry-run", config=folder / "more.yaml")) == {
        "niah_model",
        "niah",
        "ablations",
        "report",
    }


def test_an_exported_model_generates_in_a_fresh_process(text_run):
    folder, _ = text_run
    command = [
        BIN / "titans-genomics",
        "export",
        "results/words/train/titans",
        "--config",
        "words.yaml",
        "--out",
        "hub",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    code = """
import titans_genomics.hf
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("hub"), AutoTokenizer.from_pretrained("hub")
prompt = tokenizer("the light of", return_tensors="pt")
print(model.generate(**prompt, max_new_tokens=12, do_sample=False)[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    results = folder / "results" / "words"
    tokenizer = TokenStore(results / "tokens").tokenizer
    assert found == greedy(load_model(results / "train" / "titans"), found[:-12], 12, tokenizer.eos)
    assert bytes(tokenizer.decode(np.array(found[:-12]))) == b"the light of"


def greedy(model, tokens, count, end):
    """The likeliest next token, again and again, each time read from the beginning."""
    import torch

    tokens = list(tokens)
    with torch.inference_mode():
        for _ in range(count):
            logits, _ = model(torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
            assert tokens[-1] != end
    return tokens


def test_tasks_without_tokens(tmp_path):
    days = np.datetime64("2024-01-01T00") + np.arange(400) * np.timedelta64(1, "h")
    waves = np.sin(np.arange(400) / 4)
    rows = [
        f"{str(day).replace('T', ' ')}:00:00,{a:.4f},{b:.4f}" for day, a, b in zip(days, waves, waves**2, strict=True)
    ]
    with gzip.open(tmp_path / "waves.csv.gz", "wt") as file:
        file.write("\n".join(["date,a,b", *rows]) + "\n")
    fit = {"steps": 4, "batch_size": 4}
    settings = {
        "run": "tasks",
        "model": MODEL,
        "compare": {"linear": {"memory_layers": 1}},
        "states": {"group": "s3", "train_length": 4, "lengths": [4, 8], "samples": 8, "fit": fit},
        "forecast": {"path": "waves.csv.gz", "lookback": 16, "patch": 8, "stride": 8, "horizons": [4], "fit": fit},
    }
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(settings))
    said = snakemake(tmp_path, config=tmp_path / "tasks.yaml")
    assert ran(said) == {"learn", "learned", "report"}
    results = tmp_path / "results" / "tasks"
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["data"] is None
    assert set(metrics["states"]["models"]) == {"titans", "linear", "lstm"}
    assert set(metrics["forecast"]["models"]) == {"titans", "linear", "last", "dlinear"}
    page = (results / "report.html").read_text()
    for piece in ('id="states"', 'id="forecast"', "State tracking, S3", "last value"):
        assert piece in page
    assert 'id="heldout"' not in page
    assert ran(snakemake(tmp_path, "--dry-run", config=tmp_path / "tasks.yaml")) == set()
    settings["forecast"]["fit"] = fit | {"lr": 0.5}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(settings))
    again = snakemake(tmp_path, "--dry-run", config=tmp_path / "tasks.yaml")
    assert "results/tasks/forecast/titans/seed0/result.json" in again
    assert "results/tasks/states/titans/seed0/result.json" not in again
    asked = [BIN / "titans-genomics", "tokenize", "--config", "tasks.yaml"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no section data" in done.stderr
