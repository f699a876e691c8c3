"""A model server with every way to fail: the query's `do` chooses, the log tells what happened."""

import ctypes
import json
import os
import signal
import socket
import time
from urllib.parse import parse_qs

LOG = os.open(os.environ["APP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def log(what, path=None, **more):
    line = {"what": what, "path": path, "t": time.monotonic_ns(), "pid": os.getpid(), **more}
    os.write(LOG, (json.dumps(line) + "\n").encode())


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def burn(seconds):
    """As much CPU time as `seconds` of a whole core, however long that takes."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def ask_database():
    database = socket.create_connection(("127.0.0.1", int(os.environ["DATABASE_PORT"])))
    database.sendall(b"SELECT 1\n")
    database.recv(100)


def eat_memory():
    eaten = []
    while True:
        eaten.append(bytearray(b"x" * (1 << 20)))


def act(what, seconds):
    if what == "sleep":
        time.sleep(seconds)
    elif what == "spin":
        spin(seconds)
    elif what == "burn":
        burn(seconds)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "database":
        ask_database()
    elif what == "memory":
        eat_memory()
    elif what == "segv":
        ctypes.string_at(0)
    elif what == "exit":
        os._exit(7)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    log("read", path)
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    seconds = float(query.get("ms", 0)) / 1000
    if query.get("do") == "neglect":
        time.sleep(seconds)
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    wall, cpu = time.monotonic(), time.process_time()
    act(query.get("do", "sleep"), seconds)
    on_cpu = (time.process_time() - cpu) / max(time.monotonic() - wall, 1e-9)
    body = b"ok\n"
    headers = [("Content-Length", str(len(body)))]
    status = query.get("status", "200") + " Chosen"
    if query.get("do") == "bad-head":
        # What was taken from elsewhere unseen: no server here looks for the end of a line in it.
        status += "\r\nBad\x01 Name: x"
        headers.append(("Content-Type", "text/plain"))
    start_response(status, headers)
    log("answered", path, on_cpu=on_cpu)
    return [body]


time.sleep(float(os.environ.get("LOAD_SECONDS", 0)))
log("loaded")
