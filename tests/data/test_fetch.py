"""Downloads from servers that cut, change, refuse and lie."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from serving import Site, ftp_site, http_site

from titans_genomics.config import SourceConfig
from titans_genomics.data import fetch as module
from titans_genomics.data import remote
from titans_genomics.data.fetch import check_md5, fetch

CONTENT = np.random.default_rng(0).bytes(200_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def http():
    with http_site() as site:
        site.files["/g.fa"] = CONTENT
        yield site


@pytest.fixture
def ftp():
    with ftp_site() as site:
        site.files["/pub/g.fa"] = CONTENT
        yield site


@pytest.fixture(params=["http", "ftp"])
def site(request) -> Site:
    """One of the two; its file is at ``url_of(site)``."""
    return request.getfixturevalue(request.param)


def url_of(site: Site) -> str:
    return site.base + next(iter(site.files))


def starts_of(site: Site) -> list[int]:
    """The first byte that each request for the file asked for."""
    if site.base.startswith("http"):
        return [int(wanted[6:-1]) if wanted else 0 for _, wanted in site.asked]
    starts, start = [], 0
    for command, rest in site.asked:
        if command == "REST":
            start = int(rest)
        if command == "RETR":
            starts.append(start)
            start = 0
    return starts


def source(folder: Path, url: str | None, **keys) -> SourceConfig:
    return SourceConfig(path=folder / "downloads" / "g.fa", url=url, name="ecoli", **keys)


def begun(entry: SourceConfig, content: bytes, validator: str, url: str | None = None) -> Path:
    """A download that was left unfinished."""
    entry.path.parent.mkdir(exist_ok=True)
    entry.path.with_name(".g.fa.part.json").write_text(json.dumps({"url": url or entry.url, "validator": validator}))
    part = entry.path.with_name(".g.fa.part")
    part.write_bytes(content)
    return part


def left(entry: SourceConfig) -> list[str]:
    return sorted(path.name for path in entry.path.parent.iterdir())


def test_a_file_comes_whole_and_leaves_no_pieces(site, tmp_path, capsys):
    entry = source(tmp_path, url_of(site), md5=MD5.upper())
    assert fetch(entry) == entry.path
    assert entry.path.read_bytes() == CONTENT
    assert left(entry) == [".g.fa.json", "g.fa"]
    assert "downloading g.fa: done, 200k bytes" in capsys.readouterr().err
    site.asked.clear()
    fetch(entry)
    assert not site.asked


def test_an_empty_file(site, tmp_path):
    site.files = {next(iter(site.files)): b""}
    entry = source(tmp_path, url_of(site))
    assert fetch(entry).read_bytes() == b""
    assert left(entry) == [".g.fa.json", "g.fa"]


def test_a_file_put_there_by_hand_is_taken_as_it_is(http, tmp_path):
    entry = source(tmp_path, url_of(http))
    entry.path.parent.mkdir()
    entry.path.write_bytes(b"mine")
    assert fetch(entry).read_bytes() == b"mine"
    assert not http.asked


def test_a_file_of_another_checksum_is_replaced(http, tmp_path):
    entry = source(tmp_path, url_of(http), md5=MD5)
    entry.path.parent.mkdir()
    entry.path.write_bytes(b"old")
    assert fetch(entry).read_bytes() == CONTENT


def test_a_file_from_another_url_is_replaced(http, tmp_path):
    http.files["/release-2/g.fa"] = OTHER
    fetch(source(tmp_path, url_of(http)))
    second = source(tmp_path, http.base + "/release-2/g.fa")
    assert fetch(second).read_bytes() == OTHER
    http.asked.clear()
    fetch(second)
    assert not http.asked


def test_without_a_url(tmp_path):
    (tmp_path / "downloads").mkdir()
    with pytest.raises(FileNotFoundError, match=r"g\.fa: no such sequence file \(data\.sources"):
        fetch(source(tmp_path, None))
    (tmp_path / "downloads" / "g.fa").write_bytes(CONTENT)
    fetch(source(tmp_path, None, md5=MD5))
    with pytest.raises(ValueError, match=rf"g\.fa: the MD5 checksum is {MD5}, expected 0{{32}}"):
        fetch(source(tmp_path, None, md5="0" * 32))
    with pytest.raises(ValueError, match="is a folder"):
        fetch(SourceConfig(path=tmp_path, url="http://127.0.0.1/x"))


def test_check_md5(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    check_md5(tmp_path / "a", MD5.upper())
    with pytest.raises(ValueError, match=rf"/a: the MD5 checksum is {MD5}, expected f{{32}}"):
        check_md5(tmp_path / "a", "F" * 32)


def test_a_wrong_checksum_removes_the_download(site, tmp_path):
    entry = source(tmp_path, url_of(site), md5="0" * 32)
    with pytest.raises(ValueError, match=rf"g\.fa: the MD5 checksum of what .*/g\.fa gave is {MD5}, expected 0{{32}}"):
        fetch(entry)
    assert left(entry) == []


# ------------------------------------------------------------------------------------------------ resuming


def test_a_cut_connection_goes_on_where_it_ended(site, tmp_path):
    site.cuts = [50_000, 30_000]
    assert fetch(source(tmp_path, url_of(site), md5=MD5)).read_bytes() == CONTENT
    assert starts_of(site) == [0, 50_000, 80_000]


def test_as_long_as_something_comes_it_does_not_give_up(site, tmp_path):
    site.cuts = [15_000] * (2 * remote.ATTEMPTS)
    assert fetch(source(tmp_path, url_of(site))).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(site, tmp_path):
    site.ranges = False
    site.cuts = [50_000, 60_000]
    assert fetch(source(tmp_path, url_of(site))).read_bytes() == CONTENT


def test_a_server_that_says_nothing_of_versions_starts_again(site, tmp_path):
    site.stamps = {}
    site.cuts = [50_000]
    assert fetch(source(tmp_path, url_of(site))).read_bytes() == CONTENT
    assert starts_of(site) == [0, 0]


@pytest.mark.parametrize(
    ("stamps", "starts"),
    [
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, [0, 50_000]),
        ({"ETag": 'W/"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, [0, 50_000]),
        ({"ETag": 'W/"x"'}, [0, 0]),
    ],
    ids=["date", "weak and date", "weak"],
)
def test_what_tells_versions_apart(http, tmp_path, stamps, starts):
    http.stamps, http.cuts = stamps, [50_000]
    assert fetch(source(tmp_path, url_of(http))).read_bytes() == CONTENT
    assert starts_of(http) == starts


def test_given_up_after_attempts_that_bring_nothing_and_resumed_by_the_next_call(site, tmp_path):
    site.cuts = [50_000] + [0] * 20
    entry = source(tmp_path, url_of(site))
    with pytest.raises(OSError, match=r"/g\.fa: .*\(data\.sources, source 'ecoli'\)\. Run it again to go on") as caught:
        fetch(entry)
    assert "\n" not in str(caught.value)
    assert len(starts_of(site)) == remote.ATTEMPTS
    assert left(entry) == [".g.fa.part", ".g.fa.part.json"]
    site.cuts = []
    assert fetch(entry).read_bytes() == CONTENT
    assert starts_of(site)[-1] == 50_000
    assert left(entry) == [".g.fa.json", "g.fa"]


def test_a_file_that_changed_in_between_starts_again(site, tmp_path):
    site.cuts = [50_000] + [0] * 20
    entry = source(tmp_path, url_of(site))
    with pytest.raises(OSError, match="Run it again"):
        fetch(entry)
    site.cuts, site.stamps, site.modified = [], {"ETag": '"two"'}, "20250101000000"
    site.files = dict.fromkeys(site.files, OTHER)
    assert fetch(entry).read_bytes() == OTHER


def test_a_piece_of_another_url_is_not_gone_on_with(http, tmp_path):
    entry = source(tmp_path, url_of(http))
    begun(entry, OTHER[:1000], '"one"', url=http.base + "/other.fa")
    assert fetch(entry).read_bytes() == CONTENT


def test_a_piece_whose_record_was_cut_short_is_not_gone_on_with(http, tmp_path):
    entry = source(tmp_path, url_of(http))
    begun(entry, OTHER[:1000], '"one"').with_name(".g.fa.part.json").write_text('{"url":')
    assert fetch(entry).read_bytes() == CONTENT


def test_complete_but_not_yet_in_place(site, tmp_path):
    validator = '"one"' if site.base.startswith("http") else f"{len(CONTENT)} 213 {site.modified}"
    entry = source(tmp_path, url_of(site), md5=MD5)
    begun(entry, CONTENT, validator)
    assert fetch(entry).read_bytes() == CONTENT
    assert starts_of(site) == ([len(CONTENT)] if site.base.startswith("http") else [])


def test_longer_than_the_file_starts_again(http, tmp_path):
    entry = source(tmp_path, url_of(http))
    begun(entry, CONTENT + b"more", '"one"')
    assert fetch(entry).read_bytes() == CONTENT


def test_a_server_that_sends_another_range_is_not_trusted(http, tmp_path):
    http.wrong_range = True
    entry = source(tmp_path, url_of(http))
    begun(entry, CONTENT[:1000], '"one"')
    assert fetch(entry).read_bytes() == CONTENT
    assert starts_of(http) == [1000, 0]


def test_a_server_that_does_not_know_if_range_is_caught_by_the_version(http, tmp_path):
    http.heeds_if_range = False
    entry = source(tmp_path, url_of(http))
    begun(entry, OTHER[:1000], '"zero"')
    assert fetch(entry).read_bytes() == CONTENT
    assert starts_of(http) == [1000, 0]


def in_another_process(entry: SourceConfig, before: str = "") -> subprocess.Popen:
    code = f"{before}\nimport sys\nfrom titans_genomics.config import SourceConfig\nfrom titans_genomics.data.fetch import fetch\nfetch(SourceConfig.model_validate_json(sys.argv[1]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, entry.model_dump_json()],
        stderr=subprocess.PIPE,
        env={**os.environ, "no_proxy": "*"},
    )


def test_a_killed_download_is_resumed(site, tmp_path):
    site.pause = 0.05
    entry = source(tmp_path, url_of(site), md5=MD5)
    part = entry.path.with_name(".g.fa.part")
    with in_another_process(entry) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > 20_000) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not entry.path.exists()
    have = part.stat().st_size
    assert 20_000 < have < len(CONTENT)
    site.pause = 0
    assert fetch(entry).read_bytes() == CONTENT
    assert starts_of(site) == [0, have]


def test_two_at_once_download_once(http, tmp_path, capsys):
    http.pause = 0.02
    entry = source(tmp_path, url_of(http), md5=MD5)
    threads = [threading.Thread(target=fetch, args=(entry,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    with in_another_process(entry) as process:
        for thread in threads:
            thread.join()
        assert process.wait() == 0
    assert entry.path.read_bytes() == CONTENT
    assert starts_of(http) == [0]
    assert left(entry) == [".g.fa.json", "g.fa"]
    assert "waiting for another process" in capsys.readouterr().err


def test_the_next_in_line_takes_over_when_the_first_fails(http, tmp_path):
    http.pause, http.statuses = 0.02, [404]
    entry = source(tmp_path, url_of(http))
    failures = []

    def run():
        try:
            fetch(entry)
        except ValueError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 1
    assert entry.path.read_bytes() == CONTENT


def test_a_full_disk_is_not_taken_for_a_dropped_connection(http, tmp_path):
    limit = "import resource, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    with in_another_process(source(tmp_path, url_of(http)), limit) as process:
        said = process.stderr.read().decode()
    assert "cannot write the download: File too large" in said
    assert len(http.asked) == 1


# ---------------------------------------------------------------------------------------------- refusals


def test_no_such_file(site, tmp_path):
    entry = source(tmp_path, url_of(site) + ".gz")
    with pytest.raises(ValueError, match=r"/g\.fa\.gz: there is no such file \(.*\) \(data\.sources, source 'ecoli'\)"):
        fetch(entry)
    assert left(entry) == []
    assert len(starts_of(site)) == 1


@pytest.mark.parametrize(("status", "said"), [(403, "wants a login"), (401, "wants a login"), (400, "refuses it")])
def test_other_refusals_are_final(http, tmp_path, status, said):
    http.statuses = [status]
    with pytest.raises(ValueError, match=rf"/g\.fa: the server {said} \(HTTP {status} .*'ecoli'"):
        fetch(source(tmp_path, url_of(http)))
    assert len(http.asked) == 1


def test_a_busy_server_is_asked_again(http, tmp_path):
    http.statuses = [503, 429, 500]
    assert fetch(source(tmp_path, url_of(http))).read_bytes() == CONTENT
    http.statuses = [503] * 20
    http.asked.clear()
    with pytest.raises(OSError, match="HTTP 503 Service Unavailable"):
        fetch(source(tmp_path / "again", url_of(http)))
    assert len(http.asked) == remote.ATTEMPTS


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_no_network(tmp_path, monkeypatch, scheme):
    def fails(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("would try again"))
    with pytest.raises(OSError, match=rf"^{scheme}://example.org/g.fa: the host is not known, or there is no network"):
        fetch(source(tmp_path, f"{scheme}://example.org/g.fa"))


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_nobody_listens(tmp_path, scheme):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match=rf":{port}/g.fa: .*refused.*'ecoli'"):
        fetch(source(tmp_path, f"{scheme}://127.0.0.1:{port}/g.fa"))


def test_redirects_and_odd_letters(http, tmp_path):
    http.files["/my%20genome%C3%A9.fa"] = b"->/g.fa"
    assert fetch(source(tmp_path, http.base + "/my genomeé.fa")).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["gopher://x.org/g.fa", "g.fa", "http:///g.fa", "ncbi:ASM584v2"])
def test_addresses_that_are_none(tmp_path, url):
    with pytest.raises(ValueError, match=r"not a URL|not an NCBI assembly accession"):
        fetch(source(tmp_path, url))


# ------------------------------------------------------------------------------------------- S3 and NCBI


def test_s3(http, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "S3", http.base + "/{bucket}/{key}")
    http.files["/open/some/key%20x.bam"] = CONTENT
    assert fetch(source(tmp_path, "s3://open/some/key x.bam")).read_bytes() == CONTENT
    http.statuses = [403]
    with pytest.raises(ValueError, match=r"wants a login.*private buckets by other means, such as `aws s3 cp`"):
        fetch(source(tmp_path / "b", "s3://closed/key.bam"))
    assert http.asked[-1][0] == "/closed/key.bam"


def test_buckets_with_dots_stand_in_the_path():
    assert module._resolve("s3://my.bucket/a/b")[0] == "https://s3.amazonaws.com/my.bucket/a/b"
    assert module._resolve("S3://bucket/a/b")[0] == "https://bucket.s3.amazonaws.com/a/b"


@pytest.fixture
def ncbi(http, monkeypatch):
    """The folders of two versions of one assembly."""
    monkeypatch.setattr(module, "NCBI", http.base + "/genomes/all")
    folder = "/genomes/all/GCF/000/005/845/"
    one, two = "GCF_000005845.2_ASM584v2", "GCF_000005845.20_Other"
    http.files |= {
        folder: f'<a href="/genomes/all/GCF/000/005/">Up</a>\n<a href="{two}/">x</a> <a href="{one}/">{one}/</a>'.encode(),
        f"{folder}{one}/{one}_genomic.fna.gz": CONTENT,
        f"{folder}{one}/md5checksums.txt": f"{'0' * 32}  ./{one}_cds_from_genomic.fna.gz\n{MD5}  ./{one}_genomic.fna.gz\n".encode(),
        f"{folder}{two}/md5checksums.txt": b"",
    }
    return http


def test_an_accession(ncbi, tmp_path):
    ncbi.cuts = [None, None, 50_000]
    assert fetch(source(tmp_path, "ncbi:GCF_000005845.2")).read_bytes() == CONTENT
    assert starts_of(ncbi)[-1] == 50_000


def test_an_accession_is_held_against_the_checksum_of_ncbi(ncbi, tmp_path):
    sums = next(path for path in ncbi.files if path.endswith("v2/md5checksums.txt"))
    ncbi.files[sums] = ncbi.files[sums].replace(MD5.encode(), b"1" * 32)
    with pytest.raises(ValueError, match=r"expected 1{32}"):
        fetch(source(tmp_path, "ncbi:GCF_000005845.2"))
    assert fetch(source(tmp_path, "ncbi:GCF_000005845.2", md5=MD5)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("accession", "said"),
    [
        ("GCF_000005845.3", "NCBI has no such assembly under .*; there is GCF_000005845.2, GCF_000005845.20"),
        ("GCA_999999999.1", "NCBI has no such assembly under .*/GCA/999/999/999; look it up at https"),
        ("GCF_000005845.20", "NCBI lists no GCF_000005845.20_Other_genomic.fna.gz"),
    ],
)
def test_accessions_that_lead_nowhere(ncbi, tmp_path, accession, said):
    with pytest.raises(ValueError, match=f"^{accession}: {said}.*'ecoli'"):
        fetch(source(tmp_path, f"ncbi:{accession}"))


def test_small_texts_are_tried_again(ncbi, tmp_path):
    ncbi.statuses, ncbi.cuts = [503], [20, None, 10]
    assert fetch(source(tmp_path, "ncbi:GCF_000005845.2")).read_bytes() == CONTENT
