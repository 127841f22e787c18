"""Grouped bar charts as rectangles and texts, SVG and PNG written by hand: no library is needed for a plot."""

import struct
import zlib

COLOURS = {"floor": "#b0b0b0", "foreshadow": "#0b6e4f", "memcached": "#d08c2c", "valkey": "#3b6fb6", "redis": "#b23a48"}


def number(value, digits=3):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


class Bars:
    """A grouped bar chart as rectangles and texts, from which SVG and PNG are written alike."""

    def __init__(self, title, rows, servers, value):
        self.rects, self.texts = [], []
        bar, gap, left, top, height = 14, 22, 60, 56, 300
        peak = max((v for r in rows for s in servers if (v := value(r, s))), default=1)
        self.width = left + sum(gap + bar * len(servers) for _ in rows) + 30
        self.width = max(self.width, 560)
        self.height = top + height + 60
        self.texts.append((left, 14, title, "#000000"))
        x = left
        for server in servers:
            self.rects.append((x, 28, 10, 10, COLOURS[server]))
            self.texts.append((x + 14, 30, server, "#000000"))
            x += 26 + 6 * len(server) + 10
        for i in range(5):
            y = top + height - height * i // 4
            self.rects.append((left - 4, y, self.width - left - 20, 1, "#dddddd"))
            self.texts.append((4, y - 3, number(peak * i / 4), "#444444"))
        x = left + gap // 2
        for i, r in enumerate(rows):
            for server in servers:
                if v := value(r, server):
                    h = max(1, round(height * v / peak))
                    self.rects.append((x, top + height - h, bar - 2, h, COLOURS[server]))
                x += bar
            # Names in two heights, so that neighbours do not run into each other.
            self.texts.append((x - bar * len(servers), top + height + 8 + 12 * (i % 2), r, "#000000"))
            x += gap

    def svg(self):
        out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
               'font-family="monospace" font-size="10">', '<rect width="100%" height="100%" fill="white"/>']
        out += [f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{c}"/>' for x, y, w, h, c in self.rects]
        for x, y, text, colour in self.texts:
            text = text.replace("&", "&amp;").replace("<", "&lt;")
            out.append(f'<text x="{x}" y="{y + 8}" fill="{colour}">{text}</text>')
        return "\n".join(out + ["</svg>", ""])

    def png(self):
        pixels = [bytearray(b"\xff\xff\xff" * self.width) for _ in range(self.height)]

        def paint(x, y, w, h, colour):
            rgb = bytes.fromhex(colour[1:])
            x, w = max(0, x), max(0, min(w, self.width - x))
            for line in pixels[max(0, y):min(self.height, y + h)]:
                line[3 * x:3 * (x + w)] = rgb * w

        for rect in self.rects:
            paint(*rect)
        for x, y, text, colour in self.texts:
            for letter in text:
                for dy, bits in enumerate(GLYPHS.get(letter.upper(), GLYPHS["?"])):
                    for dx in range(5):
                        if bits >> (4 - dx) & 1:
                            paint(x + dx, y + dy, 1, 1, colour)
                x += 6
        raw = zlib.compress(b"".join(b"\0" + bytes(line) for line in pixels), 9)

        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")


def glyphs():
    """A 5 by 7 font of capitals, figures and signs: seven rows of five bits each, two hexadecimal digits a row."""
    font = {
        "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1e11111111111e",
        "E": "1f10101e10101f", "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111",
        "I": "0e04040404040e", "J": "0702020202120c", "K": "11121418141211", "L": "1010101010101f",
        "M": "111b1515111111", "N": "11191513111111", "O": "0e11111111110e", "P": "1e11111e101010",
        "Q": "0e11111115120d", "R": "1e11111e141211", "S": "0f10100e01011e", "T": "1f040404040404",
        "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111",
        "Y": "11110a04040404", "Z": "1f01020408101f", "0": "0e11131519110e", "1": "040c040404040e",
        "2": "0e11010204081f", "3": "1f02040201110e", "4": "02060a121f0202", "5": "1f101e0101110e",
        "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e", "9": "0e11110f01020c",
        " ": "00000000000000", ".": "00000000000c0c", ",": "000000000c0408", "-": "0000001f000000",
        "/": "00010204081000", ":": "000c0c000c0c00", "%": "18190204081303", "(": "02040808080402",
        ")": "08040202020408", "?": "0e110102040004", "+": "0004041f040400", "=": "00001f001f0000",
    }
    return {letter: bytes.fromhex(rows) for letter, rows in font.items()}


GLYPHS = glyphs()
