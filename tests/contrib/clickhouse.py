"""Runs all of contrib/clickhouse in ClickHouse itself (chdb), on records as Kafka would deliver them.

The records are made here, byte by byte; what ClickHouse must answer is counted here, from what was made. With
DNSTAP_AGENT the same messages also go the other way, through the agent's JSON lines, and must give the same rows.
"""

import collections
import io
import ipaddress
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
import check
import dnstap_records as records
from chdb import session

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib" / "clickhouse"
FIXTURE = ROOT / "proto" / "tests" / "fixtures" / "fstrm_capture.fstrm"
SCRATCH = tempfile.TemporaryDirectory(prefix="dnstap-clickhouse-")
# Tests may run at any time, and the tables forget old messages, so the messages are from the last hour but one.
FROM = int(time.time()) // 3600 * 3600 - 3600
TO = FROM + 3600

TYPES = {
    1: "AUTH_QUERY", 2: "AUTH_RESPONSE", 3: "RESOLVER_QUERY", 4: "RESOLVER_RESPONSE", 5: "CLIENT_QUERY",
    6: "CLIENT_RESPONSE", 7: "FORWARDER_QUERY", 8: "FORWARDER_RESPONSE", 13: "UPDATE_QUERY", 14: "UPDATE_RESPONSE",
}
PROTOCOLS = {None: "", 1: "UDP", 2: "TCP", 3: "DOT", 4: "DOH", 5: "DNSCryptUDP", 6: "DNSCryptTCP", 7: "DOQ"}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 15: "RCODE15"}
QTYPES = {1: "A", 2: "NS", 6: "SOA", 15: "MX", 16: "TXT", 28: "AAAA", 65: "HTTPS", 255: "ANY", 65280: "TYPE65280"}
OPCODES = {0: "QUERY", 4: "NOTIFY", 5: "UPDATE", 15: "OPCODE15"}
COLUMNS = (
    "time identity version type socket_protocol query_address query_port response_address response_port latency_ns "
    "query_zone size id opcode rcode qr aa tc rd ra ad cd qdcount ancount nscount arcount qname qclass qtype"
).split()

sql = session.Session()


def statements(path):
    """Returns the statements of a file. None of them has a semicolon at the end of a line within a text."""
    text = re.sub(r"^--.*$", "", path.read_text(), flags=re.MULTILINE)
    return [part.strip() for part in re.split(r";\s*(?:\n|$)", text) if part.strip()]


def run_file(name):
    for statement in statements(CONTRIB / name):
        sql.query(statement)


def rows(query):
    """Returns the rows of a query as objects."""
    answer = sql.query(query, "JSONEachRow").bytes()
    return [json.loads(line) for line in answer.decode("utf-8").splitlines()]


# What is fed


def presented(labels):
    """Returns a name as in a zone file, in lower case."""
    out = ""
    for label in labels:
        for byte in label:
            if chr(byte) in '."\\();@$':
                out += "\\" + chr(byte)
            elif 33 <= byte <= 126:
                out += chr(byte).lower()
            else:
                out += "\\%03d" % byte
        out += "."
    return out or "."


class Made:
    """Records, and the row that each of them must become."""

    def __init__(self):
        self.records = []
        self.rows = []

    def add(self, kind, sec, nsec, wire, name=None, qtype="", qclass="", reply=None, protocol=1, client="192.0.2.1",
            server="192.0.2.53", ports=(40000, 53), identity="ns1", zone=None, rcode=None):
        """Adds a message. `reply` is the time of the response after the query in nanoseconds."""
        is_response = kind % 2 == 0
        packed = lambda address: ipaddress.ip_address(address).packed if address else None
        fields = dict(type=kind, family=2 if client and ":" in client else 1, protocol=protocol,
                      query_address=packed(client), response_address=packed(server), query_port=ports[0],
                      response_port=ports[1])
        answered = None
        if sec is not None:
            fields.update(query_sec=sec, query_nsec=nsec)
            if reply is not None:
                answered = sec * 10**9 + nsec + reply
                fields.update(response_sec=answered // 10**9, response_nsec=answered % 10**9)
        fields["response" if is_response else "query"] = wire
        fields["zone"] = records.name(zone) if zone is not None else None
        self.records.append(records.dnstap(records.message(**fields), identity and identity.encode(), b"test 1"))
        head = struct.unpack(">HHHHHH", wire[:12]) if len(wire) >= 12 else None
        flags = head[1] if head else 0
        at = answered if is_response and answered is not None else (sec * 10**9 + nsec if sec is not None else None)
        v6 = lambda address: "::" if not address else (address if ":" in address else "::ffff:" + address)
        self.rows.append({
            "time": at, "identity": identity or "", "version": "test 1", "type": TYPES[kind],
            "socket_protocol": PROTOCOLS[protocol], "query_address": v6(client), "query_port": ports[0],
            "response_address": v6(server), "response_port": ports[1], "latency_ns": reply if sec is not None else None,
            "query_zone": presented(zone) if zone is not None else "", "size": len(wire), "id": head[0] if head else 0,
            "opcode": OPCODES[flags >> 11 & 15] if head else "", "rcode": (rcode or RCODES[flags & 15]) if head else "",
            **{flag: bool(flags >> bit & 1) for flag, bit in
               dict(qr=15, aa=10, tc=9, rd=8, ra=7, ad=5, cd=4).items()},
            "qdcount": head[2] if head else 0, "ancount": head[3] if head else 0, "nscount": head[4] if head else 0,
            "arcount": head[5] if head else 0, "qname": presented(name) if name is not None else "",
            "qclass": qclass, "qtype": qtype,
        })

    def exchange(self, kind, sec, nsec, labels, qtype=1, rcode=0, took=None, answer=b"", **other):
        """Adds a query and, if it took a time, its response. `answer` are bytes behind the question."""
        ident = (sec * 7 + nsec) & 0xFFFF
        asked = records.dns(ident, 0x0100, labels, qtype)
        words = dict(name=labels, qtype=QTYPES[qtype], qclass="IN")
        truncated = other.pop("truncated", False)
        self.add(kind, sec, nsec, asked, **words, **other)
        if took is not None:
            flags = 0x8180 | rcode | (0x0200 if truncated else 0)
            reply = records.dns(ident, flags, labels, qtype, counts=(1, 1 if answer else 0, 0, 0), rest=answer)
            self.add(kind + 1, sec, nsec, reply, reply=took, **words, **other)


def record_a(data=b"\xc0\0\2\1"):
    return b"\xc0\x0c\0\1\0\1\0\0\1\x2c" + struct.pack(">H", len(data)) + data


def record_txt(length):
    """Returns a TXT record with data of about this length."""
    strings = b"".join(b"\xff" + b"x" * 255 for _ in range(length // 256))
    return b"\xc0\x0c\0\x10\0\1\0\0\1\x2c" + struct.pack(">H", len(strings)) + strings


def traffic():
    """Returns an hour of two servers: ordinary traffic, a random-name attack, amplification, silent upstreams."""
    chance = random.Random(20261130)
    made = Made()
    zones = [[b"example", b"com"], [b"Example", b"NET"], [b"a.b", b"org"], [b"xn--bcher-kva", b"example"]]
    hosts = [b"www", b"mail", b"ns1", b"_dns", b"WWW", b"a\0b", b"with space", b"\xc3\xbc", b"quo\"te", b"back\\slash"]
    at = lambda: (FROM + chance.randrange(3600), chance.randrange(10**9))
    for _ in range(1500):
        name = [chance.choice(hosts)] + chance.choice(zones)
        v6 = chance.random() < 0.3
        client = f"2001:db8:{chance.randrange(4):x}:{chance.randrange(512):x}::{chance.randrange(1, 999):x}" if v6 \
            else f"198.51.{100 + chance.randrange(3)}.{chance.randrange(1, 255)}"
        rcode = chance.choices([0, 2, 3, 5], [80, 5, 12, 3])[0]
        made.exchange(chance.choice([5, 5, 5, 1]), *at(), name, chance.choice([1, 28, 65, 15, 65280]), rcode,
                      took=int(chance.lognormvariate(14, 1.5)), answer=record_a() if rcode == 0 else b"",
                      protocol=chance.choices([1, 2, 3], [90, 8, 2])[0], client=str(ipaddress.ip_address(client)),
                      server="2001:db8::53" if v6 else "192.0.2.53", ports=(chance.randrange(1024, 65536), 53),
                      identity=chance.choice(["ns1", "ns2"]), truncated=chance.random() < 0.05)
    for index in range(300):
        made.exchange(5, *at(), [b"%x" % chance.getrandbits(60), b"victim", b"example"], 1, 3,
                      took=chance.randrange(10**6, 10**8), client=f"203.0.113.{index % 250 + 1}", identity="ns1")
    for index in range(50):
        made.exchange(5, *at(), [b"big", b"example"], 16, took=10**6, answer=record_txt(3000), client="192.0.2.66")
    for index in range(400):
        server = f"192.0.2.{chance.choice([10, 11, 12])}"
        lost = server.endswith("12") and chance.random() < 0.4
        made.exchange(3, *at(), [b"www"] + zones[0], 28, took=None if lost else chance.randrange(10**6, 4 * 10**8),
                      answer=record_a(b"\0" * 16), client="192.0.2.53", server=server, zone=zones[0], identity="ns2",
                      ports=(chance.randrange(1024, 65536), 53))
    return made


def oddities():
    """Returns messages that are not as usual, each with the row that it must become."""
    made = Made()
    sec = FROM + 1800
    base = dict(qtype="A", qclass="IN")
    long = [b"x" * 63, b"y" * 63, b"z" * 63, b"w" * 61]                         # 255 bytes
    short = [b"a"] * 127                                                        # 255 bytes
    everything = [bytes(range(0, 60)), bytes(range(60, 120)), bytes(range(120, 180)), bytes(range(180, 240))]
    for number, labels in enumerate([[], [b"com"], long, short, everything, [bytes(range(240, 256)), b"\0"],
                                     [b"\0" * 63, b"\0"], [b"."], [b"\\"]]):
        made.add(5, sec, number, records.dns(number, 0x0100, labels, 1), name=labels, **base)
    made.add(5, sec, 20, records.dns(1, 0x0100, [b"v", b"bind"], 16, 3), name=[b"v", b"bind"], qtype="TXT", qclass="CH")
    made.add(5, sec, 21, records.dns(1, 0x0100, [b"c"], 1, 42), name=[b"c"], qtype="A", qclass="CLASS42")
    made.add(13, sec, 22, records.dns(1, 0x2800, [b"zone"], 6), name=[b"zone"], qtype="SOA", qclass="IN")
    made.add(1, sec, 23, records.dns(1, 0x2400, [b"zone"], 6), name=[b"zone"], qtype="SOA", qclass="IN")
    made.add(6, sec, 24, records.dns(1, 0x87B0 | 0x30, [b"f"], 1, rest=b""), name=[b"f"], **base, reply=0)
    made.add(6, sec, 32, records.dns(1, 0x780F, [b"o"], 1), name=[b"o"], **base)
    # Addresses, ports, times and identity that are not there.
    made.add(5, sec, 25, records.dns(1, 0, [b"n"], 1), name=[b"n"], **base, client=None, server=None, identity=None)
    made.add(6, sec, 26, records.dns(1, 0x8000, [b"n"], 1), name=[b"n"], **base)
    made.add(6, sec, 27, records.dns(1, 0x8000, [b"n"], 1), name=[b"n"], **base, reply=-5)
    made.add(5, sec, 28, records.dns(1, 0, [b"p"], 1), name=[b"p"], **base, protocol=None)
    made.add(3, sec, 29, records.dns(1, 0, [b"z"], 1), name=[b"z"], **base, zone=[])
    made.add(3, sec, 30, records.dns(1, 0, [b"z"], 1), name=[b"z"], **base, zone=[b"Z\0one"])
    # Messages with no question, cut off, or that are not DNS.
    made.add(5, sec, 40, struct.pack(">HHHHHH", 9, 0x0100, 0, 0, 0, 0))
    for number, cut in enumerate([b"", b"\0", b"\0" * 11]):
        made.add(5, sec, 41 + number, cut)
    whole = records.dns(7, 0x0100, [b"www", b"example"], 1)
    for number, length in enumerate(range(12, len(whole))):
        name = [b"www", b"example"] if length >= len(whole) - 4 else None
        made.add(5, sec, 50 + number, whole[:length], name=name)
    made.add(5, sec, 90, struct.pack(">HHHHHH", 9, 0, 1, 0, 0, 0) + b"\x40" + b"x" * 64 + b"\0\0\1\0\1")
    # The longest name and one byte more.
    made.add(5, sec, 91, records.dns(1, 0, [b"x" * 63, b"y" * 63, b"z" * 63, b"w" * 62], 1))
    # A pointer in the question: into the header, and to itself.
    made.add(5, sec, 92, struct.pack(">HHHHHH", 9, 0, 1, 0, 0, 0) + b"\xc0\x04\0\1\0\1")
    made.add(5, sec, 93, struct.pack(">HHHHHH", 9, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1")
    # BADVERS: 16 is one in the upper bits, which are in the OPT record, and NOERROR in the header.
    made.add(6, sec, 94, records.dns(1, 0x8000, [b"e"], 1, counts=(1, 0, 0, 1), rest=b"\0\0\x29\4\xd0\1\0\0\0\0\0"),
             name=[b"e"], **base)
    return made


TRAFFIC, ODD = traffic(), oddities()
FIXED = list(records.frames(FIXTURE.read_bytes()))
RECORDS = TRAFFIC.records + ODD.records


def feed(given):
    """Gives records to the materialized views as the Kafka engine does: each alone, as ProtobufSingle."""
    path = pathlib.Path(SCRATCH.name) / "records.tar"
    with tarfile.open(path, "w") as tar:
        for number, record in enumerate(given):
            entry = tarfile.TarInfo(f"{number:08}.pb")
            entry.size = len(record)
            tar.addfile(entry, io.BytesIO(record))
    shape = ", ".join(f"`{column['name']}` {column['type']}" for column in QUEUE).replace("'", "\\'")
    columns = ", ".join(f"`{column['name']}`" for column in QUEUE)
    sql.query(
        f"INSERT INTO dnstap.queue ({columns}) SELECT {columns} "
        f"FROM file('{path} :: *.pb', 'ProtobufSingle', '{shape}') "
        f"SETTINGS format_schema = '{ROOT / 'proto' / 'dnstap.proto'}:Dnstap', max_threads = 1"
    )


def stored(where="1"):
    """Returns the rows of dnstap.messages, ordered, with the time as a number."""
    found = rows(
        "SELECT toUnixTimestamp64Nano(time) AS nanoseconds, "
        + ", ".join(COLUMNS[1:])
        + f" FROM dnstap.messages WHERE {where} SETTINGS output_format_json_quote_64bit_integers = 0"
    )
    for row in found:
        row["time"] = row.pop("nanoseconds")
    return ordered(found)


def ordered(given):
    return sorted(({column: row[column] for column in COLUMNS} for row in given),
                  key=lambda row: json.dumps(row, sort_keys=True))


QUEUE = []


def the_kafka_table_has_settings_that_there_are():
    run_file("functions.sql")
    run_file("tables.sql")
    queue, *rest = statements(CONTRIB / "kafka.sql")
    # chdb reads the settings, but cannot make the table: it has no threads for consumers. So it refuses the table for
    # that reason, and for another one if a setting is wrong.
    wrong = queue.replace("kafka_max_block_size", "kafka_max_blocksize")
    check.equal(refusal(wrong), "Unknown setting 'kafka_max_blocksize'", "a table with a wrong setting")
    check.equal(refusal(queue), "Shutdown was called", "the table")
    sql.query("DROP TABLE IF EXISTS dnstap.queue")
    # From here on a table of the same columns, and those that the engine adds, stands for it.
    columns, engine = queue.split("ENGINE = Kafka")
    settings = dict(re.findall(r"(kafka_\w+) = '?([^',\n]+)", engine))
    check.equal((settings["kafka_format"], settings["kafka_schema"]), ("ProtobufSingle", "dnstap.proto:Dnstap"), "format")
    sql.query(f"{columns} ENGINE = Null")
    QUEUE.extend(rows("DESCRIBE TABLE dnstap.queue"))
    for column in ["_timestamp_ms Nullable(DateTime64(3))", "_partition UInt64", "_offset UInt64", "_error String",
                   "_raw_message String"]:
        sql.query(f"ALTER TABLE dnstap.queue ADD COLUMN {column}")
    for statement in rest:
        sql.query(statement)


def refusal(query):
    """Returns the reason why ClickHouse refuses a query."""
    try:
        sql.query(query)
    except Exception as why:
        return re.search(r"DB::Exception: (.*?)(?:\.|: for storage| \()", str(why))[1]
    return None


def the_columns_are_fields_of_the_protobuf():
    text = (ROOT / "proto" / "dnstap.proto").read_text()
    fields = set(re.findall(r"^\s*(?:optional|required)\s+\w+\s+(\w+)\s*=", text, re.MULTILINE))
    for column in QUEUE:
        assert column["name"].removeprefix("message.") in fields, column["name"]


def each_record_becomes_the_right_row():
    feed(RECORDS)
    check.equal(stored(), ordered(TRAFFIC.rows + ODD.rows), "rows")


def the_bytes_are_kept():
    # Bytes that are not UTF-8 do not pass JSON, so they are compared in hexadecimal.
    found = [row["hex"] for row in rows("SELECT hex(message) AS hex FROM dnstap.messages ORDER BY hex")]
    wanted = sorted(hex_of(record) for record in RECORDS)
    check.equal(found, wanted, "bytes")


def hex_of(record):
    """Returns the DNS message in a record of this file, found with a parser of its own."""
    def parse(data):
        at, out = 0, {}
        def number():
            nonlocal at
            shift = value = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(data):
            key = number()
            if key & 7 == 0:
                out[key >> 3] = number()
            elif key & 7 == 5:
                out[key >> 3] = data[at : at + 4]
                at += 4
            else:
                length = number()
                out[key >> 3] = data[at : at + length]
                at += length
        return out
    inner = parse(parse(record)[14])
    return inner.get(14, inner.get(10, b"")).hex().upper()


def a_record_without_time_has_that_of_the_broker():
    for number, (sec, nsec) in enumerate([(None, None), (FROM, 10**9), (2**63, 0)]):
        body = records.message(type=5, query_sec=sec, query_nsec=nsec, query=records.dns(1, 0, [b"t"], 1))
        feed([records.dnstap(body, b"without time %d" % number)])
    late = rows("SELECT count() AS n FROM dnstap.messages WHERE identity LIKE 'without time%' "
                "AND abs(dateDiff('second', time, now64(9, 'UTC'))) < 600")
    check.equal(late, [{"n": 3}], "messages that have the time of their arrival")
    columns = ", ".join(f"`{column['name']}`" for column in QUEUE[:3])
    sql.query(f"INSERT INTO dnstap.queue ({columns}, _timestamp_ms) VALUES ('of the broker', '', 5, "
              f"fromUnixTimestamp64Milli({FROM}123))")
    check.equal(rows("SELECT toUnixTimestamp64Milli(time) AS t FROM dnstap.messages WHERE identity = 'of the broker' "
                     "SETTINGS output_format_json_quote_64bit_integers = 0"), [{"t": FROM * 1000 + 123}], "time")


def an_unreadable_record_stops_nothing():
    before = len(stored())
    sql.query("INSERT INTO dnstap.queue (_partition, _offset, _error, _raw_message) VALUES (3, 77, 'broken', 'xyz')")
    check.equal(rows("SELECT partition, offset, error, record FROM dnstap.unreadable "
                     "SETTINGS output_format_json_quote_64bit_integers = 0"),
                [{"partition": 3, "offset": 77, "error": "broken", "record": "xyz"}], "unreadable")
    check.equal(len(stored()), before, "messages")


def records_of_another_program_are_read():
    # They are of 2023, so dnstap.messages forgets them at once. A copy of it without that takes them, too.
    view = next(part for part in statements(CONTRIB / "kafka.sql") if "dnstap.from_kafka TO" in part)
    sql.query("CREATE TABLE dnstap.old AS dnstap.messages ENGINE = Memory")
    sql.query(view.replace("dnstap.from_kafka TO dnstap.messages", "dnstap.from_kafka_old TO dnstap.old"))
    feed(FIXED)
    found = rows("SELECT type, qname, qtype, query_zone, latency_ns FROM dnstap.old ORDER BY time "
                 "SETTINGS output_format_json_quote_64bit_integers = 0")
    check.equal([tuple(row.values()) for row in found],
                [("CLIENT_QUERY", "www.example.", "AAAA", "", None),
                 ("CLIENT_RESPONSE", "www.example.", "AAAA", "", 111111101),
                 ("RESOLVER_QUERY", "www.example.", "AAAA", "example.", None)], "fixture")


def clear():
    for table in ["messages", "by_minute", "by_rcode", "by_name", "by_client", "latency"]:
        sql.query(f"TRUNCATE TABLE dnstap.{table}")


# What is counted here


ALL = TRAFFIC.rows + ODD.rows


def minute(row):
    return row["time"] // 10**9 // 60 * 60


def summed(table, keys, values, condition="1", time="minute"):
    """Returns a summary as {keys: values}, with the time as a number."""
    chosen = ", ".join([f"toUnixTimestamp({time}) AS t", *keys, *(f"sum(s.{value}) AS {value}" for value in values)])
    found = rows(f"SELECT {chosen} FROM dnstap.{table} AS s WHERE {condition} GROUP BY {', '.join(['t', *keys])} "
                 "SETTINGS output_format_json_quote_64bit_integers = 0")
    return {(row["t"], *(row[key] for key in keys)): tuple(row[value] for value in values) for row in found}


def counted(given, key, *values):
    out = {}
    for row in given:
        old = out.get(key(row), (0,) * len(values))
        out[key(row)] = tuple(before + value(row) for before, value in zip(old, values))
    return out


def network(address):
    """Returns the network of an address as the views have it: /24 or /56."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    if mapped:
        return "::ffff:" + str(ipaddress.ip_network(f"{mapped}/24", strict=False).network_address)
    return str(ipaddress.ip_network(f"{address}/56", strict=False).network_address)


def one(_row):
    return 1


def the_minutes_are_right():
    keys = ["identity", "type", "socket_protocol", "qtype"]
    check.equal(summed("by_minute", keys, ["messages", "bytes", "truncated"]),
                counted(ALL, lambda row: (minute(row), *(row[key] for key in keys)), one, lambda row: row["size"],
                        lambda row: int(row["tc"])), "by_minute")


def the_response_codes_are_right():
    keys = ["identity", "type", "rcode"]
    answers = [row for row in ALL if row["type"].endswith("_RESPONSE")]
    check.equal(summed("by_rcode", keys, ["messages"]),
                counted(answers, lambda row: (minute(row), *(row[key] for key in keys)), one), "by_rcode")


def the_names_are_right():
    keys = ["type", "qname"]
    check.equal(summed("by_name", keys, ["messages", "bytes", "nxdomain", "servfail"], time="hour"),
                counted(ALL, lambda row: (row["time"] // 10**9 // 3600 * 3600, *(row[key] for key in keys)), one,
                        lambda row: row["size"], lambda row: int(row["rcode"] == "NXDOMAIN"),
                        lambda row: int(row["rcode"] == "SERVFAIL")), "by_name")


def asked(row):
    return row["type"].split("_")[0] in ("CLIENT", "AUTH", "UPDATE")


def the_clients_are_right():
    check.equal(summed("by_client", ["type", "prefix"], ["messages", "bytes", "nxdomain"]),
                counted(filter(asked, ALL),
                        lambda row: (row["time"] // 10**9 // 300 * 300, row["type"], network(row["query_address"])),
                        one, lambda row: row["size"], lambda row: int(row["rcode"] == "NXDOMAIN")), "by_client")


def the_response_times_are_right():
    found = rows("SELECT toUnixTimestamp(minute) AS t, identity, type, sum(l.responses) AS responses, "
                 "quantilesDDMerge(0.01, 0.5, 0.9, 0.99)(quantiles) AS q FROM dnstap.latency AS l "
                 "GROUP BY t, identity, type SETTINGS output_format_json_quote_64bit_integers = 0")
    wanted = collections.defaultdict(list)
    for row in ALL:
        if row["type"].endswith("_RESPONSE") and row["latency_ns"] is not None:
            wanted[minute(row), row["identity"], row["type"]].append(row["latency_ns"])
    check.equal({(row["t"], row["identity"], row["type"]): row["responses"] for row in found},
                {key: len(values) for key, values in wanted.items()}, "latency")
    for row in found:
        within(row["q"], wanted[row["t"], row["identity"], row["type"]], row)


def within(quantiles, values, what, unit=1):
    """Fails unless the quantiles are within 1 % of a value at their rank."""
    values = sorted(values)
    for quantile, found in zip((0.5, 0.9, 0.99), quantiles):
        rank = quantile * (len(values) - 1)
        near = [values[int(rank)] / unit, values[-int(-rank // 1)] / unit]
        slack = 0.0005 if unit > 1 else 0
        low, high = min(near), max(near)
        assert low - abs(low) * 0.0101 - slack <= found <= high + abs(high) * 0.0101 + slack, (what, quantile, found, near)


def answers(number):
    """Returns the rows of a question of queries.sql, over the whole hour."""
    query = statements(CONTRIB / "queries.sql")[number - 1]
    for name, value in [("from", FROM), ("to", TO)]:
        query = query.replace(f"{{{name}:DateTime('UTC')}}", f"toDateTime({value}, 'UTC')")
    return rows(query + " SETTINGS output_format_json_quote_64bit_integers = 0")


def there_are_ten_questions():
    check.equal(len(statements(CONTRIB / "queries.sql")), 10, "questions")
    # They are also accepted with parameters, as the client sends them.
    sql.query(f"SET param_from = '{FROM}'")
    sql.query(f"SET param_to = '{TO}'")
    for query in statements(CONTRIB / "queries.sql"):
        sql.query(query)


def question_1_load():
    wanted = counted(ALL, lambda row: (row["identity"], row["type"]), one)
    check.equal([(row["identity"], row["type"], row["messages"], row["per_second"]) for row in answers(1)],
                [(*key, n, round(n / 3600, 3)) for key, (n,) in sorted(wanted.items())], "load")


def question_2_response_codes():
    given = [row for row in ALL if row["type"].endswith("_RESPONSE")]
    all_of = counted(given, lambda row: (row["identity"], row["type"]), one)
    wanted = counted(given, lambda row: (row["identity"], row["type"], row["rcode"]), one)
    found = answers(2)
    check.equal({(row["identity"], row["type"], row["rcode"]): row["messages"] for row in found},
                {key: n for key, (n,) in wanted.items()}, "response codes")
    for row in found:
        share = 100 * row["messages"] / all_of[row["identity"], row["type"]][0]
        assert abs(row["percent"] - share) < 0.001, (row, share)


def top(wanted, count=20):
    """Returns the pairs with the largest values first, then by key."""
    return sorted(wanted.items(), key=lambda pair: (*(-value for value in pair[1]), pair[0].encode()))[:count]


def question_3_names():
    asking = [row for row in ALL if row["type"] in ("CLIENT_QUERY", "AUTH_QUERY")]
    wanted = counted(asking, lambda row: row["qname"], one)
    check.equal([(row["qname"], row["messages"]) for row in answers(3)], [(key, n) for key, (n,) in top(wanted)], "names")


def question_4_clients():
    given = list(filter(asked, ALL))
    shown = lambda row: network(row["query_address"]).replace("::ffff:", "")
    wanted = counted(given, shown, lambda row: int(row["type"].endswith("_QUERY")))
    missing = counted(given, shown, lambda row: int(row["type"].endswith("_RESPONSE") and row["rcode"] == "NXDOMAIN"))
    names = collections.defaultdict(set)
    for row in given:
        if row["type"].endswith("_QUERY"):
            names[shown(row)].add(row["qname"])
    check.equal([(row["network"], row["queries"], row["different_names"], row["nxdomain"]) for row in answers(4)],
                [(key, n, len(names[key]), missing[key][0]) for key, (n,) in top(wanted)], "clients")


def question_5_response_times():
    wanted = collections.defaultdict(list)
    for row in ALL:
        if row["type"].endswith("_RESPONSE") and row["latency_ns"] is not None:
            wanted[row["identity"], row["type"]].append(row["latency_ns"])
    found = answers(5)
    check.equal([(row["identity"], row["type"], row["responses"]) for row in found],
                [(*key, len(values)) for key, values in sorted(wanted.items())], "response times")
    for row in found:
        within(row["p50_p90_p99_ms"], wanted[row["identity"], row["type"]], row, 1e6)


def parent(row):
    """Returns the last two labels of a name; a dot behind a backslash is within a label."""
    labels = re.findall(r"(?:[^.\\]|\\.)+\.", row["qname"])
    return "".join(labels[-2:]) or row["qname"]


def question_6_failures():
    given = [row for row in ALL if row["type"] in ("CLIENT_RESPONSE", "AUTH_RESPONSE") and row["rcode"] == "SERVFAIL"]
    wanted = counted(given, parent, one)
    assert len(wanted) > 2
    clients = {key: len({row["query_address"] for row in given if parent(row) == key}) for key in wanted}
    check.equal([(row["parent"], row["failures"], row["clients"]) for row in answers(6)],
                [(key, n, clients[key]) for key, (n,) in top(wanted)], "failures")


def question_7_random_names():
    given = [row for row in ALL if row["type"] in ("CLIENT_RESPONSE", "AUTH_RESPONSE") and row["rcode"] == "NXDOMAIN"]
    different = {key: (len({row["qname"] for row in given if parent(row) == key}),) for key in map(parent, given)}
    total = counted(given, parent, one)
    found = [(row["parent"], row["different_names"], row["responses"]) for row in answers(7)]
    check.equal(found, [(key, n, total[key][0]) for key, (n,) in top(different)], "random names")
    check.equal(found[0][:2], ("victim.example.", 300), "the attacked zone")


def question_8_transports():
    given = [row for row in ALL if row["type"].split("_")[0] in ("CLIENT", "AUTH")]
    wanted = counted(given, lambda row: (row["qtype"], row["socket_protocol"]),
                     lambda row: int(row["type"].endswith("_QUERY")),
                     lambda row: int(row["type"].endswith("_RESPONSE") and row["tc"]))
    check.equal({(row["qtype"], row["socket_protocol"]): (row["queries"], row["truncated_responses"]) for row in answers(8)},
                {key: values for key, values in wanted.items() if any(values)}, "transports")


def question_9_amplification():
    given = [row for row in ALL if row["type"].split("_")[0] in ("CLIENT", "AUTH") and row["socket_protocol"] == "UDP"]
    wanted = counted(given, lambda row: network(row["query_address"]).replace("::ffff:", ""),
                     lambda row: row["size"] if row["type"].endswith("_QUERY") else 0,
                     lambda row: row["size"] if row["type"].endswith("_RESPONSE") else 0)
    found = answers(9)
    check.equal(found[0]["network"], "192.0.2.0", "the attacked network")
    for row in found:
        check.equal((row["bytes_in"], row["bytes_out"]), wanted[row["network"]], "bytes")


def question_10_other_servers():
    given = [row for row in ALL if row["type"].split("_")[0] in ("RESOLVER", "FORWARDER")]
    wanted = counted(given, lambda row: row["response_address"].replace("::ffff:", ""),
                     lambda row: int(row["type"].endswith("_QUERY")), lambda row: int(row["type"].endswith("_RESPONSE")))
    found = answers(10)
    check.equal({row["server"]: (row["queries"], row["unanswered"]) for row in found},
                {key: (queries, queries - responses) for key, (queries, responses) in wanted.items()}, "other servers")
    assert found[0]["server"] == "192.0.2.12" and found[0]["unanswered"] > 0, found


def each_query_of_the_dashboard_runs():
    dashboard = json.loads((CONTRIB / "grafana-dashboard.json").read_text())
    queries = [target["rawSql"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert len(queries) == 15, len(queries)
    for query in queries:
        found = rows(expanded(query))
        assert found and not any(value is None for row in found for value in row.values()), f"{found[:1]}: {query}"
    # The first panel counts all of the hour.
    check.equal(int(rows(expanded(queries[0]))[0]["messages"]), len(ALL), "messages on the dashboard")


def expanded(query):
    """Does what the data source of Grafana does with its macros, for the whole hour and all servers."""
    start, end = f"toDateTime({FROM})", f"toDateTime({TO})"
    query = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 >= {start} AND \1 <= {end}", query)
    query = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 60 second)", query)
    query = re.sub(r"\$__interval_s\b", "60", query)
    query = query.replace("$__fromTime", start).replace("$__toTime", end)
    query = query.replace("${identity:singlequote}", "'ns1','ns2',''")
    assert "$" not in query, query
    return query


# Through JSON lines


def agent():
    path = os.environ.get("DNSTAP_AGENT")
    if not path:
        raise check.Skip("DNSTAP_AGENT does not name the agent, which writes the JSON lines")
    return path


def lines_of(given):
    path = pathlib.Path(SCRATCH.name) / "given.fstrm"
    path.write_bytes(records.frame_streams(given))
    out = subprocess.run([agent(), "read", "-q", "--format", "json", str(path)], stdout=subprocess.PIPE, check=True)
    out_path = path.with_suffix(".json")
    out_path.write_bytes(out.stdout)
    return out_path


def json_lines_give_the_same_rows():
    path = lines_of(RECORDS)
    before = stored()
    clear()
    run_file("json.sql")
    shape = rows("DESCRIBE TABLE dnstap.lines")
    structure = ", ".join(f"{column['name']} {column['type']}" for column in shape).replace("'", "\\'")
    sql.query(f"INSERT INTO dnstap.lines SELECT * FROM file('{path}', 'JSONEachRow', '{structure}') "
              "SETTINGS date_time_input_format = 'basic'")
    after = stored()
    check.equal(len(after), len(before), "rows")
    # The two ways may differ where the README says so, and nowhere else.
    by_key = lambda given: {(row["time"], row["identity"], row["type"], row["id"], row["size"], row["query_port"],
                             row["query_address"], row["response_address"]): row for row in given}
    wire, text = by_key(before), by_key(after)
    check.equal(len(wire), len(before), "different rows")
    check.equal(sorted(map(str, wire)), sorted(map(str, text)), "keys")
    differ = {}
    for key, row in wire.items():
        for column in COLUMNS:
            if row[column] != text[key][column]:
                differ.setdefault(column, []).append((key[0] % 10**9, row[column], text[key][column]))
    check.equal({column: sorted(values) for column, values in differ.items()},
                {"rcode": [(94, "NOERROR", "BADVERS")], "qname": [(92, "", ".")], "qclass": [(92, "", "IN")],
                 "qtype": [(92, "", "A")]}, "differences")


def mnemonics_are_those_of_the_agent():
    given = [records.dnstap(records.message(type=5, query=records.dns(number, 0, [], number))) for number in range(65536)]
    given += [records.dnstap(records.message(type=5, query=records.dns(number, 0, [], 1, number))) for number in range(65536)]
    given += [records.dnstap(records.message(type=5, query=records.dns(number, number, [], 1))) for number in range(65536)]
    with lines_of(given).open() as lines:
        messages = [json.loads(line)["message"] for line in lines]
    check.equal(len(messages), 3 * 65536, "lines")
    found = rows("SELECT dns_type(number) AS t, dns_class(number) AS c, "
                 "dns_opcode(bitAnd(bitShiftRight(number, 11), 15)) AS o, dns_rcode(bitAnd(number, 15)) AS r "
                 "FROM numbers(65536)")
    check.equal([row["t"] for row in found], [message["qtype"] for message in messages[:65536]], "types")
    check.equal([row["c"] for row in found], [message["qclass"] for message in messages[65536 : 2 * 65536]], "classes")
    check.equal([(row["o"], row["r"]) for row in found],
                [(message["opcode"], message["rcode"]) for message in messages[2 * 65536 :]], "opcodes, response codes")


check.run([
    the_kafka_table_has_settings_that_there_are,
    the_columns_are_fields_of_the_protobuf,
    each_record_becomes_the_right_row,
    the_bytes_are_kept,
    the_minutes_are_right,
    the_response_codes_are_right,
    the_names_are_right,
    the_clients_are_right,
    the_response_times_are_right,
    there_are_ten_questions,
    question_1_load,
    question_2_response_codes,
    question_3_names,
    question_4_clients,
    question_5_response_times,
    question_6_failures,
    question_7_random_names,
    question_8_transports,
    question_9_amplification,
    question_10_other_servers,
    each_query_of_the_dashboard_runs,
    json_lines_give_the_same_rows,
    mnemonics_are_those_of_the_agent,
    a_record_without_time_has_that_of_the_broker,
    an_unreadable_record_stops_nothing,
    records_of_another_program_are_read,
])
