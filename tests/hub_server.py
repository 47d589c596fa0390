"""A server of the parts of the Hub's protocol that creating, writing and reading a repository need."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """The server, on a free port of 127.0.0.1.

    Attributes:
      repositories: {name: {revision: {path: content}}}; a revision is a commit, or "main".
      objects: large files by their SHA-256.
      asked: the methods and paths of all requests.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.objects, self.asked = {}, {}, []

    @property
    def address(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Print nothing."""

    def answer(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        files = match and self.server.repositories.get(match[1], {}).get(match[2])
        if not files or match[3] not in files:
            known = match and match[1] in self.server.repositories
            code = "EntryNotFound" if files else "RevisionNotFound" if known else "RepoNotFound"
            return self.answer({"error": code}, 404, X_Error_Code=code)
        data = files[match[3]]
        etag = hashlib.sha256(data).hexdigest()
        commit = next(c for c, of in self.server.repositories[match[1]].items() if of == files and c != "main")
        self.answer(data, X_Repo_Commit=commit, ETag=f'"{etag}"', X_Linked_ETag=f'"{etag}"', X_Linked_Size=len(data))

    do_HEAD = do_GET

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == f"/objects/{hashlib.sha256(data).hexdigest()}"
        self.server.objects[self.path.rpartition("/")[2]] = data
        self.answer(b"")

    def do_POST(self):
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'user')}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.server.address}/{name}", "id": name}, 409 if known else 200)
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            mode = {True: "lfs", False: "regular"}
            files = [
                {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.address}/objects/{o['oid']}", "header": {}}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(\w+)", self.path):
            return self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        self.answer({"error": "not found"}, 404)

    def commit(self, name, lines):
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.server.repositories[name] |= {"main": files, commit: files}
        self.answer(
            {"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit, "hookOutput": ""}
        )
