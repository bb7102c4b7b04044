"""Datasets of the Hugging Face Hub by name, from a small server that answers as the Hub does."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import config_for, tokenized

from titans_genomics.data.fetch import fetch
from titans_genomics.data.hub import choose_files
from titans_genomics.data.readers import check_source, open_source
from titans_genomics.sheet import hub_address

COMMIT = "a" * 40


def parquet(*texts: str, column: str = "text") -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({column: list(texts)}), buffer)
    return buffer.getvalue()


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


class Hub:
    """Repositories by name and revision; ``asked``: the files that were asked for; ``cut``: bytes of the next answer."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.cards: dict[str, dict] = {}
        self.wrong: set[str] = set()  # files of which the Hub has another checksum
        self.small: set[str] = set()  # files that are kept in git itself
        self.asked: list[str] = []
        self.cut: int | None = None

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            files = self.files.get((found[1], found[2] or "main"))
            if files is None:
                missing = "RevisionNotFound" if (found[1], "main") in self.files else "RepoNotFound"
                return 404, b"{}", {"X-Error-Code": missing}
            siblings = [
                {"rfilename": name, "size": len(raw), "blobId": self.sha(name, raw)}
                if name in self.small
                else {"rfilename": name, "size": len(raw), "blobId": "0" * 40, "lfs": {"sha256": self.sha(name, raw), "size": len(raw), "pointerSize": 100}}
                for name, raw in files.items()
            ]  # fmt: skip
            sha = COMMIT if found[2] is None else hashlib.sha1(found[2].encode()).hexdigest()
            self.files.setdefault((found[1], sha), files)
            said = {"id": found[1], "sha": sha, "siblings": siblings, "cardData": self.cards.get(found[1], {})}
            return 200, json.dumps(said).encode(), {"Content-Type": "application/json"}
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            raw = self.files.get((found[1], found[2]), {}).get(found[3])
            if raw is None:
                return 404, b"", {"X-Error-Code": "EntryNotFound"}
            sums = {"ETag": f'"{self.sha(found[3], raw)}"', "X-Repo-Commit": found[2]}
            return 200, raw, sums
        return 404, b"", {}

    def sha(self, name: str, raw: bytes) -> str:
        raw += b"!" * (name in self.wrong)
        if name in self.small:
            return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
        return hashlib.sha256(raw).hexdigest()


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.reply(send=False)

        def do_GET(self):
            self.reply(send=True)

        def reply(self, send: bool):
            path = unquote(urlsplit(self.path).path)
            status, raw, headers = hub.answer(path)
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            if "/resolve/" in path and send:
                hub.asked.append(path.rsplit("/", 1)[1])
            self.send_response(206 if start and status == 200 else status)
            for name, value in headers.items():
                self.send_header(name, value)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
            self.send_header("Content-Length", str(len(raw) - start))
            self.end_headers()
            if send:
                cut, hub.cut = (hub.cut, None) if "/resolve/" in path else (None, hub.cut)
                self.wfile.write(raw[start:][:cut])
                self.close_connection = cut is not None

    return Handler


@contextmanager
def serving(hub: Hub):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    found = Hub()
    with serving(found) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield found


def source_of(tmp_path, address: str, **data):
    config = config_for({"path": address}, downloads=str(tmp_path / "downloads"), tokenizer={"kind": "byte"}, **data)
    return config.data.sources[0], config.data


def texts(source, data) -> list[str]:
    found: list[str] = []
    check_source(source, data)
    for batch in open_source(source, data):
        edges = [*batch.starts.tolist(), len(batch.codes)]
        found += [batch.codes[start:end].tobytes().decode() for start, end in pairwise(edges)]
    return found


# ------------------------------------------------------------------------------------------------ downloads


def test_a_dataset_by_name(tmp_path, hub):
    hub.files["someone/books", "main"] = {
        "README.md": b"a card",
        "data/train-00000-of-00002.parquet": parquet("one", "two"),
        "data/train-00001-of-00002.parquet": parquet("three"),
        "data/test-00000-of-00001.parquet": parquet("four"),
    }
    source, data = source_of(tmp_path, "hf://someone/books")
    assert source.label == "books"
    assert fetch(source) == source.path
    assert texts(source, data) == ["one", "two", "three"]
    asked = list(hub.asked)
    assert len(asked) == 2
    fetch(source)
    assert hub.asked == asked, "what is there is not asked for again"
    other, data = source_of(tmp_path, "hf://someone/books?split=test")
    fetch(other)
    assert other.label == "books-test"
    assert texts(other, data) == ["four"]


def test_tokenized_and_trained_on_like_a_file(tmp_path, hub):
    hub.files["someone/books", "main"] = {"a.jsonl": jsonl("one " * 100, "", "two " * 100)}
    source, _ = source_of(tmp_path, "hf://someone/books")
    settings = {"tokenizer": {"kind": "byte"}, "downloads": str(tmp_path / "downloads"), "split": {"block": 100}}
    store = tokenized(tmp_path / "s", {"path": "hf://someone/books"}, **settings)
    (entry,) = store.manifest["sources"]
    assert (entry["kind"], entry["url"], entry["kept"]) == ("hub", "hf://someone/books", 2)
    assert entry["dropped"] == {"empty document": 1}
    assert json.loads(source.path.read_text())["revision"] == COMMIT


def test_a_download_that_broke_goes_on(tmp_path, hub):
    raw = {"a.jsonl": jsonl("a" * 200_000), "b.jsonl": jsonl("b" * 200_000)}
    hub.files["someone/books", "main"] = raw
    source, data = source_of(tmp_path, "hf://someone/books")
    hub.cut = 50_000
    fetch(source)  # the Hub's own library asks again for what lacks
    assert sorted(text[0] for text in texts(source, data)) == ["a", "b"]


def test_a_file_that_is_gone_is_fetched_again(tmp_path, hub):
    hub.files["someone/books", "main"] = {"a.jsonl": jsonl("one"), "b.jsonl": jsonl("two")}
    source, data = source_of(tmp_path, "hf://someone/books")
    fetch(source)
    folder = source.path.parent / "someone--books"
    (folder / "b.jsonl").unlink()
    with pytest.raises(ValueError, match=r"b\.jsonl: not there as it was downloaded .*titans-genomics fetch"):
        check_source(source, data)
    fetch(source)
    assert texts(source, data) == ["one", "two"]


def test_a_file_with_another_checksum_is_removed(tmp_path, hub):
    hub.files["someone/books", "main"] = {"a.jsonl": jsonl("one")}
    hub.wrong.add("a.jsonl")
    source, _ = source_of(tmp_path, "hf://someone/books")
    with pytest.raises((ValueError, OSError), match=r"another SHA-256|Consistency"):
        fetch(source)
    assert not source.path.exists()


def test_a_file_in_git_is_checked_by_its_blob_id(tmp_path, hub):
    hub.files["someone/books", "main"] = {"a.jsonl": jsonl("one")}
    hub.small.add("a.jsonl")
    source, data = source_of(tmp_path, "hf://someone/books")
    fetch(source)
    assert texts(source, data) == ["one"]
    source.path.unlink()
    hub.wrong.add("a.jsonl")
    with pytest.raises(ValueError, match="another git blob id"):
        fetch(source)


def test_a_file_that_was_changed_is_fetched_again(tmp_path, hub):
    hub.files["someone/books", "main"] = {"a.jsonl": jsonl("one"), "b.jsonl": jsonl("two")}
    source, data = source_of(tmp_path, "hf://someone/books")
    fetch(source)
    (source.path.parent / "someone--books" / "b.jsonl").write_bytes(jsonl("owt"))
    with pytest.raises(ValueError, match=r"b\.jsonl: not there as it was downloaded"):
        check_source(source, data)
    fetch(source)
    assert texts(source, data) == ["one", "two"]


def test_two_revisions_have_a_list_and_a_folder_each(tmp_path, hub):
    for revision in ("v1", "v2"):
        hub.files["someone/books", revision] = {"train.jsonl": jsonl(revision)}
    sources = [source_of(tmp_path, f"hf://someone/books@{revision}") for revision in ("v1", "v2")]
    for source, _ in sources:
        fetch(source)
    assert [texts(source, data) for source, data in sources] == [["v1"], ["v2"]]
    assert [source.path.name for source, _ in sources] == ["someone--books@v1.hub.json", "someone--books@v2.hub.json"]


def test_revision_and_subset(tmp_path, hub):
    hub.files["someone/books", "main"] = {"new/train.jsonl": jsonl("newest"), "old/train.jsonl": jsonl("old")}
    hub.files["someone/books", "v1"] = {"new/train.jsonl": jsonl("first"), "old/train.jsonl": jsonl("old")}
    source, data = source_of(tmp_path, "hf://someone/books@v1?subset=new")
    fetch(source)
    assert texts(source, data) == ["first"]
    with pytest.raises(ValueError, match=r"several subsets; there is new, old\. Write hf://\.\.\.\?subset=NAME"):
        fetch(source_of(tmp_path, "hf://someone/books")[0])


def test_what_is_kept_as_scripts_comes_from_the_converted_branch(tmp_path, hub):
    hub.files["someone/books", "main"] = {"books.py": b"code", "books.zip": b"PK"}
    hub.files["someone/books", "refs/convert/parquet"] = {"default/train/0000.parquet": parquet("converted")}
    source, data = source_of(tmp_path, "hf://someone/books")
    fetch(source)
    assert texts(source, data) == ["converted"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://someone/none", r"the Hub has no such dataset, or it is private or gated"),
        ("hf://someone/books@v9", r"the Hub has no such dataset at revision v9"),
        ("hf://someone/books?split=dev", r"no split 'dev' in this dataset; there is train"),
        ("hf://someone/books?subset=x", r"no subset 'x' in this dataset"),
    ],
)
def test_what_the_hub_has_not(tmp_path, hub, address, message):
    hub.files["someone/books", "main"] = {"train.jsonl": jsonl("one")}
    with pytest.raises(ValueError, match=message):
        fetch(source_of(tmp_path, address)[0])


def test_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(Hub()) as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone)
    source, _ = source_of(tmp_path, "hf://someone/books")
    with pytest.raises(OSError, match=r"the Hub cannot be reached .*hf download someone/books --repo-type dataset .*name its files"):  # fmt: skip
        fetch(source)


def test_without_network_the_remedy_is_of_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(Hub()) as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone)
    source, _ = source_of(tmp_path, "hf://someone/books@v1?subset=en&split=test")
    folder = "someone--books@v1--subset-en--split-test"
    with pytest.raises(OSError, match=rf"--repo-type dataset --revision v1 --include '\*en\*test\*' --local-dir {folder}`.* of test: path: {folder}/\*\*/"):  # fmt: skip
        fetch(source)


def test_a_checksum_is_of_one_file(tmp_path):
    config = config_for({"path": "hf://someone/books", "md5": "0" * 32}, tokenizer={"kind": "byte"})
    with pytest.raises(ValueError, match=r"hf://someone/books@REVISION"):
        fetch(config.data.sources[0])


# ------------------------------------------------------------------------------------------------ addresses


def test_addresses():
    assert hub_address("hf://a/b") == ("a", "b", "", "", "")
    assert hub_address("hf://datasets/a/b.c@v1?split=test&subset=x y") == ("a", "b.c", "v1", "x y", "test")


@pytest.mark.parametrize("address", ["hf://a", "hf://a/b/c.parquet", "hf://a/b?column=x", "hf:///b"])
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match=r"sources\.0\.path: .*is written hf://OWNER/NAME"):
        config_for({"path": address}, tokenizer={"kind": "byte"})


@pytest.mark.parametrize(
    "others", [("@v1", "@v2"), ("?subset=x", "?split=x"), ("?subset=x", "?subset=x&split=x")], ids=" ".join
)
def test_two_of_one_name_are_kept_apart(others):
    one, two = ({"path": f"hf://a/b{other}", "name": f"n{i}"} for i, other in enumerate(others))
    config = config_for(one, two, tokenizer={"kind": "byte"})
    paths = [source.path.name for source in config.data.sources]
    assert len(set(paths)) == 2
    assert all(path.endswith(".hub.json") for path in paths)


@pytest.mark.parametrize(
    ("names", "configs", "subset", "split", "expected"),
    [
        (["train.jsonl", "valid.jsonl", "x.csv"], [], "", "validation", ["valid.jsonl"]),
        (["a.parquet", "b.parquet", "c.jsonl"], [], "", "", ["a.parquet", "b.parquet"]),
        (["en/train/0.parquet", "en/test/0.parquet", "de/train/0.parquet"], [], "de", "", ["de/train/0.parquet"]),
        (["data/train-0.parquet", "data/test-0.parquet"], [], "", "test", ["data/test-0.parquet"]),
        (["constraint.jsonl"], [], "", "", ["constraint.jsonl"]),
        (
            ["w2/train-0.parquet", "w103/train-0.parquet", "w103/train-1.parquet", "w103/test-0.parquet"],
            [
                {"config_name": "w103", "data_files": [{"split": "train", "path": "w103/train-*"}, {"split": "test", "path": "w103/test-*"}]},
                {"config_name": "w2", "data_files": "w2/*", "default": True},
            ],
            "w103",
            "",
            ["w103/train-0.parquet", "w103/train-1.parquet"],
        ),
        (
            ["w2/train-0.parquet", "w103/train-0.parquet"],
            [{"config_name": "w103", "data_files": "w103/*"}, {"config_name": "w2", "data_files": ["w2/*"], "default": True}],
            "",
            "",
            ["w2/train-0.parquet"],
        ),
        (["x/en/train.json.gz", "y.json"], [{"config_name": "c", "data_dir": "x"}], "", "", ["x/en/train.json.gz"]),
    ],
    ids=["names", "parquet first", "folders", "data folder", "a word within a word", "card", "default", "data_dir"],
)  # fmt: skip
def test_which_files(names, configs, subset, split, expected):
    assert choose_files(names, configs, subset, split, "hf://a/b")[1] == expected


CARD = [{"config_name": "a", "data_files": "a/train.jsonl"}, {"config_name": "b", "data_files": "b/train.parquet"}]


@pytest.mark.parametrize(
    ("names", "configs", "subset", "expected"),
    [
        (["a/train.jsonl", "b/train.parquet"], CARD, "a", ("jsonl", ["a/train.jsonl"])),
        (["a/train.jsonl", "b/train.parquet"], CARD, "b", ("parquet", ["b/train.parquet"])),
        (["a/train.jsonl", "b/train.parquet"], [], "a", ("jsonl", ["a/train.jsonl"])),
        (["train.txt", "dataset_info.json"], [], "", ("text", ["train.txt"])),
        (["train.jsonl", "more.json"], [], "", ("jsonl", ["train.jsonl"])),
        (["train.json", "dataset_infos.json", "x/metadata_of.json"], [], "", ("jsonl", ["train.json"])),
        (["dataset_info.json"], [], "", ("", [])),
        (["a.jsonl", "b.json", "metadata.json"], [{"data_files": ["*.jsonl", "b.json"]}], "", ("jsonl", ["a.jsonl", "b.json"])),
        (["a.jsonl", "metadata.json"], [{"data_files": "*"}], "", ("jsonl", ["a.jsonl"])),
        (["x.parquet", "a/y.parquet"], [{"data_files": "*.parquet"}], "", ("parquet", ["x.parquet"])),
        (["x.parquet", "a/b/y.parquet"], [{"data_files": "**/*.parquet"}], "", ("parquet", ["a/b/y.parquet", "x.parquet"])),
        (["train.parquet", "test.jsonl"], [], "", ("parquet", ["train.parquet"])),
    ],
    ids=[
        "lines of a", "parquet of b", "folder of lines", "text", "lines before json", "json", "only metadata", "named", "not named",
        "one level", "any level", "a split of another format",
    ],
)  # fmt: skip
def test_the_format_is_that_of_the_split(names, configs, subset, expected):
    assert choose_files(names, configs, subset, "", "hf://a/b") == expected


def test_a_pattern_that_is_none():
    with pytest.raises(ValueError, match=r"hf://a/b: its card has patterns of files"):
        choose_files(["a.jsonl"], [{"data_files": "a**"}], "", "", "hf://a/b")
