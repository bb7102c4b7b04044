"""A model of a run as a folder that transformers loads: weights, tokenizer and card."""

import json
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from small import small_settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from titans_genomics.config import Config, parse_config
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.hf.export import export
from titans_genomics.models import Titans, TitansConfig, Transformer
from titans_genomics.training import load_model
from titans_genomics.training.export import save_model

TEXT = "In the beginning God created the heaven and the earth.\nÆther, naïve café.\n" * 60
TOKENIZERS = {
    "nucleotide": {"kind": "nucleotide"},
    "kmer": {"kind": "kmer", "k": 3},
    "bpe": {"kind": "bpe", "vocab_size": 64},
    "byte": {"kind": "byte"},
    "text-bpe": {"kind": "bpe", "vocab_size": 300},
}


def store_of(tokenizer, folder, small_folder):
    """A token store with a tokenizer of this kind."""
    text = "byte" in tokenizer or "text" in tokenizer
    settings = small_settings(small_folder, reverse_complement=0.0 if text else 0.5)
    settings["data"]["tokenizer"] = TOKENIZERS[tokenizer]
    if text:
        (folder / "book.txt").write_text(TEXT)
        settings["data"]["sources"] = [{"path": str(folder / "book.txt"), "kind": "text"}]
        settings["data"]["split"] = {"block": 300, "validation": 0.1, "test": 0.1, "leaks": {"action": "off"}}
    config: Config = parse_config(settings, tokenizer)
    tokenize(config, folder / "tokens")
    return TokenStore(folder / "tokens")


def trained(folder, store, variant="lmm", kind=Titans, **options):
    """The folder of a model as training leaves it, with fresh weights."""
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6}
    config = TitansConfig(variant=variant, vocab_size=store.tokenizer.vocab_size, **(shape | options))
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, "transformer" if kind is Transformer else "titans", config, kind(config), store, 7)
    return folder


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_tokenizer_goes_along(tokenizer, small_folder, tmp_path):
    store = store_of(tokenizer, tmp_path, small_folder)
    export(trained(tmp_path / "model", store), store.path, tmp_path / "out")
    text = TEXT[:70] if store.tokenizer.text else "ACGTTGCANNACGTACGGATTACA"
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    codes = text.encode() if store.tokenizer.text else bytes("ACGTN".index(letter) for letter in text)
    ours = store.tokenizer.encode(torch.frombuffer(bytearray(codes), dtype=torch.uint8).numpy())
    assert theirs(text).input_ids == ours.tolist()
    assert theirs.decode(ours.tolist()) == text
    batch = theirs([text, text[:9]], return_tensors="pt", padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][1, 0] == 0  # on the left
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    special = store.tokenizer.pad, store.tokenizer.bos, store.tokenizer.eos
    own = model.generation_config
    assert (own.pad_token_id, own.bos_token_id, own.eos_token_id) == special
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == special
    assert model.generate(**batch, max_new_tokens=3).shape[1] > batch["input_ids"].shape[1]


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "kind"),
    [*((v, Titans) for v in ("lmm", "mac", "mag", "mal", "transformer", "gated_deltanet", "diagonal")), ("lmm", Transformer)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_every_variant_gives_the_logits_of_the_run(variant, kind, small_store, tmp_path):
    folder = trained(tmp_path / "model", TokenStore(small_store), variant, kind, n_layers=2)
    export(folder, small_store, tmp_path / "out")
    x = torch.randint(0, 5, (2, 30))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(x).logits
    torch.testing.assert_close(found, load_model(folder)(x)[0], atol=5e-6, rtol=0)


def test_a_fresh_process_loads_a_trained_model_and_generates(small_model, small_store, tmp_path):
    export(small_model, small_store, tmp_path / "out", shard_size="5KB", licence="cc-by-4.0")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    code = (
        "import titans_genomics.hf\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, tokenizer = (kind.from_pretrained('.') for kind in (AutoModelForCausalLM, AutoTokenizer))\n"
        "inputs = tokenizer(['ACGTACGTAC', 'TTGA'], return_tensors='pt', padding=True)\n"
        "print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, 10:]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    rows = json.loads(found.stdout.replace("'", '"'))
    model = load_model(small_model)
    for prompt, row in zip(("ACGTACGTAC", "TTGA"), rows, strict=True):
        x = torch.tensor([["ACGT".index(letter) for letter in prompt]])
        for _ in range(12):
            x = torch.cat([x, model(x)[0][:, -1:].argmax(-1)], 1)
        assert "".join("ACGTN"[int(token)] for token in x[0, -12:]) == row


def test_the_card_says_what_the_run_left(small_model, small_store, small_config, tmp_path):
    figures = {
        "bits_per_base": 1.75,
        "ci95": [1.7, 1.8],
        "perplexity_per_token": 3.364,
    }
    part = {"models": {"titans": figures}, "markov": {"bits_per_base": 1.9}}
    evaluation = tmp_path / "evaluate.json"
    evaluation.write_text(json.dumps({"split": "test", "stretch": 64, "sources": {"genome": part}, "overall": part}))
    out = tmp_path / "out"
    export(small_model, small_store, out, run="small", evaluation=evaluation, licence="cc-by-4.0")
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "transformers"
    assert "dna" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_value) == ("genome", "test", 1.75)
    said = json.loads((small_model / "train.json").read_text())
    source = TokenStore(small_store).manifest["sources"][0]
    for words in (
        f"{said['parameters']:,} parameters", f"| tokens | {said['tokens']:,} |", said["hardware"]["cpu"], source["sha256"][:12],
        f"{source['bases']:,}", f"{source['tokens']['train']:,}", "1.7500 | 1.7000 to 1.8000 | 1.9000 | 3.36", "cc-by-4.0",
        "the memory begins anew every 64 tokens", "model `titans` of the run `small` after", 'from_pretrained("out")', "an MLP of 2 layers", "no evidence of function",
    ):  # fmt: skip
        assert words in card.text, words


def test_a_card_without_figures_says_so_and_text_is_text(small_folder, tmp_path):
    store = store_of("byte", tmp_path, small_folder)
    out = tmp_path / "out"
    export(trained(tmp_path / "model", store, memory_layers=1), store.path, out, language="en")
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.license is None
    assert card.data.eval_results is None
    assert card.data.language == "en"
    assert "dna" not in card.data.tags
    for words in (
        "Nothing was measured",
        "No licence was given",
        "language model of text",
        "a linear map",
        "statement of fact",
    ):
        assert words in card.text, words


def test_an_earlier_export_is_replaced_and_nothing_else(small_model, small_store, tmp_path):
    out = tmp_path / "out"
    export(small_model, small_store, out, shard_size="5KB")
    export(small_model, small_store, out)
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    modes = {path.stat().st_mode for path in out.iterdir()}
    assert len(modes) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="something else"):
        export(small_model, small_store, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_does_not_belong_together_is_refused(small_model, small_store, small_folder, tmp_path):
    store = store_of("kmer", tmp_path, small_folder)
    with pytest.raises(ValueError, match="another token store"):
        export(small_model, store.path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no trained model"):
        export(tmp_path / "nothing", small_store, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="titans-genomics evaluate"):
        export(small_model, small_store, tmp_path / "out", evaluation=tmp_path / "evaluate.json")
    assert not (tmp_path / "out").exists()


def test_an_upload_makes_the_repository_and_sends_the_folder(small_model, small_store, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda _, name, **options: calls.append((name, options)))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda _, **options: calls.append(options))
    export(small_model, small_store, tmp_path / "out", push="someone/genome-titans")
    (name, options), sent = calls
    assert (name, options["private"]) == ("someone/genome-titans", True)
    assert sent["folder_path"] == tmp_path / "out"
    assert 'from_pretrained("someone/genome-titans")' in (tmp_path / "out" / "README.md").read_text()


def test_an_upload_without_network_says_so(small_model, small_store, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"could not be uploaded as someone/x \(ConnectError: .*hf auth login"):
        export(small_model, small_store, tmp_path / "out", push="someone/x")
    assert (tmp_path / "out" / "config.json").is_file()


def test_nothing_is_shown(small_model, small_store, tmp_path, capfd):
    transformers_logging.enable_progress_bar()
    export(small_model, small_store, tmp_path / "out", shard_size="5KB")
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()


def test_an_upload_that_fails_leaves_the_folder(small_model, small_store, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to the host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"could not be uploaded as someone/x \(OSError: no route"):
        export(small_model, small_store, tmp_path / "out", push="someone/x")
    assert (tmp_path / "out" / "config.json").is_file()
