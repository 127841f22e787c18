"""The rows of the comparison, and the targets that they tell about."""

MEMORY_MIB = 1024
PEER_NAMES = ["memcached", "valkey", "redis"]


def row(name, protocol="resp", value=100, connections=50, pipeline=1, ratio="1:10", pattern="zipf", kind="closed",
        load=None, cores=1):
    """A row of the table. kind: closed (generator as fast as it can), quota (the server has less than a core, so that it
    is saturated), busy (foreshadow polls busily, the others as they are), open (Poisson at `load` of capacity)."""
    return dict(name=name, protocol=protocol, value=value, connections=connections, pipeline=pipeline, ratio=ratio,
                pattern=pattern, kind=kind, load=load, cores=cores)


ROWS = [
    row("p1"),
    row("p16", pipeline=16),
    row("quota-p1", kind="quota"),
    row("quota-p16", pipeline=16, kind="quota"),
    row("busy-c1", connections=1, kind="busy"),
    row("busy-c50", kind="busy"),
    row("open-70", kind="open", load=0.7),
    row("mc-p1", "memcached"),
    row("mc-p16", "memcached", pipeline=16),
    row("native-p1", "native"),
    row("native-p16", "native", pipeline=16),
    row("p64", pipeline=64),
    row("even-p16", pipeline=16, ratio="1:1"),
    row("c500", connections=500),
    row("v16384", value=16384),
    row("mc-quota-p1", "memcached", kind="quota"),
    row("mc-quota-p16", "memcached", pipeline=16, kind="quota"),
    row("open-30", kind="open", load=0.3),
    row("open-50", kind="open", load=0.5),
    row("c1", connections=1),
    row("c8", connections=8),
    row("c500-p16", connections=500, pipeline=16),
    row("v16", value=16),
    row("v16-p16", value=16, pipeline=16),
    row("v1024", value=1024),
    row("v1024-p16", value=1024, pipeline=16),
    row("v16384-p16", value=16384, pipeline=16),
    row("even", ratio="1:1"),
    row("uniform", pattern="uniform"),
    row("uniform-p16", pipeline=16, pattern="uniform"),
    row("mc-p64", "memcached", pipeline=64),
    row("mc-v16384", "memcached", value=16384),
    row("mc-busy-c1", "memcached", connections=1, kind="busy"),
    row("mc-busy-c50", "memcached", kind="busy"),
    row("mc-open-70", "memcached", kind="open", load=0.7),
    row("native-quota-p1", "native", kind="quota"),
    row("native-quota-p16", "native", pipeline=16, kind="quota"),
    row("two-p1", pattern="uniform", cores=2),
    row("two-p16", pipeline=16, pattern="uniform", cores=2),
]
# What targets and the README's losses are about; it takes about ten minutes.
SHORT = ["p1", "p16", "quota-p1", "quota-p16", "busy-c1", "busy-c50", "open-70", "mc-p1", "mc-p16", "native-p1", "native-p16",
         "uniform-p16", "two-p16", "v16384", "v16384-p16", "c1", "c500", "mc-quota-p1", "mc-quota-p16", "two-p1"]


def grid():
    """Every combination of the grid."""
    rows = []
    for cores in [1, 2]:
        for protocol in ["resp", "memcached", "native"]:
            for ratio in ["1:10", "1:1"]:
                for value in [16, 100, 1024, 16384]:
                    for connections in [1, 8, 50, 500]:
                        for pipeline in [1, 16, 64]:
                            for pattern in ["zipf", "uniform"]:
                                name = f"{protocol}-{ratio}-v{value}-c{connections}-p{pipeline}-{pattern}-cores{cores}"
                                rows.append(row(name, protocol, value, connections, pipeline, ratio, pattern, cores=cores))
    return rows


def keys_of(r):
    """Keys of a row: many, but all data of a row fits the memory limit of every server three times over."""
    return max(1000, min(100_000, MEMORY_MIB * (1 << 20) // 3 // (r["value"] + 100)))


def targets(cells, idle):
    """Each target: (words, value or None where these rows do not tell it, must, beyond, smaller is better)."""
    def get(row_name, server, key):
        return cells.get(row_name, {}).get(server, {}).get(key)

    def over(a, b):
        return a / b if a is not None and b else None

    def best(row_name, key, pick=min):
        values = [v for v in (get(row_name, p, key) for p in PEER_NAMES) if v]
        return pick(values) if values else None

    def cpu_over_floor(name):
        return over(get(name, "foreshadow", "cpu"), get(name, "floor", "cpu"))

    def cpu_over_best(name):
        return over(get(name, "foreshadow", "cpu"), best(name, "cpu"))

    two = over(get("two-p16", "foreshadow", "cpu"), get("uniform-p16", "foreshadow", "cpu"))
    found = []
    for prefix, words in [("", "RESP"), ("mc-", "memcached text"), ("native-", "native")]:
        found += [
            (f"{words}: CPU per request over the floor, pipeline 1", cpu_over_floor(prefix + "p1"), 1.20, 1.05, True),
            (f"{words}: CPU per request over the floor, pipeline 16", cpu_over_floor(prefix + "p16"), 1.35, 1.15, True),
            (f"{words}: the same, saturated by quota, pipeline 1", cpu_over_floor(prefix + "quota-p1"), 1.12, 1.05, True),
            (f"{words}: the same, saturated by quota, pipeline 16", cpu_over_floor(prefix + "quota-p16"), 1.30, 1.15,
             True),
            (f"{words}: CPU per request over the best peer, pipeline 1", cpu_over_best(prefix + "p1"), 1.00, 0.90, True),
            (f"{words}: CPU per request over the best peer, pipeline 16", cpu_over_best(prefix + "p16"), 0.85, 0.65,
             True),
        ]
    for pipeline in (1, 16):
        over_resp = over(get(f"native-p{pipeline}", "foreshadow", "cpu"), get(f"p{pipeline}", "foreshadow", "cpu"))
        found.append((f"native: CPU per request over RESP's, pipeline {pipeline}", over_resp, 1.00, 0.90, True))
    for prefix, words in [("", "RESP"), ("mc-", "memcached text")]:
        found += busy_and_open(prefix, words, get, over, best)
    found += [
        ("two cores, uniform keys, CPU per request over one core, pipeline 16", two, 1.35, 1.15, True),
        ("idle: CPU per core in %", idle["foreshadow"] * 100 if "foreshadow" in idle else None, 0.5, 0.1, True),
    ]
    return found


def busy_and_open(prefix, words, get, over, best):
    """The targets of one protocol with busy polling and in open loop."""
    c1, c50, p999 = f"{prefix}busy-c1", f"{prefix}busy-c50", get(f"{prefix}open-70", "foreshadow", "p99.9")
    return [
        (f"{words}: p50 of one connection over the best peer, busy polling",
         over(get(c1, "foreshadow", "p50"), best(c1, "p50")), 0.50, 0.40, True),
        (f"{words}: requests/s of one connection over the best peer, busy polling",
         over(get(c1, "foreshadow", "rate"), best(c1, "rate", max)), 2.2, 2.7, False),
        (f"{words}: p99 of 50 connections over the best peer, busy polling",
         over(get(c50, "foreshadow", "p99"), best(c50, "p99")), 0.85, 0.70, True),
        (f"{words}: open loop at 70 %, p99.9 in ms", None if p999 is None else p999 / 1e3, 1.0, 0.5, True),
    ]


def losses(cells):
    """Every figure in which foreshadow is not the best of those in its row; a difference below 2 % is a draw."""
    figures = [("cpu", "CPU per request", min), ("rate", "requests/s", max), ("p50", "p50", min), ("p99", "p99", min),
               ("p99.9", "p99.9", min)]
    found = []
    for name, row_cells in cells.items():
        ours = row_cells.get("foreshadow")
        if not ours:
            continue
        for key, words, pick in figures:
            peers = {p: row_cells[p][key] for p in PEER_NAMES if p in row_cells and row_cells[p][key]}
            if not peers or not ours[key]:
                continue
            winner = pick(peers, key=peers.get)
            ratio = ours[key] / peers[winner]
            if (ratio > 1.02) if pick is min else (ratio < 0.98):
                found.append(f"{name}: {words} is {ratio:.2f} of {winner}'s")
    return found
