#!/usr/bin/env python3
"""A client of the native protocol in plain Python, written from proto-spec/native.md alone.

usage: custom_client.py [HOST:PORT]
"""
import socket, struct, sys, zlib

GET, GET_MANY, PUT, INVALIDATE = 0x10, 0x12, 0x20, 0x30
OK, CRC, MORE = 0, 1, 2
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
        """One request; its replies, of which batches have many: status, detail, body."""
        number, more = self.send(*request, **options), True
        self.stream.flush()
        while more:
            answered, status, detail, more, body = self.receive()
            assert answered == number
            yield status, detail, body

    def get(self, key):
        [(status, _, body)] = self.ask(GET, key, len(key))
        return body[META.size:] if status == OK else None

    def put(self, key, value, ttl_ms=0, version=0, detail=0, opcode=PUT):
        [(status, _, _)] = self.ask(opcode, META.pack(ttl_ms, version, 0) + key + value, len(key), detail)
        return status

    def get_many(self, keys):
        """Replies come in any order; `detail` is the place in the request (section 4.6)."""
        found = self.ask(GET_MANY, b"".join(struct.pack("<H", len(k)) + k for k in keys), detail=len(keys))
        values = {place: body[META.size:] for status, place, body in found if status == OK}
        return [values.get(place) for place in range(len(keys))]


if __name__ == "__main__":
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400").rpartition(":")
    client = Client(host, int(port))
    client.put(b"greeting", b"hello", ttl_ms=60000)
    print(client.get_many([b"greeting", b"nothing"]))
