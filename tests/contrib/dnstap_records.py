"""Makes dnstap records, and reads and writes Frame Streams, with nothing of this project and no protobuf library."""

import struct

QUERY_TYPES = {1: "AUTH_QUERY", 3: "RESOLVER_QUERY", 5: "CLIENT_QUERY", 7: "FORWARDER_QUERY", 13: "UPDATE_QUERY"}
START = struct.pack(">I", 0) + struct.pack(">I", 34) + struct.pack(">III", 2, 1, 22) + b"protobuf:dnstap.Dnstap"
STOP = struct.pack(">III", 0, 4, 3)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, value):
    """Returns a field: bytes are length-delimited, a pair ("fixed", n) is 32 bits, an integer is a varint."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, tuple):
        return varint(number << 3 | 5) + struct.pack("<I", value[1])
    return varint(number << 3) + varint(value)


def message(**fields):
    """Returns the bytes of a dnstap Message; fields that are None are left out."""
    numbers = {
        "type": 1, "family": 2, "protocol": 3, "query_address": 4, "response_address": 5, "query_port": 6,
        "response_port": 7, "query_sec": 8, "query_nsec": 9, "query": 10, "zone": 11, "response_sec": 12,
        "response_nsec": 13, "response": 14,
    }
    out = b""
    for name, value in fields.items():
        if value is not None:
            out += field(numbers[name], ("fixed", value) if name.endswith("_nsec") else value)
    return out


def dnstap(body, identity=None, version=None):
    out = b""
    if identity is not None:
        out += field(1, identity)
    if version is not None:
        out += field(2, version)
    return out + field(14, body) + field(15, 1)


def name(labels):
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def dns(ident, flags, labels, qtype, qclass=1, counts=(1, 0, 0, 0), rest=b""):
    """Returns a DNS message with one question."""
    return struct.pack(">HHHHHH", ident, flags, *counts) + name(labels) + struct.pack(">HH", qtype, qclass) + rest


def frames(data):
    """Yields the records of a Frame Streams file."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        if length == 0:
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
        else:
            yield data[at : at + length]
        at += length


def frame_streams(records):
    return START + b"".join(struct.pack(">I", len(record)) + record for record in records) + STOP
