"""Checks the configurations for Vector: their options against a list, their programs in Vector's own language.

No registry has Vector itself. So its checker does not run here. The programs (VRL) are compiled and run by the library
of Vector, on records and lines of the agent. The options are compared with the lists below, from Vector's reference.
"""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

sys.path.insert(0, os.path.dirname(__file__))
import check
import dnstap_records as records
from vrl_python import VRLRuntime

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / "contrib" / name for name in
           ["vector/dnstap-to-kafka.toml", "vector/json-to-clickhouse.toml", "loki/vector.toml"]]

TLS = {"enabled": bool, "ca_file": str, "crt_file": str, "key_file": str, "key_pass": str, "verify_certificate": bool,
       "verify_hostname": bool}
SINK = {"type": str, "inputs": list, "acknowledgements": {"enabled": bool},
        "buffer": {"type": {"disk", "memory"}, "max_size": int, "max_events": int, "when_full": {"block", "drop_newest"}}}
BATCH = {"max_bytes": int, "max_events": int, "timeout_secs": (int, float)}
CODECS = {"avro", "cef", "csv", "gelf", "json", "logfmt", "native", "native_json", "otlp", "protobuf", "raw_message", "text"}
ENCODING = {"codec": CODECS, "only_fields": list, "except_fields": list}
# Options that the configurations may use, with what each takes; a set has the words that it takes, "*" is any name.
OPTIONS = {
    ("sources", "dnstap"): {"type": str, "mode": {"tcp", "unix"}, "address": str, "socket_path": str,
                            "socket_file_mode": int, "raw_data_only": bool, "max_frame_length": int, "tls": TLS,
                            "multithreaded": bool, "max_frame_handling_tasks": int, "lowercase_hostnames": bool},
    ("sources", "file"): {"type": str, "include": list, "exclude": list, "max_line_bytes": int, "read_from": str,
                          "fingerprint": {"strategy": {"checksum", "device_and_inode"}}},
    ("transforms", "remap"): {"type": str, "inputs": list, "source": str, "drop_on_error": bool, "drop_on_abort": bool},
    ("sinks", "kafka"): {**SINK, "bootstrap_servers": str, "topic": str, "key_field": str, "headers_key": str,
                         "compression": {"gzip", "lz4", "none", "snappy", "zstd"}, "encoding": ENCODING, "tls": TLS,
                         "librdkafka_options": {"*": str}, "batch": BATCH, "message_timeout_ms": int},
    ("sinks", "clickhouse"): {**SINK, "endpoint": str, "database": str, "table": str, "skip_unknown_fields": bool,
                              "compression": {"gzip", "none", "snappy", "zlib", "zstd"}, "batch": BATCH, "tls": TLS,
                              "auth": {"strategy": {"basic", "bearer", "aws"}, "user": str, "password": str}},
    ("sinks", "loki"): {**SINK, "endpoint": str, "encoding": ENCODING, "labels": {"*": str}, "batch": BATCH, "tls": TLS,
                        "structured_metadata": {"*": str}, "out_of_order_action": {"accept", "drop", "rewrite_timestamp"},
                        "compression": {"gzip", "none", "snappy", "zlib", "zstd"}},
}
REQUIRED = {
    ("sources", "dnstap"): {"mode"}, ("sources", "file"): {"include"}, ("transforms", "remap"): {"inputs", "source"},
    ("sinks", "kafka"): {"inputs", "bootstrap_servers", "topic", "encoding"},
    ("sinks", "clickhouse"): {"inputs", "endpoint", "table"}, ("sinks", "loki"): {"inputs", "endpoint", "encoding", "labels"},
}


def conforms(value, shape, path):
    if isinstance(shape, dict):
        assert isinstance(value, dict), f"{path} is not a table"
        for name, inner in value.items():
            assert name in shape or "*" in shape, f"{path}.{name} is not an option"
            conforms(inner, shape.get(name, shape.get("*")), f"{path}.{name}")
    elif isinstance(shape, set):
        assert value in shape, f"{path} = {value!r}"
    else:
        assert isinstance(value, shape) and (shape is bool or not isinstance(value, bool)), f"{path} = {value!r}"


def read(path):
    return tomllib.loads(path.read_text())


def judge(config):
    """Fails if a configuration has an option, a type or an input that there is not."""
    assert set(config) <= {"data_dir", "sources", "transforms", "sinks"}, set(config)
    names = {name for kind in ("sources", "transforms") for name in config.get(kind, {})}
    for kind in ("sources", "transforms", "sinks"):
        for name, component in config.get(kind, {}).items():
            key = (kind, component["type"])
            conforms(component, OPTIONS[key], f"{kind}.{name}")
            missing = REQUIRED[key] - set(component)
            assert not missing, f"{kind}.{name} lacks {missing}"
            for one in component.get("inputs", []):
                assert one in names, f"{kind}.{name} reads {one}, which there is not"
    read_by = {one for kind in ("transforms", "sinks") for part in config.get(kind, {}).values() for one in part["inputs"]}
    assert names == read_by, f"nothing reads {names - read_by}"
    for component in config["sinks"].values():
        for template in {**component.get("labels", {}), **component.get("structured_metadata", {})}.values():
            for field in re.findall(r"{{ *(\w+) *}}", template):
                sources = " ".join(part["source"] for part in config["transforms"].values())
                assert f".{field} =" in sources, f"nothing sets {field}"


def the_options_are_those_of_vector():
    for path in CONFIGS:
        judge(read(path))
    wrong = read(CONFIGS[0])
    wrong["sinks"]["kafka"]["compresion"] = "zstd"
    try:
        judge(wrong)
    except AssertionError as why:
        assert "compresion" in str(why), why
    else:
        raise AssertionError("a wrong option is accepted")


def program(path):
    (transform,) = read(path)["transforms"].values()
    return transform["source"]


def event(source, given):
    return VRLRuntime().execute(source, given).processed_event


def the_programs_compile():
    for path in CONFIGS:
        wrong = VRLRuntime.check_syntax(program(path))
        assert wrong is None, f"{path.name}: {wrong}"
    assert VRLRuntime.check_syntax("no_such_function!(.message)") is not None


def kafka_gets_the_same_bytes():
    body = records.message(type=5, query=records.dns(0xFFFE, 0x0100, [b"\xff\0", b"example"], 1))
    for record in [records.dnstap(body, b"ns1"), bytes(range(256))]:
        given = {"rawData": base64.b64encode(record).decode(), "host": "h", "source_type": "dnstap"}
        found = event(program(CONFIGS[0]) + "\n.message = encode_base64(string!(.message))\n", given)
        check.equal(base64.b64decode(found["message"]), record, "record")
        assert found["key"] and "rawData" not in found, found


def lines():
    agent = os.environ.get("DNSTAP_AGENT")
    if not agent:
        raise check.Skip("DNSTAP_AGENT does not name the agent, which writes the JSON lines")
    given = []
    for number, flags in enumerate([0x0100, 0x8180, 0x8182, 0x8183, 0x8185]):
        body = records.message(type=6 if flags & 0x8000 else 5, query_address=b"\xc0\0\2\1", query_sec=1_790_000_000,
                               response_sec=1_790_000_001 if flags & 0x8000 else None, query_port=number + 1,
                               **{"response" if flags & 0x8000 else "query": records.dns(7, flags, [b"Www", b"org"], 1)})
        given.append(records.dnstap(body, b"ns1"))
    given.append(records.dnstap(records.message(type=6, response=b"short"), b"ns1"))
    given.append(records.dnstap(records.message(type=2, response=records.dns(7, 0x8005, [], 1))))
    with tempfile.TemporaryDirectory(prefix="dnstap-vector-") as folder:
        path = pathlib.Path(folder) / "given.fstrm"
        path.write_bytes(records.frame_streams(given))
        return subprocess.run([agent, "read", "-q", "--format", "json", path], stdout=subprocess.PIPE, check=True,
                              text=True).stdout.splitlines()


def clickhouse_gets_the_members_of_its_table():
    for line in lines():
        parsed = json.loads(line)
        wanted = {key: value for key, value in parsed.items() if key != "message"}
        message = {key: value for key, value in parsed["message"].items()
                   if key in ("id", "opcode", "rcode", "flags", "qname", "qclass", "qtype", "counts")}
        if message:
            wanted["message"] = message
        check.equal(event(program(CONFIGS[1]), {"message": line, "file": "f", "host": "h"}), wanted, "row")


def loki_gets_the_failures():
    found = []
    for line in lines():
        try:
            done = event(program(CONFIGS[2]), {"message": line})
        except Exception as why:
            assert "abort" in str(why).lower(), why
            continue
        check.equal(done["message"], line, "line")
        found.append((done["identity"], done["type"], done["rcode"], done["qname"], done["client"], str(done["timestamp"])))
    check.equal([entry[:5] for entry in found],
                [("ns1", "CLIENT_RESPONSE", "SERVFAIL", "www.org.", "192.0.2.1"),
                 ("ns1", "CLIENT_RESPONSE", "REFUSED", "www.org.", "192.0.2.1"),
                 ("", "AUTH_RESPONSE", "REFUSED", ".", "")], "failures")
    assert found[0][5].startswith("2026-09-21 ") or found[0][5].startswith("2026-09-21T"), found[0]


check.run([
    the_options_are_those_of_vector,
    the_programs_compile,
    kafka_gets_the_same_bytes,
    clickhouse_gets_the_members_of_its_table,
    loki_gets_the_failures,
])
