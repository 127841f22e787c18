#!/usr/bin/env python3
"""Other people's test suites against the binary: redis-py's own test files, as their source distribution has them.

    run.py BINARY [PYTEST ARGUMENTS ...]

The suite and what it needs are installed into target/suites once. Tests that are known to fail stand in `redis-py.skips`
with a reason each; one of them that passes fails the run, so that the list stays true. The server has one core, because
redis-py's pipelines are transactions on keys of any slot. Ends with 0 and a line that begins with SKIP where there is no
network to install from.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PLACE = HERE.parent.parent / "target/suites"
VERSION = "8.1.0"
NEEDED = ["pytest", "pytest-asyncio", "pytest-timeout", "mock", "numpy", "packaging", "cachetools", "hatchling"]
FILES = ["encoding", "pipeline", "connection", "connection_pool", "retry", "lock", "monitor", "cache", "multiprocessing"]
# Tests of test_commands.py by their beginnings: strings, keys, expiry, and what clients ask about the server.
SLICES = """append copy dbsize decr delete dump_and_restore echo exists expire expireat expiretime get_and_set get_set getdel getex
    getrange incr incrby incrbyfloat keys mget mset msetnx pexpire pexpireat pexpiretime persist ping psetex pttl randomkey
    rename renamenx set_ setex setnx setrange strlen substr touch ttl type unlink""".split()


def install():
    python = PLACE / "venv/bin/python"
    marker = PLACE / f"redis-{VERSION}.complete"
    if not marker.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        pip = [python, "-m", "pip", "-q", "--disable-pip-version-check"]
        # The distribution is not built, but pip wants to know that it could be.
        for command in (
            [sys.executable, "-m", "venv", PLACE / "venv"],
            [*pip, "install", *NEEDED, f"redis=={VERSION}"],
            [*pip, "download", "--no-deps", "--no-build-isolation", "--no-binary", "redis", "-d", PLACE, f"redis=={VERSION}"],
        ):
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                print(f"SKIP  suites: redis-py {VERSION} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
                return None
        with tarfile.open(PLACE / f"redis-{VERSION}.tar.gz") as archive:
            archive.extractall(PLACE, filter="data")
        # The installed package is tested with the distribution's tests.
        shutil.rmtree(PLACE / f"redis-{VERSION}/redis")
        marker.touch()
    return python


def main():
    binary, *arguments = sys.argv[1:]
    python = install()
    if not python:
        return 0
    environment = {name: value for name, value in os.environ.items() if name != "FORESHADOW_PASSWORD"}
    server = subprocess.Popen(
        [pathlib.Path(binary).resolve(), "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cores", "0",
         "--memory", "64MiB", "--busy-poll-us", "0", "--exit-on-stdin-close"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )
    try:
        fields = dict(field.split("=", 1) for field in server.stdout.readline().decode().split()[1:])
        files = [f"tests/test_{name}.py" for name in FILES]
        environment |= {"PYTHONPATH": str(HERE), "FORESHADOW_SKIPS": str(HERE / "redis-py.skips")}
        environment |= {"FORESHADOW_SLICES": " ".join(SLICES)}
        started = time.monotonic()
        done = subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "skips", "-p", "no:cacheprovider", "--timeout", "20", "--tb=line",
             "-W", "ignore", "-m", "not redismod and not onlycluster and not ssl and not cp_integration",
             "--redis-url", f"redis://{fields['listen']}/0", *(arguments or [*files, "tests/test_commands.py"])],
            cwd=PLACE / f"redis-{VERSION}", env=environment, timeout=900,
        )
        print(f"redis-py {VERSION}: {time.monotonic() - started:.0f} s")
        assert server.poll() is None, "the server ended"
        return done.returncode
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
