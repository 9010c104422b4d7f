"""A Modbus device made of pymodbus' server: modbus.py FRAMING PLACE.

FRAMING is socket, rtu or ascii; PLACE is a TCP port of 127.0.0.1, or the path of a serial line. Every
table begins at address 0 with the values below; reading behind their end is exception 2.
"""
import asyncio
import struct
import sys

from pymodbus import FramerType
from pymodbus.datastore import (
    ModbusDeviceContext,
    ModbusSequentialDataBlock,
    ModbusServerContext,
)
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer


def words(fmt, *values):
    data = struct.pack(">" + fmt, *values)
    return list(struct.unpack(f">{len(data) // 2}H", data))


registers = (
    words("hH", -10, 65535)  # 0, 1
    + words("i", -100_000)  # 2
    + words("f", 21.5)  # 4
    + words("d", -0.125)  # 6
    + words("q", -(2**62))  # 10
    + words("8s", b"pump 7\0\0")  # 14
    + [0b1010_0000]  # 18
    + list(reversed(words("f", 3.25)))  # 19: words swapped
    + [1, 2, 3]  # 21
)
bits = [True, False, True, True, False, False, False, True]
# The first value of a block of pymodbus is that of address 1, as people count.
device = ModbusDeviceContext(
    di=ModbusSequentialDataBlock(1, bits),
    co=ModbusSequentialDataBlock(1, bits),
    hr=ModbusSequentialDataBlock(1, registers),
    ir=ModbusSequentialDataBlock(1, registers),
)
context = ModbusServerContext(devices={1: device}, single=False)
framing, place = sys.argv[1:]
framer = FramerType(framing)
if place.startswith("/"):
    server = StartAsyncSerialServer(context, framer=framer, port=place, baudrate=19200)
else:
    server = StartAsyncTcpServer(context, framer=framer, address=("127.0.0.1", int(place)))
asyncio.run(server)
