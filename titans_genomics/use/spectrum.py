"""How much made sequences are like a genome: k-mers, GC content and open reading frames, beside what stands for all and for nothing.

Beside the made sequences stand two others of as many bases: tiles of the genome itself, which say how near one can come
with so many bases, and bases drawn one by one at the genome's frequencies, which say what is gained by more than those.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.folder import MANIFEST
from titans_genomics.data.store import TokenStore
from titans_genomics.files import write_json, write_text
from titans_genomics.use.output import check_out
from titans_genomics.use.records import read_codes

KS = tuple(range(1, 9))
"""Lengths of k-mers that are compared, bases."""

WINDOW = 1000
"""Bases of a window whose GC content is taken."""

LONG_ORF = 100
"""Codons from which an open reading frame counts as long: by chance few are."""

TILE = 10_000
"""Bases of the genome that are taken together for the sample."""

_NO_GENOME = "{}: neither a sequence file nor a token store"

_PIECE = 1 << 22
_START, _STOPS = 14, (48, 50, 56)  # ATG; TAA, TAG, TGA, as numbers of base 4
_ROWS = {"made": "made by the model", "genome": "the genome itself, a sample", "letters": "single bases"}
_COLOURS = {"made": "#0f8b8d", "genome": "#d17a00", "letters": "#8c8c8c"}


def compare(
    made: str | Path, genome: str | Path, out: str | Path, ks: Sequence[int] = KS, seed: int = 0
) -> dict[str, Any]:
    """Compare made sequences with a genome; write the figures as JSON, and a page with them beside it.

    Parameters
    ----------
    made : path
        FASTA of `generate`.
    genome : path
        A sequence file; or a token store (results/RUN/tokens), of which the training split is taken.
    out : path
        The JSON file to write; the page has its name with .html.
    ks : sequence of int
        Lengths of k-mers, 1 to 12.
    seed : int
        Of the sample of the genome, and of the single bases.

    Returns
    -------
    dict
        ``genome`` and ``sets`` (made, genome, letters), each with ``bases``, ``gc`` (share), ``gc_windows`` (``mean``, ``sd`` over
        windows of `WINDOW` bases; None where there are none), ``orfs`` (``per_100kb``, ``long_per_100kb``, ``median``, ``longest`` in
        codons); of the sets also ``distance``: by k the Jensen-Shannon distance (0 to 1, base 2) of their k-mers, of both
        strands, to those of the genome (of its sample: to the rest of the genome).

    Raises
    ------
    FileNotFoundError, ValueError
        A file that cannot be read, or holds fewer bases than the longest k-mer; k out of range; a report that is no .json.
    """
    out = check(genome, out, ks)
    rng, longest = np.random.default_rng(seed), max(ks)
    own = list(_stretches(Path(made)))
    bases = sum(map(len, own))
    train = list(_stretches(Path(genome)))
    for path, found in ((made, own), (genome, train)):
        if max(map(len, found), default=0) < longest:
            raise ValueError(f"{path}: holds no sequence of {longest} bases, the longest k-mer that is compared")
    chosen, rest = sample(train, min(bases, sum(map(len, train)) // 2), rng)
    singles = kmer_counts(train, 1)
    letters = [rng.choice(4, bases, p=singles / singles.sum()).astype(np.uint8)]
    wholes = {k: kmer_counts(train, k) for k in ks}
    rests = {k: kmer_counts(rest, k) for k in ks}
    sets = {"made": (own, wholes), "genome": (chosen, rests), "letters": (letters, wholes)}
    windows = {name: gc_windows(part) for name, (part, _) in sets.items()}
    lengths = {name: orf_lengths(part) for name, (part, _) in sets.items()}
    result = {
        "made": str(made),
        "genome": {"path": str(genome)} | statistics(train, gc_windows(train), orf_lengths(train)),
        "ks": list(ks),
        "seed": seed,
        "sets": {
            name: statistics(part, windows[name], lengths[name])
            | {"distance": {str(k): distance(kmer_counts(part, k), other[k]) for k in ks}}
            for name, (part, other) in sets.items()
        },
    }
    write_text(out.with_suffix(".html"), page(result, lengths, windows))
    write_json(out, result)
    return result


def check(genome: str | Path, out: str | Path, ks: Sequence[int] = KS) -> Path:
    """What `compare` needs beside made sequences, so that it can be asked before they are made; makes the folder of ``out``.

    Raises FileNotFoundError, ValueError, as `compare`.
    """
    if not ks or not all(1 <= k <= 12 for k in ks):
        raise ValueError(f"k {list(ks)}: must be from 1 to 12 bases")
    path = Path(genome)
    if not path.is_file() and not (path / MANIFEST).is_file():
        raise FileNotFoundError(_NO_GENOME.format(path))
    if Path(out).suffix != ".json":
        raise ValueError(f"{out}: the report's name must end in .json; its page has the same name with .html")
    return check_out(out, (genome,))


def _stretches(path: Path) -> Iterator[np.ndarray]:
    """Base codes of the records of a file, or of the training split of a token store."""
    if path.is_dir() and (path / MANIFEST).is_file():
        store = TokenStore(path)
        for source in store.sources:
            if store.weight(source) > 0:
                yield from (store.tokenizer.decode(tokens) for tokens in store.documents("train", source))
        return
    if not path.is_file():
        raise FileNotFoundError(_NO_GENOME.format(path))
    for _, codes in read_codes(path):
        yield codes


def sample(
    sequences: Sequence[np.ndarray], bases: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tiles of sequences, about so many bases of them drawn at random, and the others."""
    size = max(1, min(TILE, bases // 10))
    tiles = [codes[at : at + size] for codes in sequences for at in range(0, len(codes), size)]
    order = rng.permutation(len(tiles))
    reach = np.cumsum([len(tiles[i]) for i in order])
    count = min(int(np.searchsorted(reach, bases)) + 1, len(tiles) - 1)
    return [tiles[i] for i in order[:count]], [tiles[i] for i in order[count:]]


def kmer_counts(sequences: Iterable[np.ndarray], k: int) -> np.ndarray:
    """How often every k-mer stands in sequences and in their other strands, in the order A C G T: int64, shape (4^k,)."""
    counts = np.zeros(4**k, dtype=np.int64)
    for codes in sequences:
        for first in range(0, len(codes) - k + 1, _PIECE):
            part = codes[first : first + _PIECE + k - 1]
            words = np.zeros(len(part) - k + 1, dtype=np.int64)
            known = np.ones(len(words), dtype=bool)
            for i in range(k):
                letters = part[i : i + len(words)]
                words = 4 * words + letters
                known &= letters < 4
            counts += np.bincount(words[known], minlength=4**k)
    return counts + counts[_turned(k)]


def _turned(k: int) -> np.ndarray:
    """The number of the reverse complement of every k-mer."""
    left, turned = np.arange(4**k), np.zeros(4**k, dtype=np.int64)
    for _ in range(k):
        turned = 4 * turned + 3 - left % 4
        left = left // 4
    return turned


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon distance of two rows of counts: 0, the same shares, to 1, nothing in common."""
    from scipy.spatial.distance import jensenshannon

    return float(np.nan_to_num(jensenshannon(a, b, base=2)))


def statistics(sequences: Sequence[np.ndarray], windows: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Bases, GC content, and open reading frames of sequences, of which `gc_windows` and `orf_lengths` are given; see `compare`."""
    letters = sum((np.bincount(codes, minlength=5)[:4] for codes in sequences), np.zeros(4, dtype=np.int64))
    bases = sum(map(len, sequences))
    return {
        "bases": bases,
        "gc": float(letters[1:3].sum() / letters.sum()) if letters.sum() else None,
        "gc_windows": {"mean": float(windows.mean()), "sd": float(windows.std())} if len(windows) else None,
        "orfs": {
            "per_100kb": 1e5 * len(lengths) / bases,
            "long_per_100kb": 1e5 * int((lengths >= LONG_ORF).sum()) / bases,
            "median": float(np.median(lengths)) if len(lengths) else None,
            "longest": int(lengths.max(initial=0)),
        },
    }


def gc_windows(sequences: Iterable[np.ndarray]) -> np.ndarray:
    """Share of G and C in windows of `WINDOW` bases that lie side by side and hold no N: float64, shape (windows,)."""
    found = [np.zeros(0)]
    for codes in sequences:
        windows = codes[: len(codes) // WINDOW * WINDOW].reshape(-1, WINDOW)
        windows = windows[(windows < 4).all(1)]
        found.append(((windows == 1) | (windows == 2)).mean(1))
    return np.concatenate(found)


def orf_lengths(sequences: Iterable[np.ndarray]) -> np.ndarray:
    """Codons of open reading frames, from the first ATG behind a stop codon up to the next, which does not count.

    Of all six frames; int64, shape (frames,). Frames that a sequence's end cuts off are left out.
    """
    found = [np.zeros(0, dtype=np.int64)]
    for codes in sequences:
        for strand in (codes, reverse_complement(codes)):
            found += [_frame(strand[shift:]) for shift in range(3)]
    return np.concatenate(found)


def _frame(codes: np.ndarray) -> np.ndarray:
    """`orf_lengths` of the frame that begins with the first base."""
    letters = codes[: len(codes) // 3 * 3].reshape(-1, 3).astype(np.int16)
    words = np.where((letters < 4).all(1), 16 * letters[:, 0] + 4 * letters[:, 1] + letters[:, 2], -1)
    starts, stops = np.flatnonzero(words == _START), np.flatnonzero(np.isin(words, _STOPS))
    before = np.concatenate([[-1], stops[:-1]])[: len(stops)]
    first = np.searchsorted(starts, before, side="right")
    there = first < np.searchsorted(starts, stops)
    return stops[there] - starts[first[there]]


# ------------------------------------------------------------------------------------------------ page


def page(result: dict[str, Any], lengths: dict[str, np.ndarray], windows: dict[str, np.ndarray]) -> str:
    """The figures as HTML that needs nothing beside it."""
    ks = [str(k) for k in result["ks"]]
    sets = {name: {"distance": {}} | own for name, own in ({"": result["genome"]} | result["sets"]).items()}
    head = ["", "bases", "GC, %", "sd of GC, %", "ORFs", f"ORFs &ge; {LONG_ORF}", "longest", *(f"k = {k}" for k in ks)]
    rows = []
    for name, own in sets.items():
        orfs, spread = own["orfs"], own["gc_windows"]
        cells = [
            f"{own['bases']:,}",
            "" if own["gc"] is None else f"{100 * own['gc']:.1f}",
            "" if spread is None else f"{100 * spread['sd']:.1f}",
            f"{orfs['per_100kb']:.0f}",
            f"{orfs['long_per_100kb']:.1f}",
            str(orfs["longest"]),
            *(f"{own['distance'][k]:.3f}" if k in own["distance"] else "" for k in ks),
        ]
        title = _ROWS.get(name, "the genome, all of it")
        rows.append(f"<tr><th>{title}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    made, genome = (html.escape(text) for text in (result["made"], result["genome"]["path"]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{made} beside {genome}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 85em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .2em .6em; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }}
tr > :first-child {{ text-align: left; font-weight: normal }}
thead {{ border-bottom: 1px solid }}
svg {{ max-width: 100%; height: auto }}
</style></head><body>
<h1>Made sequences beside the genome</h1>
<p>{made}, beside {genome}. Columns k: Jensen-Shannon distance of k-mers, both strands, to those of the genome; 0 is the same, 1 has
nothing in common. ORFs (from ATG to a stop codon, six frames) are counted per 100,000 bases, and measured in codons; GC content
varies between windows of {WINDOW:,} bases. The sample of the genome, which is compared with the rest of it, and the single bases
are as many as were made where the genome is large enough.</p>
{_figure(result, lengths, windows)}
<table><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table>
<script type="application/json" id="figures">{json.dumps(result).replace("<", chr(92) + "u003c")}</script>
</body></html>
"""


def _figure(result: dict[str, Any], lengths: dict[str, np.ndarray], windows: dict[str, np.ndarray]) -> str:
    """Distances by k, GC content of windows, and lengths of open reading frames, as an SVG element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from titans_genomics.report.plots import STYLE, svg

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        by_k, gc, orfs = figure.subplots(1, 3)
        for name, colour in _COLOURS.items():
            found = result["sets"][name]["distance"]
            by_k.plot(
                [int(k) for k in found], list(found.values()), "o-", color=colour, markersize=3.5, label=_ROWS[name]
            )
            if len(windows[name]):
                gc.hist(100 * windows[name], bins=np.arange(0, 101, 2), density=True, histtype="step", color=colour)
            own = np.sort(lengths[name])
            if len(own):
                rate = 1e5 * np.arange(len(own), 0, -1) / result["sets"][name]["bases"]
                orfs.step(own, rate, where="pre", color=colour)
        by_k.set(xlabel="k, bases", ylabel="Jensen-Shannon distance", ylim=(0, None))
        by_k.legend(frameon=False, fontsize=8)
        reach = 100 * np.concatenate([*windows.values(), [0.4, 0.6]])
        gc.set(xlim=(reach.min() - 4, reach.max() + 4))
        gc.set(xlabel=f"GC content of {WINDOW:,} bases, %", ylabel="density")
        orfs.set(xlabel="codons", ylabel="ORFs so long or longer\nper 100,000 bases", yscale="log")
        return svg(figure, "spectrum", "k-mers, GC and ORFs")
