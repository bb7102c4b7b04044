"""The report: self-contained, complete, and true to the numbers that the stages left."""

import json
import re
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from made_up import (
    COMPARE,
    MODELS,
    ROOT,
    evaluated,
    full_config,
    full_run,
    full_settings,
    score,
    table,
    tiny_run,
)

from titans_genomics.config import load_config, parse_config
from titans_genomics.report import report
from titans_genomics.report.benchmarks import benchmark, best_details
from titans_genomics.report.build import read_curve
from titans_genomics.report.plots import STYLE, axes, label, looks, svg
from titans_genomics.report.tables import count, duration, held_out_text, hours, number, percent
from titans_genomics.tasks.ablations import ablations


@pytest.fixture
def folder(tmp_path):
    """The results of a run of configs/tiny.yaml, made up."""
    return tiny_run(tmp_path)


@pytest.fixture
def config():
    return load_config(ROOT / "configs" / "tiny.yaml")


class Page(HTMLParser):
    """Text, ids, links and whatever a browser would fetch."""

    def __init__(self, html):
        super().__init__()
        self.text, self.ids, self.links, self.fetched, self.plots, self.open = "", [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in ("meta", "br", "link", "img", "input"):
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values.get("href", values.get("xlink:href", "")))
        if tag == "svg":
            self.plots.append(values["aria-label"])
        self.fetched += [values[k] for k in ("src", "data", "srcset") if k in values]
        self.fetched += [values[k] for k in ("href", "xlink:href") if tag in ("link", "image") and k in values]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += " " + " ".join(data.split())


@pytest.fixture
def full(tmp_path):
    """The results of a run that asks for everything, made up."""
    folder = full_run(tmp_path)
    ablations(full_config(), folder)
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The same, with its report."""
    folder = full_run(tmp_path_factory.mktemp("full"))
    ablations(full_config(), folder)
    report(full_config(), folder, folder)
    return folder


@pytest.fixture(scope="module")
def tiny_told(tmp_path_factory):
    """The results of a run of configs/tiny.yaml with their report."""
    folder = tiny_run(tmp_path_factory.mktemp("tiny"))
    report(load_config(ROOT / "configs" / "tiny.yaml"), folder, folder)
    return folder


def check_whole(folder):
    """One page that refers to nothing outside itself, nor to what is not in it."""
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    assert all(source.startswith("data:") for source in page.fetched)
    assert "url(http" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert len(page.ids) == len(set(page.ids)), "ids of the plots do not collide"
    assert {link for link in page.links if link.startswith("#")} <= {f"#{id}" for id in page.ids}
    for link in re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', html):
        assert (link[0] or link[1]) in page.ids
    return page


def test_report_is_one_whole_page(tiny_told):
    assert len(check_whole(tiny_told).plots) == 6
    assert not [name for name in tiny_told.iterdir() if name.name.startswith(".")]


def test_report_says_what_the_issue_of_a_run_is(tiny_told):
    text = Page((tiny_told / "report.html").read_text()).text
    for said in (
        "400,000", "38.8%", "17", "secondary alignment", "75.0%", "too few units", "4.2%",  # what went in, what was left out
        "28,524", "1 min 15 s", "1.9123",  # training
        "1.9000", "1.9360", "Markov, order 7", "1.8900 to 1.9100", "better than", "-0.0360", "1.8765",  # held out
        "Helicobacter <pylori>", "0.875", "0.775 to 0.925", "17", "4-mer counts",  # downstream
        "A CPU", "A GPU", "pysam 9.9.9", "torch 2.13.0", "cdcdcd", "abab", "max_steps: 5", "0, 1 (species task)",  # to make it again
    ):  # fmt: skip
        assert said in text, said


def test_metrics_hold_every_number(config, tiny_told):
    stored = json.loads((tiny_told / "metrics.json").read_text())
    assert stored["bits_per_base"]["hpylori"] == {"uniform": 2.0, "markov": 1.936, "titans": 1.9, "transformer": 1.95}
    assert stored["data"]["sources"][1]["dropped"] == {"secondary alignment": 30}
    assert stored["train"]["titans"]["skipped_steps"] == 2
    assert stored["species"]["lengths"][0]["methods"]["titans"]["confusion"] == [[17, 3], [2, 18]]
    assert stored["config"]["train"]["lr"] == config.train.lr


@pytest.mark.parametrize(
    ("titans", "verdict"), [(1.9, "better than"), (1.935, "not distinguishable from"), (2.3, "worse than")]
)
def test_verdict_follows_the_interval(titans, verdict):
    assert verdict in held_out_text(evaluated(titans=titans))


def test_a_run_without_species_transformer_and_curve(config, folder):
    plain = config.model_copy(
        update={
            "species": config.species.model_copy(update={"classes": ()}),
            "train": config.train.model_copy(update={"transformer": False}),
        }
    )
    result = evaluated()
    for part in (*result["sources"].values(), result["overall"]):
        del part["models"]["transformer"]
        for row in part["context"]:
            del row["transformer"]
    (folder / "evaluate" / "evaluate.json").write_text(json.dumps(result))
    (folder / "train" / "titans" / "metrics.csv").unlink()
    metrics = report(plain, folder, folder)
    assert [metrics[key] for key in ("species", "downstream", "needle", "variants", "ablations")] == [None] * 5
    page = Page((folder / "report.html").read_text())
    for absent in ("Which species", "Transformer", "Labelled datasets", "Needle", "Variants", "Ablations"):
        assert absent not in page.text


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("tokens/manifest.json", "tokenize"),
        ("train/titans/train.json", "train --model titans"),
        ("evaluate/evaluate.json", "evaluate"),
        ("train/mac/train.json", "train --model mac"),
        ("species/species.json", "species"),
        ("downstream/promoters/table.json", "downstream table --dataset promoters"),
        (
            "downstream/promoters/finetune/titans/score.json",
            "downstream score --dataset promoters --method finetune --model titans",
        ),
        ("needle/needle.json", "needle"),
        ("variants/variants.json", "variants"),
        ("ablations.json", "ablations"),
    ],
)
def test_a_missing_stage_is_named(full, missing, command):
    (full / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"run `titans-genomics {command}`"):
        report(full_config(), full, full)
    assert not (full / "report.html").exists()
    assert not (full / "metrics.json").exists()


def test_a_damaged_stage_is_named(config, folder):
    (folder / "evaluate" / "evaluate.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluate\.json: cannot be read as JSON"):
        report(config, folder, folder)


def test_curves_leave_out_what_is_no_number(folder):
    rows = read_curve(folder / "train" / "titans" / "metrics.csv")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50]
    assert "grad_norm" not in rows[1]
    assert "val_bits_per_base" not in rows[0]
    assert np.isfinite([value for row in rows for value in row.values()]).all()


def test_numbers_read_well():
    assert count(1234567) == "1,234,567"
    assert percent(0.50789) == "50.8%"
    assert number(None, 3) == ""
    assert hours(5400, {"gpus": [], "threads": 2}) == "3 CPU-hours"
    assert hours(5400, {"gpus": ["A", "B"], "threads": 8}) == "3 GPU-hours"
    assert [hours(s, {"gpus": [], "threads": 1}) for s in (9, 90, 9e6)] == [
        "<0.01 CPU-hours",
        "0.025 CPU-hours",
        "2,500 CPU-hours",
    ]
    assert [duration(s) for s in (7.4, 75.2, 3725)] == ["7 s", "1 min 15 s", "1 h 2 min"]


ODD = ["_cost $x$", "100$^", "$\\frac{$", r"a\$b$", "\u5927\u8178"]


def test_names_are_no_formulas_in_any_part_of_a_plot():
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 1, 7, 3)
        ax = grid[0, 0]
        for i, name in enumerate(ODD):
            ax.plot([i, i + 1], [0, 1], label=label(name))
            ax.annotate(label(name), (i, 0))
        ax.set_yticks(range(len(ODD)), [label(f"y {name}") for name in ODD])
        ax.set_title(label(" ".join(ODD), 80))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ax.legend()
            text = Page(svg(figure, "odd", "Odd")).text
    for name in ODD:
        assert text.count(f" {name}") == 4, "legend, annotation, tick label and title"


def test_labels_are_short_and_printable():
    assert label("abcdefgh", 5) == "abcd\u2026"
    assert label("a\x07b") == "a?b"


def section(folder, name):
    """The text under a heading of the page, by the id of the heading."""
    return Page(
        (folder / "report.html").read_text().split(f'<h2 id="{name}">')[1].split("</h2>", 1)[1].split("<h2 ")[0]
    ).text


def test_a_run_that_asks_for_everything_is_one_whole_page(told):
    metrics = json.loads((told / "metrics.json").read_text())
    page = check_whole(told)
    assert {"species", "benchmarks", "needle", "variants", "ablations"} <= set(page.ids)
    assert len(page.plots) == 9
    assert list(metrics["train"]) == list(MODELS)
    assert set(metrics["bits_per_base"]["hpylori"]) == {"uniform", "markov", *MODELS}
    assert metrics["downstream"]["promoters"]["best"]["confusion"] == [[80.5, 19.5], [30, 70]]
    assert metrics["needle"]["lengths"] == [512, 4096]
    assert metrics["variants"]["sets"]["clinical"]["variants"] == 300
    assert [row["model"] for row in metrics["ablations"]["rows"]] == list(MODELS)


def test_every_model_has_a_name_and_a_look_of_its_own(told):
    for part in ("training", "heldout"):
        text = section(told, part)
        for said in ("Titans LMM", "Titans MAC", "Transformer", "no_conv", "four_layers"):
            assert said in text, (part, said)
    settings = full_settings()
    settings["compare"] = {f"m{i}": {"variant": "mac", "chunk": 32, "segment": 32 * (i + 1)} for i in range(20)}
    settings["compare"] |= {"a": {"variant": "mal"}, "b": {"variant": "mal"}, "c": {"variant": "lmm"}}
    found = looks(parse_config(settings, "x"))
    assert len({look.label for look in found.values()}) == len(found)
    assert (found["a"].label, found["b"].label) == ("Titans MAL", "Titans MAL (b)")
    models = [found[name] for name in ("titans", "transformer", *settings["compare"])]
    assert len({(look.colour, look.dash) for look in models}) == len(models)


def test_species_by_length(told):
    text = section(told, "species")
    for said in ("128, 1,024 bases each", "0.885", "at 1,024 bases", "Confusion matrices at 128 bases", "chance"):
        assert said in text, said
    assert "88.5%" in Page((told / "report.html").read_text()).text, "the headline has the longest"


def test_labelled_datasets_are_told_in_full(told):
    text = section(told, "benchmarks")
    for said in (
        "2 classes (no <promoter>, promoter)", "900 train, 200 test; 251 bases", "60 (30.0%) stand verbatim", "90 (45.0%, those included)",
        "7 sequences stand there with different labels", "Protocol caduceus: chosen on a part of train; test read once", "Means over seeds 0, 1",
        "Titans LMM, fine-tuned", "lr0.001-batch128", "0.910", "0.890 to 0.930", "0.810", "0.790 to 0.830", "+0.032", "+0.010 to +0.050", "28,590", "66 trained",
        "1 CPU-hours", "432", "Titans MAC, linear probe", "k-mer counts, linear", "HyenaDNA, published", "0.966", "hyenadna (selects on test)", "HyenaDNA paper",
        "MCC", "AUROC", "Confusion and calibration of the best row: Titans LMM, fine-tuned", "0.042", "80", "70",
    ):  # fmt: skip
        assert said in text, said
    assert text.index("0.910") < text.index("0.870") < text.index("0.840") < text.index("0.966")


def told_of(found):
    """What is said of one dataset."""
    return benchmark(0, found, looks(full_config()))


def test_a_dataset_without_leaks_and_published_figures_of_which_a_part_was_used():
    bare = {"test": {"accuracy": {"mean": 0.84, "sd": 0.0, "ci95": None}}, "deduplicated": None}
    found = table([score("kmer", "none", 0.84) | bare]) | {"published": []}
    found["dataset"] |= {"limited_to": 500, "suite": "genomic_benchmarks", "cut": 12}
    found["dataset"]["leaks"] = {"test": 200, "verbatim": 0, "near": 0, "verbatim_share": 0.0, "near_share": 0.0}
    told = told_of(found)
    assert "None of the 200 test sequences stands in the training set" in told["leaks"]
    assert not told["leaky"]
    for said in (
        "Only up to 500 sequences of each split were used",
        ", of genomic_benchmarks. Sequences: 900 train",
        "12 were cut to their middle",
    ):
        assert said in told["text"]
    assert told["rows"][0]["deduplicated"] is None
    assert "published" not in told["points"]


@pytest.mark.parametrize(("task", "said"), [("multilabel", "2 labels"), ("regression", "Regression of")])
def test_multilabel_and_regression_have_no_confusion(tmp_path, task, said):
    found = table([score("probe", "titans", 0.7)])
    found["dataset"]["task"] = task
    assert best_details(tmp_path, found) is None, "no score.json is looked for"
    told = told_of(found | {"best": None})
    assert said in told["text"]
    assert told["best"] is told["matrix"] is told["calibration"] is None


def test_the_best_row_is_that_of_the_headline_metric(full):
    found = table([score("probe", "titans", 0.87), score("finetune", "titans", 0.91)])
    assert best_details(full / "downstream" / "promoters", found)["method"] == "finetune"


def test_needles_variants_and_ablations_are_told(told):
    text = section(told, "needle")
    assert "At most depths it is more of Titans LMM up to 512 bases (65.0% right there)" in text
    assert "at no length of Transformer, Titans MAC, no_conv, four_layers" in text
    assert "Training windows are 128 tokens" in text
    text = section(told, "variants")
    for said in (
        "clinical",
        "300 variants (180 of label 0, 120 of label 1)",
        "Markov, order 6",
        "transitions",
        "Titans MAC",
        "0.610",
        "+0.060",
        "(+0.010 to +0.110)",
    ):
        assert said in text, said
    text = section(told, "ablations")
    for said in ("titans", *COMPARE, "variant: mac", "1.8900 (1.8800 to 1.9000)", "97.95", "arXiv 2501.00663, Table 5"):
        assert said in text, said


def test_a_run_of_very_many_sources_of_odd_names(config, folder):
    result = evaluated()
    part = result["sources"]["hpylori"]
    names = [*ODD, *(f"g{i}" for i in range(45 - len(ODD)))]
    result["sources"] = {name: part | {"bases": 1_000 + i} for i, name in enumerate(names)}
    (folder / "evaluate" / "evaluate.json").write_text(json.dumps(result))
    report(config, folder, folder)
    html = (folder / "report.html").read_text()
    plot = Page(next(svg for svg in html.split("<svg ") if "Held-out bits per base of" in svg).split("</svg>")[0]).text
    assert set(re.findall(r" (g\d+|all)\b", plot)) == {"all", *(f"g{i}" for i in range(10, 40))}
    text = Page(html).text
    assert "The plot shows the 30 largest sources." in text
    assert all(name in text for name in names), "the table has all"
    result["sources"] = dict.fromkeys(ODD, part)
    assert "largest sources" not in held_out_text(result)
