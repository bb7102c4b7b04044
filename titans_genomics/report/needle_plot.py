"""The needle's heat map: how much of a payload comes back, by length and depth, one panel per model."""

from __future__ import annotations

from typing import Any

from titans_genomics.report import heat_map as picture
from titans_genomics.report.plots import label

CHANCE = 0.25


def heat_map(result: dict[str, Any], labels: dict[str, str] | None = None) -> str:
    """Share of payload bases that a model recalls by itself, as an SVG element.

    Parameters
    ----------
    result : dict
        The contents of needle.json.
    labels : dict
        How models are called; default: as in the result.
    """
    names = {name: (labels or {}).get(name, label(name)) for name in result["models"]}
    panels = [(names[name], measured) for name, measured in result["models"].items()]
    panels += [(f"{names[name]}, tuned", measured) for name, measured in result.get("tuned", {}).items()]
    return picture.heat_map(
        [(title, {(c["length"], c["depth"]): c["recall"] for c in measured["cells"]}) for title, measured in panels],
        sorted(result["lengths"]),
        sorted(result["depths"]),
        name="needle",
        alt=_spoken(panels),
        read="bases read",
        chance=CHANCE,
        ticks={CHANCE: "25%, chance", 0.5: "50%", 0.75: "75%", 1: "100%"},
        cell=0.62,
    )


def _spoken(panels: list[tuple[str, dict[str, Any]]]) -> str:
    """The figure in words."""
    parts = []
    for title, measured in panels:
        shares = [cell["recall"] for cell in measured["cells"]]
        parts.append(f"{title} from {100 * min(shares):.0f}% to {100 * max(shares):.0f}%")
    return f"Share of payload bases recalled by length and depth, chance is 25%: {'; '.join(parts)}"
