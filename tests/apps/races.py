"""Says from a packet capture what became of each request a proxy sent to an upstream.

Usage: races.py FILE PORT. Prints one JSON line per request: its path and how its connection
ended around it. Reads the capture file by itself and knows nothing of why502.
"""

import json
import struct
import sys

FIN, SYN, RST, ACK = 1, 2, 4, 16
LINK_ETHERNET, LINK_RAW = 1, 101


def packets(file):
    """(time in seconds, link type, bytes) of each packet."""
    head = file.read(24)
    magic = head[:4]
    order, unit = {
        b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
        b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
        b"\xa1\xb2\xc3\xd4": (">", 1e-6),
        b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    }[magic]
    link = struct.unpack(order + "I", head[20:24])[0]
    while True:
        record = file.read(16)
        if len(record) < 16:
            return
        seconds, fraction, size, _ = struct.unpack(order + "IIII", record)
        data = file.read(size)
        if len(data) < size:
            return
        yield seconds + fraction * unit, link, data


def segment(link, data):
    """(source, destination, sequence, acknowledgement, flags, payload) or None."""
    if link == LINK_ETHERNET:
        data = data[14:]
    elif link != LINK_RAW:
        raise SystemExit(f"link type {link}?")
    if len(data) < 40 or data[0] >> 4 != 4 or data[9] != 6:
        return None
    header = (data[0] & 15) * 4
    total = struct.unpack("!H", data[2:4])[0]
    tcp = data[header:total]
    ports = struct.unpack("!HH", tcp[:4])
    sequence, acknowledgement = struct.unpack("!II", tcp[4:12])
    payload = tcp[(tcp[12] >> 4) * 4 :]
    source, destination = (data[12:16], ports[0]), (data[16:20], ports[1])
    return source, destination, sequence, acknowledgement, tcp[13], payload


def distance(later, earlier):
    """Sequence numbers wrap."""
    return (later - earlier + (1 << 31)) % (1 << 32) - (1 << 31)


class Connection:
    def __init__(self):
        self.requests = []
        self.last_response = None
        self.next_sequence = None
        self.fin = None  # (time, acknowledgement)
        self.reset = None  # (time, has ACK)
        self.syn_acks = 0

    def from_proxy(self, time, sequence, payload):
        if not payload:
            return
        if self.next_sequence is not None and distance(sequence, self.next_sequence) < 0:
            return  # a retransmission
        self.next_sequence = (sequence + len(payload)) % (1 << 32)
        words = payload.split(b" ", 2)
        if len(words) == 3 and words[1].startswith(b"/") and words[0].isupper():
            self.requests.append(
                {
                    "path": words[1].split(b"?")[0].decode(),
                    "method": words[0].decode(),
                    "ordinal": len(self.requests) + 1,
                    "sent": time,
                    "start": sequence,
                    "end": self.next_sequence,
                    "idle": self.last_response and time - self.last_response,
                    "fin_before": self.fin is not None,
                    "answered": False,
                    "acknowledged_at": None,
                }
            )
        elif self.requests:
            self.requests[-1]["end"] = self.next_sequence  # the body

    def from_upstream(self, time, acknowledgement, flags, payload):
        request = self.requests[-1] if self.requests else None
        if flags & ACK and request and request["acknowledged_at"] is None:
            if distance(acknowledgement, request["end"]) >= 0:
                request["acknowledged_at"] = time
        if flags & SYN:
            self.syn_acks += 1
        if payload:
            self.last_response = time
            if request:
                request["answered"] = True
        if flags & FIN and self.fin is None:
            self.fin = (time, acknowledgement)
        if flags & RST and self.reset is None:
            self.reset = (time, bool(flags & ACK))

    def judge(self, request):
        if request["answered"]:
            return "answered"
        covered = request["acknowledged_at"] is not None
        if self.fin is None:
            if self.reset is None:
                return "open"
            return "reset_after_acknowledgement" if covered else "reset"
        if covered and self.reset is None and request["fin_before"]:
            return "half_close"
        if request["fin_before"]:
            return "fin_already_received"
        if distance(self.fin[1], request["start"]) <= 0:
            return "fin_in_flight"
        return "fin_after_acknowledgement"


def main():
    port = int(sys.argv[2])
    connections, ended = {}, []
    with open(sys.argv[1], "rb") as file:
        for time, link, data in packets(file):
            found = segment(link, data)
            if found is None:
                continue
            source, destination, sequence, acknowledgement, flags, payload = found
            if destination[1] == port:
                key, outward = (source, destination), True
            elif source[1] == port:
                key, outward = (destination, source), False
            else:
                continue
            if flags & SYN and outward and key in connections:
                ended.append(connections.pop(key))
            connection = connections.setdefault(key, Connection())
            if outward:
                connection.from_proxy(time, sequence, payload)
            else:
                connection.from_upstream(time, acknowledgement, flags, payload)
    for connection in [*ended, *connections.values()]:
        for request in connection.requests:
            print(
                json.dumps(
                    {
                        "path": request["path"],
                        "judgement": connection.judge(request),
                        "reused": request["ordinal"] > 1,
                        "idle": request["idle"],
                        "fin_after_request": connection.fin
                        and connection.fin[0] - request["sent"],
                        "acknowledged_at": request["acknowledged_at"],
                        "syn_acks": connection.syn_acks,
                        "reset_has_ack": connection.reset and connection.reset[1],
                    }
                )
            )


if __name__ == "__main__":
    main()
