"""Drives a vmd machine with QEMU's own client library, qemu.qmp.

Usage: drive.py SOCKET
The machine runs the probe guest. It is ended here. Whatever is not as it is with QEMU fails.
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient, Runstate

PATIENCE = 60


async def drive(socket):
    qmp = QMPClient("vmd")
    seen = EventListener()
    resets = EventListener(names="RESET")
    qmp.register_listener(seen)
    qmp.register_listener(resets)

    # The library reads the greeting and negotiates.
    await qmp.connect(socket)
    assert qmp.runstate == Runstate.RUNNING, qmp.runstate
    assert qmp.greeting.QMP.version["qemu"]["major"] == 7, qmp.greeting

    async def status():
        return (await qmp.execute("query-status"))["status"]

    async def expect(name, data=None):
        message = await seen.get()
        assert message["event"] == name, f"expected {name}, got {message}"
        assert message.get("data") == data, message
        assert message["timestamp"]["seconds"] > 0, message

    assert await status() == "running"
    # The library checks that each reply is to its request's id.
    assert await qmp.execute("stop") == {}
    assert await status() == "paused"
    assert await qmp.execute("cont") == {}
    assert await qmp.execute("system_reset") == {}
    await expect("STOP")
    await expect("RESUME")
    reset = {"guest": False, "reason": "host-qmp-system-reset"}
    await expect("RESET", reset)
    # Its name is the filter's.
    assert (await resets.get())["data"] == reset
    assert resets.empty()

    # Several at once: the library sends all and sorts the replies by their ids.
    names = ["query-name", "query-version", "query-commands", "query-cpus-fast"] * 5
    replies = await asyncio.gather(*(qmp.execute(name) for name in names))
    assert replies[0] == replies[4] == {"name": "a"}, replies
    assert any(command["name"] == "stop" for command in replies[2]), replies[2]

    for command, arguments, kind in [
        ("no-such-command", None, "CommandNotFound"),
        ("system_wakeup", None, "GenericError"),
        ("set-action", {"panic": "poweroff"}, "GenericError"),
    ]:
        try:
            await qmp.execute(command, arguments)
        except ExecuteError as error:
            assert error.error_class == kind, error
        else:
            raise AssertionError(f"{command} was not refused")

    # A context manager hears what happens within it.
    with qmp.listener("POWERDOWN") as powerdown:
        await qmp.execute("system_powerdown")
        assert (await powerdown.get())["event"] == "POWERDOWN"
    await expect("POWERDOWN")

    assert await qmp.execute("quit") == {}
    await expect("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    # The daemon closes the connection; the library finds it closed.
    while qmp.runstate == Runstate.RUNNING:
        await qmp.runstate_changed()
    try:
        await qmp.disconnect()
    except EOFError:
        pass
    assert seen.empty(), seen.history
    print("driven")


asyncio.run(asyncio.wait_for(drive(sys.argv[1]), PATIENCE))
