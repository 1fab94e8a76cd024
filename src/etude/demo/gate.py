"""What the page's server answers to: what its own page asks for, and nothing else.

gradio serves more than this page needs: files by their address on other machines, a code editor, statistics, proxies.
None of it is within reach here. And a browser is told to load nothing from anywhere else, whatever stands in the page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(?:assets|static|svelte)/.*"
    r"|/gradio_api/(?:app_id|cancel|heartbeat/\w+|queue/(?:join|data)|reset|startup-events|upload|upload_progress)/?"
    r"|/gradio_api/file=/.*"  # a path of this machine, of which gradio serves its own folder alone; never an address
)
POLICY = "; ".join((
    "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "media-src 'self' data: blob:", "font-src 'self' data:",
    "connect-src 'self' data: blob:", "worker-src 'self' blob:", "object-src 'none'", "base-uri 'self'",
    "form-action 'self'", "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Gate:
    """Stands before an application.

    Args:
        app: What answers.
        hosts: Names under which it may be asked; none: any. A page of elsewhere whose name leads here has another.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None = None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no other connections
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                kept = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in HEADERS]
                message["headers"] = [*kept, *own]
            await send(message)

        if self.open(scope):
            await self.app(scope, receive, sent)
            return
        await sent({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await sent({"type": "http.response.body", "body": b"There is no such page."})

    def open(self, scope: Scope) -> bool:
        """Whether a request is answered."""
        host = next((value.decode("latin-1") for key, value in scope["headers"] if key == b"host"), "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        return (self.hosts is None or name in self.hosts) and OPEN.fullmatch(scope["path"]) is not None
