"""The page of a token store: self-contained, escaped, and true to what was found."""

import copy
import re

import pytest
from test_report import Page

from titans_genomics.data.inspect import inspect_store
from titans_genomics.report.store_page import render, write_page

NASTY = "_<script>alert('$x$')</script>&" + "\x07"


def held(source, split, share, *pairs):
    match = {
        "held": {"source": source, "record": "one", "start": 100, "end": 900},
        "train": {"source": pairs[0][0] if pairs else source, "record": "<b>", "start": 7, "end": 807},
        "strand": "-",
        "identity": 0.987,
    }
    return {
        "source": source, "split": split, "judged": 5_000, "covered": int(5_000 * share), "scale": 16, "share": share,
        "pairs": [{"train": train, "bases": int(5_000 * part), "identity": 0.99, "share": part} for train, part in pairs],
        "matches": [match] if pairs else [],
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(small_store):
    return inspect_store(small_store)


@pytest.fixture
def rich(found):
    """A store of two sources of awkward names, with everything that a page shows."""
    rich = copy.deepcopy(found)
    second = copy.deepcopy(rich["sources"][0])
    second |= {"name": NASTY, "path": f"{NASTY}.fa", "species": "<i>Homo</i> $a$", "assembly": "T2T"}
    second["left_out"] = [
        {"reason": "in runs of 100 N or more", "records": None, "bases": 31_415, "runs": 4},
        {"reason": "secondary alignment", "records": 2_718, "bases": None, "runs": None},
    ]
    second["soft_masked"] = {"bases": 9_000, "share": 0.3, "stretches": 12}
    second["duplicates"] = {"records": 1, "bases": 10_000}
    rich["sources"].append(second)
    rich["warnings"] = ["source <x>: too few units"]
    rich["leaks"] = {
        "k": 21, "action": "report", "max_share": 0.2,
        "held": [held(NASTY, "test", 0.4321, (NASTY, 0.4), ("genome", 0.1)), held("genome", "validation", 0.0)],
    }  # fmt: skip
    return rich


def test_it_is_one_whole_page(rich, tmp_path):
    write_page(rich, tmp_path / "new" / "store.html")
    html = (tmp_path / "new" / "store.html").read_text()
    page = Page(html)
    assert page.open == []
    assert page.fetched == []
    assert "url(http" not in html
    assert "@import" not in html
    assert len(page.ids) == len(set(page.ids)), "ids of the plots do not collide"
    assert {link for link in page.links if link.startswith("#")} <= {f"#{id}" for id in page.ids}
    for link in re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', html):
        assert (link[0] or link[1]) in page.ids
    assert [plot.split()[0] for plot in page.plots] == ["Shares", "What", "Bases", "Share", "Spread", "Held-out"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["store.html"]


def test_names_are_text(rich):
    html = render(rich)
    assert "<script" not in html
    assert "<i>Homo" not in html
    text = Page(html).text
    assert NASTY.rstrip("\x07") in text
    assert "<i>Homo</i> $a$, T2T" in text
    assert "_<script>alert('$x$')" in text.split("Bases of")[0], "in plots too, formulas are not read"


def test_it_says_what_was_found(rich):
    text = Page(render(rich)).text
    for said in (
        "30,000", "15,000", "31,415", "2,718", "30.00%", "source <x>: too few units", "in runs of 100 N or more",
        "43.21%", "43.2%", f"{NASTY[:8]}", "40.00%", "one:100-900", "<b>:7-807", "98.70%", "by shared 21-mers",
        rich["sha256"], f"numpy {rich['versions']['numpy']}", "vocabulary",
    ):  # fmt: skip
        assert said in text, said


def test_an_old_page_outlives_a_failure(found, rich, tmp_path):
    path = tmp_path / "store.html"
    write_page(found, path)
    before = path.read_text()
    del rich["sources"][0]["lengths"]
    with pytest.raises(KeyError):
        write_page(rich, path)
    assert path.read_text() == before
    assert [name.name for name in tmp_path.iterdir()] == ["store.html"]


def test_what_is_not_there_is_left_out(found):
    plain = copy.deepcopy(found)
    (source,) = plain["sources"]
    source |= {"records": "documents", "n": None, "gc": None, "gc_spread": None, "soft_masked": None, "iupac": None}
    source |= {"acgt": None, "left_out": []}
    plain["leaks"] = None
    page = Page(render(plain))
    assert [plot.split()[0] for plot in page.plots] == ["Bytes", "Share"]
    assert "byte for byte" in page.text
    assert "base for base" not in page.text
    assert "were not looked for" in page.text
    assert "soft-masked are" not in page.text
    assert "either strand" not in page.text
    assert "#spread" not in page.links


def test_a_store_of_very_many_sources(found):
    many = copy.deepcopy(found)
    source = many["sources"][0]
    many["sources"] = [source | {"name": f"g{i}", "bases": source["bases"] + i} for i in range(60)]
    many["leaks"] = {
        "k": 21, "action": "report", "max_share": 0.2,
        "held": [held(f"g{i}", "test", i / 100, (f"g{59 - i}", i / 100)) for i in range(60)],
    }  # fmt: skip
    html = render(many)
    text = Page(html).text
    assert "the 30 largest" in text
    assert "The 8 largest sources" in text
    assert all(f" g{i} " in text for i in range(60)), "the tables name all"
    plots = {plot.split('"')[0]: plot for plot in re.findall(r'aria-label="(.*?)</svg>', html, re.DOTALL)}
    bases, leaks = (next(svg for name, svg in plots.items() if name.startswith(own)) for own in ("Bases", "Held-out"))
    assert set(re.findall(r">g(\d+)<", bases)) == {str(i) for i in range(30, 60)}, "the plots the largest"
    assert set(re.findall(r">g(\d+) \(test\)<", leaks)) == {str(i) for i in range(30, 60)}
    assert set(re.findall(r">g(\d+)<", leaks)) == {str(i) for i in range(30)}
