#!/usr/bin/env python3
"""Real clients against the binary, with its default settings: each scenario gets a server of its own on free ports.

    run.py BINARY [NAME ...]

Prints a line per scenario (ok, FAIL with the reason, SKIP with what is missing) and a sum. Ends with 1 if one failed.
A scenario is a function of `scenarios.py` that takes a Server; `Missing` raised in it is a skip.
"""

import importlib
import os
import pathlib
import subprocess
import sys
import traceback


class Missing(Exception):
    """Something that the scenario needs is not installed."""


class Server:
    """A running server that ends with its `with`."""

    def __init__(self, binary, flags):
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--exit-on-stdin-close", *flags]
        environment = {name: value for name, value in os.environ.items() if name != "FORESHADOW_PASSWORD"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        line = self.process.stdout.readline().decode()
        if not line.startswith("ready "):
            raise RuntimeError(f"no ready line: {self.process.communicate()[1].decode()}")
        fields = dict(field.split("=", 1) for field in line.split()[1:])
        self.host, port = fields["listen"].rsplit(":", 1)
        self.port = int(port)
        self.admin = fields["admin"]
        self.tls_port = int(fields["tls"].rsplit(":", 1)[1]) if "tls" in fields else None
        self.cores = len(fields["cores"].split(","))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            _, stderr = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError("the server does not end") from None
        if kind is None and self.process.returncode != 0:
            raise RuntimeError(f"the server ended with {self.process.returncode}: {stderr.decode()}")


def main():
    sys.modules["run"] = sys.modules["__main__"]
    scenarios = importlib.import_module("scenarios")
    binary, *wanted = sys.argv[1:]
    passed, failed, skipped = 0, 0, 0
    for name, flags, scenario in scenarios.ALL:
        if wanted and name not in wanted:
            continue
        try:
            # Flags that are made for the scenario are asked for now.
            wanted_flags = flags() if callable(flags) else flags
            with Server(str(pathlib.Path(binary).resolve()), wanted_flags) as server:
                scenario(server)
            print(f"ok    {name}", flush=True)
            passed += 1
        except Missing as missing:
            print(f"SKIP  {name}: {missing}", flush=True)
            skipped += 1
        except Exception:
            print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
            failed += 1
    print(f"clients: {passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
