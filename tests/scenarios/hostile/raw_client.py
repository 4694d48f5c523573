# SPDX-License-Identifier: Apache-2.0
"""A TCP client over a packet socket, as a pod with NET_RAW can write one: no socket of the kernel, and,
with "around", no queueing discipline and so no egress program either.

raw_client.py DEVICE GATEWAY SOURCE DESTINATION PORT through|around

Says `silence`, `reset` or `answer`, and in the last case the answer.
"""

import random
import socket
import struct
import subprocess
import sys
import time

device, gateway, source, destination, port, way = sys.argv[1:]
port, own_port = int(port), random.randrange(20000, 30000)
SYN, RST, PSH, ACK, FIN = 2, 4, 8, 16, 1
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
REQUEST = b"GET / HTTP/1.1\r\nHost: raw\r\nX-Marker: in-a-raw-header-77\r\nConnection: close\r\n\r\n"


def neighbour():
    """The gateway's link address; a datagram makes the kernel ask for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"?", (gateway, 9))
    for _ in range(500):
        for line in open("/proc/self/net/arp").read().splitlines()[1:]:
            words = line.split()
            if words[0] == gateway and words[2] != "0x0":
                return bytes.fromhex(words[3].replace(":", ""))
        time.sleep(0.01)
    sys.exit("no neighbour")


def checksum(octets):
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


ends = socket.inet_aton(source) + socket.inet_aton(destination)
# The kernel knows nothing of this connection: it must not answer for it.
target = neighbour()
subprocess.run(["ip", "route", "replace", "blackhole", destination], check=True)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind((device, 0x0800))
if way == "around":
    wire.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
link = target + wire.getsockname()[4] + b"\x08\0"


def send(sequence, acknowledged, flags, payload=b""):
    tcp = struct.pack("!HHIIBBHHH", own_port, port, sequence, acknowledged, 0x50, flags, 0xFFFF, 0, 0)
    pseudo = ends + struct.pack("!BBH", 0, 6, len(tcp) + len(payload))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp + payload)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, 0) + ends
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    wire.send(link + ip + tcp + payload)


def receive(deadline):
    """The next segment for us: sequence, flags and payload; None at the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame, where = wire.recvfrom(65536)
        except TimeoutError:
            return None
        ip = frame[14:]
        tcp = ip[(ip[0] & 15) * 4 :]
        is_ours = ip[9] == 6 and ip[12:20] == ends[4:] + ends[:4] and where[2] != socket.PACKET_OUTGOING
        if is_ours and struct.unpack("!HH", tcp[:4]) == (port, own_port):
            length = struct.unpack("!H", ip[2:4])[0]
            payload = ip[(ip[0] & 15) * 4 + (tcp[12] >> 4) * 4 : length]
            return struct.unpack("!I", tcp[4:8])[0], tcp[13], payload
    return None


def converse():
    deadline = time.monotonic() + 5
    send(1000, 0, SYN)
    first = receive(deadline)
    if first is None:
        return "silence"
    sequence, flags, _ = first
    if flags & RST:
        return "reset"
    expected = sequence + 1
    send(1001, expected, ACK)
    send(1001, expected, ACK | PSH, REQUEST)
    answer = b""
    while (segment := receive(deadline)) is not None:
        sequence, flags, payload = segment
        if flags & RST:
            break
        if sequence == expected:
            answer += payload
            expected += len(payload)
        send(1001 + len(REQUEST), expected + bool(flags & FIN), ACK)
        if flags & FIN:
            break
    return "answer " + answer.decode() if answer else "reset" if segment else "silence"


print(converse())
