"""Holds examples/custom_client.py, which knows only the written spec, to a server: custom_client.py CLIENT HOST:PORT."""
import importlib.util, struct, sys

spec = importlib.util.spec_from_file_location("custom_client", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)

PING, LEASE_GET, LEASE_PUT = 0x03, 0x13, 0x21
OK, NOT_FOUND, EXISTS, LEASE_LOST = 0, 1, 3, 5

host, _, port = sys.argv[2].rpartition(":")
client = native.Client(host, int(port))
one = lambda *request: next(client.ask(*request))
assert one(PING, b"hello")[2] == b"hello"
assert client.put(b"py:1", b"one", ttl_ms=60000) == OK and client.get(b"py:1") == b"one"
assert client.put(b"py:1", b"two", detail=1) == EXISTS
assert client.get_many([b"py:1", b"py:none", b"py:1"]) == [b"one", None, b"one"]
assert one(native.INVALIDATE, b"py:1", 4)[0] == OK
status, won, body = one(LEASE_GET, struct.pack("<I", 5000) + b"py:1", 4)
version = native.META.unpack(body)[1]
assert (status, won) == (NOT_FOUND, 1)
one(native.INVALIDATE, b"py:1", 4)
assert client.put(b"py:1", b"too late", version=version, opcode=LEASE_PUT) == LEASE_LOST
assert client.get(b"py:1") is None
for i in range(1000):  # a pipeline: replies may overtake, ids tell them apart
    client.send(native.PUT, native.META.pack(0, 0, 0) + b"py:%d" % i + b"x", len(b"py:%d" % i), crc=False)
client.stream.flush()
assert {client.receive()[:2] for _ in range(1000)} == {(client.next_id - i, OK) for i in range(1000)}
print("ok")
