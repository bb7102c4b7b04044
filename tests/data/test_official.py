"""Official copies of benchmarks: found where they lie, downloaded from servers that cut and lie, unpacked with suspicion."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import socket
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from serving import Site, http_site

from titans_genomics.config import DownstreamConfig
from titans_genomics.data import remote
from titans_genomics.data.labelled import official
from titans_genomics.data.labelled.official import locate, unpack
from titans_genomics.suites import SuiteDataset, find

PROMOTERS = find("human_nontata_promoters")[0]
SPLIT_FILES = {f"{split}/{label}/{i}.txt": b"ACGT" * 9 for split in ("train", "test") for label in "ab" for i in (1, 2)}
RECORD, FILE = f"/api/records/{PROMOTERS.download.record}", f"/records/{PROMOTERS.download.record}/files/human_nontata_promoters_v0.zip?download=1"  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def settings(folder: Path, download: bool = True) -> DownstreamConfig:
    return DownstreamConfig(folder=folder / "copies", download=download)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def csv(*splits: str) -> dict[str, bytes]:
    return {f"{split}.csv": b"sequence,label\nACGT,0\n" for split in splits}


def everything(folder: Path) -> dict[str, bytes]:
    """The files below a folder by name, those of .SOURCE.json aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".SOURCE.json"
    }


# ----------------------------------------------------------------------------------- copies that are there


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("human_nontata_promoters", "human_nontata_promoters"),
        ("human_nontata_promoters", "genomic_benchmarks/human_nontata_promoters"),
        ("human_nontata_promoters", "../home/.genomic_benchmarks/human_nontata_promoters"),
        ("gue_emp_H3", "gue_emp_H3"),
        ("gue_emp_H3", "gue/emp_H3"),
        ("gue_emp_H3", "GUE/EMP/H3"),
        ("gue_emp_H3", "gue/GUE/EMP/H3"),
        ("gue_emp_H3", "GUE/emp_H3"),
        ("gue_human_tf_3", "GUE/tf/3"),
        ("nt_promoter_all", "nucleotide_transformer/promoter_all"),
        ("nt_promoter_all", "nucleotide_transformer_downstream_tasks/promoter_all"),
        ("ntr_promoter_all", "nucleotide_transformer_revised/ntr_promoter_all"),
        ("ntr_promoter_all", "nucleotide_transformer_downstream_tasks_revised/promoter_all"),
    ],
)
def test_a_copy_is_found_where_the_official_files_have_it(tmp_path, name, place):
    folder = write(tmp_path / "copies" / place, csv("train", "test"))
    found = locate(find(name)[0], settings(tmp_path, download=False))
    assert found.path.resolve() == folder.resolve()
    assert (found.key, found.test) == (name, None)


@pytest.mark.parametrize(
    ("files", "path", "test"),
    [
        (SPLIT_FILES, ".", None),
        (csv("train", "dev", "test"), ".", None),
        ({"train.fna": b"", "test.fna": b""}, ".", None),
        ({"train.csv.gz": b"", "test.csv.gz": b""}, ".", None),
        ({"train.parquet": b"", "test.parquet": b""}, ".", None),
        ({"train.fna": b"", "train.parquet": b"", "test.fna": b"", "test.parquet": b""}, "train.fna", "test.fna"),
        ({"data/train-00000-of-00001.parquet": b"", "data/test-00000-of-00001.parquet": b""}, ".", None),
        ({"train/0000.parquet": b"", "test/0000.parquet": b""}, ".", None),
        ({"train/a.csv": b"sequence\n", "test/a.csv": b"sequence\n"}, ".", None),
    ],
    ids=["folders", "csv", "fasta", "gzip", "parquet", "fasta and parquet", "Hub", "Hub converted", "file per class"],
)
def test_the_layouts_that_are_understood(tmp_path, files, path, test):
    folder = write(tmp_path / "copies" / PROMOTERS.name, files)
    found = locate(PROMOTERS, settings(tmp_path, download=False))
    assert found.path == folder / path
    assert found.test == (test and folder / test)


def test_what_the_suite_knows_goes_into_the_section(tmp_path):
    mouse = find("dummy_mouse_enhancers_ensembl")[0]
    write(tmp_path / "copies" / mouse.name, csv("train", "test"))
    found = locate(mouse, settings(tmp_path))
    assert (found.metric, found.max_length, found.task, found.key) == ("accuracy", 1024, "classification", mouse.name)


@pytest.mark.parametrize(
    "files",
    [
        {},
        csv("train"),
        csv("test"),
        {"train/.keep": b"", "test/.keep": b""},
        {"training_notes.csv": b"", "test.csv": b""},
    ],
    ids=["empty", "no test", "no train", "empty folders", "another file"],
)
def test_what_is_no_copy_is_passed_over(tmp_path, files):
    write(tmp_path / "copies" / PROMOTERS.name, files)
    second = write(tmp_path / "copies" / "genomic_benchmarks" / PROMOTERS.name, csv("train", "test"))
    assert locate(PROMOTERS, settings(tmp_path, download=False)).path == second


def test_without_a_copy_and_without_downloads_it_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        locate(PROMOTERS, settings(tmp_path, download=False))
    said = str(caught.value)
    assert f"no copy in {tmp_path}/copies/human_nontata_promoters, " in said
    assert f"{tmp_path}/home/.genomic_benchmarks/human_nontata_promoters, and downstream.download is false" in said
    assert f"Put a copy at {tmp_path}/copies/human_nontata_promoters (train/CLASS/*.txt" in said
    assert "https://zenodo.org/records/16605299/files/human_nontata_promoters_v0.zip?download=1" in said
    assert "\n" not in said
    with pytest.raises(FileNotFoundError, match=r"huggingface\.co/datasets/leannmlindsey/GUE/tree/\w{40}/GUE/emp_H3"):
        locate(find("gue_emp_H3")[0], settings(tmp_path, download=False))


def test_a_folder_that_may_be_either_of_two_sets_is_not_guessed_at(tmp_path):
    plain = write(tmp_path / "copies" / "promoter_all", csv("train", "test"))
    for name in ("nt_promoter_all", "ntr_promoter_all"):
        with pytest.raises(
            FileNotFoundError, match=rf"{plain} may be any of nt_promoter_all, ntr_promoter_all: rename"
        ):
            locate(find(name)[0], settings(tmp_path, download=False))


def test_intervals_without_sequences_are_no_copy(tmp_path):
    intervals = gzip.compress(b"id,region,start,end,strand\n0,chr1,5,9,+\n")
    names = [f"{split}/{label}.csv.gz" for split in ("train", "test") for label in ("negative", "positive")]
    folder = write(tmp_path / "copies" / PROMOTERS.name, dict.fromkeys(names, intervals))
    with pytest.raises(FileNotFoundError, match=rf"{folder} has no sequences \(the intervals of the package"):
        locate(PROMOTERS, settings(tmp_path, download=False))


# ------------------------------------------------------------------------------------------------ Zenodo


def zipped(files: dict[str, bytes], root: str = "human_nontata_promoters/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(root + name, content)
    return buffer.getvalue()


def record(content: bytes, **changes) -> bytes:
    entry = {"key": "human_nontata_promoters_v0.zip", "checksum": f"md5:{hashlib.md5(content).hexdigest()}"} | changes
    return json.dumps({"files": [{"key": "other.zip", "checksum": "md5:0"}, entry]}).encode()


def serve(site: Site, content: bytes, **changes) -> None:
    site.files = {RECORD: record(content, **changes), FILE: content}


@pytest.fixture
def zenodo(monkeypatch) -> Iterator[Site]:
    with http_site() as site:
        monkeypatch.setattr(official, "ZENODO", site.base)
        serve(site, zipped(SPLIT_FILES))
        yield site


def files_asked(site: Site) -> list[str | None]:
    return [wanted for path, wanted in site.asked if path == FILE]


@pytest.mark.parametrize("root", ["human_nontata_promoters/", "", "human_nontata_promoters_v0/"])
def test_a_dataset_comes_whole_and_says_where_from(zenodo, tmp_path, root):
    content = zipped(SPLIT_FILES, root)
    serve(zenodo, content)
    found = locate(PROMOTERS, settings(tmp_path))
    assert found.path == tmp_path / "copies" / PROMOTERS.name
    assert everything(found.path) == SPLIT_FILES
    source = json.loads((found.path / ".SOURCE.json").read_text())
    assert source["url"] == zenodo.base + FILE
    assert source["revision"] == "record 16605299"
    assert source["sha256"] == {"human_nontata_promoters_v0.zip": hashlib.sha256(content).hexdigest()}
    assert source["date"].endswith("+00:00")
    assert os.listdir(tmp_path / "copies") == [PROMOTERS.name]
    zenodo.asked.clear()
    assert locate(PROMOTERS, settings(tmp_path)) == found
    assert not zenodo.asked


def test_an_empty_folder_is_filled(zenodo, tmp_path):
    (tmp_path / "copies" / PROMOTERS.name).mkdir(parents=True)
    assert everything(locate(PROMOTERS, settings(tmp_path)).path) == SPLIT_FILES


def test_something_else_in_its_place_is_left_alone(zenodo, tmp_path):
    folder = write(tmp_path / "copies" / PROMOTERS.name, {"notes.txt": b"mine"})
    with pytest.raises(ValueError, match=r"is no copy of human_nontata_promoters in a known layout.*Move it away"):
        locate(PROMOTERS, settings(tmp_path))
    assert everything(folder) == {"notes.txt": b"mine"}
    assert not zenodo.asked


def test_a_broken_connection_is_resumed(zenodo, tmp_path):
    zenodo.cuts = [None, 700]  # the record, the file
    assert everything(locate(PROMOTERS, settings(tmp_path)).path) == SPLIT_FILES
    assert files_asked(zenodo) == [None, "bytes=700-"]


def test_a_download_that_was_given_up_goes_on_in_the_next_run(zenodo, tmp_path):
    zenodo.cuts = [None, 700] + [0] * 20
    with pytest.raises(OSError, match=r"Run it again to go on from there.*Or: Put a copy at"):
        locate(PROMOTERS, settings(tmp_path))
    assert not (tmp_path / "copies" / PROMOTERS.name).exists()
    zenodo.cuts = []
    zenodo.asked.clear()
    assert everything(locate(PROMOTERS, settings(tmp_path)).path) == SPLIT_FILES
    assert files_asked(zenodo) == ["bytes=700-"]
    assert os.listdir(tmp_path / "copies") == [PROMOTERS.name]


def test_two_at_once_download_once(zenodo, tmp_path):
    zenodo.pause = 0.05
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(locate(PROMOTERS, settings(tmp_path)).path)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "copies" / PROMOTERS.name] * 3
    assert len(files_asked(zenodo)) == 1


def test_a_wrong_checksum(zenodo, tmp_path):
    serve(zenodo, zipped(SPLIT_FILES), checksum="md5:" + "0" * 32)
    with pytest.raises(ValueError, match=r"the MD5 checksum .* expected 0{32} \(benchmark human_nontata_promoters\)"):
        locate(PROMOTERS, settings(tmp_path))
    assert not [path for path in (tmp_path / "copies").rglob("*") if path.suffix in (".zip", ".part", ".txt")]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"<html>", "not the description of a record"),
        (b"{}", "not the description of a record"),
        (b"[]", "not the description of a record"),
        (b'{"files": []}', "no MD5 checksum of a file human_nontata_promoters_v0.zip"),
        (record(b"", checksum="crc:12"), "no MD5 checksum of a file"),
    ],
)
def test_a_record_without_a_checksum_is_not_downloaded(zenodo, tmp_path, answer, said):
    zenodo.files[RECORD] = answer
    with pytest.raises(ValueError, match=rf"{said}.*Put a copy at"):
        locate(PROMOTERS, settings(tmp_path))
    assert not files_asked(zenodo)


def test_no_network(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(
        OSError, match=r"zenodo\.org/api/records/16605299: the host is not known, or there is no network"
    ) as caught:
        locate(PROMOTERS, settings(tmp_path))
    said = str(caught.value)
    assert f"Put a copy at {tmp_path}/copies/human_nontata_promoters (train/CLASS/*.txt" in said
    assert "it comes from https://zenodo.org/records/16605299/files/human_nontata_promoters_v0.zip" in said
    assert "\n" not in said


def test_a_file_that_is_gone_from_the_server(zenodo, tmp_path):
    del zenodo.files[FILE]
    with pytest.raises(ValueError, match=r"there is no such file .*benchmark human_nontata_promoters"):
        locate(PROMOTERS, settings(tmp_path))


def test_an_archive_without_a_dataset(zenodo, tmp_path):
    serve(zenodo, zipped({"readme.txt": b"moved"}))
    with pytest.raises(ValueError, match="is in no known layout"):
        locate(PROMOTERS, settings(tmp_path))
    assert not (tmp_path / "copies" / PROMOTERS.name).exists()


# ---------------------------------------------------------------------------------------------- archives


def archive_of(path: Path, *members: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("../evil.txt", 0, "leads out of its folder"),
        ("train/../../evil.txt", 0, "leads out of its folder"),
        ("/tmp/evil.txt", 0, "leads out of its folder"),
        ("c:/evil.txt", 0, "leads out of its folder"),
        ("train\\..\\evil.txt", 0, "leads out of its folder"),
        ("link", stat.S_IFLNK | 0o777, "is a link or a device"),
        ("device", stat.S_IFCHR | 0o666, "is a link or a device"),
        ("good.txt", 0, "is there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_nothing_of_a_hostile_archive_is_unpacked(tmp_path, name, mode, why):
    archive = archive_of(tmp_path / "a.zip", ("good.txt", b"ACGT", stat.S_IFREG | 0o644), (name, b"/etc/passwd", mode))
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"a\.zip: .* in it {why}; nothing was unpacked"):
        unpack(archive, into)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def test_a_path_out_of_the_folder_stops_the_download(zenodo, tmp_path):
    serve(zenodo, zipped({**SPLIT_FILES, "../../../evil.txt": b"x"}))
    with pytest.raises(ValueError, match="leads out of its folder"):
        locate(PROMOTERS, settings(tmp_path))
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 1_000), ("MAX_FILES", 2)])
def test_an_archive_of_absurd_size(tmp_path, monkeypatch, limit, value):
    archive = archive_of(tmp_path / "a.zip", *[(f"{i}.txt", bytes(1_000), 0) for i in range(3)])
    into = tmp_path / "into"
    into.mkdir()
    monkeypatch.setattr(official, limit, value)
    with pytest.raises(ValueError, match="would unpack to 3,000 bytes in 3 files"):
        unpack(archive, into)
    assert not list(into.iterdir())
    monkeypatch.undo()
    unpack(archive, into)
    assert len(list(into.iterdir())) == 3


def test_what_is_packed_comes_out(tmp_path, monkeypatch):
    files = {f"{i % 7}/{'x' * (i % 3)}/{i}.txt": os.urandom(i) for i in range(100)}
    archive = archive_of(tmp_path / "a.zip", ("empty/", b"", 0), *[(name, files[name], 0) for name in files])
    monkeypatch.setattr(official, "_PIECE", 8)
    monkeypatch.setattr(official, "_SMALL", 60)
    into = tmp_path / "into"
    into.mkdir()
    unpack(archive, into)
    assert everything(into) == {str(Path(name)): content for name, content in files.items()}
    assert not list((into / "empty").iterdir())


def test_an_archive_that_lies_about_its_size_is_found_out(tmp_path):
    archive = archive_of(tmp_path / "a.zip", ("bomb.txt", bytes(100_000), 0))
    honest = (100_000).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(honest, (10).to_bytes(4, "little")))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(ValueError, match="not a zip file that can be read"):
        unpack(archive, into)
    assert sum(path.stat().st_size for path in into.iterdir()) <= 10


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", zipped(SPLIT_FILES)[:-300]])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip: not a zip file that can be read"):
        unpack(tmp_path / "a.zip", tmp_path)


# -------------------------------------------------------------------------------------------------- Hub


@contextmanager
def hub(
    files: dict[str, bytes], etags: dict[str, str] | None = None, cut: int | None = None
) -> Iterator[tuple[str, list]]:
    """A server that answers like the Hub; the first download of a large file ends after ``cut`` bytes."""
    asked: list[tuple[str, str, str | None]] = []
    cuts = [cut]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            content, start = self.answer()
            cut = cuts.pop() if cuts and content else None
            self.wfile.write(content[start:] if cut is None else content[start:cut])
            self.close_connection = cut is not None or self.close_connection

        def answer(self) -> tuple[bytes, int]:
            wanted = self.headers.get("Range")
            asked.append((self.command, self.path, wanted))
            content = files.get(self.path)
            self.send_response(404 if content is None else 206 if wanted else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return b"", 0
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            etag = (etags or {}).get(self.path, hashlib.sha256(content).hexdigest())
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", self.path.split("/resolve/")[1].split("/")[0])
            self.send_header("Content-Length", str(len(content) - start))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            return content, start

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def on_hub(dataset: SuiteDataset) -> dict[str, bytes]:
    """Something for each file of a dataset, by the path that it has on the Hub."""
    source = dataset.download
    return {
        f"/datasets/{source.repo}/resolve/{source.revision}/{file}": f"{file}\n".encode() * 50_000
        for file in source.files
    }


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("gue_emp_H3", {"train.csv", "dev.csv", "test.csv"}),
        ("nt_promoter_all", {"train.fna", "test.fna"}),
        ("ntr_H2AFZ", {"train.parquet", "test.parquet"}),
    ],
)
def test_a_dataset_of_the_hub(tmp_path, monkeypatch, name, files):
    dataset = find(name)[0]
    with hub(on_hub(dataset)) as (base, asked):
        monkeypatch.setenv("HF_ENDPOINT", base)
        found = locate(dataset, settings(tmp_path))
        assert found.path == tmp_path / "copies" / name
        contents = {Path(path).name: content for path, content in on_hub(dataset).items()}
        assert everything(found.path) == contents
        assert set(contents) == files
        source = json.loads((found.path / ".SOURCE.json").read_text())
        assert source["url"] == f"https://huggingface.co/datasets/{dataset.download.repo}"
        assert source["revision"] == dataset.download.revision
        assert source["sha256"] == {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
        assert os.listdir(tmp_path / "copies") == [name]
        asked.clear()
        locate(dataset, settings(tmp_path))
        assert not asked


def test_a_broken_hub_connection_is_resumed(tmp_path, monkeypatch):
    dataset = find("gue_emp_H3")[0]
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    with hub(on_hub(dataset), cut=300_000) as (base, asked):
        monkeypatch.setenv("HF_ENDPOINT", base)
        found = locate(dataset, settings(tmp_path))
        assert everything(found.path) == {Path(path).name: content for path, content in on_hub(dataset).items()}
        assert [wanted for command, _, wanted in asked if command == "GET"] == [None, "bytes=300000-", None, None]


def test_small_files_of_the_hub_are_held_against_their_git_hash(tmp_path, monkeypatch):
    dataset = find("gue_emp_H3")[0]
    files = on_hub(dataset)
    hashes = {path: hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() for path, content in files.items()}
    with hub(files, hashes) as (base, _):
        monkeypatch.setenv("HF_ENDPOINT", base)
        assert len(everything(locate(dataset, settings(tmp_path)).path)) == 3


@pytest.mark.parametrize("size", [40, 64])
def test_a_file_of_another_hash_than_the_hub_says(tmp_path, monkeypatch, size):
    dataset = find("gue_emp_H3")[0]
    files = on_hub(dataset)
    with hub(files, {list(files)[1]: "0" * size}) as (base, _):
        monkeypatch.setenv("HF_ENDPOINT", base)
        with pytest.raises(ValueError, match=r"GUE/emp_H3/dev\.csv: the file that came has another hash"):
            locate(dataset, settings(tmp_path))
    assert not (tmp_path / "copies" / "gue_emp_H3").exists()
    with hub(files) as (base, asked):
        monkeypatch.setenv("HF_ENDPOINT", base)
        locate(dataset, settings(tmp_path))
        assert [Path(path).name for command, path, _ in asked if command == "GET"] == ["dev.csv"]


def test_a_mirror_that_does_not_tell_the_hash(tmp_path, monkeypatch):
    dataset = find("gue_emp_H3")[0]
    with hub(on_hub(dataset), dict.fromkeys(on_hub(dataset), "5-1234")) as (base, _):
        monkeypatch.setenv("HF_ENDPOINT", base)
        assert len(everything(locate(dataset, settings(tmp_path)).path)) == 3


def test_a_file_that_the_hub_does_not_have(tmp_path, monkeypatch):
    dataset = find("gue_emp_H3")[0]
    with hub(dict(list(on_hub(dataset).items())[:2])) as (base, _):
        monkeypatch.setenv("HF_ENDPOINT", base)
        with pytest.raises(OSError, match=r"leannmlindsey/GUE: .*benchmark gue_emp_H3.*Put a copy at") as caught:
            locate(dataset, settings(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_hub(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(
        OSError, match=r"leannmlindsey/GUE: .*refused.*Put a copy at .*/copies/gue_emp_H3 \(train/CLASS"
    ) as caught:
        locate(find("gue_emp_H3")[0], settings(tmp_path))
    assert "it comes from https://huggingface.co/datasets/leannmlindsey/GUE/tree/" in str(caught.value)
    assert "\n" not in str(caught.value)
