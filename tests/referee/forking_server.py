"""A DNS server that forks for each datagram and for each connection. Started with its port."""
import socket
import socketserver
import sys
import threading

from answers import datagram, stream_answer


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, listener = self.request
        answer = datagram(data)
        if answer:
            listener.sendto(answer, self.client_address)


class Stream(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            length = self.rfile.read(2)
            message = self.rfile.read(int.from_bytes(length, "big"))
            if len(length) < 2 or len(message) < int.from_bytes(length, "big"):
                return
            answer = stream_answer(message)
            if answer:
                self.wfile.write(len(answer).to_bytes(2, "big") + answer)


class Forking(socketserver.ForkingMixIn):
    max_children = 100
    allow_reuse_address = True
    request_queue_size = 100


class Udp(Forking, socketserver.UDPServer):
    max_packet_size = 65535


class Tcp(Forking, socketserver.TCPServer):
    pass


class Udp6(Udp):
    address_family = socket.AF_INET6


class Tcp6(Tcp):
    address_family = socket.AF_INET6


port = int(sys.argv[1])
servers = [Udp(("127.0.0.1", port), Datagram), Tcp(("127.0.0.1", port), Stream),
           Udp6(("::1", port), Datagram), Tcp6(("::1", port), Stream)]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
servers[0].serve_forever(0.05)
