"""A schema registry for tests: a small HTTP server that answers as Confluent's does, in this process.

What lives here: the part of its interface that serializers use (register, look up, by id, by version), its error codes,
its rule of compatibility for Avro (a field that is added needs a default), a login, and outages.  There is no real one
that a test could fetch: Confluent's and Apicurio's are not on Maven Central, Karapace is not on PyPI.

Source: Confluent's Schema Registry API reference; https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = tuple[int, Any]


class FakeRegistry:
    """``with FakeRegistry() as registry: registry.url``.  Thread-safe enough for one client.

    log: the requests so far, as "GET /schemas/ids/1"; queries: what each asked behind a question mark.
    answers: what is said in place of the truth, first one first.
    login: the Authorization header that is asked for.
    """

    def __init__(self, *, certificate: str = "", key: str = "") -> None:
        self.log: list[str] = []
        self.queries: list[str] = []
        self.answers: list[Answer | str] = []
        self.login = ""
        self.subjects: dict[str, list[int]] = {}
        self.schemas: dict[int, dict[str, Any]] = {}
        self._ids: dict[str, int] = {}
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate, key)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """On the same port as before; what it knew it still knows."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # a connection that is kept would outlive stop()

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(json.loads(body))

            def _answer(self, body: dict[str, Any] | None) -> None:
                path = urlsplit(self.path).path
                registry.log.append(f"{self.command} {unquote(path)}")
                registry.queries.append(urlsplit(self.path).query)
                said: Answer | str
                if registry.answers:
                    said = registry.answers.pop(0)
                elif registry.login and self.headers.get("Authorization") != registry.login:
                    said = 401, {"error_code": 401, "message": "Unauthorized"}
                else:
                    said = registry.answer(self.command, [unquote(part) for part in path.split("/")[1:]], body)
                status, content = (200, said) if isinstance(said, str) else (said[0], json.dumps(said[1]))
                raw = content.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Connections to it are refused from now on."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def __enter__(self) -> FakeRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ── what it knows ─────────────────────────────────────────────────────────────────────────────────────────────

    def register(self, subject: str, schema: str, kind: str = "AVRO", references: Any = None) -> int:
        """As a person would by hand; returns the id.  No compatibility is asked for."""
        entry = {"schema": schema, "schemaType": kind, "references": references or []}
        text = json.dumps(entry, sort_keys=True)
        number = self._ids.setdefault(text, len(self._ids) + 1)
        self.schemas[number] = entry
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def answer(self, method: str, path: list[str], body: dict[str, Any] | None) -> Answer:
        match method, path, body:
            case "POST", ["subjects", subject, "versions"], {"schema": schema, **more}:
                latest = self.subjects.get(subject, [])[-1:]
                if latest and (why := _incompatible(self.schemas[latest[0]]["schema"], schema)):
                    return 409, {"error_code": 409, "message": f"Schema being registered is incompatible: {why}"}
                number = self.register(subject, schema, str(more.get("schemaType") or "AVRO"), more.get("references"))
                return 200, {"id": number}
            case "POST", ["subjects", subject], {"schema": schema, **more}:
                if subject not in self.subjects:
                    return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
                for version, number in enumerate(self.subjects[subject], 1):
                    if self.schemas[number]["schema"] == schema:
                        return 200, self.version(subject, version)
                return 404, {"error_code": 40403, "message": "Schema not found"}
            case "GET", ["schemas", "ids", number], _:
                if int(number) not in self.schemas:
                    return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
                return 200, self.schemas[int(number)]
            case "GET", ["subjects", subject, "versions", version], _:
                if subject not in self.subjects:
                    return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
                return 200, self.version(subject, len(self.subjects[subject]) if version == "latest" else int(version))
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def version(self, subject: str, version: int) -> dict[str, Any]:
        number = self.subjects[subject][version - 1]
        return {"subject": subject, "id": number, "version": version, **self.schemas[number]}


def basic(user: str, password: str) -> str:
    """The Authorization header of a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _incompatible(old: str, new: str) -> str:
    """BACKWARD for Avro records: a field that is new needs a default."""
    try:
        before, after = json.loads(old), json.loads(new)
        known = {field["name"] for field in before["fields"]}
    except (KeyError, TypeError, ValueError):
        return ""
    added = [f["name"] for f in after["fields"] if f["name"] not in known and "default" not in f]
    return f"READER_FIELD_MISSING_DEFAULT_VALUE: {', '.join(added)}" if added else ""
