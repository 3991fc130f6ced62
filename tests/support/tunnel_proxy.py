"""A proxy that opens one tunnel to a server of this machine, and keeps what it was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class TunnelProxy:
    """An HTTP proxy that knows CONNECT, and writes down what it was asked."""

    port: int
    seen: list[bytes]


@contextmanager
def tunnel_proxy(target: int, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Iterator[TunnelProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = TunnelProxy(listener.getsockname()[1], [])

        def forward(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                return

        def run() -> None:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096)
                proxy.seen.append(head)
                client.sendall(answer)
                if b" 200 " not in answer:
                    return
                with socket.create_connection(("127.0.0.1", target)) as upstream:
                    back = threading.Thread(target=forward, args=(upstream, client))
                    back.start()
                    forward(client, upstream)
                    back.join()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
