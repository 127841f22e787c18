"""Servers of other makers that the benches start: where they are, on which port, and when they are there."""
import pathlib, socket, sys, time

HOME = pathlib.Path.home()
PLACES = [HOME / ".cache/foreshadow-peers/bin", pathlib.Path("/usr/bin"), pathlib.Path("/usr/sbin")]
PLACES += sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
PATIENCE = 10


def program(name):
    for folder in PLACES:
        if (folder / name).exists():
            return str(folder / name)
    sys.exit(f"{name} is not installed; scripts/setup installs what is needed")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_port(port):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")
