"""A DNS server on asyncio: datagrams and streams, both families. Started with its port."""
import asyncio
import sys

from answers import datagram, stream_answer


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        answer = datagram(data)
        if answer:
            self.transport.sendto(answer, peer)


async def serve(reader, writer):
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(2), "big")
            answer = stream_answer(await reader.readexactly(length))
            if answer:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port):
    loop = asyncio.get_running_loop()
    for address in ("127.0.0.1", "::1"):
        await loop.create_datagram_endpoint(Datagrams, (address, port))
        await asyncio.start_server(serve, address, port)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
