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

from etude.demo.about import about, examples, home
from etude.demo.neighbours import NeighbourSearch, load_library
from etude.demo.page import AttributionView, DemoContent, head, page, theme
from etude.demo.predictor import MB, Predictor, UploadLimits
from etude.demo.request_filter import Gate, host_rules, is_loopback
from etude.demo.uploads import Uploads
from etude.errors import UserError
from etude.inference.model import Model
from etude.inspection.clips import InspectedRun
from etude.reports.comparison.runs import printable
from etude.runs.folder import find_weights

if TYPE_CHECKING:
    from starlette.types import ASGIApp


log = logging.getLogger(__name__)
FIRST_PORT, LAST_PORT = 7860, 7959  # ports that are tried
MAX_CONNECTIONS = 256
ENDED = "ended; what was dropped on the page is deleted"
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass
class DemoOptions:
    """Options of the demo.

    Args:
        run: A run folder, or a checkpoint.
        host: Address at which the page is served.
        port: Its port; None: the first that is free.
        limit: The largest sound, in MB.
        seconds: The longest sound, in s.
        device: Device of the network.
        browser: Whether a browser is opened.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int | None = None
    limit: float = 50.0
    seconds: float = 600.0
    device: str = "auto"
    browser: bool = True


def serve(wish: DemoOptions) -> None:
    """Serve the page until Ctrl-C, which returns, or SIGTERM, which raises SystemExit.

    Args:
        wish: The options.

    Raises:
        UserError: There is no such run, its network does not take sound, or the port is in use.
        SystemExit: With status 143 after SIGTERM or SIGHUP.
    """
    with ending_by_signal(), listening(wish.host, wish.port) as listener, upload_folder() as folder:
        # gradio serves files of these two folders: the uploads, and a cache that stays empty
        os.environ.update(ENVIRONMENT | {"GRADIO_TEMP_DIR": str(folder), "GRADIO_EXAMPLES_CACHE": str(folder)})
        uploads = Uploads(folder, int(wish.limit * MB))
        content = load_content(wish)
        app = application(content, wish, uploads)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if not is_loopback(wish.host):
            log.warning("host=%s: anyone who can reach this machine can use it", wish.host)
        print(f"{printable(content.about.name)}: {address} (Ctrl-C ends it)", flush=True)  # noqa: T201
        if wish.browser and (sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)):
            Thread(target=webbrowser.open, args=[address], daemon=True).start()  # else it may be one in this terminal
        with suppress(KeyboardInterrupt):
            _run(app, listener)
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


def load_content(wish: DemoOptions) -> DemoContent:
    """Load the content of the page; embeddings of the training part are computed, unless they are stored."""
    checkpoint = find_weights(wish.run)
    model = Model(checkpoint, wish.device)
    plan = model.plan()
    folder = home(wish.run, checkpoint)
    run = InspectedRun(folder, str(checkpoint)) if folder else None
    neighbours = NeighbourSearch(load_library(run, model, plan), model.front, model.columns)
    predictor = Predictor(model, plan, UploadLimits(wish.limit, wish.seconds))
    description = about(model, plan, folder)
    return DemoContent(description, predictor, neighbours, AttributionView(model), examples(run, neighbours))


def application(content: DemoContent, wish: DemoOptions, uploads: Uploads) -> ASGIApp:
    """Return the page as an ASGI application behind its gate.

    Args:
        content: Content of the page.
        wish: The options.
        uploads: Storage of the sounds.
    """
    import gradio as gr
    from fastapi import FastAPI

    blocks = page(content, uploads)
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
    """Return a socket that listens at a port, or at the first that is free.

    Raises:
        UserError: It is in use, or the machine has no such address.
    """
    problem = OSError()
    for one in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        try:
            family, *_, address = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            raise UserError(f"host={host}: this machine has no such address ({error.strerror})") from error
        try:
            listener.bind(address)
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            problem = error
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"host={host}: this machine has no such address ({error.strerror})") from error
    where = f"port={port}" if port else f"the ports from {FIRST_PORT} to {LAST_PORT}"
    raise UserError(f"{where}: cannot be used ({problem.strerror}); name another with port=<number>") from problem


def _run(app: ASGIApp, listener: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # that open pages are cut off is no error
            await super().shutdown(sockets)

    settings: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 1, "lifespan": "on", "ws": "none"}
    settings["limit_concurrency"] = MAX_CONNECTIONS
    Server(uvicorn.Config(app, **settings)).run(sockets=[listener])
