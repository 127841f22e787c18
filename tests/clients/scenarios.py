"""What each client does and what it must get."""

import os
import pathlib
import shutil
import subprocess
import time

from run import Missing

PEERS = pathlib.Path.home() / ".cache/foreshadow-peers/bin"


def program(name):
    """A program on PATH or among the peers of bench."""
    found = shutil.which(name, path=os.pathsep.join([str(PEERS), os.environ.get("PATH", "")]))
    if not found:
        raise Missing(f"the program {name} is not installed")
    return found


def module(name):
    try:
        return __import__(name)
    except ImportError as error:
        raise Missing(f"the Python module {name} is not installed ({error})") from None


def call(*command, stdin=None, timeout=120):
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def equal(got, expected):
    assert got == expected, f"got {got!r}, expected {expected!r}"


def redis_cli(server, *flags):
    def cli(*words, stdin=None):
        return call(program("redis-cli"), "-h", server.host, "-p", server.port, *flags, *words, stdin=stdin).strip()

    equal(cli("PING"), "PONG")
    equal(cli("SET", "greeting", "hello", "EX", "100"), "OK")
    equal(cli("GET", "greeting"), "hello")
    assert 95 <= int(cli("TTL", "greeting")) <= 100
    equal(cli("MSET", "a", "1", "b", "2"), "OK")
    equal(cli("MGET", "a", "none", "b").split("\n"), ["1", "", "2"])
    equal(cli("INCRBY", "a", "41"), "42")
    equal(cli("TYPE", "a"), "string")
    equal(cli("APPEND", "b", "34"), "3")
    equal(cli("EXISTS", "a", "b", "none"), "2")
    assert cli("NOSUCH", "x").startswith("ERR unknown command 'NOSUCH'"), "the error is the server's"
    assert "redis_version:7.2.4" in cli("INFO", "server")
    # Commands of a pipe, as people load data.
    lines = "".join(f"SET pipe:{i} value:{i}\r\n" for i in range(1000))
    assert "errors: 0, replies: 1000" in cli("--pipe", stdin=lines)
    keys = cli("--scan", "--pattern", "pipe:*").split("\n")
    equal(sorted(keys), sorted(f"pipe:{i}" for i in range(1000)))
    equal(cli("DBSIZE"), "1003")
    equal(cli("DEL", "a", "b", "none"), "2")
    equal(cli("FLUSHALL"), "OK")
    equal(cli("DBSIZE"), "0")


def redis_cli_resp3(server):
    redis_cli(server, "-3")


def exercise_redis(client):
    """What applications do with redis-py, by either protocol, with one node or a cluster."""
    equal(client.ping(), True)
    equal(client.set("text", "grün"), True)
    equal(client.get("text"), "grün".encode())
    binary = bytes(range(256)) * 40
    equal(client.set("binary", binary, px=60_000), True)
    equal(client.get("binary"), binary)
    assert 50_000 < client.pttl("binary") <= 60_000
    equal(client.get("none"), None)
    equal(client.set("text", "x", nx=True), None)
    equal(client.set("text", "y", xx=True, get=True), "grün".encode())
    equal(client.set("fresh", "z", nx=True, keepttl=True), True)
    equal(client.ttl("fresh"), -1)
    equal(client.ttl("none"), -2)
    equal(client.expire("fresh", 100), True)
    equal(client.persist("fresh"), True)
    equal(client.incr("counter"), 1)
    equal(client.incrby("counter", 9), 10)
    equal(client.decrby("counter", 3), 7)
    equal(client.append("text", "-end"), 5)
    equal(client.strlen("text"), 5)
    equal(client.type("text"), b"string")
    equal(client.exists("text"), 1)
    equal(client.delete("text"), 1)
    equal(client.delete("text"), 0)
    # The key lives for a moment and no longer.
    equal(client.set("short", "v", px=50), True)
    deadline = time.monotonic() + 5
    while client.get("short") is not None:
        assert time.monotonic() < deadline, "it never expires"
    large = os.urandom(3_000_000)
    equal(client.set("large", large), True)
    equal(client.get("large"), large)
    pipe = client.pipeline(transaction=False)
    for i in range(2000):
        pipe.set(f"p:{i}", i)
        pipe.get(f"p:{i}")
    equal(pipe.execute(), [answer for i in range(2000) for answer in (True, str(i).encode())])
    equal(sorted(client.scan_iter(match="p:*", count=100)), sorted(f"p:{i}".encode() for i in range(2000)))
    held = client.dbsize()
    equal(client.delete("counter"), 1)
    equal(client.dbsize(), held - 1)


def redis_py(protocol):
    def scenario(server):
        redis = module("redis")
        with redis.Redis(server.host, server.port, protocol=protocol, client_name="scenario") as client:
            exercise_redis(client)
            equal(client.mset({f"m:{i}": i for i in range(100)}), True)
            equal(client.mget([f"m:{i}" for i in range(101)]), [str(i).encode() for i in range(100)] + [None])
            # redis-py hands it out as bytes by RESP3 and as text by RESP2.
            assert client.client_getname() in ("scenario", b"scenario")
            assert client.client_id() > 0
            info = client.info()
            equal((info["redis_version"], info["loading"], info["role"]), ("7.2.4", 0, "master"))
            assert info["connected_clients"] >= 1 and info["keyspace_hits"] > 0
            assert any(entry["name"] == "scenario" for entry in client.client_list())
            try:
                client.execute_command("NOSUCH", "x")
                raise AssertionError("an unknown command was taken")
            except redis.ResponseError as error:
                assert "unknown command" in str(error)
            equal(client.ping(), True)
            client.set("number", "text")
            try:
                client.incr("number")
                raise AssertionError("a text was counted up")
            except redis.ResponseError as error:
                assert "not an integer" in str(error)
            size = client.dbsize()
            assert size > 2000
            equal(client.flushall(), True)
            equal(client.dbsize(), 0)

    return scenario


def redis_py_cluster(server):
    redis = module("redis")
    from redis.cluster import RedisCluster

    client = RedisCluster(host=server.host, port=server.port)
    nodes = client.get_nodes()
    equal(sorted(node.port for node in nodes), [server.port + 1 + core for core in range(server.cores)])
    exercise_redis(client)
    keys = [f"direct:{i}" for i in range(500)]
    for key in keys:
        equal(client.set(key, key), True)
        equal(client.get(key), key.encode())
    equal(client.mget_nonatomic(keys), [key.encode() for key in keys])
    client.close()
    # A client that knows nothing of clusters may ask any core.
    for node in nodes:
        with redis.Redis(node.host, node.port) as plain:
            equal(plain.get("direct:1"), b"direct:1")


def pymemcache(server):
    module("pymemcache")
    from pymemcache.client.base import Client

    client = Client((server.host, server.port), timeout=20, default_noreply=False)
    equal(client.set("k", b"v"), True)
    equal(client.get("k"), b"v")
    equal(client.get("none"), None)
    value, token = client.gets("k")
    equal(client.cas("k", b"w", token), True)
    equal(client.cas("k", b"x", token), False)
    equal(client.cas("none", b"x", token), None)
    equal(client.add("k", b"x"), False)
    equal(client.add("new", b"x"), True)
    equal(client.replace("none", b"x"), False)
    equal(client.append("k", b"!"), True)
    equal(client.prepend("k", b"?"), True)
    equal(client.get("k"), b"?w!")
    equal(client.set("n", b"10"), True)
    equal(client.incr("n", 5), 15)
    equal(client.decr("n", 50), 0)
    equal(client.incr("none", 1), None)
    equal(client.touch("n", 100), True)
    equal(client.delete("n"), True)
    equal(client.delete("n"), False)
    many = {f"key:{i}": f"value:{i}".encode() for i in range(1000)}
    equal(client.set_many(many), [])
    equal(client.get_many(list(many)), many)
    equal(len(client.gets_many(list(many))), 1000)
    # noreply is the client's default: silence, and everything behind it in order.
    for i in range(1000):
        client.set("quiet", str(i).encode(), noreply=True)
    equal(client.get("quiet"), b"999")
    binary = bytes(range(256)) * 100
    equal(client.set("binary", binary), True)
    equal(client.get("binary"), binary)
    assert int(client.stats()[b"curr_items"]) >= 1000
    assert client.version()[0:1].isdigit()
    equal(client.flush_all(), True)
    equal(client.get_many(list(many)), {})
    client.quit()


def pylibmc(server):
    library = module("pylibmc")
    client = library.Client([f"{server.host}:{server.port}"], behaviors={"cas": True, "tcp_nodelay": True})
    equal(client.set("k", "v"), True)
    equal(client.get("k"), "v")
    equal(client.get("none"), None)
    value, token = client.gets("k")
    equal(client.cas("k", "w", token), True)
    equal(client.get("k"), "w")
    equal(client.add("k", "x"), False)
    equal(client.set("n", 10), True)
    equal(client.incr("n", 5), 15)
    equal(client.decr("n", 3), 12)
    many = {f"key:{i}": f"value:{i}" for i in range(500)}
    equal(client.set_multi(many), [])
    equal(client.get_multi(list(many)), many)
    equal(client.delete_multi(list(many)), True)
    equal(client.get_multi(list(many)), {})
    equal(client.set("structure", {"a": [1, 2, 3]}, time=100, min_compress_len=10), True)
    equal(client.get("structure"), {"a": [1, 2, 3]})
    assert client.get_stats()[0][1]
    equal(client.delete("k"), True)
    client.disconnect_all()


def memcapable(server):
    """libmemcached's own test of a server, of the text protocol."""
    out = call(program("memccapable"), "-h", server.host, "-p", server.port, "-a", "-t", "10")
    assert "FAIL" not in out, out


def memcached_tools(server):
    servers = f"--servers={server.host}:{server.port}"
    path = pathlib.Path("/tmp") / f"foreshadow-memccp-{os.getpid()}"
    path.write_text("carried by libmemcached\n")
    try:
        call(program("memccp"), servers, path)
        equal(call(program("memccat"), servers, path.name).rstrip("\n"), "carried by libmemcached")
        call(program("memcrm"), servers, path.name)
        assert "pid" in call(program("memcstat"), servers)
    finally:
        path.unlink()


def benchmark(name):
    def scenario(server):
        tool = program(name)
        common = [tool, "-h", server.host, "-p", server.port, "--csv", "-r", "10000", "-d", "100"]
        for flags in (["-c", "50", "-n", "50000"], ["-c", "10", "-n", "100000", "-P", "16"]):
            out = call(*common, *flags, "-t", "ping,set,get,incr,mset")
            rows = [line for line in out.split("\n") if line.startswith('"') and "test" not in line]
            assert len(rows) >= 5 and "error" not in out.lower(), out
        # The tool does not look at values: what it wrote is looked at here.
        key = call(program("redis-cli"), "-h", server.host, "-p", server.port, "RANDOMKEY").strip()
        assert key, "the benchmark left nothing"
        kind = call(program("redis-cli"), "-h", server.host, "-p", server.port, "STRLEN", key).strip()
        assert int(kind) > 0

    return scenario


CLUSTER = ["--cluster-ports"]

ALL = [
    ("redis-cli", [], redis_cli),
    ("redis-cli-3", [], redis_cli_resp3),
    ("redis-py-resp2", [], redis_py(2)),
    ("redis-py-resp3", [], redis_py(3)),
    ("redis-py-cluster", CLUSTER, redis_py_cluster),
    ("pymemcache", [], pymemcache),
    ("pylibmc", [], pylibmc),
    ("memcapable", [], memcapable),
    ("libmemcached-tools", [], memcached_tools),
    ("valkey-benchmark", [], benchmark("valkey-benchmark")),
    ("redis-benchmark", [], benchmark("redis-benchmark")),
]
