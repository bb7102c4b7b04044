"""The examples of docs/data.md and docs/store.md do what the pages say.

In front of a fenced block an HTML comment says what it is:

    <!-- file: NAME -->   the block is that file; any other YAML is a part of a config, and must be valid as such
    <!-- says -->         the block is what the command before it said; a line of ... leaves lines out
    <!-- fails -->        the last command of the block ends with exit status 2, all others with 0
    <!-- not run -->      needs the network

Of ``sh`` blocks the lines that begin with ``titans-genomics`` are run, and Python blocks are, what they print being compared
with the comments behind it. Each heading has a folder of its own, in which the first example of data.md was run.
"""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
import yaml
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from titans_genomics.cli import main
from titans_genomics.config import Config, parse_config
from titans_genomics.data.store import TokenStore, tokenize

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "data.md", ROOT / "docs" / "store.md"]


@dataclass
class Block:
    """A fenced block: its language, the comment in front of it, its text and the line that it begins in."""

    language: str
    note: str
    text: str
    line: int


@dataclass
class Section:
    """What stands under one heading."""

    page: Path
    title: str
    blocks: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.title}"


def sections_of(page: Path) -> list[Section]:
    found = [Section(page, "top")]
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("#"):
            found.append(Section(page, line.lstrip("# ")))
        elif line.startswith("```"):
            end = lines.index("```", number + 1)
            note = re.fullmatch(r"<!-- (.*) -->", lines[number - 1])
            text = "\n".join(lines[number + 1 : end]) + "\n"
            found[-1].blocks.append(Block(line[3:], note[1] if note else "", text, number + 1))
            number = end
        number += 1
    return found


SECTIONS = [section for page in PAGES for section in sections_of(page)]
WITH_EXAMPLES = [section for section in SECTIONS if section.blocks]


# ------------------------------------------------------------------------------------------ the files


def letters_of(name: str) -> str:
    with gzip.open(ROOT / "resources" / f"{name}.fa.gz", "rt") as handle:
        return "".join(line.strip() for line in handle if not line.startswith(">"))


def write_fasta(path: Path, **records: str) -> None:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))


def write_fastq(path: Path) -> None:
    """The reads of the BAM in resources/ as the instrument gave them."""
    with pysam.AlignmentFile(str(ROOT / "resources" / "sirv_reads.bam")) as bam, gzip.open(path, "wt") as out:
        for read in bam.fetch(until_eof=True):
            if not read.is_secondary and not read.is_supplementary:
                quality = pysam.qualities_to_qualitystring(read.get_forward_qualities())
                out.write(f"@{read.query_name}\n{read.get_forward_sequence()}\n+\n{quality}\n")


def write_alignments(path: Path, genome: str) -> None:
    """Reads of ``genome``, aligned to it without a fault, as BAM or CRAM; the genome beside it as reference.fa."""
    reference = path.with_name("reference.fa")
    write_fasta(reference, **{"1": genome})
    rng = np.random.default_rng(0)
    starts, lengths = np.sort(rng.integers(len(genome) - 2_500, size=800)), rng.integers(800, 2_500, size=800)
    header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "1", "LN": len(genome)}]}
    mode = "wc" if path.suffix == ".cram" else "wb"
    with pysam.AlignmentFile(str(path), mode, header=header, reference_filename=str(reference)) as out:
        for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            read = pysam.AlignedSegment(out.header)
            read.query_name, read.flag = f"read{number}", 16 * (number % 2)
            read.query_sequence = genome[start : start + length]
            read.query_qualities = pysam.qualitystring_to_array("5" * length)
            read.reference_id, read.reference_start, read.mapping_quality = 0, start, 60
            read.cigartuples = [(pysam.CMATCH, length)]
            out.write(read)


def write_2bit(path: Path, name: str, letters: str) -> None:
    """One sequence without N, its first 1,000 bases masked."""
    at = 16 + 1 + len(name) + 4
    bits = ["TCAG".index(letter) for letter in letters.upper()] + [0] * (-len(letters) % 4)
    packed = bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(bits)] * 4, strict=True))
    head = struct.pack("<IIIIB", 0x1A412743, 0, 1, 0, len(name)) + name.encode() + struct.pack("<I", at)
    path.write_bytes(head + struct.pack("<6I", len(letters), 0, 1, 0, 1_000, 0) + packed)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "resources").symlink_to(ROOT / "resources")
    own = folder / "my"
    own.mkdir()
    genome = letters_of("h_pylori")
    chromosomes = np.frombuffer(genome[:60_000].encode(), np.uint8).copy()
    chromosomes[2_000:5_000] |= 0x20
    chromosomes[30_000:30_200] = ord("N")
    chromosomes[[100, 45_000]] = list(b"RK")
    spelled = chromosomes.tobytes().decode()
    write_fasta(own / "genome.fa", chr1=spelled[:40_000], chr2=spelled[40_000:], tiny="ACGTACGTAC")
    (own / "targets.bed").write_text("# 0-based, half-open\n1\t0\t20000\n1\t19000\t25000\n2\t1000\t15000\n")
    (own / "blacklist.gff3").write_text("##gff-version 3\nchr1\t.\trepeat_region\t101\t1200\t.\t+\t.\tID=repeat\n")
    (own / "broken.fa.gz").write_bytes((ROOT / "resources" / "h_pylori.fa.gz").read_bytes()[:50_000])
    write_fastq(own / "reads.fastq.gz")
    write_alignments(own / "alignments.bam", genome[:150_000])
    write_alignments(own / "alignments.cram", genome[150_000:300_000])
    write_2bit(own / "assembly.2bit", "chr1", genome[200_000:280_003])
    record = SeqRecord(
        Seq(genome[300_000:360_000]), "NC_011333.1", "NC_011333", "a piece", annotations={"molecule_type": "DNA"}
    )
    SeqIO.write(record, own / "chromosome.gbk", "genbank")
    documents = ("\n".join(f"Gene {i} of strain {j} binds {i * j}." for i in range(60)) for j in range(40))
    (own / "notes.txt").write_text("\n<|endoftext|>\n".join(documents) + "\n")
    k12 = np.frombuffer(letters_of("ecoli_k12").encode(), np.uint8)
    rng = np.random.default_rng(0)
    changed = np.flatnonzero(rng.random(len(k12)) < 0.015)
    relative, bases = k12.copy(), np.frombuffer(b"ACGT", np.uint8)
    relative[changed] = bases[(np.searchsorted(bases, k12[changed]) + rng.integers(1, 4, len(changed))) % 4]
    write_fasta(own / "relative.fa", chromosome=relative.tobytes().decode())
    return folder


# --------------------------------------------------------------------------------------- the examples


class Reader:
    """Somebody who does what a section says, in the working directory."""

    def __init__(self, section: Section, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.section, self.monkeypatch, self.capfd = section, monkeypatch, capfd
        self.said = ""
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def follow(self) -> None:
        for block in self.section.blocks:
            where = f"{self.section.page.name}, line {block.line}"
            if block.note.startswith("file: "):
                self.write(Path(block.note.removeprefix("file: ")), block.text, where)
            elif block.language == "yaml":
                parse_config(
                    merged({"run": "x", "data": {"sources": [{"path": "x.fa"}]}}, yaml.safe_load(block.text)), where
                )
            elif block.language == "sh" and block.note != "not run":
                self.run(block, where)
            elif block.language == "python":
                self.execute(block.text, where)
            elif block.note == "says":
                self.compare(block.text, where)
            else:
                assert block.note == "not run", f"{where}: what is this block?"

    def write(self, path: Path, text: str, where: str) -> None:
        path.write_text(text)
        if path.suffix == ".yaml":
            parse_config(yaml.safe_load(text), where)

    def run(self, block: Block, where: str) -> None:
        commands = [shlex.split(line, comments=True) for line in block.text.splitlines()]
        commands = [command for command in commands if command[:1] == ["titans-genomics"]]
        assert commands, f"{where}: nothing to run"
        for number, command in enumerate(commands):
            into = command[command.index(">") + 1] if ">" in command else None
            self.monkeypatch.setattr(sys, "argv", command[: command.index(">")] if into else command)
            self.capfd.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
            out, err = self.capfd.readouterr()
            fails = block.note == "fails" and number == len(commands) - 1
            assert (ended.value.code or 0) == (2 if fails else 0), f"{where}: {shlex.join(command)}: {err}"
            if into:
                Path(into).write_text(out)
            self.said = err if fails else out

    def execute(self, text: str, where: str) -> None:
        self.capfd.readouterr()
        exec(compile(text, where, "exec"), self.names)
        printed = self.capfd.readouterr().out.splitlines()
        expected = [line for line in text.splitlines() if line.lstrip().startswith("print(")]
        for line, found in zip(expected, printed, strict=True):
            assert line.rpartition("  # ")[2] == found, where

    def compare(self, text: str, where: str) -> None:
        pieces = [re.escape(piece.strip("\n")) for piece in re.split(r"^ *\.\.\.$", text, flags=re.M)]
        found = re.search(r"\n(?:.*\n)*?".join(pieces), self.said)
        assert found, f"{where}: the command said\n{self.said}"


def merged(settings: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """``settings`` with those of ``part``."""
    both = {
        key: merged(settings[key], value) if isinstance(value, dict) and key in settings else value
        for key, value in part.items()
    }
    return settings | both


@pytest.fixture(scope="module")
def first_run(begun: Path) -> Path:
    """The token store of the page's first example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(begun)
        example = next(
            block for section in SECTIONS for block in section.blocks if block.note == "file: my_genome.yaml"
        )
        config = parse_config(yaml.safe_load(example.text), "my_genome.yaml")
        tokenize(config, config.folder / "tokens")
    return begun / "results"


@pytest.fixture
def folder(begun: Path, first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files and with the first example's store."""
    for path in begun.iterdir():
        if path != first_run:
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(first_run, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("section", WITH_EXAMPLES, ids=str)
def test_examples(
    section: Section, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Reader(section, monkeypatch, capfd).follow()


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    schema = Config.model_json_schema()
    names = set(re.findall(r"`((?:data|model|train|evaluate)(?:\.\w+|\[\])+)", page.read_text(encoding="utf-8")))
    assert names
    for name in names:
        place = schema
        for part in name.replace("[]", ".items").split("."):
            place = place.get("anyOf", [place])[0]  # of a section that may be left out
            while "$ref" in place:
                place = schema["$defs"][place["$ref"].rpartition("/")[2]]
            place = place["items"] if part == "items" else place.get("properties", {}).get(part)
            assert place is not None, f"{page.name}: no setting {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        target, _, anchor = link.partition("#")
        if not target.startswith("http"):
            there = (page.parent / target).resolve() if target else page
            assert there.exists(), f"{page.name}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
                assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"n_runs": "drop", "sources": [{"path": "my/genome.fa"}]}, id="joined"),
        pytest.param({"tokenizer": {"kind": "bpe", "vocab_size": 300}, "sources": [{"path": "my/genome.fa"}]}, id="pieces"),
        pytest.param({"tokenizer": {"kind": "kmer", "k": 3}, "sources": [{"path": "my/genome.fa"}]}, id="small tokens"),
        pytest.param({"tokenizer": {"kind": "byte"}, "sources": [{"path": "my/notes.txt", "kind": "text"}]}, id="text"),
        pytest.param({"sources": [{"path": "my/genome.fa"}, {"path": "my/alignments.bam"}]}, id="two sources, reads"),
    ],
)  # fmt: skip
def test_the_program_of_the_page_reads_every_store(folder: Path, data: dict[str, Any]) -> None:
    """The program of docs/store.md finds the tokens that the package finds."""
    program = next(
        block.text for section in sections_of(PAGES[1]) for block in section.blocks if "def tokens_of" in block.text
    )
    names: dict[str, Any] = {}
    exec(program, names)
    train = {"reverse_complement": 0.0}
    split = {"block": 2_000, "leaks": {"action": "off"}}
    tokenize(parse_config({"run": "x", "data": data | {"split": split}, "train": train}, "x"), folder / "store")
    store = TokenStore(folder / "store")
    runs = [run for split in ("train", "validation", "test") for run in store.runs(split)]
    assert runs
    for run in runs:
        np.testing.assert_array_equal(names["tokens_of"](folder / "store", run.source, run.split), run[:])
