"""What each client does and what it must get."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from run import Missing

HERE = pathlib.Path(__file__).parent
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


def redis_py(protocol, library="redis"):
    """redis-py, or valkey-py, which is a branch of it."""

    def scenario(server):
        redis = module(library)
        with (redis.Redis if library == "redis" else redis.Valkey)(server.host, server.port, protocol=protocol, client_name="scenario") as client:
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

    exercise_cluster(server, RedisCluster, redis.Redis)


def valkey_py_cluster(server):
    valkey = module("valkey")
    from valkey.cluster import ValkeyCluster

    exercise_cluster(server, ValkeyCluster, valkey.Valkey)


def exercise_cluster(server, cluster, plain_client):
    client = cluster(host=server.host, port=server.port)
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
        with plain_client(node.host, node.port) as plain:
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


def python_memcached(server):
    library = module("memcache")
    client = library.Client([f"{server.host}:{server.port}"], socket_timeout=20, cache_cas=True)
    equal(client.set("k", "v", time=100), True)
    equal(client.get("k"), "v")
    equal(client.get("none"), None)
    equal(client.gets("k"), "v")
    equal(client.cas("k", "w"), True)
    equal(client.add("k", "x"), False)
    equal(client.add("new", "x"), True)
    equal(client.replace("none", "x"), False)
    equal(client.append("k", "!"), True)
    equal(client.prepend("k", "?"), True)
    equal(client.get("k"), "?w!")
    equal(client.set("n", 10), True)
    equal(client.incr("n", 32), 42)
    equal(client.decr("n", 2), 40)
    equal(client.incr("none"), None)
    equal(client.touch("n", 100), 1)
    equal(client.set("structure", {"a": [1, 2, 3]}, min_compress_len=5), True)
    equal(client.get("structure"), {"a": [1, 2, 3]})
    binary = bytes(range(256)) * 1000
    equal(client.set("binary", binary), True)
    equal(client.get("binary"), binary)
    many = {f"many:{i}": f"value {i}" for i in range(500)}
    equal(client.set_multi(many), [])
    equal(client.get_multi(list(many)), many)
    equal(client.delete_multi(list(many)), 1)
    equal(client.get_multi(list(many)), {})
    equal(client.delete("k"), 1)
    # Its own limit is checked first; ours is met without it.
    free = library.Client([f"{server.host}:{server.port}"], socket_timeout=20, server_max_value_length=0)
    equal(free.set("large", b"x" * 3_000_000), 0)
    equal(free.get("large"), None)
    equal(free.set("after", "the error"), True)
    assert int(client.get_stats()[0][1]["curr_items"]) >= 4
    client.flush_all()
    equal(client.get("n"), None)
    client.disconnect_all()


def aiomcache(server):
    library = module("aiomcache")
    import asyncio

    async def talk():
        client = library.Client(server.host, server.port, pool_size=8)
        equal(await client.set(b"k", b"v", exptime=100), True)
        equal(await client.get(b"k"), b"v")
        equal(await client.get(b"none"), None)
        value, token = await client.gets(b"k")
        equal(await client.cas(b"k", b"w", token), True)
        equal(await client.cas(b"k", b"x", token), False)
        equal(await client.add(b"k", b"x"), False)
        equal(await client.replace(b"none", b"x"), False)
        equal(await client.append(b"k", b"!"), True)
        equal(await client.prepend(b"k", b"?"), True)
        equal(await client.get(b"k"), b"?w!")
        equal(await client.set(b"n", b"10"), True)
        equal(await client.incr(b"n", 32), 42)
        equal(await client.decr(b"n", 2), 40)
        equal(await client.touch(b"n", 100), True)
        keys = [f"many:{i}".encode() for i in range(500)]
        equal(await asyncio.gather(*(client.set(key, key) for key in keys)), [True] * 500)
        equal(await client.multi_get(*keys, b"none"), (*keys, None))
        equal(await client.delete(b"k"), True)
        equal(await client.delete(b"k"), False)
        assert (await client.version()).startswith(b"1.6.45")
        assert int((await client.stats())[b"curr_items"]) >= 500
        await client.flush_all()
        equal(await client.get(b"n"), None)
        await client.close()

    asyncio.run(asyncio.wait_for(talk(), 60))


def foreign(least, *command, needs=(), environment=None):
    """A session in another language: a command that is given host and port, checks, and says at its end how many checks
    there were. `needs` are programs, files or (for Debian's modules) commands that fail where something is missing."""

    def scenario(server):
        for need in needs:
            if isinstance(need, pathlib.Path):
                if not need.exists():
                    raise Missing(f"{need} is not installed")
            elif isinstance(need, tuple):
                program(need[0])
                if subprocess.run(need, capture_output=True).returncode != 0:
                    raise Missing(f"{' '.join(need)} fails")
        words = [part.format(host=server.host, port=server.port) if isinstance(part, str) else part for part in command]
        found = [program(words[0]), *words[1:]]
        done = subprocess.run(
            [str(part) for part in found],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **(environment or {})},
        )
        assert done.returncode == 0, f"ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        counted = re.search(r"^checks (\d+)$", done.stdout, re.MULTILINE)
        assert counted and int(counted[1]) >= least, f"too few checks: {done.stdout[-500:]}"

    return scenario


def perl(least, name, library):
    path = HERE / name
    return foreign(least, "perl", path, library, "{host}", "{port}", needs=[("perl", f"-M{library}", "-e1")])


def php(least, name, extension):
    needs = [("php", "-r", f"exit(extension_loaded('{extension}') ? 0 : 1);")]
    return foreign(least, "php", HERE / name, "{host}", "{port}", needs=needs)


def node(least, name, package, *mode):
    needs = [HERE / "node" / "node_modules" / package]
    return foreign(least, "node", HERE / "node" / name, "{host}", "{port}", *mode, needs=needs)


GO_CODE = pathlib.Path("/usr/share/gocode")


def go(least, name, package):
    """By the packages of Debian, without modules and so without the network."""
    environment = {"GO111MODULE": "off", "GOPATH": str(GO_CODE), "GOFLAGS": ""}
    needs = [GO_CODE / "src" / "github.com" / package]
    return foreign(least, "go", "run", HERE / name, "{host}", "{port}", needs=needs, environment=environment)


def hiredis(server):
    header = pathlib.Path("/usr/include/hiredis/hiredis.h")
    if not header.exists():
        raise Missing(f"{header} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        binary = pathlib.Path(folder) / "hiredis"
        call(program("cc"), "-Wall", "-o", binary, HERE / "hiredis.c", "-lhiredis")
        foreign(20_000, str(binary), "{host}", "{port}")(server)


def memcapable(server):
    """libmemcached's own test of a server, of the text protocol: all 27."""
    out = call(program("memccapable"), "-h", server.host, "-p", server.port, "-a", "-t", "10")
    lines = [line for line in out.split("\n") if line.startswith("ascii ")]
    passed = [line for line in lines if line.rstrip().endswith("[pass]")]
    assert len(passed) == len(lines) == 27, out


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


PAPERS = pathlib.Path(tempfile.gettempdir()) / f"foreshadow-clients-{os.getpid()}"


def tls_flags():
    """Flags of a server that demands certificates, with an authority and papers for both sides made on the way."""
    openssl = program("openssl")
    PAPERS.mkdir(exist_ok=True)

    def make(name, *more):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        files = ["-keyout", PAPERS / f"{name}.key", "-out", PAPERS / f"{name}.crt"]
        call(openssl, "req", "-x509", *key, *files, "-subj", f"/CN={name}", *more)

    make("ca")
    for name in ("localhost", "client"):
        issuer = ["-CA", PAPERS / "ca.crt", "-CAkey", PAPERS / "ca.key"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
        make(name, *issuer, *names)
    files = ["--tls-cert-file", PAPERS / "localhost.crt", "--tls-key-file", PAPERS / "localhost.key"]
    ca = ["--tls-ca-cert-file", PAPERS / "ca.crt"]
    return [str(flag) for flag in ["--tls-listen", "127.0.0.1:0", *files, *ca]]


def tls(server):
    """Stock clients over TLS, with a certificate of their own."""
    ca, crt, key = (str(PAPERS / name) for name in ("ca.crt", "client.crt", "client.key"))
    for tool in ("redis-cli", "valkey-cli"):
        papers = ["--tls", "--cacert", ca, "--cert", crt, "--key", key]
        cli = [program(tool), "-h", "127.0.0.1", "-p", server.tls_port, *papers]
        equal(call(*cli, "SET", "greeting", "hello").strip(), "OK")
        equal(call(*cli, "GET", "greeting").strip(), "hello")
        stranger = [program(tool), "-h", "127.0.0.1", "-p", server.tls_port, "--tls", "--cacert", ca, "PING"]
        refused = subprocess.run([str(part) for part in stranger], capture_output=True, text=True, timeout=60)
        assert "PONG" not in refused.stdout, "without a certificate nobody is let in"
    options = {"ssl": True, "ssl_ca_certs": ca, "ssl_certfile": crt, "ssl_keyfile": key}
    client = module("redis").Redis(host="localhost", port=server.tls_port, **options)
    assert client.set("a", "x" * 100_000) and client.get("a") == b"x" * 100_000
    with client.pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"tls:{i}", i)
        equal(pipe.execute(), [True] * 1000)
    client.close()
    module("pymemcache")
    import ssl

    from pymemcache.client.base import Client

    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(crt, key)
    context.check_hostname = False
    memcached = Client(("127.0.0.1", server.tls_port), tls_context=context, default_noreply=False)
    equal(memcached.get("greeting"), b"hello")
    assert memcached.set("b", "y" * 100_000) and memcached.get("b") == b"y" * 100_000
    memcached.close()


def tls_benchmark(name):
    def scenario(server):
        papers = ["--tls", "--cacert", PAPERS / "ca.crt", "--cert", PAPERS / "client.crt", "--key", PAPERS / "client.key"]
        where = ["-h", "127.0.0.1", "-p", server.tls_port, *papers, "-P", "16", "-n", "20000", "-q"]
        out = call(program(name), *where, "-t", "set,get")
        assert out.count("requests per second") >= 2 and "rror" not in out, out

    return scenario


CLUSTER = ["--cluster-ports"]

ALL = [
    ("redis-cli", [], redis_cli),
    ("redis-cli-3", [], redis_cli_resp3),
    ("redis-py-resp2", [], redis_py(2)),
    ("redis-py-resp3", [], redis_py(3)),
    ("redis-py-cluster", CLUSTER, redis_py_cluster),
    ("valkey-py-resp2", [], redis_py(2, "valkey")),
    ("valkey-py-resp3", [], redis_py(3, "valkey")),
    ("valkey-py-cluster", CLUSTER, valkey_py_cluster),
    ("hiredis", [], hiredis),
    ("redigo", [], go(10_000, "redigo.go", "gomodule/redigo")),
    ("perl-redis", [], perl(20, "redis.pl", "Redis")),
    ("perl-redis-fast", [], perl(20, "redis.pl", "Redis::Fast")),
    ("phpredis", [], php(30, "redis.php", "redis")),
    ("ioredis", [], node(20, "ioredis.js", "ioredis")),
    ("ioredis-cluster", CLUSTER, node(15, "ioredis.js", "ioredis", "cluster")),
    ("node-redis-resp2", [], node(20, "node_redis.js", "redis", "resp2")),
    ("node-redis-resp3", [], node(20, "node_redis.js", "redis", "resp3")),
    ("node-redis-cluster", CLUSTER, node(15, "node_redis.js", "redis", "cluster")),
    ("pymemcache", [], pymemcache),
    ("python-memcached", [], python_memcached),
    ("aiomcache", [], aiomcache),
    ("gomemcache", [], go(2_000, "gomemcache.go", "bradfitz/gomemcache")),
    ("perl-memcached", [], perl(600, "memcached.pl", "Cache::Memcached")),
    ("perl-memcached-fast", [], perl(600, "memcached.pl", "Cache::Memcached::Fast")),
    ("php-memcached", [], php(30, "memcached.php", "memcached")),
    ("node-memcached", [], node(200, "memcached.js", "memcached")),
    ("pylibmc", [], pylibmc),
    ("memcapable", [], memcapable),
    ("libmemcached-tools", [], memcached_tools),
    ("tls", tls_flags, tls),
    ("valkey-benchmark-tls", tls_flags, tls_benchmark("valkey-benchmark")),
    ("valkey-benchmark", [], benchmark("valkey-benchmark")),
    ("redis-benchmark", [], benchmark("redis-benchmark")),
]
