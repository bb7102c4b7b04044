"""Sheets, patterns, URLs and accessions become plain entries, or one line that says what is wrong."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics import sheet as module
from titans_genomics import sheet_rows
from titans_genomics.config import SourceConfig, parse_config
from titans_genomics.sheet import COLUMNS, expand_sources

DOWNLOADS = Path("downloads")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*paths: str) -> None:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(">a\nACGT\n")


def expand(*entries, downloads=DOWNLOADS):
    return expand_sources([{"path": entry} if isinstance(entry, str) else entry for entry in entries], downloads)


def write(text: str | bytes, name: str = "samples.tsv") -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


# --------------------------------------------------------------------------------------------- sheet


def test_columns_are_keys_of_a_source():
    assert set(SourceConfig.model_fields) - set(COLUMNS) == {"url"}
    assert set(COLUMNS) <= set(SourceConfig.model_fields)


@pytest.mark.parametrize("read", [module, sheet_rows], ids=lambda read: read.__name__.split(".")[1])
def test_standard_library_only(read):
    imported = set()
    for node in ast.walk(ast.parse(Path(read.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported <= sys.stdlib_module_names | {"titans_genomics"}


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"], ids=["tab", "comma", "semicolon"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
def test_a_sheet_in_every_dress(folder, delimiter, end, mark):
    rows = [["Name", "path", "weight"], ["ecoli", "a.fa", "2.5"], ["", "b.fa", ""]]
    lines = [delimiter.join(row) for row in rows]
    lines[1:1] = ["# a comment" + delimiter, "", delimiter * 2]
    sources = expand_sources(write(mark + end.join(lines)), DOWNLOADS)
    assert sources == [{"name": "ecoli", "path": "a.fa", "weight": 2.5}, {"path": "b.fa"}]


def test_quoted_cells_may_hold_the_delimiter_and_quotes(folder):
    sources = expand_sources(Path(write('path,species\n"my, file.fa","the ""quick"" fox"\n')), DOWNLOADS)
    assert sources == [{"path": "my, file.fa", "species": 'the "quick" fox'}]


def test_one_column_needs_no_delimiter(folder):
    assert expand_sources(write("path\na b.fa\nc,d.fa"), DOWNLOADS) == [{"path": "a b.fa"}, {"path": "c,d.fa"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(
            "path\tspieces\na.fa\tx\n", r"line 1: unknown column 'spieces'; the columns are path, kind", id="unknown"
        ),
        pytest.param("path,weight,\na.fa,1,\n", "line 1: column 3 has no name", id="nameless"),
        pytest.param("path,weight,Path\n", "line 1: two columns are named path", id="twice"),
        pytest.param("# x\nname,weight\na,1\n", r"line 2: no column path in the header \(name, weight\)", id="no path"),
        pytest.param(
            "path,name\na.fa,a\n\nb.fa\n", r"line 4 has 1 cells, the header has 2 \(path, name\)", id="too few"
        ),
        pytest.param("path,name\na.fa,a,3\n", "line 2 has 3 cells", id="too many"),
        pytest.param(
            "path,weight\n#\na.fa,heavy\n", "line 3, column weight: 'heavy' is not a number of 0 or more", id="weight"
        ),
        pytest.param("path,weight\na.fa,-1\n", "line 2, column weight: '-1'", id="negative"),
        pytest.param("path,weight\na.fa,nan\n", "line 2, column weight: 'nan'", id="nan"),
        pytest.param("path,name\n,a\n", "line 2, column path: the cell is empty", id="empty path"),
        pytest.param("path,name\n# nothing\n", "no rows below its header", id="no rows"),
        pytest.param("", "no rows", id="empty"),
        pytest.param('path,name\n"a.fa,a\nb.fa,b\n', "line 2: .*quotation mark", id="open quote"),
        pytest.param('path,name\na.fa,"a\nb"\n', "line 2: a line break within a cell", id="line break"),
        pytest.param("path,name\n*.xyz,\n", r"line 2, column path: no file matches \*\.xyz", id="no match"),
        pytest.param(b"path\na.fa\n\xe9.fa\n", "line 3 is not UTF-8", id="latin"),
        pytest.param("path\na.fa\n".encode("utf-16"), "UTF-16. Save it as CSV in UTF-8", id="utf-16"),
        pytest.param(b"PK\x03\x04\x14\0", "an Excel workbook or a zip archive. Save it as CSV", id="xlsx"),
        pytest.param(b"\xd0\xcf\x11\xe0\xa1", "an Excel workbook. Save it as CSV", id="xls"),
        pytest.param(b"\x1f\x8b\x08", "compressed", id="gzip"),
        pytest.param(b"BAM\x01\0\0", "a binary file", id="binary"),
        pytest.param(">chr1\nACGT\n", r"a sequence file stands in a list: `sources: \[\{path: samples", id="fasta"),
    ],
)
def test_what_is_wrong_with_a_sheet_is_said_in_one_line(folder, content, said):
    with pytest.raises(ValueError, match=f"(?i)^samples.tsv: .*{said}") as caught:
        expand_sources(write(content), DOWNLOADS)
    assert "\n" not in str(caught.value)


def test_no_such_sheet_and_a_folder(folder):
    with pytest.raises(ValueError, match=r"^none.tsv: no such sample sheet .*sources: \[\{path: none.tsv\}\]"):
        expand_sources("none.tsv", DOWNLOADS)
    with pytest.raises(ValueError, match="Is a directory"):
        expand_sources(folder, DOWNLOADS)


def test_a_sheet_in_a_config(folder):
    touch("g/b.fa", "g/a.fa")
    sheet = write("path\tspecies\tweight\ng/*.fa\tMus musculus\t2\nGCF_000005845.2\t\t\n")
    config = parse_config({"run": "x", "data": {"sources": sheet}}, "x")
    assert [s.label for s in config.data.sources] == ["a", "b", "GCF_000005845.2"]
    assert [s.weight for s in config.data.sources] == [2, 2, 1]
    assert config.data.sources[1].species == "Mus musculus"
    assert parse_config(config.model_dump(mode="json"), "again") == config
    assert parse_config(config.model_dump(), "again") == config


def test_an_error_in_a_config_names_the_entry(folder):
    with pytest.raises(ValueError, match=r"  data: sources\.1\.path: no file matches x\*"):
        parse_config({"run": "x", "data": {"sources": [{"path": "a.fa"}, {"path": "x*"}]}}, "x")


def test_every_entry_knows_where_it_was_written(folder):
    touch("g/b.fa", "g/a.fa")
    sheet = write("path,name\ng/*.fa,\n# x\nGCF_000005845.2,k\nc.fa,\n")
    origins: list[str] = []
    expand_sources(sheet, DOWNLOADS, origins)
    assert origins == [f"{sheet}: line {line}, column " for line in (2, 2, 4, 5)]
    origins.clear()
    expand_sources([{"path": "c.fa"}, {"path": "g/*.fa"}, None], DOWNLOADS, origins)
    assert origins == ["sources.0.", "sources.1.", "sources.1.", "sources.2."]


# ------------------------------------------------------------------------------------------- patterns


def test_a_pattern_becomes_one_entry_per_file_with_all_other_keys(folder):
    touch("g/b.fa.gz", "g/a.fa.gz", "g/c.txt", "g/deep/er/d.fa.gz")
    shared = {"species": "x", "weight": 2, "exclude": "black.bed"}
    assert expand({"path": "g/*.fa.gz", **shared}) == [
        {"path": "g/a.fa.gz", **shared},
        {"path": "g/b.fa.gz", **shared},
    ]
    assert [entry["path"] for entry in expand("g/**/*.gz")] == ["g/a.fa.gz", "g/b.fa.gz", "g/deep/er/d.fa.gz"]
    assert expand("g/[ab].fa.gz") == expand("g/?.fa.gz") == [{"path": "g/a.fa.gz"}, {"path": "g/b.fa.gz"}]


def test_folders_and_indexes_are_left_out(folder):
    touch("g/a.fa", "g/a.fa.fai", "g/a.fa.gz", "g/a.fa.gz.gzi", "g/r.bam", "g/r.bam.bai", "g/sub/x.fa")
    assert [entry["path"] for entry in expand("g/*")] == ["g/a.fa", "g/a.fa.gz", "g/r.bam"]
    with pytest.raises(ValueError, match="no file matches g/s"):
        expand("g/s*")


def test_a_file_wins_over_the_pattern_that_its_name_is(folder):
    touch("a[1].fa", "a1.fa")
    assert expand("a[1].fa") == [{"path": "a[1].fa"}]
    Path("a[1].fa").unlink()
    assert expand("a[1].fa") == [{"path": "a1.fa"}]


@pytest.mark.parametrize(("key", "value"), [("name", "x"), ("md5", "0" * 32)])
def test_keys_of_one_file_go_with_a_pattern_of_one_match(folder, key, value):
    touch("a1.fa")
    assert expand({"path": "a*.fa", key: value}) == [{"path": "a1.fa", key: value}]
    touch("a2.fa")
    with pytest.raises(ValueError, match=rf"^sources\.0\.{key}: a\*\.fa matches 2 files \(a1.fa, a2.fa\)"):
        expand({"path": "a*.fa", key: value})


@pytest.mark.parametrize(
    ("files", "names"),
    [
        pytest.param(["x/a.fa", "y/b.fa"], [None, None], id="apart already"),
        pytest.param(["x/genome.fa", "y/genome.fa", "z/b.fa"], ["x_genome", "y_genome", None], id="by folder"),
        pytest.param(["x/H.GRCh38.1.fa.gz", "x/H.GRCh38.2.fa.gz"], ["H.GRCh38.1", "H.GRCh38.2"], id="by file name"),
        pytest.param(["x/a.fa", "x/a.fa.gz"], ["x_a.fa", "x_a.fa.gz"], id="by path"),
        pytest.param(["x/1/a.fa", "y/1/a.fa"], ["x_1_a.fa", "y_1_a.fa"], id="by deep path"),
        pytest.param(["a/g.fa", "a_g.fa", "y/g.fa"], ["a_g.fa", None, "y_g.fa"], id="by folder is taken"),
    ],
)
def test_default_names_are_made_distinct(folder, files, names):
    touch(*files)
    made = expand("**/*.fa*")
    assert [entry["path"] for entry in made] == files
    assert [entry.get("name") for entry in made] == names


def test_names_given_elsewhere_stay_and_those_of_a_pattern_give_way(folder):
    touch("x/a.fa", "y/a.fa")
    made = expand({"path": "y/a.fa"}, {"path": "x/*.fa"}, {"path": "other.fa", "name": "x_a"})
    assert made == [{"path": "y/a.fa"}, {"path": "x/a.fa", "name": "x_a.fa"}, {"path": "other.fa", "name": "x_a"}]


FILES = [
    f"{folder}/{file}" for folder in ("p", "q", "p/q", "p q", "p_q") for file in ("a.fa", "a.1.fa", "a.1.gz", "p_a.fa")
]


@given(st.sets(st.sampled_from(FILES), min_size=1))
def test_names_are_distinct_stable_and_valid(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("names")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        touch(*files, "p/z.gz", "p/z.fa")
        made = expand("**/*.fa", "**/*.gz")
        turned = expand("**/*.gz", "**/*.fa")
    config = parse_config({"run": "x", "data": {"sources": made}}, "x")
    assert len({source.label for source in config.data.sources}) == len(files) + 2
    assert sorted(turned, key=lambda entry: entry["path"]) == sorted(made, key=lambda entry: entry["path"])


# ------------------------------------------------------------------------------- URLs and accessions


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("https://example.org/pub/genome.fa.gz", "genome.fa.gz"),
        ("HTTP://example.org/genome.fa.gz?version=2#top", "genome.fa.gz"),
        ("ftp://example.org/pub/my%20genome%2Ffinal.fa", "my_genome_final.fa"),
        ("https://example.org/..%2F..%2Fetc%2Fpasswd", "etc_passwd"),
        ("https://example.org/a/%2e%2e%5cx.fa", "x.fa"),
        ("https://example.org/.hidden.fa", "hidden.fa"),
        ("https://example.org/*.fa", "fa"),
        ("s3://bucket/some/key.bam", "key.bam"),
        ("s3://bucket/a?b#c.bam", "a_b_c.bam"),
    ],
)
def test_a_url_is_kept_and_gets_a_local_name(folder, url, file):
    assert expand({"path": url, "weight": 3}) == [{"path": f"downloads/{file}", "url": url, "weight": 3}]


@given(st.text(min_size=1, max_size=300))
def test_no_url_leaves_the_folder(last):
    try:
        path = Path(expand(f"https://example.org/{last}")[0]["path"])
    except ValueError:
        return
    assert path.parent == DOWNLOADS
    assert not path.name.startswith(".")
    assert len(path.name) <= 150
    assert path.name.isascii()


def test_urls_of_one_file_name_get_local_names_that_do_not_depend_on_their_order(folder):
    one, two, upper = "https://x.org/mouse/g.fa.gz", "https://x.org/rat/g.fa.gz", "https://x.org/G.fa.gz"
    first, second = expand(one, two), expand(two, upper, one)
    assert first[0] == second[2]
    assert first[1] == second[0]
    assert len({entry["path"].casefold() for entry in second}) == 3
    assert all(entry["path"].endswith(".fa.gz") for entry in second)
    assert first[0]["path"].startswith("downloads/g-")
    assert parse_config({"run": "x", "data": {"sources": second}}, "x").data.sources[0].label.startswith("g-")


def test_a_url_gives_way_to_what_is_listed_already(folder):
    old = expand("https://x.org/mouse/g.fa.gz")
    both = expand(*old, "https://x.org/rat/g.fa.gz")
    assert both[0] == old[0]
    assert both[1]["path"] != "downloads/g.fa.gz"


def test_urls_of_one_stem_get_names_of_their_own(folder):
    made = expand("https://x.org/H.GRCh38.chr1.fa.gz", "https://x.org/H.GRCh38.chr2.fa.gz")
    assert [entry["name"] for entry in made] == ["H.GRCh38.chr1", "H.GRCh38.chr2"]


def test_an_accession(folder):
    made = expand("GCF_000005845.2", {"path": "GCA_000001405.29", "name": "human"}, downloads=Path("/data/d"))
    assert made == [
        {"path": "/data/d/GCF_000005845.2_genomic.fna.gz", "url": "ncbi:GCF_000005845.2", "name": "GCF_000005845.2"},
        {"path": "/data/d/GCA_000001405.29_genomic.fna.gz", "url": "ncbi:GCA_000001405.29", "name": "human"},
    ]
    touch("GCF_000005845.2")
    assert expand("GCF_000005845.2") == [{"path": "GCF_000005845.2"}]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("GCF_000005845", "lacks its version; write for example GCF_000005845.1"),
        ("gs://bucket/x.fa", "gs:// is none of http, https, ftp, s3"),
        ("file:///data/x.fa", "give its local path"),
        ("https://example.org/", "does not name a file"),
        ("https://example.org", "does not name a file"),
        ("https:///x.fa", "does not name a file"),
        ("s3://bucket", "does not name a file"),
        ("https://me:secret@example.org/x.fa", "user name or password"),
        ("https://[x/y.fa", "not a valid URL"),
    ],
)
def test_addresses_that_lead_nowhere(folder, path, said):
    with pytest.raises(ValueError, match=rf"^sources\.0\.path: .*{said}") as caught:
        expand(path)
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------------------------ what stays as it is


def test_expanding_twice_is_expanding_once(folder):
    touch("x/a.fa", "y/a.fa", "odd[1].fa")
    once = expand("**/a.fa", "odd[1].fa", "https://x.org/1/g.fa", "https://x.org/2/g.fa", "GCF_000005845.2", "gone.fa")
    assert len(once) == 7
    assert expand_sources(once, DOWNLOADS) == once
    assert expand_sources(tuple(once), DOWNLOADS) == once


def test_entries_with_a_url_of_their_own_stay(folder):
    entry = {"path": "genomes/[x]*.fa", "url": "https://x.org/g.fa"}
    assert expand(entry) == [entry]


@pytest.mark.parametrize("sources", [None, 3, {"path": "a.fa"}], ids=repr)
def test_what_is_no_list_is_left_to_the_schema(sources):
    assert expand_sources(sources, DOWNLOADS) is sources


def test_entries_that_make_no_sense_are_left_to_the_schema():
    entries = [None, 3, "a*.fa", {}, {"path": None}, {"path": 3}, SourceConfig(path="*.fa")]
    assert expand_sources(entries, DOWNLOADS) == entries


def test_the_given_entries_are_not_changed(folder):
    touch("a1.fa")
    entries = [{"path": "a*.fa"}, {"path": "GCF_000005845.2"}]
    expand_sources(entries, DOWNLOADS)
    assert entries == [{"path": "a*.fa"}, {"path": "GCF_000005845.2"}]
