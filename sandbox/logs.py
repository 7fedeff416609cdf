"""Structured logs: one line per event, JSON or for a person's eyes, on stderr.

Modules take a `logger` and say what happened in a few words and keys: `log.info("session opened", session_id=id)`. What
is `bound` for a request or an execution is on every line from inside it. Records of other libraries (uvicorn's, say)
take the same way out. Until `configure` is called nothing of ours is printed below a warning, as befits a library.

Secrets and code are not meant to be logged at all; a key that is named like one is dropped all the same.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.types import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "pretty"]
Level = Literal["debug", "info", "warning", "error"]

_SECRET = frozenset({"api_key", "x_api_key", "authorization"})
_OURS = ("sandbox", "uvicorn")
_UVICORN = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi")
_SHARED: tuple[Processor, ...] = (
    merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def logger(name: str) -> BoundLogger:
    """A logger named as the module. Makes nothing until it is used, so it may be a module's constant."""
    # Own processors, not structlog's global ones: a program that imports us keeps its own configuration.
    bound: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, *_SHARED, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )
    return bound


def bound(**ids: str) -> AbstractContextManager[None]:
    """Put these keys (`request_id`, `session_id`, `execution_id`) on every line from inside, other libraries' too."""
    return bound_contextvars(**ids)


def configure(
    format: Format = "auto", level: Level = "info", *, log_code: bool = False, stream: TextIO | None = None
) -> Callable[[], None]:
    """From now on write logs to `stream` (default stderr); call what is returned to put back what was there.

    format: `auto` is `pretty` on a terminal, else `json`. level: of our lines and uvicorn's; other libraries speak
    from warnings on. log_code: keep the key `code`. Give uvicorn `log_config=None`, or it takes its loggers back.
    """
    stream = sys.stderr if stream is None else stream
    pretty = format == "pretty" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(pretty, stream.isatty(), log_code))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    kept = [_Kept(logging.getLogger(name)) for name in ("", *_OURS, *_UVICORN)]
    root, *others = (each.logger for each in kept)
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    for other in others:
        other.handlers = []
        other.propagate = True
        other.setLevel(threshold if other.name in _OURS else logging.NOTSET)
    # Nobody hears it, so uvicorn does not even write it: our own line per request has the ids.
    logging.getLogger("uvicorn.access").propagate = False
    logging.captureWarnings(True)

    def put_back() -> None:
        logging.captureWarnings(False)
        for each in kept:
            each.put_back()

    return put_back


class _Kept:
    """A logger and how it was."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self._was = (logger.handlers, logger.level, logger.propagate)

    def put_back(self) -> None:
        self.logger.handlers, level, self.logger.propagate = self._was
        self.logger.setLevel(level)


def _formatter(pretty: bool, colors: bool, log_code: bool) -> ProcessorFormatter:
    render: tuple[Processor, ...]
    if pretty:
        # Not the default traceback: with rich installed, that one shows local variables, which are code and keys.
        traceback = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=traceback, repr_native_str=True)
        render = (_one_line, console)
    else:
        render = (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    processors = (ProcessorFormatter.remove_processors_meta, _drop(log_code), *render)
    return ProcessorFormatter(processors=processors, foreign_pre_chain=_SHARED)


def _drop(log_code: bool) -> Callable[[WrappedLogger, str, EventDict], Mapping[str, Any]]:
    names = _SECRET if log_code else _SECRET | {"code"}

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(each) for key, each in value.items() if str(key).lower().replace("-", "_") not in names}
        return value

    def drop(_logger: WrappedLogger, _method: str, event: EventDict) -> Mapping[str, Any]:
        kept: Mapping[str, Any] = clean(event)
        return kept

    return drop


def _one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape line ends and terminal controls, as the renderer does in values. A traceback keeps its lines."""
    message = str(event["event"])
    if not message.isprintable():
        event["event"] = repr(message)[1:-1]
    return event
