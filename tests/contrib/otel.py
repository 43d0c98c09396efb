"""Runs the OpenTelemetry Collector with contrib/otel and contrib/loki, and compares what it sends with the lines.

OTELCOL names the collector, DNSTAP_AGENT the agent, which writes the lines. Both endpoints are on loopback.
"""

import calendar
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import check
import dnstap_records as records

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = tempfile.TemporaryDirectory(prefix="dnstap-otel-")
SECOND = 1_790_000_000


def tool(name):
    path = os.environ.get(name)
    if not path:
        raise check.Skip(f"{name} names no program")
    return path


def lines():
    """Returns lines of the agent: answers of all kinds, odd names, and messages that lack things."""
    given = []
    for number in range(2000):
        labels = [b"n%d" % number, b"Ex\xe4mple", b"org"]
        flags = 0x8180 | (0, 0, 0, 3, 2, 5)[number % 6]
        fields = dict(type=6, protocol=1, query_address=bytes([198, 51, 100, number % 256]), query_port=1024 + number,
                      response_address=bytes([192, 0, 2, 53]), response_port=53, query_sec=SECOND, query_nsec=number,
                      response_sec=SECOND + 1, response_nsec=number, response=records.dns(number, flags, labels, 28))
        given.append(records.dnstap(records.message(**fields), b"ns%d" % (number % 3)))
        given.append(records.dnstap(records.message(type=5, query_sec=SECOND, query=records.dns(number, 0, labels, 1))))
    given.append(records.dnstap(records.message(type=6, response_sec=SECOND, response=b"short"), b"ns1"))
    given.append(records.dnstap(records.message(type=2, response=records.dns(7, 0x8005, [], 1))))
    path = pathlib.Path(SCRATCH.name) / "given.fstrm"
    path.write_bytes(records.frame_streams(given))
    out = subprocess.run([tool("DNSTAP_AGENT"), "read", "-q", "--format", "json", str(path)], stdout=subprocess.PIPE,
                         check=True)
    return out.stdout.splitlines(keepends=True)


class Backend(http.server.ThreadingHTTPServer):
    """Takes OTLP in JSON and keeps the records."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.taken, self.changed = [], threading.Condition()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait(self, count):
        """Waits until this many records have come, a minute at most."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.taken) >= count, timeout=60):
                raise AssertionError(f"{len(self.taken)} of {count} records came")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = []
        for resource in body["resourceLogs"]:
            of = values(resource["resource"].get("attributes", []))
            for scope in resource["scopeLogs"]:
                for entry in scope["logRecords"]:
                    found.append((of, int(entry.get("timeUnixNano", 0)), values(entry.get("attributes", [])),
                                  entry["body"]["stringValue"]))
        with self.server.changed:
            self.server.taken += found
            self.server.changed.notify_all()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_arguments):
        pass


def values(attributes):
    out = {}
    for attribute in attributes:
        ((kind, value),) = attribute["value"].items()
        out[attribute["key"]] = int(value) if kind == "intValue" else int(value) if kind == "doubleValue" else value
    return out


class Collector:
    """The collector with a configuration, and its folder of places in files."""

    def __init__(self, config, name, path):
        self.backend = Backend()
        folder = pathlib.Path(SCRATCH.name) / name
        folder.mkdir()
        overlay = folder / "overlay.yaml"
        overlay.write_text("exporters: {otlphttp: {encoding: json, compression: none}}\n")
        self.command = [tool("OTELCOL"), "--config", str(config), "--config", str(overlay)]
        self.environment = dict(os.environ, DNSTAP_JSON=str(path), OTEL_STORAGE=str(folder / "storage"),
                                OTLP_ENDPOINT=f"http://127.0.0.1:{self.backend.server_address[1]}")
        self.log = folder / "log"

    def __enter__(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        return self

    def __exit__(self, *_why):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def wanted_of(line):
    """Returns what a line must become, from the configuration's own words."""
    parsed = json.loads(line)
    message = parsed.get("message", {})
    pairs = {
        "dns.question.name": message.get("qname"), "dns.question.type": message.get("qtype"),
        "dns.response_code": message.get("rcode"), "client.address": parsed.get("query_address"),
        "client.port": parsed.get("query_port"), "server.address": parsed.get("response_address"),
        "dnstap.type": parsed["type"], "dnstap.latency_ns": parsed.get("latency_ns"),
    }
    of = {"service.name": "dnstap"}
    if "identity" in parsed:
        of["service.instance.id"] = parsed["identity"]
    nanoseconds = 0
    if "time" in parsed:
        seconds, fraction = parsed["time"].rstrip("Z").split(".")
        nanoseconds = calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction)
    got = {key: value for key, value in pairs.items() if value is not None}
    return (of, nanoseconds, {"log.file.name": "dns.json", **got}, line.decode().rstrip("\n"))


def keyed(given):
    return sorted(json.dumps(entry, sort_keys=True) for entry in given)


def is_failure(line):
    parsed = json.loads(line)
    code = parsed.get("message", {}).get("rcode")
    return parsed["type"].endswith("_RESPONSE") and code not in (None, "NOERROR", "NXDOMAIN")


def ships(config, name, chosen):
    """Feeds lines, restarts the collector in the middle, and compares everything that came."""
    given = lines()
    path = pathlib.Path(SCRATCH.name) / name / "dns.json"
    collector = Collector(config, name, path)
    half = len(given) // 2
    wanted = [wanted_of(line) for line in given if chosen(line)]
    path.write_bytes(b"".join(given[:half]))
    with collector:
        collector.backend.wait(sum(map(chosen, given[:half])))
    with path.open("ab") as file:
        file.write(b"".join(given[half:]))
    with collector:
        collector.backend.wait(len(wanted))
    check.equal(keyed(collector.backend.taken), keyed(wanted), "records")


def the_configurations_are_valid():
    for name in ["otel", "loki"]:
        done = subprocess.run([tool("OTELCOL"), "validate", "--config", str(ROOT / "contrib" / name / "otelcol.yaml")],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    # The checker does check: an option that does not exist is refused.
    text = (ROOT / "contrib" / "otel" / "otelcol.yaml").read_text().replace("sending_queue", "sending_kew")
    path = pathlib.Path(SCRATCH.name) / "wrong.yaml"
    path.write_text(text)
    done = subprocess.run([tool("OTELCOL"), "validate", "--config", str(path)], capture_output=True, text=True)
    assert done.returncode != 0 and "sending_kew" in done.stderr, done


def all_lines_arrive_once():
    ships(ROOT / "contrib" / "otel" / "otelcol.yaml", "all", lambda _line: True)


def loki_gets_the_failures():
    ships(ROOT / "contrib" / "loki" / "otelcol.yaml", "failures", is_failure)


check.run([the_configurations_are_valid, all_lines_arrive_once, loki_gets_the_failures])
