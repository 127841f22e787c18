"""RESP against a real Valkey.

A case begins with `== name`; each line behind it is a step. `SET key "a\\x00b"` is sent as an array of bulk strings
(words, or Python's string escapes in double quotes); `< text` is sent as it stands, escapes and all, with nothing added.
`*` behind a case's name (`== name *`) adds the same case in RESP3, `+` in front (`== + name`) makes it a whole one.
"""

import pathlib
import re
import shutil
import subprocess
import tempfile

from run import Case, Missing

FLAGS = ["--cores", "0", "--memory", "64MiB", "--busy-poll-us", "0"]
CLEAR = b"FLUSHALL\r\nRESET\r\n"
CLEARED = b"+OK\r\n+RESET\r\n"
MARK = b"ECHO the-end-of-this-step\r\n"
MARKED = b"$20\r\nthe-end-of-this-step\r\n"
# What HELLO answers names the server, and is of no interest here.
QUIET = b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n"
HELLO = ("HELLO 3", QUIET + b"$3\r\nOFF\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n" + QUIET + b"$2\r\nON\r\n")


def start(port):
    place = pathlib.Path.home() / ".cache/foreshadow-peers/bin/valkey-server"
    program = str(place) if place.exists() else shutil.which("valkey-server")
    if not program:
        raise Missing("valkey-server is not installed")
    folder = tempfile.mkdtemp(prefix="foreshadow-differential-")
    return subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--appendonly", "no", "--databases", "1", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )


def unescape(text):
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def command(line):
    words = [unescape(quoted) if quote else bare.encode("latin-1")
             for quote, quoted, bare in re.findall(r'("((?:[^"\\]|\\.)*)")|(\S+)', line) for quote in [quote]]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def cases(text):
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("== "):
            name = line[3:].strip()
            found.append((name.removesuffix("*").removeprefix("+").strip(), name.endswith("*"), name.startswith("+"), []))
        else:
            found[-1][3].append((line, unescape(line[2:]) if line.startswith("< ") else command(line)))
    for name, both, whole, steps in found:
        yield Case(name, steps, whole)
        if both:
            yield Case(f"{name} resp3", [HELLO, *steps], whole)
