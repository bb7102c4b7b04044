"""Results as Markdown tables: speeds, ratios beside the aims, and the fraction of what the machine multiplies."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks import plan


class Figures:
    """Medians over the rounds of a run."""

    def __init__(self, results: dict[str, Any]):
        self.runs = results["runs"]
        self.machine = results["machine"]

    def of(self, group: str, side: str, allocator: str = "default") -> list[dict[str, Any]]:
        """All rounds of a measurement."""
        return [r for r in self.runs if (r["group"], r["side"], r["allocator"]) == (group, side, allocator)]

    def median(self, name: str, *where: str) -> float | None:
        """Median of a figure over the rounds; None where there is none or it is not finite."""
        found = [r[name] for r in self.of(*where) if r.get("finite") and r.get(name) is not None]
        return statistics.median(found) if found else None

    def tokens(self, group: str) -> int | None:
        """The length that a group was measured at."""
        specs = [r["spec"] for r in self.runs if r["group"] == group]
        return (specs[0].get("tokens") or specs[0]["after"][0]) if specs else None

    def trouble(self, *where: str) -> str:
        """Why there is no figure, or what is wrong with it, in brackets."""
        for r in self.of(*where):
            if "error" in r or not r["finite"]:
                return f" ({r.get('error', 'NaN')})"
            if not r.get("finite_gradients", True):
                return " (its gradients are not finite)"
        return ""


def number(x: float | None, digits: int = 0) -> str:
    return "-" if x is None else f"{x:,.{digits}f}"


def rows(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def comparisons(figures: Figures) -> str:
    """Ours against each peer, both allocator settings, beside the aims."""
    body = []
    for aim in plan.AIMS:
        for allocator in plan.ALLOCATORS:
            ours, peer = (aim.group, aim.ours, allocator), (aim.group, aim.peer, allocator)
            a, b = figures.median("tokens_per_s", *ours), figures.median("tokens_per_s", *peer)
            if a is None and b is None and not figures.trouble(*peer):
                continue
            m, n = figures.median("peak_mb", *ours), figures.median("peak_mb", *peer)
            net = [figures.median("baseline_mb", *where) for where in (ours, peer)]
            ratio = a / b if a and b else None
            memory = n / m if m and n else None
            wanted = (
                "report" if aim.speed is None else f"{aim.speed:g}x" + (f", 1/{aim.memory:g}" if aim.memory else "")
            )
            met = "-"
            sized = figures.tokens(aim.group) in (plan.SHORT, plan.LONG)
            if ratio is not None and aim.speed is not None and sized:
                enough = aim.memory is None or (memory is not None and memory >= aim.memory)
                met = "yes" if ratio >= aim.speed and enough else "no"
            less = "-"
            if m and n and None not in net:
                less = f"{number(m - net[0])} / {number(n - net[1])}"
            body.append(
                [
                    f"{aim.ours} / {aim.peer}",
                    aim.group.split(",")[0] if aim.group == "decode" else f"{figures.tokens(aim.group):,}",
                    allocator,
                    f"{number(a)}{figures.trouble(*ours)} / {number(b)}{figures.trouble(*peer)}",
                    "-" if ratio is None else f"{ratio:.2f}x",
                    f"{number(m)} / {number(n)}",
                    less,
                    "-" if memory is None else f"1/{memory:.1f}",
                    wanted,
                    met,
                ]
            )
    header = [
        "ours / peer",
        "tokens",
        "allocator",
        "tokens/s",
        "ratio",
        "peak MB",
        "of it the run's own",
        "memory",
        "aim",
        "reached",
    ]
    return rows(header, body)


def sides(figures: Figures) -> str:
    """Every training figure by itself: spread over rounds, forward alone, page faults."""
    body, seen = [], set()
    for r in figures.runs:
        where = (r["group"], r["side"], r["allocator"])
        if r["spec"]["kind"] != "train" or where in seen:
            continue
        seen.add(where)
        found = [x["tokens_per_s"] for x in figures.of(*where) if x.get("finite")]
        spread = "-" if not found else f"{number(min(found))} to {number(max(found))} ({len(found)})"
        body.append(
            [
                r["side"],
                f"{r['spec']['tokens']:,}",
                r["allocator"],
                number(figures.median("tokens_per_s", *where)) + figures.trouble(*where),
                spread,
                number(figures.median("forward_tokens_per_s", *where)),
                number(figures.median("page_faults_per_token", *where), 1),
                number(figures.median("parameters", *where)),
            ]
        )
    header = [
        "side", "tokens", "allocator", "tokens/s", "least to most (rounds)", "forward alone", "page faults/token", "parameters",
    ]  # fmt: skip
    return rows(header, body)


def limit(figures: Figures) -> str:
    """Multiply-adds per token against what the machine multiplies."""
    from benchmarks import limits
    from benchmarks.sides import Shape

    found = [r for r in figures.runs if r["group"] == "rates" and "gmadd_per_s" in r]
    if not found:
        return ""
    threads, chunk, shape = str(figures.machine["threads"]), found[0]["chunk"], Shape()
    kinds = list(found[0]["gmadd_per_s"]["1"])
    best = {t: {k: max(r["gmadd_per_s"][t][k] for r in found) for k in kinds} for t in found[0]["gmadd_per_s"]}
    parts = [
        rows(
            ["float32 product", *(f"{t} thread{'s' * (t != '1')}, G multiply-adds/s" for t in best)],
            [[kind, *(number(best[t][kind], 1) for t in best)] for kind in kinds],
        )
    ]
    large = [kind for kind in kinds if kind.startswith("large")]
    peak = max(best[threads][kind] for kind in large)
    usual, small = best[threads][large[0]], min(best[threads][kind] for kind in kinds if kind not in large)
    body = []
    for side, work, layers in (
        ("our dual form", limits.dual_form_total(shape, chunk), 2),
        ("our dual form, L = 1", limits.dual_form_total(shape, chunk, 1), 1),
        ("our memory", limits.layer_total(shape, chunk), 2),
    ):
        triangle = limits.dual_form_total(shape, chunk, layers, True) - limits.dual_form_total(shape, chunk, layers)
        for group in ("limit", "memory, short", "memory, long"):
            for allocator in plan.ALLOCATORS:
                for name, times in (("forward_tokens_per_s", 1), ("tokens_per_s", 3)):
                    speed = figures.median(name, group, side, allocator)
                    if speed is None:
                        continue
                    rate = speed * work * times / 1e9
                    body.append(
                        [
                            side,
                            f"{figures.tokens(group):,}",
                            allocator,
                            "forward" if times == 1 else "forward + backward",
                            number(speed),
                            f"{work * times / 1e6:.2f}",
                            f"{100 * rate / peak:.0f}%",
                            f"{100 * rate / usual:.0f}%",
                            f"{100 * rate / small:.0f}%",
                            f"{100 * speed * (work + triangle) * times / 1e9 / peak:.0f}%",
                            "yes" if rate / peak >= plan.FRACTION else "no",
                        ]
                    )
    header = [
        "",
        "tokens",
        "allocator",
        "pass",
        "tokens/s",
        "M multiply-adds/token",
        "of the best rate of a large product",
        "of PyTorch's usual one",
        "of its slowest small product's",
        "counting triangles only",
        f"{100 * plan.FRACTION:.0f}% reached",
    ]
    return "\n\n".join([*parts, f"{threads} threads, chunk {chunk}:", rows(header, body)])


def lengths(figures: Figures) -> str:
    """Cost per token by length, decoding near and far, streams of whole models."""
    parts = []
    reads = sorted(
        {
            (r["spec"]["tokens"], r["group"])
            for r in figures.runs
            if r["group"].startswith("cost per token")
            if r.get("finite")
        }
    )
    if reads:
        cost = [1e6 / figures.median("tokens_per_s", group, "our memory") for _, group in reads]
        peak = [figures.median("peak_mb", group, "our memory") for _, group in reads]
        body = [
            [f"{tokens:,}", f"{c:.1f}", f"{c / cost[0]:.3f}", number(p), f"{p / peak[0]:.3f}"]
            for (tokens, _), c, p in zip(reads, cost, peak, strict=True)
        ]
        header = ["tokens", "us per token", "in units of the first", "peak MB", "in units of the first"]
        grown = max(cost[-1] / cost[0], peak[-1] / peak[0])
        said = f"Growth at most {plan.GROWTH:.2f}: {'yes' if grown <= plan.GROWTH else 'no'}."
        parts += ["Memory layer, forward, pieces of 4,096 tokens:", rows(header, body), said]
    for r in figures.runs:
        if r["group"] == "decode, far" and r.get("finite"):
            speeds = [f"{number(speed)} tokens/s after {int(after):,}" for after, speed in r["speeds"].items()]
            parts.append("Decoding one token at a time, our memory layer: " + ", ".join(speeds) + ".")
    streams = sorted({(r["spec"]["tokens"], r["group"]) for r in figures.runs if r["group"].startswith("stream")})
    if len(streams) == 2:
        (near, near_group), (far, far_group) = streams
        body = []
        for variant in plan.VARIANTS:
            a, b = (figures.median("peak_mb", group, variant) for group in (near_group, far_group))
            if a and b:
                speed = figures.median("tokens_per_s", far_group, variant)
                body.append(
                    [
                        variant.upper(),
                        number(a),
                        number(b),
                        f"{b / a:.3f}",
                        number(speed),
                        "yes" if b / a <= plan.FLAT else "no",
                    ]
                )
        header = [
            "",
            f"peak MB, {near:,} tokens",
            f"peak MB, {far:,} tokens",
            "ratio",
            "tokens/s",
            f"at most {plan.FLAT:.2f}",
        ]
        parts += [
            "Whole models (one block, width 128, 2 heads), streamed in pieces of 4,096 tokens:",
            rows(header, body),
        ]
    return "\n\n".join(parts)


def about(results: dict[str, Any]) -> str:
    """The machine, versions, commits and load of a results file."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    commits = ", ".join(sorted({r["commit"] for r in results["runs"]}))
    load = max((r["load_before"] for r in results["runs"]), default=0.0)
    return (
        f"{machine['processor']}; {machine['cores']} cores, {machine['threads']} thread{'s' * (machine['threads'] != 1)}, {machine['memory_gb']} GB; "
        f"{machine['system']}, huge pages {machine['huge_pages']}; Python {machine['python']}, {versions}; "
        f"{machine['date']}; commit {commits}; highest load before a measurement {load:.1f}."
    )


def render(results: dict[str, Any]) -> str:
    """All tables, the machine on top."""
    figures = Figures(results)
    sections = {
        "Ours against peers": comparisons(figures),
        "Distance to the limit": limit(figures),
        "Length": lengths(figures),
        "Every training figure": sides(figures),
    }
    return "\n\n".join([about(results)] + [f"### {title}\n\n{text}" for title, text in sections.items() if text])


def put_between(path: Path, mark: str, tables: str) -> None:
    """Put tables between the marks of a Markdown file. Raises ValueError without them."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    text = path.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{path}: has no {begin} and {end}")
    path.write_text(f"{text.split(begin)[0]}{begin}\n\n{tables}\n\n{end}{text.split(end)[1]}")
