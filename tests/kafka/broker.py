"""A Kafka broker of one node, from its own Java programs: started, stopped, killed, and started again.

It has four listeners: without anything, with TLS, with SASL PLAIN, and with SASL SCRAM over TLS. Each test has its own
topics, so one broker serves them all.
"""

import datetime
import functools
import ipaddress
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import check
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

JARS = os.environ["KAFKA_JARS"]
# The simple compiler and collector: a broker of the tests starts often and runs shortly.
JAVA = ["java", "-Xmx320m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{JARS}/*"]
USER, PASSWORD = "agent", "correct horse"


def free_ports(count):
    """Returns ports that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(condition, what, seconds=60):
    """Waits until the condition returns something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Authority:
    """A certificate authority, and certificates of any date for 127.0.0.1."""

    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.ca = folder / "ca.pem"
        certificate = self._build(self.name, self.key.public_key(), 3650, -1, True)
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _build(self, name, public, days, begun, is_ca):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now + datetime.timedelta(days=begun))
        builder = builder.not_valid_after(now + datetime.timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        if not is_ca:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name, days):
        """Writes a certificate that is valid for so many days; a negative number: that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(subject, key.public_key(), days, min(days, 0) - 2, False)
        cert = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / f"{name}.both"
        for path, content in zip(paths, (cert, private, private + cert)):
            path.write_bytes(content)
        return paths


class Broker:
    def __init__(self, folder, days=30):
        """Formats the store. `days`: how long the certificate is valid."""
        self.folder = folder
        self.process = None
        self.ports = dict(zip(("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL", "CONTROLLER"), free_ports(5)))
        self.authority = Authority(folder)
        both = self.authority.issue("broker", days)[2]
        jaas = "org.apache.kafka.common.security"
        lines = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.ports['CONTROLLER']}",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            "log.dirs": folder / "data",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": both,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority.ca,
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{jaas}.plain.PlainLoginModule required "
            f'user_{USER}="{PASSWORD}";',
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{jaas}.scram.ScramLoginModule required;",
        }
        self.properties = folder / "server.properties"
        self.properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        identity = self._java("kafka.tools.StorageTool", "random-uuid").strip()
        self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", identity, "-c", self.properties,
                   "--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]")

    def _java(self, *arguments):
        done = subprocess.run([*JAVA, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout.splitlines()[-1] if done.stdout else ""

    def address(self, listener="PLAINTEXT"):
        return f"127.0.0.1:{self.ports[listener]}"

    def start(self):
        """Starts the broker and waits until it serves."""
        log = open(self.folder / "broker.log", "ab")
        self.process = subprocess.Popen(
            [*JAVA, "kafka.Kafka", str(self.properties)],
            stdout=log, stderr=log)
        log.close()

        def serves():
            if self.process.poll() is not None:
                lines = (self.folder / "broker.log").read_text().splitlines()
                raise AssertionError("\n".join(line for line in lines if "ERROR" in line or "xception" in line))
            try:
                socket.create_connection(("127.0.0.1", self.ports["PLAINTEXT"]), 1).close()
                return True
            except OSError:
                return False

        until(serves, "the broker listens")

    def stop(self, how=signal.SIGTERM):
        """Ends the broker: SIGTERM in order, SIGKILL at once."""
        self.process.send_signal(how)
        self.process.wait(60)
        self.process = None


    def serve(self, tests):
        """Runs the tests whose names have a part that the command line names; the broker is up when each begins."""
        def ready(test):
            @functools.wraps(test)
            def run():
                if self.process is None:
                    self.start()
                test()
            return run

        wanted = sys.argv[1:]
        try:
            check.run([ready(test) for test in tests
                       if not wanted or any(part in test.__name__ for part in wanted)])
        finally:
            if self.process:
                self.stop(signal.SIGKILL)


def scratch(parent, name):
    folder = pathlib.Path(parent) / name
    folder.mkdir()
    return folder
