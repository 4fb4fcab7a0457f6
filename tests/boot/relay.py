"""The one way out of the emulated board: a connection on standard input and output, passed on to a port of this host.

qemu starts one for every connection that the board makes to its gateway; nothing else leaves the board.
"""

import os
import socket
import sys
import threading

CHUNK_BYTES = 65536


def main(port: int) -> None:
    """Pass bytes both ways until either side ends."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        threading.Thread(target=_up, args=(link,), daemon=True).start()
        while data := link.recv(CHUNK_BYTES):
            _write(data)


def _up(link: socket.socket) -> None:
    while data := os.read(0, CHUNK_BYTES):
        link.sendall(data)
    link.shutdown(socket.SHUT_WR)


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main(int(sys.argv[1]))
