"""Checks of the Host and Origin headers, which keep pages of other origins away from a local server."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class HostRules:
    """Rules for the names under which a server may be addressed.

    A page of another origin can reach a local server under a name of its own that resolves to this machine (DNS
    rebinding). Such a request carries that name in its Host header; an IP address there cannot be rebound.

    Args:
        names: Accepted names, lower case.
        any_address: Accept every IP address.
    """

    names: frozenset[str]
    any_address: bool = False

    def accept(self, name: str) -> bool:
        """Return whether requests to a name are answered."""
        return name in self.names or (self.any_address and _address(name) is not None)


def host_rules(host: str) -> HostRules:
    """Return the rules for a server that listens on `host`."""
    names = LOOPBACK | {host.lower()}
    if is_loopback(host):
        return HostRules(names)
    machine = socket.gethostname().lower()
    return HostRules(names | {machine, f"{machine}.local"}, any_address=True)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    address = _address(host)
    return host.lower() in LOOPBACK or (address is not None and address.is_loopback)


def host_problem(headers: Headers, rules: HostRules) -> str:
    """Return why the Host header is refused, as one sentence; "" if it is accepted."""
    values = _values(headers, b"host")
    if len(values) != 1:
        return "A request needs exactly one Host header."
    name = _name(values[0])
    if rules.accept(name):
        return ""
    shown = re.sub(r"[^\w.:-]", "?", name)[:100]
    use = f"Use the address that it printed, or restart it with host={shown}."
    return f"This server does not answer to the name {shown}. {use}"


def origin_problem(headers: Headers, path: str) -> str:
    """Return why a request of another origin is refused, as one sentence; "" if it is accepted.

    Args:
        headers: Headers of the request; exactly one Host.
        path: Path of the request.
    """
    refused = "This server takes requests from its own page only."
    host = _values(headers, b"host")[0].lower()
    for origin in _values(headers, b"origin"):
        try:
            parts = urlsplit(origin)
        except ValueError:
            return refused
        if parts.scheme not in ("http", "https") or parts.netloc.lower() != host:  # includes "null"
            return refused
    # images, scripts and links carry no Origin; "same-site" is another port of this machine
    if set(_values(headers, b"sec-fetch-site")) & {"cross-site", "same-site"}:
        is_link = (_values(headers, b"sec-fetch-mode"), _values(headers, b"sec-fetch-dest")) == (
            ["navigate"],
            ["document"],
        )
        return "" if is_link and path == "/" else refused
    return ""


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _name(host: str) -> str:
    """Return a Host header without its port and brackets, lower case."""
    return re.sub(r":\d+$", "", host).removeprefix("[").removesuffix("]").lower()


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
