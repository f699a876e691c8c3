"""The model server for ASGI: the query's `do` chooses, the log tells what happened."""

import asyncio
import ctypes
import json
import os
import time
from urllib.parse import parse_qs

LOG = os.open(os.environ["APP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def log(what, path=None):
    line = {"what": what, "path": path, "t": time.monotonic_ns(), "pid": os.getpid()}
    os.write(LOG, (json.dumps(line) + "\n").encode())


async def lifespan(receive, send):
    while True:
        message = await receive()
        # `lifespan.startup`, in the end `lifespan.shutdown`.
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
        log("loaded")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    path = scope["path"]
    log("read", path)
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    while (await receive()).get("more_body"):
        pass
    act = query.get("do")
    if act == "exit":
        os._exit(7)
    elif act == "segv":
        ctypes.string_at(0)
    elif act == "memory":
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 20) + b"y")
    await asyncio.sleep(float(query.get("ms", 0)) / 1000)
    headers = [(b"content-length", b"3")]
    if act == "big-head":
        headers += [(b"x-filler", b"a" * 1000)] * 120
    start = {"type": "http.response.start", "status": int(query.get("status", 200))}
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n"})
    log("answered", path)
