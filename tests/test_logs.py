"""Logs: one line per event, ids on each, and nothing that is not meant to be read."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from sandbox import logs

log = logs.logger("sandbox.tests")


class Written(io.StringIO):
    """What was logged."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


Configure = Callable[..., Written]


@pytest.fixture
def configure() -> Iterator[Configure]:
    undo: list[Callable[[], None]] = []

    def into_memory(*args: Any, **options: Any) -> Written:
        written = Written()
        undo.append(logs.configure(*args, stream=written, **options))
        return written

    yield into_memory
    for each in reversed(undo):
        each()


def test_an_event_is_one_line_of_json_with_time_level_and_name(configure: Configure) -> None:
    written = configure("json")
    log.info("session opened", image="python")
    (event,) = written.events
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "session opened", "image": "python", "level": "info", "logger": "sandbox.tests"}


def test_bound_ids_are_on_every_line_inside_other_libraries_too(configure: Configure) -> None:
    written = configure("json")
    with logs.bound(request_id="req_1"):
        with logs.bound(session_id="ses_1"):
            log.info("one")
        logging.getLogger("elsewhere").warning("two %d", 2)
    log.info("three")
    one, two, three = written.events
    assert (one["request_id"], one["session_id"]) == ("req_1", "ses_1")
    assert (two["event"], two["request_id"]) == ("two 2", "req_1")
    assert "session_id" not in two
    assert "request_id" not in three


@pytest.mark.attack("E13")
def test_an_exception_is_still_one_line(configure: Configure) -> None:
    written = configure("json")
    try:
        raise RuntimeError("first line\nsecond line")
    except RuntimeError:
        log.exception("failed")
    (event,) = written.events
    assert "RuntimeError: first line\nsecond line" in event["exception"]


@pytest.mark.attack("H18")
def test_code_and_keys_are_dropped_wherever_they_are(configure: Configure) -> None:
    written = configure("json")
    log.info(
        "ran", code="print(1)", api_key="sbx_1", request={"Authorization": "Bearer sbx_1", "X-Api-Key": "x", "n": 1}
    )
    (event,) = written.events
    assert event["request"] == {"n": 1}
    assert "sbx_1" not in written.getvalue()
    assert "print" not in written.getvalue()


def test_code_is_logged_when_asked_for_and_keys_are_not(configure: Configure) -> None:
    written = configure("json", log_code=True)
    log.info("ran", code="print(1)", api_key="sbx_1")
    (event,) = written.events
    assert event["code"] == "print(1)"
    assert "api_key" not in event


@pytest.mark.attack("E13")
def test_a_client_cannot_forge_a_line_or_steer_the_terminal(configure: Configure) -> None:
    written = configure("pretty")
    forged = "a\n2030-01-01 [error] forged \x1b[2J"
    log.info("opened", path=forged, agent="\x1b[2J")
    logging.getLogger("elsewhere").warning(forged)
    assert len(written.lines) == 2
    for line in written.lines:
        assert "\x1b[2J" not in line
        assert r"a\n2030-01-01 [error] forged \x1b[2J" in line


@pytest.mark.attack("H18")
def test_a_pretty_traceback_shows_no_local_variables(configure: Configure) -> None:
    written = configure("pretty")
    secret = "sbx_" + "5ecre7"
    try:
        raise RuntimeError(f"no {len(secret)}")
    except RuntimeError:
        log.exception("failed")
    assert "RuntimeError: no 10" in written.getvalue()
    assert secret not in written.getvalue()


def test_auto_is_json_where_nobody_watches(configure: Configure) -> None:
    written = configure("auto")
    log.info("x")
    assert written.events


def test_the_level_holds_for_ours_and_others_speak_from_warnings_on(configure: Configure) -> None:
    written = configure("json", "debug")
    log.debug("ours")
    logging.getLogger("elsewhere").info("chatter")
    logging.getLogger("elsewhere").warning("trouble")
    assert [event["event"] for event in written.events] == ["ours", "trouble"]
    quiet = configure("json", "error")
    log.warning("hm")
    assert quiet.lines == []


def test_pythons_warnings_are_events(configure: Configure) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        written = configure("json")
        warnings.warn("old", UserWarning, stacklevel=1)
    assert "UserWarning: old" in written.events[0]["event"]


async def _answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    raise AssertionError("nobody asks")


async def test_uvicorn_says_what_it_does_in_our_format(configure: Configure) -> None:
    written = configure("json")
    server = uvicorn.Server(uvicorn.Config(_answer, port=0, lifespan="off", log_config=None, ws="none"))
    server.should_exit = True  # as soon as it is up
    await server.serve()
    assert any("Uvicorn running on" in event["event"] for event in written.events)
    assert {event["logger"] for event in written.events} == {"uvicorn.error"}
    assert not logging.getLogger("uvicorn.access").hasHandlers()


def test_undoing_puts_every_logger_back() -> None:
    names = ("", "sandbox", "uvicorn", "uvicorn.error", "uvicorn.access")

    def state() -> list[tuple[list[logging.Handler], int, bool]]:
        loggers = map(logging.getLogger, names)
        return [(each.handlers, each.level, each.propagate) for each in loggers]

    before = state()
    undo = logs.configure("json", stream=io.StringIO())
    assert state() != before
    undo()
    assert state() == before


def test_a_program_that_imports_us_sees_nothing_of_ours_on_stdout() -> None:
    program = "from sandbox import logs\nlog = logs.logger('sandbox.x')\nlog.info('quiet')\nlog.warning('loud', a=1)\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == ""
    assert "loud" in ended.stderr
    assert "quiet" not in ended.stderr
