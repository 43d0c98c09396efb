"""Reads our Parquet with pyarrow, DuckDB and ClickHouse (chdb), and compares every column with our JSON of the same messages.

The rows that must come out are made here from the JSON lines, with a join and tables of numbers of their own. Needs
DNSTAP_AGENT.
"""

import calendar
import collections
import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
import check
import dnstap_records as records
import duckdb
import pyarrow
import pyarrow.parquet
from chdb import session

AGENT = os.environ.get("DNSTAP_AGENT")
SCRATCH = tempfile.TemporaryDirectory(prefix="dnstap-parquet-")
FOLDER = pathlib.Path(SCRATCH.name)
RCODES = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "REFUSED": 5, "BADVERS": 16}
QTYPES = {"A": 1, "NS": 2, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28, "AXFR": 252, "ANY": 255, "TYPE65280": 65280}
CLASSES = {"IN": 1, "CH": 3, "CLASS42": 42}
OPCODES = {"QUERY": 0, "NOTIFY": 4, "UPDATE": 5, "OPCODE15": 15}
TCP = {"TCP", "DOT", "DOH", "DNSCryptTCP"}
AT = 1_795_479_330


def packed(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


class Made:
    def __init__(self):
        self.messages = []

    def add(self, kind, wire, asked=None, answered=None, client="192.0.2.1", server="192.0.2.53", ports=(40000, 53),
            protocol=1, identity=b"ns1", zone=None, more=b"", other=None):
        """Adds a message; times are in nanoseconds since AT."""
        fields = dict(type=kind, family=2 if ":" in client else 1, protocol=protocol, query_address=packed(client),
                      response_address=packed(server), query_port=ports[0], response_port=ports[1])
        for side, at in (("query", asked), ("response", answered)):
            if at is not None:
                fields[f"{side}_sec"], fields[f"{side}_nsec"] = divmod(AT * 10**9 + at, 10**9)
        sides = ["query", "response"] if kind % 2 else ["response", "query"]
        fields[sides[0]], fields[sides[1]] = wire, other
        fields["zone"] = zone
        self.messages.append(records.dnstap(records.message(**fields) + more, identity, b"test 1"))

    def write(self, path):
        framed = b"".join(struct.pack(">I", len(one)) + one for one in self.messages)
        path.write_bytes(records.START + framed + records.STOP)


def option(code, data):
    return struct.pack(">HH", code, len(data)) + data


def opt(options=b"", size=1232, ttl=0x8000):
    return b"\0" + struct.pack(">HHIH", 41, size, ttl, len(options)) + options


def traffic():
    made, pick = Made(), random.Random(7)
    zones = [[b"example", b"com"], [b"example", b"net"], [b"Example", b"ORG"]]
    for number in range(4000):
        labels = [b"host%d" % min(int(pick.paretovariate(0.5)), 500)] + pick.choice(zones)
        at, took = number * 1_000_003, pick.randrange(1, 80_000_000)
        ident, port = pick.getrandbits(16), pick.randrange(1024, 65536)
        edns = pick.choice([b"", opt(), opt(option(10, b"c" * 8)), opt(option(8, b"\0\1\x18\0\xc6\x33\x64") + option(12, b"\0\0"))])
        qtype, rcode = pick.choice([1, 28, 15]), pick.choice([0, 0, 0, 3, 2])
        client = pick.choice(["192.0.2.%d" % pick.randrange(1, 200), "2001:db8::%x" % pick.randrange(1, 200)])
        words = dict(client=client, server="2001:db8::53" if ":" in client else "192.0.2.53", ports=(port, 53),
                     protocol=pick.choice([1, 1, 1, 2, 3, 4]), identity=pick.choice([b"ns1", b"ns2"]))
        count = (1, 0, 0, 1 if edns else 0)
        query = records.dns(ident, 0x0100, labels, qtype, counts=count, rest=edns)
        made.add(5, query, asked=at, **words)
        if pick.random() < 0.95:
            flags = 0x8180 | rcode | pick.choice([0, 0x0400, 0x0200, 0x0030])
            errors = opt(option(15, b"\0\x12no") + option(15, b"\0\6")) if edns and rcode == 2 else edns and opt()
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1" if rcode == 0 else b""
            reply = records.dns(ident, flags, labels, qtype, counts=(1, 1 if answer else 0, 0, 1 if errors else 0),
                                rest=answer + errors)
            made.add(6, reply, asked=pick.choice([None, at]), answered=at + took, **words)
    return made


def oddities():
    made = Made()
    dns = records.dns
    www = [b"www", b"example", b"com"]
    made.add(6, dns(1, 0x8180, www, 1), answered=5)  # without a query
    made.add(6, dns(2, 0x8180, www, 1), answered=9)  # before its query
    made.add(5, dns(2, 0x0110, www, 1), asked=8)
    for at in (20, 21):  # the same query twice
        made.add(5, dns(3, 0x0100, www, 1), asked=at)
    for at in (22, 23):
        made.add(6, dns(3, 0x8180, www, 1), answered=at)
    made.add(5, dns(4, 0x0100, [b"WwW", b"eXample", b"cOm"], 28), asked=30)
    made.add(6, dns(4, 0x8180, [b"www", b"example", b"com"], 28), answered=31)
    made.add(5, dns(5, 0x0100, [b"a.b\\", b"c\x07\xff d", b"example", b"com"], 16), asked=40)
    made.add(5, dns(6, 0x0100, [], 2), asked=41)
    made.add(5, dns(7, 0x0100, [b"com"], 2, 42), asked=42)
    made.add(5, dns(7, 0x0100, [b"version", b"bind"], 16, 3), asked=43)
    made.add(5, dns(8, 0x0100, [b"www", b"example", b"co", b"uk"], 65280), asked=44)
    made.add(5, dns(9, 0x0100, www, 252), asked=50, protocol=2)
    for at in (51, 52, 53):  # a transfer has many responses
        made.add(6, dns(9, 0x8180, www, 252), answered=at, protocol=2)
    made.add(5, dns(10, 0x0100, www, 1), asked=60, client="192.0.2.9")
    made.add(6, struct.pack(">HHHHHH", 10, 0x8005, 0, 0, 0, 0), answered=61, client="192.0.2.9")  # terse
    made.add(5, b"\0\1\2", asked=70)  # no header
    made.add(5, dns(11, 0x0100, www, 1)[:20], asked=71)  # cut within the question
    made.add(1, dns(12, 0x2400, [b"example", b"com"], 6), asked=80)
    made.add(13, dns(13, 0x2800, [b"example", b"com"], 6), asked=81)
    made.add(14, dns(13, 0xA800, [b"example", b"com"], 6), answered=82)
    made.add(3, dns(14, 0, www, 1), asked=90, zone=records.name([b"example", b"com"]))
    made.add(4, dns(14, 0x8000, www, 1), answered=95, zone=records.name([b"example", b"com"]))
    made.add(7, dns(15, 0x7800, www, 1), asked=96)
    made.add(6, dns(16, 0x8000, www, 1, counts=(1, 0, 0, 1), rest=opt(ttl=0x01000000)), answered=97)
    policy = b"".join([records.field(1, b"RPZ"), records.field(2, b"rule\\\xff"), records.field(3, 1),
                       records.field(4, 77), records.field(5, b"value")])
    made.add(6, dns(17, 0x8183, www, 1), answered=98, more=records.field(15, policy) + b"\x80\1\2", protocol=4)
    made.add(6, dns(18, 0x8180, www, 1), answered=99, other=dns(18, 0x0100, www, 1, counts=(1, 0, 0, 1), rest=opt()))
    made.add(5, dns(19, 0x0100, www, 1), identity=None)  # without a time
    made.add(5, dns(20, 0x0100, www, 1), asked=101, protocol=42, identity=b"not \xff text")
    return made


# What must come out, by the JSON lines


def nanoseconds(text):
    """Reads RFC 3339 with nine digits, in UTC."""
    if text is None:
        return None
    whole, _, rest = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(rest.ljust(9, "0"))


def joined(path):
    """Returns exchanges as pairs of JSON objects: (query, response)."""
    shown = subprocess.run([AGENT, "read", "--format", "json", path], capture_output=True, check=True)
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    waiting, pairs = collections.defaultdict(list), []
    for line in lines:
        family, side = line["type"].rsplit("_", 1)
        peer = "response" if family in ("RESOLVER", "FORWARDER") else "query"
        dns = line["message"]
        key = (family, line.get("socket_protocol"), line.get(peer + "_address"), line.get(peer + "_port"), dns.get("id"))
        asked = tuple((dns.get(name) or "").lower() for name in ("qname", "qtype", "qclass"))
        others = [one for one in waiting[key] if one[1] != side and (not asked[0] or not one[2][0] or one[2] == asked)]
        same = [one for one in others if line.get("query_time") == one[0].get("query_time") is not None]
        if others:
            partner = (same or others)[0]
            waiting[key].remove(partner)
            pairs.append((partner[0], line) if side == "RESPONSE" else (line, partner[0]))
        else:
            waiting[key].append((line, side, asked))
    alone = [one for left in waiting.values() for one in left]
    return pairs + [(line, None) if side == "QUERY" else (None, line) for line, side, _ in alone]


def labels_of(name):
    """Splits a name as zone files write it."""
    labels, label, escaped = [], "", False
    for letter in name:
        if letter == "." and not escaped:
            labels.append(label)
            label = ""
        else:
            label += letter
        escaped = letter == "\\" and not escaped
    return labels + [label] if label else labels


def row(query, response):
    """Returns the row of an exchange: names of columns and values."""
    of = lambda name: next((one[name] for one in (query, response) if one and name in one), None)
    inner = lambda line, side: (line or {}).get("message") if (line or {}).get("type", "").endswith(side) else None
    asked = inner(query, "_QUERY") or (response or {}).get("query_message") or {}
    answered = inner(response, "_RESPONSE") or {}
    first = asked if "id" in asked else answered
    named = asked if "qname" in asked and "qtype" in asked else answered
    sent = named.get("qname") if "qtype" in named else None
    exact = sent if sent in (None, ".") else sent[:-1]
    name = exact and exact.lower()
    labels = labels_of(name) if name and name != "." else []
    query_time, response_time = nanoseconds(of("query_time")), nanoseconds((response or {}).get("response_time"))
    latency = response_time - query_time if query_time is not None and response_time is not None else None
    flag = lambda dns, name: dns["flags"][name] if "flags" in dns else None
    count = lambda dns, name: dns["counts"][name] if "counts" in dns else None
    edns, errors = asked.get("edns") or {}, (answered.get("edns") or {}).get("options", [])
    options = edns.get("options", [])
    policy = of("policy") or {}
    protocol = of("socket_protocol")
    two = {("uk",): 3}.get(tuple(labels[-1:]), 2)
    sized = lambda line: line and line["size"]
    return {
        "time": query_time if query_time is not None else response_time,
        "latency_ns": latency,
        "dns_proc_time": latency and int(latency / 10**6) if latency is not None else None,
        "server": of("identity"), "version": of("version"), "dnstap_type": of("type").rsplit("_", 1)[0],
        "ip_version": {"INET": 4, "INET6": 6}[of("socket_family")],
        "prot": None if protocol == "PROTOCOL42" else 6 if protocol in TCP else 17, "socket_protocol": protocol,
        "http_protocol": of("http_protocol"),
        "ip_src": of("query_address"), "prot_src_port": of("query_port"), "ip_dst": of("response_address"),
        "prot_dst_port": of("response_port"), "dns_id": first.get("id"),
        "dns_qname_reversed": name if not labels else ".".join(reversed(labels)), "dns_qname": name,
        "dns_qname_full": exact if exact != name else None,
        "dns_domainname": ".".join(labels[-two:]) if len(labels) >= two else None,
        "dns_tld": labels[-1] if labels else None, "dns_labels": None if name is None else len(labels),
        "dns_qtype": QTYPES[named["qtype"]] if name else None, "dns_qclass": CLASSES[named["qclass"]] if name else None,
        "dns_opcode": OPCODES[first["opcode"]] if "opcode" in first else None,
        "dns_rcode": RCODES[answered["rcode"]] if "rcode" in answered else None,
        **{f"dns_{flags}": flag(answered, flags) for flags in ("aa", "tc", "ra", "ad")},
        **{f"dns_{flags}": flag(first, flags) for flags in ("rd", "cd")},
        "dns_qdcount": count(answered if "counts" in answered else first, "qd"), "dns_ancount": count(answered, "an"),
        "dns_nscount": count(answered, "ns"), "dns_arcount": count(answered, "ar"),
        "dns_req_len": sized(query) if query else LENGTHS.get("other") if "query_message" in (response or {}) else None,
        "dns_res_len": sized(response),
        "edns_udp": edns.get("udp_size"), "edns_version": edns.get("version"), "edns_do": edns.get("do"),
        "edns_options": [one["code"] for one in options] or None,
        "edns_ecs": next((one["subnet"] for one in options if one["code"] == 8), None),
        "edns_ext_error": [one["info_code"] for one in errors if one["code"] == 15] or None,
        "query_zone": of("query_zone"),
        **{f"policy_{part}": policy.get(part) for part in ("type", "action", "match", "rule", "value")},
    }


# JSON does not say how long the query is that a response has with it.
LENGTHS = {"other": len(records.dns(18, 0x0100, [b"www", b"example", b"com"], 1, rest=opt()))}


def order(rows):
    return sorted((json.dumps(one, sort_keys=True) for one in rows))


# What the readers see


def by_pyarrow(path):
    table = pyarrow.parquet.read_table(path)
    place = table.schema.get_field_index("time")
    table = table.set_column(place, "time", table.column("time").cast(pyarrow.int64()))
    return table.to_pylist()


def by_duckdb(path):
    # A list that is null is null here, too.
    found = duckdb.sql(f"SELECT * REPLACE (epoch_ns(time) AS time) FROM '{path}'")
    return [dict(zip(found.columns, values)) for values in found.fetchall()]


def by_clickhouse(path):
    answer = session.Session().query(
        f"SELECT * REPLACE (toUnixTimestamp64Nano(time) AS time) FROM file('{path}', Parquet) "
        "SETTINGS output_format_json_quote_64bit_integers = 0", "JSONEachRow").bytes()
    rows = [json.loads(line) for line in answer.decode().splitlines()]
    # Arrays of ClickHouse cannot be null.
    return [{**one, **{name: one[name] or None for name in ("edns_options", "edns_ext_error")}} for one in rows]


def converted(made, name):
    source, path = FOLDER / f"{name}.fstrm", FOLDER / f"{name}.parquet"
    made.write(source)
    with path.open("wb") as out:
        subprocess.run([AGENT, "read", "--format", "parquet", source], stdout=out, check=True)
    return source, path


def compare(made, name):
    source, path = converted(made, name)
    wanted = order(row(*pair) for pair in joined(source))
    for reader in (by_pyarrow, by_duckdb, by_clickhouse):
        found = order(reader(path))
        for one, other in zip(found, wanted):
            if one != other:
                check.equal(json.loads(one), json.loads(other), f"{reader.__name__} of {name}")
        check.equal(len(found), len(wanted), f"{reader.__name__}: rows of {name}")
    return wanted


def every_column_is_that_of_the_json_lines_for_all_readers():
    assert len(compare(traffic(), "traffic")) == 4000


def odd_messages_are_that_of_the_json_lines_for_all_readers():
    compare(oddities(), "odd")


def rows_are_sorted_compressed_and_have_a_filter_of_names():
    _, path = converted(traffic(), "metadata")
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    names = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    assert metadata.num_row_groups >= 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        sorting = [(names[by.column_index], by.descending, by.nulls_first) for by in group.sorting_columns]
        check.equal(sorting, [("dns_qname_reversed", False, True), ("time", False, True)], "sorting columns")
        columns = {names[at]: group.column(at) for at in range(metadata.num_columns)}
        check.equal({column.compression for column in columns.values()}, {"ZSTD"}, "compression")
        assert columns["dns_qname"].bloom_filter_offset and columns["dns_qname"].bloom_filter_length
        assert "RLE_DICTIONARY" in columns["dns_qname"].encodings
        rows = pyarrow.parquet.ParquetFile(path).read_row_group(index)
        keys = list(zip((name.encode() for name in rows["dns_qname_reversed"].to_pylist()),
                        rows["time"].cast(pyarrow.int64()).to_pylist()))
        assert keys == sorted(keys)
    # The filter says which row groups cannot have a name.
    probe = lambda name: duckdb.sql(
        f"SELECT bool_and(bloom_filter_excludes) FROM parquet_bloom_probe('{path}', 'dns_qname', '{name}')").fetchall()[0][0]
    assert probe("no-such-name.example.com") and not probe("host1.example.com")


class Receiver:
    """`receive` with a Parquet output, and a connection to it."""

    def __init__(self, folder, options):
        self.address = folder / "socket"
        self.address.unlink(missing_ok=True)
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            [AGENT, "receive", "--listen", f"unix:{self.address}", "-o", f"parquet:{folder}/q-%Y.parquet,{options}",
             "--status-socket", "none"],
            stderr=self.log)
        deadline = time.monotonic() + 60
        while not self.address.exists():
            assert time.monotonic() < deadline and self.process.poll() is None, "it does not listen"
            time.sleep(0.01)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(self.address))
        kind = struct.pack(">II", 1, 22) + b"protobuf:dnstap.Dnstap"
        control = lambda number: struct.pack(">III", 0, 4 + len(kind), number) + kind
        self.socket.sendall(control(4))
        self.socket.recv(4096)
        self.socket.sendall(control(2))

    def send(self, messages):
        self.socket.sendall(b"".join(struct.pack(">I", len(one)) + one for one in messages))

    def end(self, number):
        if number == signal.SIGTERM:
            self.socket.sendall(records.STOP)
            self.socket.recv(4096)
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        self.socket.close()
        self.log.close()
        return self.process.returncode


def rows_in(folder, pattern="*.parquet"):
    return sum(pyarrow.parquet.ParquetFile(path).metadata.num_rows for path in folder.glob(pattern))


def only_complete_files_have_their_name_when_the_agent_is_killed():
    folder = FOLDER / "killed"
    folder.mkdir()
    pairs = [one for one in traffic().messages]
    receiver = Receiver(folder, "write=1s,unanswered=1s,rotate-size=30K")
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.parquet"))) < 3:
        assert time.monotonic() < deadline, list(folder.iterdir())
        receiver.send(pairs)
        time.sleep(0.2)
    part = list(folder.glob("*.part"))
    check.equal(len(part), 1, "files that are written")
    receiver.end(signal.SIGKILL)
    complete = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    assert rows_in(folder) > 0
    check.equal(len(list(folder.glob("*.part"))), 1, "parts after the kill")
    # The next run completes it, or keeps it aside, and says so. It changes none of the others.
    receiver = Receiver(folder, "rotate-size=30K")
    receiver.send(pairs[:100])
    check.equal(receiver.end(signal.SIGTERM), 0, "exit code")
    check.equal(list(folder.glob("*.part")), [], "parts at the end")
    for name, content in complete.items():
        assert (folder / name).read_bytes() == content, name
    assert "an earlier run was killed" in (folder / "log").read_text(errors="replace")
    names = [path.name for path in folder.iterdir()]
    check.equal(len(names), len(set(names) | set(complete)), "files")
    assert rows_in(folder) > 0


if not AGENT:
    def the_agent_is_named():
        raise check.Skip("DNSTAP_AGENT names no agent")

    check.run([the_agent_is_named])
check.run([
    every_column_is_that_of_the_json_lines_for_all_readers,
    odd_messages_are_that_of_the_json_lines_for_all_readers,
    rows_are_sorted_compressed_and_have_a_filter_of_names,
    only_complete_files_have_their_name_when_the_agent_is_killed,
])
