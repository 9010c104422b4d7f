"""An OPC UA server made of asyncua's: opcua.py PORT USER PASSWORD.

Its namespace 2 has variables of several types; Count grows by itself.
"""
import asyncio
import sys

from asyncua import Server, ua
from asyncua.server.user_managers import UserManager
from asyncua.crypto.permission_rules import User, UserRole

port, user, password = sys.argv[1:]


class Users(UserManager):
    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None:
            return User(role=UserRole.User)
        if (username, password) == (user, globals()["password"]):
            return User(role=UserRole.Admin)
        return None


async def main():
    server = Server(user_manager=Users())
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/eyot")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace("urn:test")
    objects = server.nodes.objects
    for name, value, kind in [
        ("Heat", 21.5, ua.VariantType.Double),
        ("Level", -5, ua.VariantType.Int16),
        ("Name", "pump 7", ua.VariantType.String),
        ("On", True, ua.VariantType.Boolean),
        ("Many", [1, 2, 3], ua.VariantType.UInt32),
    ]:
        variable = await objects.add_variable(f"ns=2;s={name}", name, value, kind)
        await variable.set_writable()
    await objects.add_variable("ns=2;i=7", "Fixed", 7, ua.VariantType.Byte)
    count = await objects.add_variable("ns=2;s=Count", "Count", 0, ua.VariantType.UInt32)
    async with server:
        number = 0
        while True:
            await asyncio.sleep(0.2)
            number += 1
            await count.write_value(ua.Variant(number, ua.VariantType.UInt32))


asyncio.run(main())
