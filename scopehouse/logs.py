"""Logs on standard error: readable on a terminal, else one JSON object a line."""

from __future__ import annotations

import sys

import structlog


def configure_logs() -> None:
    """Set structlog up for this process. No traceback is ever shown with the values of its variables."""
    is_terminal = sys.stderr.isatty()
    renderer: structlog.types.Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if is_terminal:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
