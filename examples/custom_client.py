#!/usr/bin/env python3
"""A client of the native protocol in plain Python, written from proto-spec/native.md alone.

usage: custom_client.py [HOST:PORT]
"""
import socket, struct, sys, zlib

GET, GET_MANY, LEASE_GET, PUT, LEASE_PUT, INVALIDATE, PING = 0x10, 0x12, 0x13, 0x20, 0x21, 0x30, 0x03
OK, NOT_FOUND, EXISTS, LEASE_LOST = 0, 1, 3, 5
CRC, MORE = 1, 2
HEADER, META = struct.Struct("<BBBBIIHH"), struct.Struct("<QQI")  # sections 2 and 3.1


class Client:
    def __init__(self, host, port):
        self.stream = socket.create_connection((host, port), timeout=5).makefile("rwb")
        self.next_id = 0

    def send(self, opcode, body=b"", key_len=0, detail=0, crc=True):
        """Queues a request and returns its id."""
        self.next_id += 1
        length = len(body) + (4 if crc else 0)
        frame = HEADER.pack(0xF5, 1, opcode, CRC if crc else 0, self.next_id, length, key_len, detail) + body
        self.stream.write(frame + (struct.pack("<I", zlib.crc32(frame)) if crc else b""))
        return self.next_id

    def receive(self):
        """The next reply: id, status, detail, whether more follow, body."""
        head = self.stream.read(HEADER.size)
        magic, version, _, flags, number, length, status, detail = HEADER.unpack(head)
        body = self.stream.read(length)
        assert (magic, version) == (0xF6, 1) and flags < 8, head
        if flags & CRC:
            body, (crc,) = body[:-4], struct.unpack("<I", body[-4:])
            assert crc == zlib.crc32(head + body), "wrong checksum"
        return number, status, detail, bool(flags & MORE), body

    def ask(self, *request, **options):
        """One request, one reply: status, detail, body."""
        number = self.send(*request, **options)
        self.stream.flush()
        answered, status, detail, more, body = self.receive()
        assert answered == number and not more
        return status, detail, body

    def get(self, key):
        status, _, body = self.ask(GET, key, len(key))
        return body[META.size:] if status == OK else None

    def put(self, key, value, ttl_ms=0, version=0, detail=0, opcode=PUT):
        return self.ask(opcode, META.pack(ttl_ms, version, 0) + key + value, len(key), detail)[0]

    def get_many(self, keys):
        """Replies come in any order; `detail` is the place in the request (section 4.6)."""
        number = self.send(GET_MANY, b"".join(struct.pack("<H", len(k)) + k for k in keys), detail=len(keys))
        self.stream.flush()
        values, more = [None] * len(keys), True
        while more:
            answered, status, place, more, body = self.receive()
            assert answered == number
            values[place] = body[META.size:] if status == OK else None
        return values


def main():
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400").rpartition(":")
    client = Client(host, int(port))
    assert client.ask(PING, b"hello")[2] == b"hello"
    assert client.put(b"py:1", b"one", ttl_ms=60000) == OK and client.get(b"py:1") == b"one"
    assert client.put(b"py:1", b"two", detail=1) == EXISTS
    assert client.get_many([b"py:1", b"py:none", b"py:1"]) == [b"one", None, b"one"]
    client.ask(INVALIDATE, b"py:1", 4)
    status, won, body = client.ask(LEASE_GET, struct.pack("<I", 5000) + b"py:1", 4)
    version = META.unpack(body)[1]
    assert (status, won) == (NOT_FOUND, 1)
    client.ask(INVALIDATE, b"py:1", 4)
    assert client.put(b"py:1", b"too late", version=version, opcode=LEASE_PUT) == LEASE_LOST
    assert client.get(b"py:1") is None
    for i in range(1000):  # a pipeline: replies may overtake, ids tell them apart
        client.send(PUT, META.pack(0, 0, 0) + b"py:%d" % i + b"x", len(b"py:%d" % i), crc=False)
    client.stream.flush()
    assert {client.receive()[:2] for _ in range(1000)} == {(client.next_id - i, OK) for i in range(1000)}
    print("ok")


main()
