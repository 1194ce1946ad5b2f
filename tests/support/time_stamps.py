"""A time stamping authority on loopback, made of the openssl program."""

import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID
from support.signers import issue

CONFIG = """
[tsa]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
certs = {folder}/root.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@contextmanager
def time_stamping_authority() -> Iterator[str]:
    """The URL of an authority that answers as RFC 3161 says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = issue("time root", None, "rsa", is_authority=True)
        purpose = ExtendedKeyUsageOID.TIME_STAMPING
        tsa = issue("clock", root, "rsa", purpose=purpose, is_purpose_critical=True)
        (folder / "root.pem").write_text(root.pem)
        (folder / "tsa.pem").write_text(tsa.pem)
        (folder / "tsa.key").write_text(tsa.key_pem)
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder, threading.Lock()))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(folder: Path, lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                (folder / "query").write_bytes(query)
                command = ["openssl", "ts", "-reply", "-config", str(folder / "tsa.cnf")]
                command += ["-section", "tsa", "-queryfile", str(folder / "query")]
                subprocess.run([*command, "-out", str(folder / "reply")], check=True)
                reply = (folder / "reply").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
