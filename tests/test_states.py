"""State tracking: groups that are groups, answers that are products, and no way to know them but to follow the word."""

import json
import math
import xml.etree.ElementTree as ET
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn

from titans_genomics.config import parse_config
from titans_genomics.report.plots import looks
from titans_genomics.report.states_plot import _shown, accuracy_by_length
from titans_genomics.tasks import states as task
from titans_genomics.tasks.states_draw import GROUPS, draw_words, group

ORDERS = {"s5": 120, "a5": 60, "s4": 24, "s3": 6, "z60": 60}


def settings_of(folder, **states):
    """A run of seconds as plain values."""
    return {
        "run": "states",
        "results": str(folder),
        "model": {"d_model": 8, "n_layers": 1, "n_heads": 2, "chunk": 1, "conv": 0, "memory_expansion": 1.0},
        "compare": {"linear": {"memory_layers": 1}},
        "train": {"accelerator": "cpu"},
        "states": {
            "group": "s3",
            "train_length": 6,
            "lengths": [4, 12],
            "samples": 16,
            "fit": {"steps": 12, "batch_size": 4, "checkpoint_every": 5},
            "validate_every": 6,
            **states,
        },
    }


def config_of(folder, **states):
    return parse_config(settings_of(folder, **states), "here")


def all_of(config, folder):
    """Every model and seed, then the table."""
    for name, seeds in config.fits("states").items():
        for seed in seeds:
            task.one(config, name, seed, folder)
    return task.table(config, folder)


class Follows(nn.Module):
    """Keeps the product so far; an oracle that composes permutations of its own."""

    def __init__(self, name, wrong_behind=10**9):
        super().__init__()
        self.elements = list(permutations(range(int(name[1:]))))
        self.wrong_behind = wrong_behind

    def parameters(self, recurse=True):
        return iter([torch.zeros(1)])

    def forward(self, words, state=None):
        read, held = state or (0, [tuple(range(len(self.elements[0])))] * len(words))
        logits = torch.zeros(*words.shape, len(self.elements))
        for t in range(words.shape[1]):
            letters = [self.elements[i] for i in words[:, t].tolist()]
            held = [tuple(letter[image] for image in before) for before, letter in zip(held, letters, strict=True)]
            for row, now in enumerate(held):
                right = self.elements.index(now)
                logits[row, t, right if read + t < self.wrong_behind else (right + 1) % len(self.elements)] = 9.0
        return logits, (read + words.shape[1], held)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_groups(name):
    found = group(name)
    n, table = found.order, found.table
    assert n == ORDERS[name]
    assert (table[0] == np.arange(n)).all()
    assert (table[:, 0] == np.arange(n)).all()
    assert (np.sort(table, 0) == np.arange(n)[:, None]).all()  # a x = b and x a = b have one solution each
    assert (np.sort(table, 1) == np.arange(n)).all()
    assert (table[table] == table[:, table]).all()  # (a b) c = a (b c)


@pytest.mark.parametrize("name", GROUPS)
def test_generators_generate_and_hold_their_inverses(name):
    found = group(name)
    reached, grown = {0}, True
    while grown:
        more = {int(found.table[a, b]) for a in reached for b in found.generators}
        grown, reached = not more <= reached, reached | more
    assert len(reached) == found.order
    inverses = {int(np.flatnonzero(found.table[a] == 0)[0]) for a in found.generators}
    assert inverses == set(found.generators.tolist())
    assert 0 in inverses
    assert len(found.generators) == {"s5": 11, "a5": 21, "s4": 7, "s3": 4, "z60": 11}[name]


def derived(found, elements):
    """The subgroup that the commutators of some elements generate."""
    inverse = {a: int(np.flatnonzero(found.table[a] == 0)[0]) for a in elements}
    several = lambda *letters: int(found.products(np.array([letters]))[0, -1])  # noqa: E731
    reached = {several(inverse[a], inverse[b], a, b) for a, b in product(elements, repeat=2)}
    while not (more := {int(x) for x in found.table[np.ix_(sorted(reached), sorted(reached))].flat}) <= reached:
        reached |= more
    return reached


@pytest.mark.parametrize(
    ("name", "series"),
    [("s3", [6, 3, 1]), ("s4", [24, 12, 4, 1]), ("z60", [60, 1]), ("a5", [60, 60]), ("s5", [120, 60, 60])],
)
def test_the_groups_of_five_are_not_solvable_and_the_others_are(name, series):
    found = group(name)
    sizes, elements = [found.order], set(range(found.order))
    while len(sizes) < len(series):
        elements = derived(found, elements)
        sizes.append(len(elements))
    assert sizes == series


@pytest.mark.parametrize("name", ["s5", "s4", "s3", "a5"])
def test_products_are_those_of_permutations_one_after_the_other(name):
    degree = int(name[1:])
    elements = [p for p in permutations(range(degree)) if name[0] == "s" or even(p)]
    words = np.random.default_rng(0).integers(len(elements), size=(5, 30))
    answers = group(name).products(words)
    for word, given in zip(words.tolist(), answers.tolist(), strict=True):
        place = list(range(degree))  # where each point is by now
        for letter, answer in zip(word, given, strict=True):
            place = [elements[letter][p] for p in place]
            assert elements[answer] == tuple(place)


def even(permutation):
    """By its cycles: each of k points is k - 1 swaps."""
    seen, swaps = set(), 0
    for start in permutation:
        point, size = start, 0
        while point not in seen:
            seen.add(point)
            point, size = permutation[point], size + 1
        swaps += max(0, size - 1)
    return swaps % 2 == 0


def test_products_of_z60_are_sums():
    words = np.random.default_rng(0).integers(60, size=(5, 200))
    assert (group("z60").products(words) == words.cumsum(1) % 60).all()


def test_letters_of_s5_are_the_identity_and_the_ten_swaps():
    found, elements = group("s5"), list(permutations(range(5)))
    letters = [elements[i] for i in found.letters("generators")]
    assert sorted(sum(p != i for i, p in enumerate(letter)) for letter in letters) == [0] + [2] * 10
    assert (found.letters("elements") == np.arange(120)).all()


def test_draws_are_even_and_repeatable():
    letters = group("s5").generators
    first, again, other = (draw_words(np.random.default_rng(seed), letters, 40, 500) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    counts = np.unique_counts(first)
    assert (counts.values == letters).all()
    assert abs(counts.counts - 20_000 / 11).max() < 5 * math.sqrt(20_000 / 11)


def test_batches_are_functions_of_the_step(tmp_path):
    settings, found = config_of(tmp_path).states, group("s3")
    one, same, other = (task.training_task(settings, found, seed) for seed in ([1, 0], [1, 0], [1, 1]))
    for step in (7, 3, 7):
        for a, b in zip(one.batch(step), same.batch(step), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.batch(3)[0], other.batch(3)[0])
    words, products = one.batch(11)
    assert (found.products(words.numpy()) == products.numpy()).all()


def test_words_grow_to_the_training_length(tmp_path):
    settings = config_of(tmp_path, train_length=32, first_length=2, grow=0.5, fit={"steps": 100}).states
    lengths = [task.length_at(step, settings) for step in range(100)]
    assert lengths[0] == 2
    assert lengths == sorted(lengths)
    assert lengths[48] < 32
    assert set(lengths[49:]) == {32}
    at_once = config_of(tmp_path, train_length=32, grow=0).states
    assert {task.length_at(step, at_once) for step in range(12)} == {32}


def test_a_target_is_known_by_all_letters_and_by_no_fewer():
    """No letter, and not the product before the last letters, gives an answer away."""
    found = group("s5")
    words = draw_words(np.random.default_rng(0), found.generators, 30_000, 24)
    products = found.products(words)
    for last in found.generators:
        given = products[words[:, -1] == last, -1]
        shares = np.bincount(given, minlength=120) / len(given)
        assert shares.max() < 4 / 120  # about 2,700 words: 1/120, give or take
    changed = words.copy()
    changed[:, 10] = found.table[changed[:, 10], found.generators[1]]
    assert (found.products(changed)[:, :10] == products[:, :10]).all()
    assert (found.products(changed)[:, 10:] != products[:, 10:]).all()


@pytest.mark.parametrize("piece", [512, 5])
def test_one_who_follows_the_word_is_always_right(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(task, "PIECE", piece)
    monkeypatch.setattr(task, "BATCH_TOKENS", 30)
    settings = config_of(tmp_path, lengths=[12, 1, 5]).states
    rows, positions = task.measure(Follows("s3"), settings, group("s3"), 1, "oracle")
    assert [row["length"] for row in rows] == [1, 5, 12]
    assert all(row["accuracy"] == row["last_quarter"] == row["exact"] == 1 for row in rows)
    assert positions == [1.0] * 12


def test_figures_are_shares_of_places_and_of_words(tmp_path):
    settings = config_of(tmp_path, lengths=[4, 8, 16]).states
    rows, positions = task.measure(Follows("s3", wrong_behind=7), settings, group("s3"), 1, "oracle")
    assert [row["accuracy"] for row in rows] == [1, 7 / 8, 7 / 16]
    assert [row["last_quarter"] for row in rows] == [1, 1 / 2, 0]
    assert [row["exact"] for row in rows] == [1, 0, 0]
    assert positions == [1.0] * 7 + [0.0] * 9


def test_one_who_sees_only_the_last_letter_guesses(tmp_path):
    class Repeats(Follows):
        def forward(self, words, state=None):
            return nn.functional.one_hot(words, 120).float(), None

    settings = config_of(tmp_path, group="s5", lengths=[64], samples=400).states
    rows, _ = task.measure(Repeats("s5"), settings, group("s5"), 1, "repeats")
    assert rows[0]["last_quarter"] == pytest.approx(1 / 120, abs=0.006)


def test_logits_that_are_no_numbers_are_wrong_answers(tmp_path):
    class Breaks(Follows):
        def forward(self, words, state=None):
            logits, state = super().forward(words, state)
            logits[:, 3:] = float("nan")
            return logits, state

    rows, _ = task.measure(Breaks("s3"), config_of(tmp_path, lengths=[4]).states, group("s3"), 1, "breaks")
    assert rows[0]["accuracy"] == 3 / 4


def test_the_words_measured_are_the_same_for_all_and_none_of_those_trained_on(tmp_path):
    seen = []

    class Watches(Follows):
        def forward(self, words, state=None):
            seen.append(words.clone())
            return super().forward(words, state)

    settings, found = config_of(tmp_path, group="s4", lengths=[32], train_length=32, grow=0).states, group("s4")
    for seed in (1, 1, 2):
        task.measure(Watches("s4"), settings, found, seed, "watches")
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    training = task.training_task(settings, found, [1, 0])
    trained = {tuple(word) for step in range(12) for word in training.batch(step)[0].tolist()}
    training.validate(Watches("s4"))
    held = {tuple(word) for batch in seen[3:] for word in batch.tolist()}
    measured = {tuple(word) for word in seen[0].tolist()}
    assert not trained & measured
    assert not trained & held
    assert not held & measured


def without_time(result):
    return result | {"training": {key: value for key, value in result["training"].items() if key != "seconds"}}


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


@pytest.mark.parametrize("name", ["titans", "lstm"])
def test_killed_is_not_killed(tmp_path, monkeypatch, name):
    config = config_of(tmp_path)
    expected = task.one(config, name, 0, tmp_path / "whole")
    drawn = task.draw_words

    def until(*arguments):
        monkeypatch.setattr(task, "left", task.left - 1)
        if not task.left:
            raise Killed
        return drawn(*arguments)

    monkeypatch.setattr(task, "left", 10, raising=False)
    monkeypatch.setattr(task, "draw_words", until)
    with pytest.raises(Killed):
        task.one(config, name, 0, tmp_path / "killed")
    monkeypatch.setattr(task, "draw_words", drawn)
    assert (tmp_path / f"killed/{name}/seed0/last.pt").is_file()
    found = task.one(config, name, 0, tmp_path / "killed")
    assert without_time(found) == without_time(expected)
    first, second = (tmp_path / f"{kind}/{name}/seed0/model.safetensors" for kind in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode == first.with_name("result.json").stat().st_mode


def test_all_models_and_seeds_come_into_one_table(tmp_path):
    config = config_of(tmp_path, seeds=[0, 3])
    result = all_of(config, tmp_path / "states")
    assert json.loads((tmp_path / "states/states.json").read_text()) == result
    assert list(result["models"]) == ["titans", "linear", "lstm"]
    assert (result["group"], result["order"], result["letters"], result["chance"]) == ("s3", 6, 4, 1 / 6)
    for name, measured in result["models"].items():
        single = [json.loads((tmp_path / f"states/{name}/seed{s}/result.json").read_text()) for s in (0, 3)]
        assert single[0]["positions"] != single[1]["positions"]
        assert measured["parameters"] == single[0]["parameters"]
        for i, row in enumerate(measured["lengths"]):
            for key in ("accuracy", "last_quarter", "exact"):
                values = [one["lengths"][i][key] for one in single]
                assert row[key] == {"mean": pytest.approx(np.mean(values)), "low": min(values), "high": max(values)}
    sizes = [measured["parameters"] for measured in result["models"].values()]
    assert max(sizes) / min(sizes) < 1.06  # a column of so small a model is 4% of it


def test_what_is_done_is_not_done_again_unless_asked_otherwise(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    expected = task.one(config, "lstm", 0, tmp_path)
    counted = []
    real = task.measure
    monkeypatch.setattr(task, "measure", lambda *given: counted.append(1) or real(*given))
    assert task.one(config, "lstm", 0, tmp_path) == expected
    assert not counted
    longer = task.one(config_of(tmp_path, lengths=[4, 12, 20]), "lstm", 0, tmp_path)
    assert longer["training"] == expected["training"]
    assert longer["lengths"][:2] == expected["lengths"]
    other = task.one(config_of(tmp_path, first_length=2), "lstm", 0, tmp_path)
    assert other["training"]["curve"] != expected["training"]["curve"]
    assert len(counted) == 2


def test_a_table_wants_all_models(tmp_path):
    config = config_of(tmp_path)
    task.one(config, "lstm", 0, tmp_path)
    with pytest.raises(FileNotFoundError, match="states --model titans --seed 0"):
        task.table(config, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"samples": 8}, {"grow": 0}, {"fit": {"steps": 13}}, {"seeds": [0, 1]}],
    ids=lambda value: next(iter(value)),
)
def test_a_table_wants_results_of_its_settings(tmp_path, changes):
    config = config_of(tmp_path)
    whole = all_of(config, tmp_path)
    assert (
        task.table(config_of(tmp_path, fit={**config.states.fit.model_dump(), "checkpoint_every": 7}), tmp_path)
        == whole
    )
    wider = config.model_copy(update={"model": config.model.model_copy(update={"d_model": 10})})
    others = [
        (config_of(tmp_path, **changes), FileNotFoundError if "seeds" in changes else ValueError),
        (wider, ValueError),
    ]
    for other, error in others:
        with pytest.raises(error, match=r"result\.json: .*`titans-genomics states --model titans --seed"):
            task.table(other, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": "s6"}, r"states.group: .*s5.* \(is 's6'\)"),
        ({"lengths": []}, "states.lengths"),
        ({"lengths": [16, 0]}, "states.lengths: numbers must be 1 or more"),
        ({"lengths": [16, 16]}, "states.lengths: 16 stands here twice"),
        ({"seeds": [0, 0]}, "states.seeds: 0 stands here twice"),
        ({"seeds": [-1]}, "states.seeds: numbers must be 0 or more"),
        ({"train_length": 1}, "states.train_length"),
        ({"first_length": 9}, "states.first_length 9 must be at most states.train_length 6"),
        ({"grow": 1.5}, "states.grow"),
        ({"baselines": ["gru"]}, "states.baselines"),
        ({"fit": {"lr": 0}}, "states.fit.lr"),
        ({"fit": {"momentum": 1}}, "states.fit.momentum: unknown key; known here: .*warmup"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_settings_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, **changes)


def test_what_the_run_does_not_have_is_named(tmp_path):
    config = config_of(tmp_path)
    with pytest.raises(ValueError, match="model 'mac' is not one of this run's: titans, linear, lstm"):
        task.one(config, "mac", 0, tmp_path)
    with pytest.raises(ValueError, match=r"seed 7 is not one of states.seeds \(0\)"):
        task.one(config, "titans", 7, tmp_path)
    without = config.model_copy(update={"states": config.states.model_copy(update={"group": None})})
    with pytest.raises(ValueError, match=r"states.group is not set"):
        task.one(without, "titans", 0, tmp_path)
    with pytest.raises(ValueError, match=r"states.group is not set"):
        task.table(without, tmp_path)
    with pytest.raises(ValueError, match=r"compare.lstm: this name is taken"):
        parse_config(settings_of(tmp_path) | {"compare": {"lstm": {"memory_layers": 1}}}, "here")


@pytest.mark.parametrize(("theta_max", "least", "most"), [(1.0, 0.9, 1.0), (0.5, 0.0, 0.4)])
def test_a_linear_memory_follows_swaps_where_its_steps_may_reflect(tmp_path, theta_max, least, most):
    """A step of 1 along a key of length 1 turns what is stored there round; one of up to 1/2 can at most wipe it out."""
    settings = settings_of(
        tmp_path,
        train_length=8,
        first_length=2,
        lengths=[16],
        samples=64,
        validate_every=1000,
        fit={"steps": 120, "lr": 0.02, "batch_size": 8},
    )
    settings["model"] |= {"d_model": 16, "memory_layers": 1, "theta_max": theta_max, "momentum": False}
    result = task.one(parse_config(settings, "here"), "titans", 0, tmp_path)
    assert least <= result["lengths"][0]["last_quarter"] <= most


def made_up(**models):
    def rows(values):
        return [
            {"length": n} | {k: {"mean": v, "low": v - 0.1, "high": v} for k in ("accuracy", "last_quarter", "exact")}
            for n, v in zip((16, 64, 512), values, strict=True)
        ]

    models = models or {"titans": (1, 0.9, 0.5), "linear": (0.4, 0.1, 0.1), "lstm": (1, 1, 1), "<other>": (0, 0, 0)}
    return {
        "group": "s5", "chance": 1 / 120, "train_length": 32, "models": {n: {"lengths": rows(v)} for n, v in models.items()},
    }  # fmt: skip


def test_the_plot_is_an_image_with_its_figures_in_words(tmp_path):
    drawn = accuracy_by_length(made_up(), looks(config_of(tmp_path)))
    root = ET.fromstring(drawn)
    text = root.attrib["aria-label"]
    assert "S5, chance is 0.8%" in text
    assert "Titans LMM 100% at 16 and 50% at 512 letters" in text
    assert "<other> 0% at 16" in text
    written = "".join(root.itertext())
    for shown in ("Titans LMM", "linear", "lstm", "<other>", "chance", "trained up to here", "letters of a word"):
        assert shown in written


def test_no_two_models_look_alike(tmp_path):
    settings = settings_of(tmp_path) | {"compare": {f"more{i}": {"memory_layers": 1} for i in range(9)}}
    names = ["titans", *settings["compare"], "lstm", "other"]
    found = _shown(names, looks(parse_config(settings, "here")))
    assert len({(look.colour, look.dash) for look in found.values()}) == len(names)


def test_the_plot_needs_no_looks():
    drawn = ET.fromstring(accuracy_by_length(made_up(titans=(1, 1, 1))))
    assert "titans 100% at 16 and 100% at 512" in drawn.attrib["aria-label"]
