#!/usr/bin/env python3
"""What a stampede does to an origin, with and without Foreshadow in between.

For a real PostgreSQL and a real Redis: one hot value is dropped again and again while many clients keep reading it. Without us
each client does what applications do by hand (look in its cache, on a miss ask the origin and put the value back); with us it
only reads. Counted at the origin: queries. Written: a table (stdout and results.json) and a plot (stampede.svg).
"""
import argparse, asyncio, json, os, pathlib, shutil, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from peers import await_port, free_port, program


def command(*words):
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


async def reply(reader):
    line = await reader.readline()
    if line[:1] == b"$":
        length = int(line[1:])
        if length < 0:
            return None
        return (await reader.readexactly(length + 2))[:-2]
    if line[:1] == b"*":
        return [await reply(reader) for _ in range(int(line[1:]))]
    if line[:1] == b"-":
        raise RuntimeError(line.decode().strip())
    return line[1:-2]


class Redis:
    """A client of anything that speaks RESP."""

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.lock = asyncio.Lock()
        return self

    async def __call__(self, *words):
        async with self.lock:
            self.writer.write(command(*words))
            return await reply(self.reader)


class Postgres:
    """The few messages of PostgreSQL's protocol that a query needs (login by trust, on this machine only)."""

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.lock = asyncio.Lock()
        body = b"\0\x03\0\0user\0cache\0database\0postgres\0\0"
        self.writer.write((len(body) + 4).to_bytes(4, "big") + body)
        await self.until_ready()
        return self

    async def until_ready(self):
        value = None
        while True:
            head = await self.reader.readexactly(5)
            body = await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)
            if head[:1] == b"D":
                length = int.from_bytes(body[2:6], "big")
                value = body[6:6 + length]
            elif head[:1] == b"E":
                raise RuntimeError(body.replace(b"\0", b" ").decode())
            elif head[:1] == b"Z":
                return value

    async def query(self, sql):
        body = sql.encode() + b"\0"
        async with self.lock:
            self.writer.write(b"Q" + (len(body) + 4).to_bytes(4, "big") + body)
            return await self.until_ready()



async def scene(name, clients, seconds, drops, read, drop, count):
    """Runs one scene; answers what was read, how long reads took, and the origin's queries over time."""
    begin, latencies, reads, stop = time.monotonic(), [], 0, False
    first = await count()

    async def client(number):
        nonlocal reads
        state = await read.open(number)
        while not stop:
            start = time.monotonic()
            value = await state()
            latencies.append(time.monotonic() - start)
            if value != b"hot":
                raise RuntimeError(f"{name}: read {value!r}")
            reads += 1
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(client(i)) for i in range(clients)]
    samples = []

    async def sampler():
        while not stop:
            samples.append((time.monotonic() - begin, await count() - first))
            await asyncio.sleep(0.1)

    tasks.append(asyncio.create_task(sampler()))
    for _ in range(drops):
        await asyncio.sleep(seconds / drops)
        await drop()
        for task in tasks:
            if task.done():
                task.result()
    await asyncio.sleep(0.5)
    stop = True
    await asyncio.gather(*tasks)
    latencies.sort()
    queries = await count() - first
    return {
        "scene": name, "reads": reads, "drops": drops, "queries": queries,
        "queries_per_drop": round(queries / drops, 1), "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2), "samples": samples,
    }


class Direct:
    """Cache-aside by hand: a Redis as the cache, the origin asked by whoever misses."""

    def __init__(self, cache_port, fetch):
        self.cache_port, self.fetch = cache_port, fetch

    async def open(self, _number):
        cache, fetch = await Redis().open(self.cache_port), await self.fetch()

        async def read():
            value = await cache("GET", "item:1")
            if value is None:
                value = await fetch()
                await cache("SET", "item:1", value)
            return value

        return read


class Through:
    """Reads from Foreshadow, and does nothing else."""

    def __init__(self, port):
        self.port = port

    async def open(self, _number):
        us = await Redis().open(self.port)
        return lambda: us("GET", "item:1")


def start_postgres(folder):
    data, port = folder / "data", free_port()
    as_user = []
    if os.geteuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres")
        folder.chmod(0o755)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(as_user + [program("initdb"), "-U", "cache", "-A", "trust", "-D", str(data)], check=True, **quiet)
    words = [program("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F", "-c", "max_connections=400"]
    child = subprocess.Popen(as_user + words, **quiet)
    await_port(port)
    return child, port


async def postgres_scenes(arguments, folder, binary, cache_port, children):
    child, port = start_postgres(folder)
    children.append(child)
    for _ in range(100):
        try:
            admin = await Postgres().open(port)
            break
        except (OSError, RuntimeError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.1)
    await admin.query("create table items (id int primary key, body text)")
    await admin.query("insert into items values (1, 'hot')")
    # Each query that reads counts itself: what the origin did, as it saw it.
    await admin.query("create sequence asked")
    sql = "select body as value, nextval('asked'), pg_sleep(0.05) from items where id = $1::int"

    async def count():
        return int(await admin.query("select case when is_called then last_value else 0 end from asked"))

    async def fetch():
        origin = await Postgres().open(port)
        return lambda: origin.query(sql.replace("$1", "1"))

    cache = await Redis().open(cache_port)
    direct = await scene("PostgreSQL, by hand", arguments.clients, arguments.seconds, arguments.drops,
                         Direct(cache_port, fetch), lambda: cache("DEL", "item:1"), count)
    config = folder / "foreshadow.toml"
    config.write_text(
        f'[origin.db]\nurl = "postgres://cache@127.0.0.1:{port}/postgres"\nquery = "{sql}"\n'
        '[keyspace.items]\nprefix = "item:"\norigin = "db"\n')
    us = start_foreshadow(binary, config, children)
    drop = await Redis().open(us)
    through = await scene("PostgreSQL, through Foreshadow", arguments.clients, arguments.seconds, arguments.drops,
                          Through(us), lambda: drop("INVALIDATE", "KEY", "item:1"), count)
    return [direct, through]


async def redis_scenes(arguments, folder, binary, cache_port, children):
    port = free_port()
    children.append(start_redis(port, folder))
    origin = await Redis().open(port)
    await origin("SET", "item:1", "hot")

    async def count():
        stats = (await origin("INFO", "commandstats")).decode()
        lines = [line for line in stats.split("\r\n") if line.startswith("cmdstat_get:")]
        return int(lines[0].split("calls=")[1].split(",")[0]) if lines else 0

    async def fetch():
        connection = await Redis().open(port)
        return lambda: connection("GET", "item:1")

    cache = await Redis().open(cache_port)
    await cache("DEL", "item:1")
    direct = await scene("Redis, by hand", arguments.clients, arguments.seconds, arguments.drops,
                         Direct(cache_port, fetch), lambda: cache("DEL", "item:1"), count)
    config = folder / "redis.toml"
    config.write_text(
        f'[origin.r]\nurl = "redis://127.0.0.1:{port}"\n[keyspace.items]\nprefix = "item:"\norigin = "r"\n')
    us = start_foreshadow(binary, config, children)
    # Here the origin itself tells of the change.
    through = await scene("Redis, through Foreshadow", arguments.clients, arguments.seconds, arguments.drops,
                          Through(us), lambda: origin("SET", "item:1", "hot"), count)
    return [direct, through]


def start_redis(port, folder):
    words = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    await_port(port)
    return child


def start_foreshadow(binary, config, children):
    words = [binary, "serve", "--config", str(config), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
             "--memory", "64MiB", "--exit-on-stdin-close"]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    children.append(child)
    ready = child.stdout.readline()
    return int(ready.split("listen=")[1].split()[0].rsplit(":", 1)[1])


def plot(results, path):
    width, height, left, top = 760, 340, 70, 40
    most_time = max(sample[0] for result in results for sample in result["samples"])
    most = max(1, max(result["queries"] for result in results))
    colours = ["#b3261e", "#1e6db3", "#d98c00", "#2e8b57"]
    x = lambda t: left + t / most_time * (width - left - 20)
    y = lambda n: height - 40 - n / most * (height - top - 40)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 90}" font-family="sans-serif" font-size="13">',
             f'<rect width="{width}" height="{height + 90}" fill="white"/>',
             f'<text x="{left}" y="22" font-size="15">Queries at the origin while one hot value is dropped again and again</text>']
    for i in range(5):
        n = most * i / 4
        lines.append(f'<line x1="{left}" y1="{y(n)}" x2="{width - 20}" y2="{y(n)}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{y(n) + 4}" text-anchor="end">{n:.0f}</text>')
    lines.append(f'<text x="{width - 20}" y="{height - 15}" text-anchor="end">{most_time:.0f} s</text>')
    for place, (result, colour) in enumerate(zip(results, colours)):
        points = " ".join(f"{x(t):.1f},{y(n):.1f}" for t, n in result["samples"])
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{left}" y="{height + 10 + place * 19}" fill="{colour}">{result["scene"]}: {result["queries"]} queries, '
                     f'{result["queries_per_drop"]} for each drop, reads p99 {result["p99_ms"]} ms</text>')
    path.write_text("\n".join(lines + ["</svg>\n"]))


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/foreshadow")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--out", default="bench/record/demo")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="foreshadow-demo-"))
    # PostgreSQL runs as another user where we are root.
    folder.chmod(0o755)
    children = []
    try:
        cache_port = free_port()
        children.append(start_redis(cache_port, folder))
        (folder / "pg").mkdir()
        results = await postgres_scenes(arguments, folder / "pg", arguments.binary, cache_port, children)
        results += await redis_scenes(arguments, folder, arguments.binary, cache_port, children)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        shutil.rmtree(folder, ignore_errors=True)
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    plot(results, out / "stampede.svg")
    (out / "results.json").write_text(json.dumps({"clients": arguments.clients, "results": results}, indent=1) + "\n")
    print(f"{arguments.clients} clients read one value; {arguments.drops} times it is dropped or changed\n")
    print(f"{'':34} {'reads':>8} {'queries':>8} {'per drop':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for result in results:
        print(f"{result['scene']:34} {result['reads']:>8} {result['queries']:>8} {result['queries_per_drop']:>9} "
              f"{result['p50_ms']:>8} {result['p99_ms']:>8}")
    print(f"\nplot: {out / 'stampede.svg'}")


asyncio.run(main())
