"""The report: self-contained, complete, and true to the numbers that the stages left."""

import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from titans_genomics.config import load_config
from titans_genomics.report import report
from titans_genomics.report.build import read_curve
from titans_genomics.report.plots import STYLE, axes, label, svg
from titans_genomics.report.tables import count, duration, number, percent

ROOT = Path(__file__).parent.parent


def figures(bits):
    return {"bits_per_base": bits, "perplexity": 2**bits, "ci95": [bits - 0.01, bits + 0.01]}


def evaluated(titans=1.9, transformer=1.95):
    def part():
        models = {"titans": figures(titans), "transformer": figures(transformer)}
        for model in models.values():
            bits = model["bits_per_base"] - 1.936
            model["endless"] = {"bits_per_base": 1.8765}
            model["difference_to_markov"] = {"bits_per_base": bits, "ci95": [bits - 0.004, bits + 0.004]}
        rows = [
            {
                "from": 2**i,
                "to": 2 ** (i + 1) - 1,
                "bases": 9,
                "markov": 1.936,
                "titans": 2 - i / 99,
                "transformer": 1.95,
            }
            for i in range(10)
        ]
        return {
            "bases": 8191,
            "uniform": {"bits_per_base": 2.0, "perplexity": 4.0},
            "markov": figures(1.936),
            "models": models,
            "context": rows,
        }

    sources = {"hpylori": part(), "reads": part()}
    for source in sources.values():
        source["markov"] |= {"order": 7, "smoothing": 1.0}
    return {"split": "test", "seed": 1, "train_context": 128, "sources": sources, "overall": part()}


def species():
    def method(accuracy):
        scores = dict.fromkeys(("accuracy", "mcc", "macro_f1"), accuracy)
        return (
            scores
            | {f"{key}_ci95": [accuracy - 0.1, accuracy + 0.05] for key in scores}
            | {"seeds": [{"seed": s, **scores, "C": 1.0} for s in (0, 1)], "confusion": [[17, 3], [2, 18]]}
        )

    return {
        "task": "species",
        "classes": [
            {"species": "Helicobacter <pylori>", "regions": 9, "bases": 99},
            {"species": "Staphylococcus aureus", "regions": 9, "bases": 99},
        ],
        "length": 128,
        "train_sequences": 56,
        "test_sequences": 24,
        "kmer": 4,
        "pooling": "mean",
        "chance": 0.5,
        "methods": {"titans": method(0.875), "kmer": method(0.8)},
        "difference": {"accuracy": 0.075, "ci95": [-0.1, 0.2]},
    }


def manifest():
    def source(name, records, dropped):
        return {
            "name": name, "path": f"resources/{name}.fa.gz", "species": None, "weight": 1.0, "sha256": "ab" * 32, "bytes": 1234, "bases": 400_000,
            "n": 17, "gc": 0.388, "soft_masked": 5, "records": records, "kept": 10, "dropped": dropped, "split_by": "block",
            "tokens": {"train": 318_090, "validation": 40_965, "test": 40_964},
        }  # fmt: skip

    return {
        "sha256": "cd" * 32,
        "sources": [source("hpylori", "contigs", {}), source("reads", "reads", {"secondary alignment": 30})],
        "totals": {"bases": 800_000, "n": 34, "iupac": 3, "soft_masked": 10, "gc": 0.388},
        "leaks": {
            "tool": "sketch", "k": 21, "max_share": 0.3, "moved": 0, "moved_bases": 0,
            "held": [{"source": "hpylori", "split": "test", "judged": 40_964, "share": 0.0421, "pairs": [{"train": "reads"}]}],
        },
        "warnings": ["source reads: too few units to hold any out for test"],
        "versions": {"pysam": "9.9.9"},
        "config": {},
        "runs": [],
    }  # fmt: skip


def trained(name):
    return {
        "model": name, "steps": 50, "tokens": 25_600, "seconds": 75.2, "tokens_per_second": 340.4, "parameters": 28_524, "skipped_steps": 2,
        "best_val_bits_per_base": 1.91234, "best_step": 40, "seed": 1, "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": "A CPU", "cores": 2, "threads": 2, "gpus": ["A GPU"], "system": "Linux"},
    }  # fmt: skip


CURVE = "step,tokens,loss,bits_per_base,lr,grad_norm,tokens_per_second,skipped,val_bits_per_base,alpha/0,alpha/1,eta/0,eta/1,theta/0,theta/1,surprise/0,surprise/1\n"


@pytest.fixture
def folder(tmp_path):
    """The results of a run of configs/tiny.yaml, made up."""

    def write(path, content):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    write("tokens/manifest.json", manifest())
    for name in ("titans", "transformer"):
        write(f"train/{name}/train.json", trained(name))
        rows = [
            f"{s},{s * 512},1.4,{2 - s / 500},0.001,{'nan' if s == 20 else 1.0},{s},0,{1.95 if s % 20 == 0 else ''},"
            + ",".join(["0.1"] * 8)
            for s in range(10, 60, 10)
        ]
        write(f"train/{name}/metrics.csv", CURVE + "\n".join(rows) + "\n")
    write("evaluate/evaluate.json", evaluated())
    write("downstream/species.json", species())
    return tmp_path


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


def test_report_is_one_whole_page(config, folder):
    report(config, folder, folder)
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
    assert len(page.plots) == 6
    assert not [name for name in folder.iterdir() if name.name.startswith(".")]


def test_report_says_what_the_issue_of_a_run_is(config, folder):
    report(config, folder, folder)
    text = Page((folder / "report.html").read_text()).text
    for said in (
        "400,000", "38.8%", "17", "secondary alignment", "75.0%", "too few units", "4.2%",  # what went in, what was left out
        "28,524", "1 min 15 s", "1.9123",  # training
        "1.9000", "1.9360", "Markov, order 7", "1.8900 to 1.9100", "better than", "-0.0360", "1.8765",  # held out
        "Helicobacter <pylori>", "0.875", "0.775 to 0.925", "17", "4-mer counts",  # downstream
        "A CPU", "A GPU", "pysam 9.9.9", "torch 2.13.0", "cdcdcd", "abab", "max_steps: 5", "0, 1 (species task)",  # to make it again
    ):  # fmt: skip
        assert said in text, said


def test_metrics_hold_every_number(config, folder):
    metrics = report(config, folder, folder)
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == metrics
    assert stored["bits_per_base"]["hpylori"] == {"uniform": 2.0, "markov": 1.936, "titans": 1.9, "transformer": 1.95}
    assert stored["data"]["sources"][1]["dropped"] == {"secondary alignment": 30}
    assert stored["train"]["titans"]["skipped_steps"] == 2
    assert stored["downstream"]["methods"]["titans"]["confusion"] == [[17, 3], [2, 18]]
    assert stored["config"]["train"]["lr"] == config.train.lr


@pytest.mark.parametrize(
    ("titans", "verdict"), [(1.9, "better than"), (1.935, "not distinguishable from"), (2.3, "worse than")]
)
def test_verdict_follows_the_interval(config, folder, titans, verdict):
    (folder / "evaluate" / "evaluate.json").write_text(json.dumps(evaluated(titans)))
    report(config, folder, folder)
    assert verdict in Page((folder / "report.html").read_text()).text


def test_a_run_without_downstream_transformer_and_curve(config, folder):
    plain = config.model_copy(
        update={
            "downstream": config.downstream.model_copy(update={"species": ()}),
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
    assert metrics["downstream"] is None
    page = Page((folder / "report.html").read_text())
    assert "Which species" not in page.text
    assert "Transformer" not in page.text


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("tokens/manifest.json", "tokenize"),
        ("train/titans/train.json", "train"),
        ("evaluate/evaluate.json", "evaluate"),
        ("downstream/species.json", "downstream"),
    ],
)
def test_a_missing_stage_is_named(config, folder, missing, command):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"run `titans-genomics {command}` first"):
        report(config, folder, folder)
    assert not (folder / "report.html").exists()
    assert not (folder / "metrics.json").exists()


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
    (folder / "evaluate" / "evaluate.json").write_text(json.dumps(result))
    report(config, folder, folder)
    assert "largest sources" not in Page((folder / "report.html").read_text()).text
