"""The agent that is tested, the dnstap that it is fed with, and the consumer that reads what it has sent."""

import collections
import json
import logging
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "contrib"))
import dnstap_records as records
from broker import until

AGENT = os.environ["DNSTAP_AGENT"]
READY = struct.pack(">IIIII", 0, 34, 4, 1, 22) + b"protobuf:dnstap.Dnstap"
FINISH = struct.pack(">III", 0, 4, 5)
FIRST = 1_700_000_000


def messages(count, identities=5, first=0, since=FIRST):
    """Returns different messages: each has its number in the question's name and in its time."""
    made = []
    for number in range(first, first + count):
        query = records.dns(number & 0xFFFF, 0x0100, [b"n%d" % number, b"example", b"com"], 1)
        body = records.message(type=5, family=1, protocol=1, query_address=bytes([192, 0, 2, number % 250]),
                               response_address=bytes([198, 51, 100, 1]), query_port=1024 + number % 60000,
                               response_port=53, query_sec=since + number // 1000,
                               query_nsec=number % 1000 * 1_000_000, query=query)
        made.append(records.dnstap(body, b"ns%d" % (number % identities)))
    return made


class Sender:
    """Sends dnstap to the agent's unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        until(lambda: self._connects(path), "the agent listens")
        self.socket.sendall(READY)
        assert self.socket.recv(1000)[4:], "no ACCEPT"
        self.socket.sendall(records.START)

    def _connects(self, path):
        try:
            self.socket.connect(str(path))
            return True
        except OSError:
            return False

    def send(self, payloads):
        """Blocks while the agent takes no more."""
        self.socket.sendall(b"".join(struct.pack(">I", len(one)) + one for one in payloads))

    def finish(self):
        self.socket.sendall(records.STOP)
        self.socket.recv(1000)
        self.socket.close()


class Agent:
    """`dnstap-agent receive` with one output."""

    def __init__(self, folder, output, *arguments, listen=None, name="agent"):
        self.folder, self.name = folder, name
        self.path = folder / f"{name}.sock"
        self.control = folder / f"{name}.ctl"
        self.summary_path = folder / f"{name}.json"
        self.log = folder / f"{name}.log"
        listen = listen or f"unix:{self.path}"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [AGENT, "receive", "--listen", listen, "-o", output, "--summary-json", str(self.summary_path),
                 "--status-socket", str(self.control), *arguments], stdout=log, stderr=log)

    def status(self):
        """Returns the account of the output, or None if the agent does not answer yet."""
        command = [AGENT, "status", "--socket", str(self.control), "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 1) or not done.stdout:
            return None
        return json.loads(done.stdout)["outputs"][0]

    def wait(self, condition, what, seconds=60):
        """Waits until the account of the output fulfils the condition, and returns it."""
        def fulfilled():
            now = self.status()
            return now if now and condition(now) else None

        return until(fulfilled, what, seconds)

    def end(self, how=signal.SIGTERM):
        """Ends the agent and returns the account of its output; after SIGKILL there is none."""
        self.process.send_signal(how)
        self.process.wait(60)
        if how == signal.SIGKILL:
            return None
        account = json.loads(self.summary_path.read_text())["outputs"][0]
        total = account["written"] + sum(account["dropped"].values()) + account["queued"]
        assert account["sent"] == total, f"the account is not balanced: {account}"
        return account

    def text(self):
        return self.log.read_text()


def create(broker, topic, partitions=3, **config):
    """Creates a topic, as soon as the broker can."""
    admin = AdminClient({"bootstrap.servers": broker.address()}, logger=SILENT)
    made = admin.create_topics([NewTopic(topic, partitions, 1, config={key.replace("_", "."): str(value)
                                                                        for key, value in config.items()})])
    made[topic].result(60)


# The clients live on for a while after their test, and say that the broker is away.
SILENT = logging.getLogger("kafka")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


Record = collections.namedtuple("Record", "partition offset key time headers value")


def consume(broker, topic):
    """Returns all records of a topic, as an independent consumer reads them from the beginning."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.address(), "group.id": "test",
                                         "auto.offset.reset": "earliest", "enable.auto.commit": False})
    found = []
    try:
        partitions = list(consumer.list_topics(topic, 60).topics[topic].partitions)
        ends = {}
        for partition in partitions:
            ends[partition] = until(lambda: end_of(consumer, topic, partition), "the broker leads the partition")[0]
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, 0) for partition in partitions])
        left = sum(ends.values())
        quiet = time.monotonic()
        while left > 0:
            batch = consumer.consume(10000, 1)
            assert batch or time.monotonic() - quiet < 60, f"{left} records do not come"
            for record in batch:
                if record.error():
                    raise AssertionError(record.error())
                headers = {key: value.decode() for key, value in record.headers()}
                found.append(Record(record.partition(), record.offset(), record.key(), record.timestamp()[1], headers,
                                    record.value()))
                quiet = time.monotonic()
            left -= len(batch)
    finally:
        consumer.close()
    return found


def end_of(consumer, topic, partition):
    """Returns the end of a partition in a list, or nothing while a broker that has just begun does not lead it."""
    try:
        return [consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, partition), 60)[1]]
    except confluent_kafka.KafkaException as error:
        if error.args[0].code() != confluent_kafka.KafkaError.NOT_LEADER_FOR_PARTITION:
            raise
        return None


def by_seq(found):
    """Returns the records of one run in the order of their numbers."""
    runs = {record.headers["run"] for record in found}
    assert len(runs) == 1, f"runs: {runs}"
    return sorted(found, key=lambda record: int(record.headers["seq"]))


def assert_order(found):
    """Fails if the records of a key are in more than one partition, or not in the order of their numbers."""
    last, places = {}, {}
    for record in sorted(found, key=lambda record: (record.partition, record.offset)):
        seq = int(record.headers["seq"])
        place = places.setdefault(record.key, record.partition)
        assert place == record.partition, f"key {record.key} is in two partitions"
        assert last.get(record.key, -1) < seq, f"key {record.key}: {seq} comes after {last[record.key]}"
        last[record.key] = seq


def in_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread
