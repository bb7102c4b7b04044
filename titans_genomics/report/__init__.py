"""What a run amounts to: one self-contained HTML page, and every number in metrics.json."""

from titans_genomics.report.build import report

__all__ = ["report"]
