"""The species task: honest sequences, exact scores, and a class that composition gives away is found."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef
from small import small_settings

from titans_genomics.config import DownstreamConfig, parse_config
from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.tasks import species as task

CLASSES = [{"species": name, "path": "x"} for name in ("a", "b", "c")]


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    guess = np.where(rng.random(200) < 0.6, truth, rng.integers(0, 3, 200))
    found = task.scores(confusion_matrix(truth, guess))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(truth, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))


def test_kmers_are_counted_on_both_strands():
    tokens = np.array([[0, 1, 2, 3, 4, 0, 0, 0]], np.uint8)
    found = task.kmers(tokens, 2)[0]
    counts = np.zeros(16)
    for strand in (decode(tokens[0]), decode(reverse_complement(tokens[0]))):
        for i in range(len(strand) - 1):
            if "N" not in strand[i : i + 2]:
                counts["ACGT".index(strand[i]) * 4 + "ACGT".index(strand[i + 1])] += 1
    np.testing.assert_allclose(found, counts / counts.sum())


def test_train_and_test_share_no_region_and_tiles_do_not_overlap(monkeypatch):
    """Here no two tokens are alike, so that region and place can be read off a sequence; all count as N."""
    monkeypatch.setattr(task, "MOST_N", 1)
    settings = DownstreamConfig(species=CLASSES, length=50, per_class=40, region=500)
    regions = [[np.arange(520) + 1000 * (10 * c + r) + 100 for r in range(10)] for c in range(3)]
    draw = task._draw(settings, regions, 3)
    assert draw.tokens.shape == (120, 50)
    region = draw.tokens[:, 0] // 1000
    np.testing.assert_array_equal(region, draw.region)
    np.testing.assert_array_equal(region // 10, draw.label)
    assert not set(region[draw.test]) & set(region[~draw.test])
    assert len(np.unique(draw.tokens)) == draw.tokens.size
    assert draw.test.sum() == 36
    backwards = (draw.tokens[:, 1] < draw.tokens[:, 0]).mean()
    assert 0.3 < backwards < 0.7


def test_tiles_with_many_n_are_left_out():
    region = np.zeros(100, np.uint8)
    region[20:30] = 4
    tiles = task._tiles(region, 20, np.random.default_rng(0))
    assert len(tiles) == 4
    assert all((tile < 4).all() for tile in tiles)


@pytest.fixture(scope="module")
def downstream(small_folder):
    """Two species that differ in GC, one of them the held-out split of the source."""
    rng = np.random.default_rng(1)
    bases = rng.choice(list("ACGT"), size=6000, p=[0.1, 0.4, 0.4, 0.1])
    (small_folder / "rich.fa").write_text(">rich\n" + "".join(bases) + "\n")
    return {
        "species": [
            {"species": "plain", "source": "genome"},
            {"species": "rich", "path": str(small_folder / "rich.fa")},
        ],
        "length": 64,
        "per_class": 20,
        "region": 500,
        "kmer": 2,
        "seeds": [0, 1],
        "bootstrap": 200,
    }


def config_of(folder, downstream, **changes):
    return parse_config({**small_settings(folder), "downstream": {**downstream, **changes}}, "species")


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_task_end_to_end(small_folder, small_store, small_model, downstream, tmp_path, pooling):
    config = config_of(small_folder, downstream, pooling=pooling)
    found = task.species(config, small_store, small_model, tmp_path / "species.json")
    assert json.loads((tmp_path / "species.json").read_text()) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings.npz", "species.json"]
    assert [entry["species"] for entry in found["classes"]] == ["plain", "rich"]
    for method in found["methods"].values():
        assert np.sum(method["confusion"]) == 2 * 12
        assert method["accuracy"] == pytest.approx(np.mean([seed["accuracy"] for seed in method["seeds"]]))
        low, high = method["accuracy_ci95"]
        assert low <= method["accuracy"] <= high
    assert found["methods"]["kmer"]["accuracy"] > 0.9
    expected = found["methods"]["titans"]["accuracy"] - found["methods"]["kmer"]["accuracy"]
    assert found["difference"]["accuracy"] == pytest.approx(expected)
    saved = np.load(tmp_path / "embeddings.npz")
    assert saved["embedding"].shape == (2 * 40, 16)
    assert saved["test"].sum() == 2 * 12
    again = task.species(config, small_store, small_model, tmp_path / "species.json")
    assert again == found


def test_sequences_are_the_same_whatever_a_token_is(small_folder, small_store, downstream, tmp_path):
    """Those of a source are the bases of its test split, those of a file its contigs of data.min_contig bases or more."""
    from titans_genomics.data.store import TokenStore, tokenize

    two = tmp_path / "two.fa"
    two.write_text((small_folder / "rich.fa").read_text() + ">short\n" + "ACGT" * 20 + "\n")
    classes = [downstream["species"][0], {"species": "rich", "path": str(two)}]
    config = config_of(small_folder, downstream, species=classes)
    plain, rich = config.downstream.species
    store = TokenStore(small_store)
    regions = task._regions(config, store, plain)
    genome = "".join(line for line in (small_folder / "genome.fa").read_text().split() if not line.startswith(">"))
    offsets = {"one": 0, "two": 20_000}
    held_out = [
        genome[offsets[s.record] + s.start : offsets[s.record] + s.end] for s in store.index if s.split == "test"
    ]
    expected = [stretch[i : i + 500] for stretch in held_out for i in range(0, len(stretch), 500)]
    assert [decode(region) for region in regions] == [piece for piece in expected if len(piece) >= 64]
    assert sum(len(region) for region in task._regions(config, store, rich)) == 6_000
    for number, tokenizer in enumerate(({"kind": "kmer"}, {"kind": "bpe", "vocab_size": 64})):
        settings = small_settings(small_folder)
        settings["data"]["tokenizer"] = tokenizer
        tokenize(parse_config(settings, "other"), tmp_path / str(number))
        others = task._regions(config, TokenStore(tmp_path / str(number)), plain)
        assert all((one == other).all() for one, other in zip(regions, others, strict=True))


def test_a_model_of_other_tokens_end_to_end(small_folder, downstream, tmp_path):
    from titans_genomics.data.store import tokenize
    from titans_genomics.training import train

    settings = small_settings(small_folder, max_steps=2, context=32) | {"downstream": downstream}
    settings["data"]["tokenizer"] = {"kind": "bpe", "vocab_size": 64}
    config = parse_config(settings, "bpe")
    tokenize(config, tmp_path / "tokens")
    train(config, tmp_path / "tokens", tmp_path / "model")
    found = task.species(config, tmp_path / "tokens", tmp_path / "model", tmp_path / "species.json")
    assert found["methods"]["kmer"]["accuracy"] > 0.9
    assert np.load(tmp_path / "embeddings.npz")["embedding"].shape == (2 * 40, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_class": 500}, r"room for \d+ sequences.*per_class"),
        ({"region": 64, "length": 4000}, r"0 region\(s\) of at least 4000 bases"),
    ],
)
def test_too_little_sequence_is_an_error(
    small_folder, small_store, small_model, downstream, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        task.species(
            config_of(small_folder, downstream, **changes), small_store, small_model, tmp_path / "species.json"
        )
    assert not list(tmp_path.iterdir())
