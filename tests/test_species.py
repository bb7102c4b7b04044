"""The species task: honest sequences, exact scores, and a class that composition gives away is found."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef
from small import small_settings

from titans_genomics.config import SpeciesConfig, parse_config
from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.data.store import TokenStore
from titans_genomics.tasks import species as task
from titans_genomics.tasks import species_draw

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
    monkeypatch.setattr(species_draw, "MOST_N", 1)
    settings = SpeciesConfig(classes=CLASSES, length=50, per_class=40, region=500, seeds=(3, 4))
    regions = [[np.arange(520) + 1000 * (10 * c + r) + 100 for r in range(10)] for c in range(3)]
    draw, other = species_draw.draw_sequences(settings, regions, 50)
    assert draw.tokens.shape == (120, 50)
    region = draw.tokens[:, 0] // 1000
    np.testing.assert_array_equal(region, draw.region)
    np.testing.assert_array_equal(region // 10, draw.label)
    assert not set(region[draw.test]) & set(region[~draw.test])
    assert len(np.unique(draw.tokens)) == draw.tokens.size
    assert draw.test.sum() == 36
    backwards = (draw.tokens[:, 1] < draw.tokens[:, 0]).mean()
    assert 0.3 < backwards < 0.7
    assert set(other.region[other.test]) != set(draw.region[draw.test])


@pytest.mark.parametrize(("room", "expected"), [(100, 30), (21, 21), (10, 10)])
def test_where_there_is_less_room_every_class_has_fewer_sequences(room, expected):
    """Class b has so many regions of one sequence each; classes a and c have plenty."""
    settings = SpeciesConfig(classes=CLASSES, length=50, per_class=30, region=64, test=0.3)
    regions = [[np.zeros(50, np.uint8)] * count for count in (100, room, 100)]
    for draw in species_draw.draw_sequences(settings, regions, 50):
        for label in range(3):
            assert (draw.label == label).sum() == expected
            assert (draw.test & (draw.label == label)).sum() == round(0.3 * expected)


def test_less_than_ten_sequences_of_a_class_are_an_error_that_names_the_length():
    settings = SpeciesConfig(classes=CLASSES, length=50, per_class=30, region=64)
    regions = [[np.zeros(50, np.uint8)] * count for count in (100, 9, 100)]
    with pytest.raises(ValueError, match=r"at length 50 b has room for 3 test and 6 training"):
        species_draw.draw_sequences(settings, regions, 50)


@pytest.mark.parametrize("length", [40, 64, 200])
def test_regions_are_at_least_as_long_as_a_sequence(length):
    settings = SpeciesConfig(classes=CLASSES, region=64)
    stretch = np.arange(900) % 4
    found = species_draw.cut_regions(settings, settings.classes[0], [stretch, stretch[:30]], length)
    assert {len(region) for region in found[:-1]} == {max(64, length)}
    assert min(map(len, found)) >= length
    np.testing.assert_array_equal(np.concatenate(found), stretch[: sum(map(len, found))])


def test_tiles_with_many_n_are_left_out():
    region = np.zeros(100, np.uint8)
    region[20:30] = 4
    tiles = species_draw.tiles_of(region, 20, np.random.default_rng(0))
    assert len(tiles) == 4
    assert all((tile < 4).all() for tile in tiles)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_sequences_longer_than_a_batch_have_the_same_embeddings(small_store, small_model, monkeypatch, pooling):
    from titans_genomics.progress import Progress
    from titans_genomics.training import load_model

    model, tokenizer = load_model(small_model), TokenStore(small_store).tokenizer
    sequences = np.random.default_rng(2).integers(0, 5, (3, 150)).astype(np.uint8)
    with Progress(None, "bases", "embedding") as progress:
        whole = task._embed(model, tokenizer, sequences, pooling, progress)
        monkeypatch.setattr(task, "BATCH_TOKENS", 40)
        pieces = task._embed(model, tokenizer, sequences, pooling, progress)
    assert progress.done == 2 * sequences.size
    hidden = model.embed(torch.from_numpy(sequences.astype(np.int64)))[0].detach().numpy()
    expected = hidden.mean(1) if pooling == "mean" else hidden[:, -1]
    np.testing.assert_allclose(whole, expected, atol=2e-6)
    np.testing.assert_allclose(pieces, expected, atol=2e-6)


@pytest.fixture(scope="module")
def settings(small_folder):
    """Two species that differ in GC, one of them the held-out split of the source."""
    rng = np.random.default_rng(1)
    bases = rng.choice(list("ACGT"), size=6000, p=[0.1, 0.4, 0.4, 0.1])
    (small_folder / "rich.fa").write_text(">rich\n" + "".join(bases) + "\n")
    return {
        "classes": [
            {"species": "plain", "source": "genome"},
            {"species": "rich", "path": str(small_folder / "rich.fa")},
        ],
        "length": [64, 200],
        "per_class": 20,
        "region": 500,
        "kmer": 2,
        "seeds": [0, 1],
        "bootstrap": 200,
    }


def config_of(folder, settings, **changes):
    return parse_config({**small_settings(folder), "species": {**settings, **changes}}, "species")


def test_the_task_end_to_end(small_folder, small_store, small_model, settings, tmp_path):
    config = config_of(small_folder, settings)
    found = task.species(config, small_store, small_model, tmp_path / "species.json")
    assert json.loads((tmp_path / "species.json").read_text()) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings.npz", "species.json"]
    assert found["classes"] == ["plain", "rich"]
    assert [entry["length"] for entry in found["lengths"]] == [64, 200]
    short, long = found["lengths"]
    assert short["per_class"] == 20
    assert 10 <= long["per_class"] < 20
    for entry in found["lengths"]:
        assert [own["species"] for own in entry["classes"]] == ["plain", "rich"]
        assert entry["train_sequences"] + entry["test_sequences"] == 2 * entry["per_class"]
        for method in entry["methods"].values():
            assert np.sum(method["confusion"]) == 2 * entry["test_sequences"]
            assert method["accuracy"] == pytest.approx(np.mean([seed["accuracy"] for seed in method["seeds"]]))
            low, high = method["accuracy_ci95"]
            assert low <= method["accuracy"] <= high
        assert entry["methods"]["kmer"]["accuracy"] > 0.9
        expected = entry["methods"]["titans"]["accuracy"] - entry["methods"]["kmer"]["accuracy"]
        assert entry["difference"]["accuracy"] == pytest.approx(expected)
    saved = np.load(tmp_path / "embeddings.npz")
    rows = 4 * (short["per_class"] + long["per_class"])
    assert saved["embedding"].shape == (rows, 16)
    assert (saved["length"] == 64).sum() == 4 * 20
    assert saved["test"][saved["length"] == 64].sum() == 2 * 12
    again = task.species(config, small_store, small_model, tmp_path / "species.json")
    assert again == found


def test_a_length_has_the_same_figures_whichever_stand_beside_it(
    small_folder, small_store, small_model, settings, tmp_path
):
    out = tmp_path / "species.json"
    both = task.species(config_of(small_folder, settings), small_store, small_model, out)
    alone = task.species(config_of(small_folder, settings, length=200), small_store, small_model, out)
    assert alone["lengths"] == both["lengths"][1:]


def test_sequences_are_the_same_whatever_a_token_is(small_folder, small_store, settings, tmp_path):
    """Those of a source are the bases of its test split, those of a file its contigs of data.min_contig bases or more."""
    from titans_genomics.data.store import tokenize

    two = tmp_path / "two.fa"
    two.write_text((small_folder / "rich.fa").read_text() + ">short\n" + "ACGT" * 20 + "\n")
    classes = [settings["classes"][0], {"species": "rich", "path": str(two)}]
    config = config_of(small_folder, settings, classes=classes)
    plain, rich = config.species.classes

    def regions(store, entry):
        return species_draw.cut_regions(
            config.species, entry, list(species_draw.read_stretches(config, store, entry)), 64
        )

    store = TokenStore(small_store)
    found = regions(store, plain)
    genome = "".join(line for line in (small_folder / "genome.fa").read_text().split() if not line.startswith(">"))
    offsets = {"one": 0, "two": 20_000}
    held_out = [
        genome[offsets[s.record] + s.start : offsets[s.record] + s.end] for s in store.index if s.split == "test"
    ]
    expected = [stretch[i : i + 500] for stretch in held_out for i in range(0, len(stretch), 500)]
    assert [decode(region) for region in found] == [piece for piece in expected if len(piece) >= 64]
    assert sum(len(region) for region in regions(store, rich)) == 6_000
    for number, tokenizer in enumerate(({"kind": "kmer"}, {"kind": "bpe", "vocab_size": 64})):
        other = small_settings(small_folder)
        other["data"]["tokenizer"] = tokenizer
        tokenize(parse_config(other, "other"), tmp_path / str(number))
        others = regions(TokenStore(tmp_path / str(number)), plain)
        assert all((one == other).all() for one, other in zip(found, others, strict=True))


def test_a_model_of_other_tokens_end_to_end(small_folder, settings, tmp_path):
    from titans_genomics.data.store import tokenize
    from titans_genomics.training import train

    other = small_settings(small_folder, max_steps=2, context=32) | {"species": settings | {"pooling": "last"}}
    other["data"]["tokenizer"] = {"kind": "bpe", "vocab_size": 64}
    config = parse_config(other, "bpe")
    tokenize(config, tmp_path / "tokens")
    train(config, tmp_path / "tokens", tmp_path / "model")
    found = task.species(config, tmp_path / "tokens", tmp_path / "model", tmp_path / "species.json")
    assert found["pooling"] == "last"
    assert all(entry["methods"]["kmer"]["accuracy"] > 0.9 for entry in found["lengths"])
    assert np.load(tmp_path / "embeddings.npz")["embedding"].shape[1] == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": [64, 320]}, r"at length 320 \w+ has room for \d+ test and \d+ training sequences"),
        ({"region": 64, "length": 4000}, r"0 region\(s\) of at least 4000 bases"),
        ({"classes": []}, r"species\.classes is empty"),
    ],
)
def test_too_little_sequence_is_an_error(small_folder, small_store, small_model, settings, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        task.species(config_of(small_folder, settings, **changes), small_store, small_model, tmp_path / "species.json")
    assert not list(tmp_path.iterdir())
