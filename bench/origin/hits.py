#!/usr/bin/env python3
"""What a hit costs the server's CPU: ours in front of a Redis, that Redis asked directly, and us without an origin.

The same load (`foreshadow bench`, GETs only, every value checked) goes to each in turn, several times; the server stands on
CPU 0, the generator on CPU 1. The CPU time is that of the server's process, from /proc. Writes a page into bench/record.
"""
import argparse, datetime, json, pathlib, platform, shutil, statistics, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from peers import await_port, free_port, program


def start_redis(folder):
    port = free_port()
    words = ["taskset", "-c", "0", program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    await_port(port)
    return child, port


def start_us(binary, flags):
    words = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "off", "--cores", "0", "--memory", "512MiB", "--exit-on-stdin-close"]
    child = subprocess.Popen(words + flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return child, int(child.stdout.readline().split("listen=")[1].split()[0].rsplit(":", 1)[1])


def load(binary, port, pid, arguments, pipeline, extra):
    words = [binary, "bench", "-p", str(port), "--protocol", "resp", "--ratio", "0:1", "--pipeline", str(pipeline), "-c", "50",
             "--key-maximum", str(arguments.keys - 1), "--cpu", "1", "--json"]
    done = subprocess.run(words + ["--server-pid", str(pid)] + extra, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the load failed: {done.stderr}{done.stdout}")
    return json.loads(done.stdout)


def find(tree, name):
    """The first number of this name, wherever it stands."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name and isinstance(value, (int, float)):
                return value
            found = find(value, name)
            if found is not None:
                return found
    if isinstance(tree, list):
        for value in tree:
            found = find(value, name)
            if found is not None:
                return found
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/foreshadow")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="foreshadow-hits-")
    children = []
    try:
        redis, redis_port = start_redis(folder)
        children.append(redis)
        # The origin holds every key before anybody asks for one.
        load(arguments.binary, redis_port, redis.pid, arguments, 16, ["--prefill", "--test-time", "1"])
        before, before_port = start_us(arguments.binary, ["--origin", f"redis://127.0.0.1:{redis_port}"])
        alone, alone_port = start_us(arguments.binary, [])
        children += [before, alone]
        load(arguments.binary, alone_port, alone.pid, arguments, 16, ["--prefill", "--test-time", "1"])
        # Fetched once, so that what is measured are hits.
        load(arguments.binary, before_port, before.pid, arguments, 1,
             ["--no-prefill", "--key-pattern", "S:S", "-n", str(arguments.keys), "--expect-hits", "100"])
        servers = [("Redis itself", redis, redis_port), ("us, in front of it", before, before_port), ("us, no origin", alone, alone_port)]
        cost = {(name, pipeline): [] for name, _, _ in servers for pipeline in (1, 16)}
        extra = ["--no-prefill", "--expect-hits", "100", "--test-time", str(arguments.seconds)]
        for _ in range(arguments.runs):
            for name, child, port in servers:
                for pipeline in (1, 16):
                    result = load(arguments.binary, port, child.pid, arguments, pipeline, extra)
                    cost[name, pipeline].append(find(result, "server_cpu_micros_per_request"))
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        shutil.rmtree(folder, ignore_errors=True)
    version = subprocess.run([program("redis-server"), "--version"], capture_output=True, text=True).stdout.split()[2]
    lines = [
        "# A hit through us and the origin's own", "",
        f"GETs of {arguments.keys} keys of 100 bytes, 50 connections, every value checked; the server on CPU 0, the load on CPU 1. CPU time of the server's",
        f"process in us per request, median of {arguments.runs} runs of {arguments.seconds} s in turns (least to most). Redis {version.removeprefix('v=')}, "
        f"Linux {platform.release().split('-')[0]}, {datetime.date.today()}.", "",
        "| | pipeline 1 | pipeline 16 |", "|---|---|---|"]
    for name, _, _ in servers:
        cells = []
        for pipeline in (1, 16):
            runs = cost[name, pipeline]
            cells.append(f"{statistics.median(runs):.2f} ({min(runs):.2f} to {max(runs):.2f})")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        out = pathlib.Path(arguments.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)


main()
