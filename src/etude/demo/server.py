"""Server of the demo page."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from etude.demo.predictor import MB, Limits
from etude.demo.request_filter import host_rules, is_loopback
from etude.demo.uploads import Uploads
from etude.errors import UserError
from etude.reports.comparison.runs import printable
from etude.runs.folder import find_weights

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from etude.demo.page import Parts


FIRST_PORT, LAST_PORT = 7860, 7959  # ports that are tried


@dataclass
class DemoOptions:
    """What is to be served.

    Args:
        run: A run folder, or a checkpoint.
        host: Where the page can be reached from.
        port: Its port; none: the first that is free.
        limit: The largest sound, in MB.
        seconds: The longest sound, in s.
        device: Where the network is.
        browser: Whether one is opened.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int | None = None
    limit: float = 50.0
    seconds: float = 600.0
    device: str = "auto"
    browser: bool = True


log = logging.getLogger(__name__)
MAX_CONNECTIONS = 256
ENDED = "ended; what was dropped on the page is deleted"
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def serve(wish: DemoOptions) -> None:
    """Serve the page until Ctrl-C, which returns, or SIGTERM, which raises SystemExit.

    Args:
        wish: What is to be served, and where.

    Raises:
        UserError: There is no such run, its network hears no sound, or the port is in use.
        SystemExit: With status 143 after SIGTERM or SIGHUP.
    """
    with ending_by_signal(), listening(wish.host, wish.port) as door, upload_folder() as home:
        # gradio serves files of these two folders: the uploads, and a cache that stays empty
        os.environ.update(ENVIRONMENT | {"GRADIO_TEMP_DIR": str(home), "GRADIO_EXAMPLES_CACHE": str(home)})
        uploads = Uploads(home, int(wish.limit * MB))
        made = parts(wish)
        app = application(made, wish, uploads)
        host, port = door.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if not is_loopback(wish.host):
            log.warning("host=%s: anyone who can reach this machine can use it", wish.host)
        print(f"{printable(made.about.name)}: {address} (Ctrl-C ends it)", flush=True)  # noqa: T201
        if wish.browser and (sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)):
            Thread(target=webbrowser.open, args=[address], daemon=True).start()  # else it may be one in this terminal
        with suppress(KeyboardInterrupt):
            _run(app, door)
    log.info(ENDED)


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Create a folder for uploads, and remove it at the end even if Ctrl-C is pressed again meanwhile."""
    made = tempfile.TemporaryDirectory(prefix="etude-demo-", ignore_cleanup_errors=True)
    try:
        yield Path(made.name)
    finally:
        ignored = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
        try:
            made.cleanup()
        finally:
            for number, handler in zip(ignored, before, strict=True):
                signal.signal(number, handler)


@contextmanager
def ending_by_signal() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, which lets the upload folder be removed, and SIGHUP into SIGTERM."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    def hang_up(_number: int, _frame: object) -> None:
        signal.raise_signal(signal.SIGTERM)  # uvicorn ends its connections after SIGTERM, not after SIGHUP

    handlers: dict[int, Any] = {signal.SIGTERM: end}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        handlers[signal.SIGHUP] = hang_up
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except SystemExit:
        log.info(ENDED)
        raise
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def parts(wish: DemoOptions) -> Parts:
    """What the page is made of; embeddings of the training part are computed, unless they were kept."""
    from etude.demo.about import about, examples, home
    from etude.demo.attribution_view import AttributionView
    from etude.demo.neighbours import Near, library
    from etude.demo.page import Parts
    from etude.demo.predictor import Predictor
    from etude.inference.model import Model
    from etude.inspection.clips import InspectedRun

    checkpoint = find_weights(wish.run)
    model = Model(checkpoint, wish.device)
    plan = model.plan()
    folder = home(wish.run, checkpoint)
    run = InspectedRun(folder, str(checkpoint)) if folder else None
    near = Near(library(run, model, plan), model.front, model.columns)
    ear = Predictor(model, plan, Limits(wish.limit, wish.seconds))
    return Parts(about(model, plan, folder), ear, near, AttributionView(model), examples(run, near))


def application(made: Parts, wish: DemoOptions, uploads: Uploads) -> ASGIApp:
    """Return the page as an ASGI application behind its gate.

    Args:
        made: Content of the page.
        wish: Where it is served, and its limits.
        uploads: Storage of the sounds.
    """
    import gradio as gr
    from fastapi import FastAPI

    from etude.demo.page import head, page, theme
    from etude.demo.request_filter import Gate

    blocks = page(made, uploads)
    app = FastAPI(openapi_url=None)
    settings: dict[str, Any] = {"ssr_mode": False, "pwa": False, "mcp_server": False, "run_history": False}
    gr.mount_gradio_app(
        app, blocks, path="/", server_name=wish.host, footer_links=[], show_error=False, enable_monitoring=False,
        max_file_size=uploads.max_bytes, theme=theme(), head=head(), **settings,
    )  # fmt: skip
    blocks.has_launched = True  # else gradio checks no path that a call names: mounted pages do not set it
    calls = {
        index: [isinstance(block, gr.Audio) for block in function.inputs]
        for index, function in blocks.fns.items()
        if function.fn is not None
    }
    return Gate(app, host_rules(wish.host), uploads, calls)


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens: at a port, or at the first that is free.

    Raises:
        UserError: It is in use, or the machine has no such address.
    """
    problem = OSError()
    for one in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        try:
            family, *_, address = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0]
            door = socket.socket(family, socket.SOCK_STREAM)
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            raise UserError(f"host={host}: this machine has no such address ({error.strerror})") from error
        try:
            door.bind(address)
            door.listen(128)
            return door
        except OSError as error:
            door.close()
            problem = error
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"host={host}: this machine has no such address ({error.strerror})") from error
    where = f"port={port}" if port else f"the ports from {FIRST_PORT} to {LAST_PORT}"
    raise UserError(f"{where}: cannot be used ({problem.strerror}); name another with port=<number>") from problem


def _run(app: ASGIApp, door: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # that open pages are cut off is no error
            await super().shutdown(sockets)

    settings: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 1, "lifespan": "on", "ws": "none"}
    settings["limit_concurrency"] = MAX_CONNECTIONS
    Server(uvicorn.Config(app, **settings)).run(sockets=[door])
