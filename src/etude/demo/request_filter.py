"""Filter of requests in front of gradio.

gradio serves more than this page needs, such as files by URL, a code editor, statistics and proxies. It also accepts
the path of any file on this machine as an input. The filter passes a request only if it comes from the page
itself, its route is listed here, and its files are uploads of this server.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etude.demo.uploads import RequestError, Uploads, read_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


log = logging.getLogger(__name__)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
API, FILE = "/gradio_api", "/gradio_api/file="
UPLOAD, JOIN = f"{API}/upload", f"{API}/queue/join"
SESSION = r"[A-Za-z0-9_-]{1,64}"
# regular expressions of paths and queries for gradio; other queries are dropped, because one kind names stored files
GET = {
    r"/|/config|/favicon\.ico|/robots\.txt|/manifest\.json|/(?:assets|static|svelte)/.*": "",
    r"/theme\.css": r"v=\w{1,100}",
    rf"{API}/app_id|{API}/heartbeat/{SESSION}|{FILE}/.+": "",
    rf"{API}/queue/data": f"session_hash={SESSION}",
}
PROGRESS = f"{API}/upload_progress"
MAX_CALL, MAX_TEXT = 64 << 10, 1000  # bytes of a call; characters of one input of a call
POLICY = "; ".join((
    "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "media-src 'self' data: blob:", "font-src 'self' data:",
    "connect-src 'self' data: blob:", "worker-src 'self' blob:", "object-src 'none'", "base-uri 'self'",
    "form-action 'self'", "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
NOT_FOUND = "This page does not exist."

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class HostRules:
    """Rules for the host names in requests to a server.

    In an attack by DNS rebinding, the host name of a foreign page is made to resolve to this machine. The page can then
    send requests to a local server. The Host header of these requests contains the foreign name. An IP address cannot
    be rebound.

    Args:
        names: Accepted host names in lower case.
        any_address: Whether every IP address is accepted.
    """

    names: frozenset[str]
    any_address: bool = False

    def accept(self, name: str) -> bool:
        """Return whether requests to a host name are accepted."""
        return name in self.names or (self.any_address and _ip_address(name) is not None)


def host_rules(host: str) -> HostRules:
    """Return the rules for a server that listens on `host`."""
    names = LOOPBACK | {host.lower()}
    if is_loopback(host):
        return HostRules(names)
    machine = socket.gethostname().lower()
    return HostRules(names | {machine, f"{machine}.local"}, any_address=True)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    address = _ip_address(host)
    return host.lower() in LOOPBACK or (address is not None and address.is_loopback)


def host_problem(headers: Headers, rules: HostRules) -> str:
    """Return the reason to refuse the Host header, as one sentence, or "" if it is accepted."""
    values = _header_values(headers, b"host")
    if len(values) != 1:
        return "A request must have exactly one Host header."
    name = _host_name(values[0])
    if rules.accept(name):
        return ""
    safe_name = re.sub(r"[^\w.:-]", "?", name)[:100]
    remedy = f"Use the address that the server printed, or restart it with --host {safe_name}."
    return f"This server does not accept requests to the name {safe_name}. {remedy}"


def origin_problem(headers: Headers, path: str) -> str:
    """Return the reason to refuse a request of another origin, as one sentence, or "" if it is accepted.

    Args:
        headers: Headers of the request, with exactly one Host.
        path: Path of the request.
    """
    refused = "This server accepts requests from its own page only."
    host = _header_values(headers, b"host")[0].lower()
    for origin in _header_values(headers, b"origin"):
        try:
            parts = urlsplit(origin)
        except ValueError:
            return refused
        if parts.scheme not in ("http", "https") or parts.netloc.lower() != host:  # includes "null"
            return refused
    # images, scripts and links carry no Origin; "same-site" is another port of this machine
    if set(_header_values(headers, b"sec-fetch-site")) & {"cross-site", "same-site"}:
        is_link = (_header_values(headers, b"sec-fetch-mode"), _header_values(headers, b"sec-fetch-dest")) == (
            ["navigate"],
            ["document"],
        )
        return "" if is_link and path == "/" else refused
    return ""


class RequestFilter:
    """ASGI application that filters the requests to another one.

    Args:
        app: Application that receives the accepted requests.
        rules: Host names by which the server can be requested.
        uploads: Files that a call can name.
        calls: By index of a function of the page, whether each input of this function is a file.
    """

    def __init__(self, app: ASGIApp, rules: HostRules, uploads: Uploads, calls: Mapping[int, Sequence[bool]]) -> None:
        self.app, self.rules, self.uploads, self.calls = app, rules, uploads, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it with one sentence."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page does not open other connections
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_policy(message.get("headers", []))
            await send(message)

        try:
            await self._answer(scope, receive, send_with_policy)
        except RequestError as problem:
            await _respond(send_with_policy, problem.status, problem.reason.encode(), b"text/plain; charset=utf-8")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method, query = scope["path"], scope["method"], ""
        if problem := host_problem(scope["headers"], self.rules) or origin_problem(scope["headers"], path):
            raise RequestError(403, problem)
        self.uploads.expire()
        if method == "POST" and path == UPLOAD:
            upload = await self.uploads.receive(scope, receive)
            await _respond(send, 200, json.dumps([str(upload.path)]).encode(), b"application/json")
            return
        if method == "GET" and path == PROGRESS:  # the page requests it, but works without it
            await _respond(send, 200, b"", b"text/event-stream")
            return
        if method == "POST" and path == JOIN:
            body = validate_call(await read_body(scope, receive, MAX_CALL), self.calls, self.uploads)
            scope, receive = _with_body(scope, body), _replay(body, receive)
        elif method in ("GET", "HEAD"):
            query = self._query(path, scope["query_string"].decode("latin-1"))
        else:
            raise RequestError(404, NOT_FOUND)
        await self.app({**scope, "query_string": query.encode()}, receive, send)

    def _query(self, path: str, query: str) -> str:
        """Return the query to pass on with a path, or "" if it is not allowed.

        Raises:
            RequestError: The path is not one that the page uses.
        """
        for route, allowed in GET.items():
            if re.fullmatch(route, path):
                if path.startswith(FILE) and self.uploads.find(path.removeprefix(FILE)) is None:
                    raise RequestError(404, NOT_FOUND)
                return query if re.fullmatch(allowed, query) else ""
        raise RequestError(404, NOT_FOUND)


def validate_call(body: bytes, calls: Mapping[int, Sequence[bool]], uploads: Uploads) -> bytes:
    """Return the body of a call with only the values that the page needs.

    A file is identified by the path of an upload only. Its URL, its type and other values that gradio might use are
    removed.

    Args:
        body: JSON with `data`, `fn_index`, `trigger_id` and `session_hash`.
        calls: By index of a function, whether each input of this function is a file.
        uploads: Files that a call can name.

    Raises:
        RequestError: The call is not a valid call of the page.
    """
    malformed = RequestError(400, "This is not a valid call of this page.")
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise malformed from error
    if not isinstance(call, dict):
        raise malformed
    data, index, trigger = (call.get(key) for key in ("data", "fn_index", "trigger_id"))
    session = call.get("session_hash")
    if type(index) is not int or not isinstance(data, list) or (trigger is not None and type(trigger) is not int):
        raise malformed
    inputs = calls.get(index)
    if inputs is None or len(inputs) != len(data):
        raise malformed
    if not isinstance(session, str) or re.fullmatch(SESSION, session) is None:
        raise malformed
    values: list[Any] = []
    for value, is_file in zip(data, inputs, strict=True):
        if is_file and value is not None:
            values.append(_file_data(value, uploads))
        elif value is None or (isinstance(value, str | int | float) and len(str(value)) <= MAX_TEXT):
            values.append(value)
        else:
            raise malformed
    checked = {"data": values, "fn_index": index, "trigger_id": trigger, "session_hash": session, "event_data": None}
    return json.dumps(checked).encode()


def _header_values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _host_name(host: str) -> str:
    """Return a Host header in lower case, without port and brackets."""
    return re.sub(r":\d+$", "", host).removeprefix("[").removesuffix("]").lower()


def _ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _file_data(value: object, uploads: Uploads) -> dict[str, Any]:
    """Return the file data of gradio for an upload.

    Raises:
        RequestError: The file is not an upload of this server.
    """
    upload = uploads.find(value.get("path")) if isinstance(value, dict) else None
    if upload is None:
        raise RequestError(
            403, "This audio file was not uploaded to this page, or is no longer stored; upload it again."
        )
    return {
        "path": str(upload.path), "orig_name": upload.name, "size": upload.size, "meta": {"_type": "gradio.FileData"},
    }  # fmt: skip


def _with_policy(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response with the policy of the page, and without permissions for other origins."""
    kept = [
        (key, value)
        for key, value in headers
        if key.decode("latin-1").lower() not in HEADERS and not key.lower().startswith(b"access-control-")
    ]
    return [*kept, *((key.encode(), value.encode()) for key, value in HEADERS.items())]


def _with_body(scope: Scope, body: bytes) -> Scope:
    """Return the scope of a request with another body."""
    changed = (b"content-length", b"content-type", b"transfer-encoding")
    headers = [pair for pair in scope["headers"] if pair[0] not in changed]
    added = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return {**scope, "headers": [*headers, *added]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a source of a body that was already read. After the body, it waits for the end of the connection."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


async def _respond(send: Send, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    if status >= 400:
        headers.append((b"connection", b"close"))  # the rest of a refused body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
