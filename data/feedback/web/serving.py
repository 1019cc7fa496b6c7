"""Serving a stage with uvicorn, on the loopback interface unless told otherwise."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from data.errors import RunError
from data.feedback.web.app import Served, create_app
from data.feedback.web.guard import Pace

PORT = 8765


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """As people write it into a browser."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def serve(
    place: Served, host: str, port: int, say: Callable[[str], None], *, pace: Pace | None = None
) -> None:
    """Serve until stopped. The port is taken before anything is said, so that what is said is true."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as fault:
        listener.close()
        raise RunError(
            f"{host}, port {port}, cannot be listened on: {fault}", way_out="choose another --port or --host"
        ) from fault
    port = int(listener.getsockname()[1])
    say(f"the label page is at {address(host, port)}; Ctrl-C stops it, and nothing is lost")
    if not is_loopback(host):
        say(
            "this address can be reached from other machines, and plain HTTP can be read on the way: put a proxy with "
            "TLS before it, or let people come through `ssh -L`"
        )
    # No access log: the links that open the page would be in it.
    config = uvicorn.Config(
        create_app(place, pace=pace),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
    )
    uvicorn.Server(config).run(sockets=[listener])
