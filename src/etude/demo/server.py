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

from etude.demo.description import describe_network, find_run_folder, select_examples
from etude.demo.neighbours import NeighbourSearch, load_library
from etude.demo.page import AttributionView, DemoContent, build_page, page_head, theme
from etude.demo.predictor import MB, Predictor, UploadLimits
from etude.demo.request_filter import RequestFilter, host_rules, is_loopback
from etude.demo.uploads import Uploads
from etude.errors import UserError
from etude.evaluation.formatting import printable
from etude.inference.model import Model, Pretrained
from etude.inspection.clips import InspectedRun

if TYPE_CHECKING:
    from starlette.types import ASGIApp


log = logging.getLogger(__name__)
FIRST_PORT, LAST_PORT = 7860, 7959  # of the automatic choice
MAX_CONNECTIONS = 256
ENDED = "the server has stopped; all uploaded files are deleted"
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass
class DemoOptions:
    """Options of the demo.

    Args:
        source: A run folder, a checkpoint, or a pretrained backbone whose tags are predicted.
        host: Address of the server.
        port: Port of the server. None selects the first free one.
        limit: Maximum size of an audio file in MB.
        seconds: Maximum length of an audio file in seconds.
        device: Device of the network.
        browser: Whether a browser is opened.
    """

    source: Path | Pretrained
    host: str = "127.0.0.1"
    port: int | None = None
    limit: float = 50.0
    seconds: float = 600.0
    device: str = "auto"
    browser: bool = True


def serve(options: DemoOptions) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        options: Options of the demo.

    Raises:
        UserError: The run is missing, its network does not take audio, or the port is in use.
        SystemExit: With status 143 after SIGTERM or SIGHUP. After Ctrl-C the function returns.
    """
    with exit_on_signal(), open_listener(options.host, options.port) as listener, upload_folder() as folder:
        # gradio serves the files of these two folders: the uploads, and a cache that remains empty
        os.environ.update(ENVIRONMENT | {"GRADIO_TEMP_DIR": str(folder), "GRADIO_EXAMPLES_CACHE": str(folder)})
        uploads = Uploads(folder, int(options.limit * MB))
        content = load_content(options)
        app = build_application(content, options, uploads)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if not is_loopback(options.host):
            log.warning("--host %s: anyone who can reach this machine can use it", options.host)
        print(f"{printable(content.description.name)}: {address} (press Ctrl-C to stop)", flush=True)  # noqa: T201
        if options.browser and (sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)):
            Thread(target=webbrowser.open, args=[address], daemon=True).start()  # others can open in this terminal
        with suppress(KeyboardInterrupt):
            _run_server(app, listener)
    log.info(ENDED)


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Create a folder for uploads, and remove it at the end even if Ctrl-C is pressed again during the removal."""
    folder = tempfile.TemporaryDirectory(prefix="etude-demo-", ignore_cleanup_errors=True)
    try:
        yield Path(folder.name)
    finally:
        ignored = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
        try:
            folder.cleanup()
        finally:
            for number, handler in zip(ignored, before, strict=True):
                signal.signal(number, handler)


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that the upload folder is removed, and raise SIGTERM on SIGHUP."""

    def raise_exit(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    def raise_sigterm(_number: int, _frame: object) -> None:
        signal.raise_signal(signal.SIGTERM)  # uvicorn closes its connections after SIGTERM, but not after SIGHUP

    handlers: dict[int, Any] = {signal.SIGTERM: raise_exit}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is ignored under nohup
        handlers[signal.SIGHUP] = raise_sigterm
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except SystemExit:
        log.info(ENDED)
        raise
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def load_content(options: DemoOptions) -> DemoContent:
    """Load the content of the page, and compute the embeddings of the training split if they are not stored."""
    model = Model(options.source, options.device, tags=True)
    plan, checkpoint = model.plan(), model.checkpoint
    folder = find_run_folder(options.source, checkpoint) if isinstance(options.source, Path) and checkpoint else None
    run = InspectedRun(folder, str(checkpoint)) if folder else None
    neighbours = NeighbourSearch(load_library(run, model, plan), model.front, model.columns)
    predictor = Predictor(model, plan, UploadLimits(options.limit, options.seconds))
    description = describe_network(model, plan, folder)
    return DemoContent(description, predictor, neighbours, AttributionView(model), select_examples(run, neighbours))


def build_application(content: DemoContent, options: DemoOptions, uploads: Uploads) -> ASGIApp:
    """Build the page as an ASGI application behind the request filter.

    Args:
        content: Content of the page.
        options: Options of the demo.
        uploads: Storage of uploaded files.
    """
    import gradio as gr
    from fastapi import FastAPI

    blocks = build_page(content, uploads)
    app = FastAPI(openapi_url=None)
    settings: dict[str, Any] = {"ssr_mode": False, "pwa": False, "mcp_server": False, "run_history": False}
    gr.mount_gradio_app(
        app, blocks, path="/", server_name=options.host, footer_links=[], show_error=False, enable_monitoring=False,
        max_file_size=uploads.max_bytes, theme=theme(), head=page_head(), **settings,
    )  # fmt: skip
    blocks.has_launched = True  # gradio checks the paths in calls only if this is set; mounting does not set it
    calls = {
        index: [isinstance(block, gr.Audio) for block in function.inputs]
        for index, function in blocks.fns.items()
        if function.fn is not None
    }
    return RequestFilter(app, host_rules(options.host), uploads, calls)


def open_listener(host: str, port: int | None) -> socket.socket:
    """Open a socket that listens on a port, or on the first free one.

    Raises:
        UserError: The port is in use, or the machine does not have this address.
    """
    problem = OSError()
    for candidate in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        try:
            family, *_, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            raise UserError(f"--host {host}: this machine does not have this address ({error.strerror})") from error
        try:
            listener.bind(address)
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            problem = error
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"--host {host}: this machine does not have this address ({error.strerror})") from error
    ports = f"--port {port}" if port else f"ports {FIRST_PORT} to {LAST_PORT}"
    raise UserError(f"{ports}: cannot be used ({problem.strerror}); choose another with --port <number>") from problem


def _run_server(app: ASGIApp, listener: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # closing open connections is not an error
            await super().shutdown(sockets)

    settings: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 1, "lifespan": "on", "ws": "none"}
    settings["limit_concurrency"] = MAX_CONNECTIONS
    Server(uvicorn.Config(app, **settings)).run(sockets=[listener])
