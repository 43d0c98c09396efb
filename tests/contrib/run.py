"""Runs the tests of contrib/ and of our Parquet files: `python3 tests/contrib/run.py`, with DNSTAP_AGENT naming the agent.

Installs what they need below the cache of the project, once: Python packages (requirements.txt), and the collector of
otelcol/, if Go is there. The exit code is 0 if no test failed. Each file of tests prints a result line as libtest does.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "dnstap-agent" / "contrib"


def made(name, files, make):
    """Returns a folder of the cache that was made from these files, after `make` made it if it was not there."""
    digest = hashlib.sha256(b"".join((HERE / file).read_bytes() for file in files)).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    if not folder.exists():
        # Half a folder must not look like a whole one.
        part = CACHE / f"{name}-{digest}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        part.rename(folder)
    return folder


def packages(folder):
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                    "--no-deps", "--target", folder / "packages", "-r", HERE / "requirements.txt"], check=True)
    shutil.rmtree(folder / "venv")


def collector(folder):
    subprocess.run(["go", "build", "-ldflags", "-s -w", "-o", folder / "otelcol", "."],
                   cwd=HERE / "otelcol", check=True)


def tools():
    """Returns the environment of the tests."""
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    environment["PYTHONPATH"] = str(made("python", ["requirements.txt"], packages) / "packages")
    if "OTELCOL" not in environment and shutil.which("go"):
        folder = made("otelcol", ["otelcol/main.go", "otelcol/go.mod", "otelcol/go.sum"], collector)
        environment["OTELCOL"] = str(folder / "otelcol")
    return environment


def main():
    try:
        environment = tools()
    except subprocess.CalledProcessError as error:
        # The registries cannot be reached, or have no package for this machine. This is no defect of contrib/.
        print(f"SKIP contrib: its tools cannot be installed: {error}")
        print("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out")
        return
    failed = False
    for name in ["clickhouse.py", "parquet.py", "vector.py", "otel.py"]:
        print(f"\nrunning {name}", flush=True)
        failed |= subprocess.run([sys.executable, HERE / name], env=environment).returncode != 0
    sys.exit(1 if failed else 0)


main()
