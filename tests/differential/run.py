#!/usr/bin/env python3
"""The same bytes to a server of another maker and to the binary: replies must be the same, or the difference allowed.

    run.py BINARY SUITE [CASE ...]

SUITE names a module beside this file (`resp`) that has

    FLAGS          flags for our server
    start(port)    starts the other server there and answers the process; raises Missing if it is not installed
    cases(text)    reads `SUITE.cases` and yields Case objects
    CLEAR          bytes that empty a server, and CLEARED, what it answers
    MARK, MARKED   a request that changes nothing and its reply, sent behind each step: where it comes, the step's reply ends

Each step of a case is sent alone and its replies compared; then the whole case is sent at once, by a new connection to
servers emptied again, and all replies together must be what the single ones were.

`SUITE.allowed` says which differences are meant: `CASE | STEP | REASON`, both globs (shell style). An entry that allows
nothing any more fails the run, so that the list stays true.
"""

import fnmatch
import importlib
import os
import pathlib
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
PATIENCE = 20
# How long a reply may take (seconds): some steps have none, by design.
SILENCE = 4
# Where a server was kept waiting for so long (seconds), seconds that are left may differ: such a case is played again.
STALLED = 0.4
TRIES = 3


class Missing(Exception):
    """The other server is not installed."""


class Case:
    """A named list of steps: what is shown of each, and its bytes. A step that ends the connection is its last.

    A case that is `whole` is only sent at once: a mark between its steps would change what they mean.
    """

    def __init__(self, name, steps, whole=False):
        self.name, self.steps, self.whole = name, steps, whole


class Peer:
    """A server and a connection to it."""

    def __init__(self, suite, address):
        self.suite, self.address, self.stream = suite, address, None

    def close(self):
        if self.stream:
            self.stream.close()

    def connect(self):
        self.close()
        try:
            self.stream = socket.create_connection(self.address, PATIENCE)
        except OSError as error:
            raise RuntimeError(f"{self.address} cannot be connected to ({error}); the case before ended the server") from None
        self.stream.settimeout(SILENCE)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def until(self, end, got=b"", times=1):
        """What came until `end` was there so many times, without it; with a note where the server closed instead."""
        while got.count(end) < times:
            try:
                piece = self.stream.recv(1 << 16)
            except ConnectionResetError:
                piece = b""
            except TimeoutError:
                return got + b"<silence>", False
            if not piece:
                return got + b"<closed>", False
            got += piece
        return got, True

    def clear(self):
        self.connect()
        self.stream.sendall(self.suite.CLEAR)
        got, _ = self.until(self.suite.CLEARED)
        assert got == self.suite.CLEARED, f"clearing answered {got!r}"

    def steps(self, case):
        """The reply to each step; the rest is missing where the server closed."""
        self.clear()
        replies = []
        for _, sent in case.steps:
            try:
                self.stream.sendall(sent + self.suite.MARK)
            except (BrokenPipeError, ConnectionResetError):
                pass
            got, goes_on = self.until(self.suite.MARKED)
            if goes_on:
                # What is told beside replies may come behind the mark.
                self.stream.sendall(self.suite.MARK)
                got, goes_on = self.until(self.suite.MARKED, got, 2)
            replies.append(got.replace(self.suite.MARKED, b""))
            if not goes_on:
                break
        return replies

    def at_once(self, case):
        self.clear()
        try:
            self.stream.sendall(b"".join(sent for _, sent in case.steps) + self.suite.MARK)
        except (BrokenPipeError, ConnectionResetError):
            pass
        got, _ = self.until(self.suite.MARKED)
        return got


class Allowed:
    """The list of differences that are meant."""

    def __init__(self, path):
        self.entries = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                case, step, reason = (part.strip() for part in line.split(" | ", 2))
                assert reason, f"{path}:{number}: no reason"
                self.entries.append([case, step, f"{path.name}:{number}", 0])

    def has(self, case, step):
        found = False
        for entry in self.entries:
            if fnmatch.fnmatchcase(case, entry[0]) and fnmatch.fnmatchcase(step, entry[1]):
                entry[3] += 1
                found = True
        return found

    def stale(self):
        return [f"{place}: {case} | {step} allows nothing" for case, step, place, uses in self.entries if not uses]


def ours(binary, flags):
    command = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--exit-on-stdin-close", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "FORESHADOW_PASSWORD"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    line = process.stdout.readline().decode()
    host, port = dict(field.split("=", 1) for field in line.split()[1:])["listen"].rsplit(":", 1)
    return process, (host, int(port))


def theirs(suite):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    process = suite.start(address[1])
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(address, 1).close()
            return process, address
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "the other server does not start"
            time.sleep(0.02)


def show(reply):
    if reply is None:
        return "nothing"
    text = repr(reply)[2:-1]
    return text if len(text) <= 400 else text[:400] + f".. ({len(reply)} bytes)"


def play(case, other, own):
    """How many replies were the same, and what differed: the step, their reply, ours."""
    differing = []
    if not case.whole:
        expected, got = other.steps(case), own.steps(case)
        for i, (shown, _) in enumerate(case.steps):
            said = [replies[i] if i < len(replies) else None for replies in (expected, got)]
            if said[0] != said[1]:
                differing.append((shown, *said))
    same = 0 if case.whole else len(case.steps) - len(differing)
    if differing:
        return same, differing
    expected, got = other.at_once(case), own.at_once(case)
    if expected == got:
        return same + 1, []
    at = next((i for i, pair in enumerate(zip(expected, got)) if pair[0] != pair[1]), min(len(expected), len(got)))
    at = max(0, at - 100)
    return same, [("(at once)", expected[at:], got[at:])]


def compare(suite, name, binary, wanted):
    allowed = Allowed(HERE / f"{name}.allowed")
    cases = [case for case in suite.cases((HERE / f"{name}.cases").read_text())]
    chosen = [case for case in cases if not wanted or case.name in wanted]
    processes, peers, wrong, same, different = [], [], [], 0, 0
    try:
        process, address = theirs(suite)
        processes.append(process)
        other = Peer(suite, address)
        process, address = ours(binary, suite.FLAGS)
        processes.append(process)
        own = Peer(suite, address)
        peers = [other, own]
        for case in chosen:
            for _ in range(TRIES):
                began = time.monotonic()
                try:
                    equal, differing = play(case, other, own)
                except RuntimeError as error:
                    raise RuntimeError(f"{case.name}: {error}") from None
                if time.monotonic() - began < STALLED or all(allowed.has(case.name, step) for step, *_ in differing):
                    break
            assert all(process.poll() is None for process in processes), f"a server ended in {case.name}"
            same += equal
            for step, theirs_said, ours_said in differing:
                if allowed.has(case.name, step):
                    different += 1
                else:
                    wrong.append(f"{case.name}: {step}\n    theirs {show(theirs_said)}\n    ours   {show(ours_said)}")
    finally:
        for peer in peers:
            peer.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(PATIENCE)
    stale = [] if wanted else allowed.stale()
    for line in wrong + stale:
        print(f"DIFFERS  {line}")
    print(f"differential {name}: {len(chosen)} cases, {same} steps the same, {different} allowed to differ, "
          f"{len(wrong)} wrong, {len(stale)} entries of no use")
    return 1 if wrong or stale or not same else 0


def main():
    sys.path.insert(0, str(HERE))
    sys.modules["run"] = sys.modules["__main__"]
    binary, name, *wanted = sys.argv[1:]
    try:
        return compare(importlib.import_module(name), name, str(pathlib.Path(binary).resolve()), wanted)
    except Missing as missing:
        print(f"SKIP  differential {name}: {missing}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
