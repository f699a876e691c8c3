"""What a write of 200 bytes costs a program: ssl_write_cost.py KEY_AND_CERTIFICATE.pem; TLS over memory."""

import ssl
import sys
import time

WRITES = 60_000

server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(sys.argv[1])
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client.check_hostname = False
client.verify_mode = ssl.CERT_NONE
to_client, from_client, to_server, from_server = (ssl.MemoryBIO() for _ in range(4))
client = client.wrap_bio(to_client, from_client)
server = server.wrap_bio(to_server, from_server, server_side=True)
for _ in range(4):
    for side in (client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    to_server.write(from_client.read())
    to_client.write(from_server.read())
for _ in range(7):
    begin = time.perf_counter()
    for _ in range(WRITES):
        server.write(b"x" * 200)
        from_server.read()
    print(f"{(time.perf_counter() - begin) / WRITES * 1e6:.1f} us")
