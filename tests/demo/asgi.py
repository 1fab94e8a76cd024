"""Requests to an ASGI application without a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

HOST = (b"host", b"127.0.0.1:7860")


@dataclass
class Response:
    """Response of an application."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def request(
    app: Any,
    method: str,
    path: str,
    *,
    query: str = "",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: list[bytes] | None = None,
    cut: bool = False,
) -> Response:
    """Send a request and return the response.

    Args:
        app: Application.
        method: HTTP method.
        path: Decoded path.
        query: Query string.
        headers: Headers. A local Host is added if there is none.
        body: Blocks of the body.
        cut: Disconnect after the last block instead of ending the body.
    """
    headers = headers or []
    headers = headers if any(key == b"host" for key, _ in headers) else [HOST, *headers]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
    blocks, response = list(body or [b""]), Response()

    async def receive() -> dict[str, Any]:
        if not blocks:
            return {"type": "http.disconnect"}
        block = blocks.pop(0)
        return {"type": "http.request", "body": block, "more_body": bool(blocks) or cut}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            response.status = message["status"]
            response.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            response.body += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return response


def form(content: bytes, name: str = "song.wav", field: str = "files") -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of a multipart form with one file."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
    return [(b"content-type", b"multipart/form-data; boundary=edge")], head + content + b"\r\n--edge--\r\n"
