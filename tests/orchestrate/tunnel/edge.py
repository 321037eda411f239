"""Stand-in for a program that makes a tunnel, and for the servers of its maker: edge.py PORT [CERTIFICATE KEY].

What comes to a port of this machine goes on to PORT: as it is, or, with a certificate, out of the TLS of whoever comes and into
TLS with whoever listens there. The port is written to the file `edge`."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(port: int, files: list[str]) -> None:
    outside, inside = None, None
    if files:
        outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        outside.load_cert_chain(*files)
        inside = ssl.create_default_context()
        inside.check_hostname, inside.verify_mode = False, ssl.CERT_NONE

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port, ssl=inside)
        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=outside)
    number = server.sockets[0].getsockname()[1]
    Path("edge").write_text(str(number))
    print(f"url=tcp://127.0.0.1:{number}", flush=True)
    print("https://ten-words-like-these.trycloudflare.com", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
