"""Models of the Hub, by small ones in folders: the embedding does not depend on its company, and what was cut is counted."""

import json
import shutil

import numpy as np
import pytest
import torch
from small import small_settings

from titans_genomics.config import parse_config
from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.data.labelled import Labelled, prepare
from titans_genomics.tasks import hub
from titans_genomics.tasks.plan import plan
from titans_genomics.tasks.score import score
from titans_genomics.tasks.tables import table

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of two layers with random weights, and its tokenizer: a token per base between [CLS] and [SEP]."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"ACGTN"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    path = tmp_path_factory.mktemp("hub") / "bert"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=9,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(shape).save_pretrained(path)
    return path


@pytest.fixture
def data():
    """Sequences of mixed lengths; the last two are the strands of one."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 4, n).astype(np.uint8) for n in (9, 30, 4, 60, 17)]
    sequences.append(reverse_complement(sequences[-1]))
    return of(sequences)


def of(sequences):
    n = len(sequences)
    return Labelled(
        name="made",
        task="classification",
        classes=("a", "b"),
        metric="accuracy",
        ids=[str(i) for i in range(n)],
        codes=np.concatenate(sequences),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        targets=np.arange(n) % 2,
        split=np.zeros(n, np.uint8),
        groups=None,
        copies=np.zeros(n, np.uint8),
        info={},
    )


def config_of(small_folder, folder, entry=None, **downstream):
    entry = {"name": "bert", "repo": str(folder), "max_length": 40, **(entry or {})}
    return parse_config({**small_settings(small_folder), "downstream": {"hub": [entry], **downstream}}, "hub")


def embed(config, data, out):
    (out / "data").mkdir(exist_ok=True)
    (out / "data" / "sequences.parquet").write_bytes(data.codes.tobytes())
    return hub.embed_hub(config, config.downstream.hub[0], data, out / "data", out / "embeddings" / "bert.npz")


def by_hand(folder, codes, pooling, most=40):
    """The embedding of one strand of one sequence, read alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = tokenizer(decode(codes), return_tensors="pt", truncation=True, max_length=most)
    with torch.no_grad():
        hidden = model(**given).last_hidden_state[0]
    return (hidden.mean(0) if pooling == "mean" else hidden[-1]).numpy()


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("strands", ["given", "both"])
def test_embeddings_are_those_of_each_sequence_read_alone(
    small_folder, folder, data, tmp_path, monkeypatch, strands, pooling, masked
):
    config = config_of(small_folder, folder, pooling=pooling, strands=strands)
    if not masked:  # such as HyenaDNA
        forward = transformers.BertModel.forward
        monkeypatch.setattr(transformers.BertModel, "forward", lambda self, input_ids: forward(self, input_ids))
    found = embed(config, data, tmp_path)
    if not masked:
        monkeypatch.undo()
    for row in range(len(data)):
        codes = data.sequence(row)
        expected = by_hand(folder, codes, pooling)
        if strands == "both":
            expected = (expected + by_hand(folder, reverse_complement(codes), pooling)) / 2
        np.testing.assert_allclose(found.vectors[row], expected, atol=2e-5)
    if strands == "both":
        np.testing.assert_allclose(found.vectors[-1], found.vectors[-2], atol=1e-6)
    else:
        assert np.abs(found.vectors[-1] - found.vectors[-2]).max() > 1e-3
    assert found.details["cut"] == 1
    assert found.parameters == transformers.AutoModel.from_pretrained(folder).num_parameters()


def test_embeddings_are_kept_until_the_files_or_the_length_change(small_folder, folder, data, tmp_path, monkeypatch):
    own = shutil.copytree(folder, tmp_path / "own")
    config = config_of(small_folder, own)
    first = embed(config, data, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_load", lambda *_: pytest.fail("computed again"))
        again = embed(config, data, tmp_path)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert (again.details, again.seconds) == (first.details, first.seconds)
    longer = embed(config_of(small_folder, own, {"max_length": 62}), data, tmp_path)
    assert longer.details["cut"] == 0
    model = transformers.BertModel.from_pretrained(own)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(2)
    model.save_pretrained(own)
    changed = embed(config, data, tmp_path)
    assert changed.details["revision"] != first.details["revision"]
    assert np.abs(changed.vectors - first.vectors).max() > 1e-3


def test_a_row_of_the_table_says_what_was_read_and_how_many_were_cut(small_folder, folder, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["sequence,label"]
    for i in range(60):
        bases = rng.choice(list("ACGT"), 45 if i < 6 else 20, p=[0.1, 0.4, 0.4, 0.1] if i % 2 else [0.25] * 4)
        lines.append(f"{''.join(bases)},{i % 2}")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    config = config_of(
        small_folder, folder, datasets=[{"path": str(tmp_path / "own.csv")}], methods=["kmer"], seeds=[0], bootstrap=20
    )
    out = tmp_path / "own"
    prepare(config, "own", out / "data")
    for row in plan(config, "own"):
        score(config, tmp_path / "nowhere", out, tmp_path / "nowhere", *row)
    rows = {row["model"]: row for row in table(config, out)["rows"]}
    assert set(rows) == {"none", "bert"}
    assert rows["bert"]["method"] == "probe"
    assert {key: rows["bert"]["hub"][key] for key in ("repo", "max_length", "cut", "class")} == {
        "repo": str(folder),
        "max_length": 40,
        "cut": 6,
        "class": "BertModel",
    }
    trained = rows["bert"]["cost"]["trained_parameters"]
    assert trained == 17
    model = transformers.AutoModel.from_pretrained(folder)
    assert rows["bert"]["cost"]["parameters"] == model.num_parameters() + trained


def test_a_length_above_the_models_is_an_error(small_folder, folder, tmp_path):
    data = of([np.zeros(100, np.uint8)])
    with pytest.raises(ValueError, match=r"downstream.hub.bert: .* reads 64 tokens at most; set max_length"):
        embed(config_of(small_folder, folder, {"max_length": 100}), data, tmp_path)


def test_without_network_the_error_names_the_model_and_what_to_do(small_folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = config_of(small_folder, "nobody/no-such-model")
    expected = r"downstream.hub.bert: nobody/no-such-model is neither a folder.*hf download nobody/no-such-model --local-dir.*set repo"
    with pytest.raises(FileNotFoundError, match=expected):
        embed(config, data, tmp_path)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_that_is_not_whole_is_an_error(small_folder, folder, data, tmp_path, missing):
    own = shutil.copytree(folder, tmp_path / "own")
    (own / missing).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=r"downstream\.hub\.bert"):
        embed(config_of(small_folder, own), data, tmp_path)


def test_code_that_comes_with_a_model_is_not_run_unless_asked_for(small_folder, folder, data, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    shape = json.loads((own / "config.json").read_text())
    shape |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (own / "config.json").write_text(json.dumps(shape))
    (own / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="comes with Python code of its own"):
        embed(config_of(small_folder, own), data, tmp_path)
    assert not (tmp_path / "ran").exists()
