"""The report as one HTML file that needs nothing else; takes plain documents, and must not know store or commands."""

from __future__ import annotations

from latcli.reporting.page.writer import render

__all__ = ["render"]
