"""A small local stand-in for the Hugging Face Hub, for tests that load through the real libraries.

    with HubServer(root) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(empty_folder)}  # for a fresh subprocess

`root` holds `models/ORG/NAME/<files>` and `datasets/ORG/NAME/<files>`, or `models/NAME/<files>`. That folder is the
revision `main`; a folder `NAME@v2` beside it is the revision `v2`. The commit hash is a sha1 over a folder's contents,
so a changed file is a new commit. A file `.gated` in the main folder makes the repository gated: it can be looked up,
but each of its files answers 401; `.private` hides it from all who do not send `hub.token`, which all writing needs
(None: nobody may write). `hub.requests` lists "METHOD path" (without the query) of each request received.
`hub.delay_seconds` and `hub.status` may also be changed while the server runs.

The calls, as huggingface_hub 2.4.0, transformers 5.23.0 and datasets 5.2.0 make them (HEAD works wherever GET does):

    GET  /api/{models,datasets}/ID[/revision/REV]        model_info, dataset_info, list_repo_files, from_pretrained
    GET  /api/{models,datasets}/ID/tree/REV[/FOLDER]     snapshot_download, load_dataset
    GET  /[datasets/]ID/resolve/REV/FILE                 every download, whole or a Range of it
    POST /api/repos/create                               create_repo
    POST /api/validate-yaml                              create_commit, for README.md
    POST /api/models/ID/preupload/REV                    create_commit: which files go as LFS objects (binary ones)
    POST /ID.git/info/lfs/objects/batch, PUT /lfs/OID    create_commit without hf-xet (HF_HUB_DISABLE_XET=1)
    POST /api/models/ID/commit/REV                       create_commit; all of it happens, or nothing
"""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

REPO = r"/(?P<repo_id>[\w.-]+(?:/[\w.-]+)??)"
API = r"/api/(?P<kind>models|datasets)" + REPO
REVISION = r"/(?P<revision>[^/]+)"
ROUTES = [  # (method, path, the HubHandler method that answers); the first row that matches is taken
    ("GET", API + "/revision" + REVISION, "repo_info"),
    ("GET", API + "/tree" + REVISION + "(?:/(?P<path>.+))?", "tree"),
    ("GET", API, "repo_info"),
    ("GET", "(?:/(?P<kind>datasets))?" + REPO + "/resolve" + REVISION + "/(?P<path>.+)", "resolve"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", API + "/preupload" + REVISION, "preupload"),
    ("POST", API + "/commit" + REVISION, "commit"),
    ("POST", REPO + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
]
MARKS = (".gated", ".private")
DATE = "2024-01-01T00:00:00.000Z"


class HubError(Exception):
    """An answer with one of the Hub's error codes, which the clients turn into their own exceptions."""

    def __init__(self, status: int, code: str, message: str, commit: str = "") -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}


class Snapshot(NamedTuple):
    """One revision of a repository: its folder, its commit hash, and the tree entry of each file by its path."""

    folder: Path
    commit: str
    files: dict[str, dict[str, Any]]


def read_snapshot(folder: Path) -> Snapshot:
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in MARKS):
        content, name = path.read_bytes(), path.relative_to(folder).as_posix()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names it
        files[name] = {"type": "file", "path": name, "size": len(content), "oid": oid}
    return Snapshot(folder, hashlib.sha1(json.dumps(files).encode()).hexdigest(), files)


class HubHandler(BaseHTTPRequestHandler):
    """Answers one request, with the method that ROUTES names for it. HTTP/1.0: no connection outlives the server."""

    server: "HubServer"

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))  # unread, it would reset the connection
        path, method = urlsplit(self.path).path, "GET" if self.command == "HEAD" else self.command
        self.server.requests.append(f"{self.command} {path}")
        time.sleep(self.server.delay_seconds)
        if self.server.status:
            return self.send(self.server.status, {"error": "the test asked for this status"})
        for row_method, pattern, name in ROUTES:
            if row_method == method and (match := re.fullmatch(pattern, path)):
                arguments = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                try:
                    getattr(self, name)(**arguments)
                except HubError as error:
                    self.send(error.status, {"error": str(error)}, error.headers)
                return None
        return self.send(404, {"error": "no such page"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        """Sends bytes as they are, and anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test output quiet."""

    def snapshot(self, kind: str, repo_id: str, revision: str) -> Snapshot:
        """The revision with that name or that commit hash."""
        main = self.server.root / kind / repo_id
        if not main.is_dir() or ((main / ".private").exists() and not self.knows_the_token()):
            raise HubError(404, "RepoNotFound", "Repository not found")
        for folder in [main, *main.parent.glob(f"{main.name}@*")]:
            snapshot = read_snapshot(folder)
            if revision in (folder.name.partition("@")[2] or "main", snapshot.commit):
                return snapshot
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def is_gated(self, kind: str, repo_id: str) -> bool:
        return (self.server.root / kind / repo_id / ".gated").exists()

    def repo_info(self, kind: str, repo_id: str, revision: str = "main") -> None:
        snapshot = self.snapshot(kind, repo_id, revision)
        gated = "manual" if self.is_gated(kind, repo_id) else False
        siblings = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]} for e in snapshot.files.values()]
        info = {"id": repo_id, "sha": snapshot.commit, "gated": gated, "siblings": siblings, "lastModified": DATE}
        private = (self.server.root / kind / repo_id / ".private").exists()
        self.send(200, {**info, "private": private, "disabled": False, "downloads": 0, "likes": 0, "tags": []})

    def tree(self, kind: str, repo_id: str, revision: str, path: str = "") -> None:
        snapshot = self.snapshot(kind, repo_id, revision)
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
        folders = {parent.as_posix() for name in snapshot.files for parent in Path(name).parents[:-1]}
        entries = snapshot.files | {name: {"type": "directory", "path": name, "oid": "0" * 40} for name in folders}
        start = f"{path}/" if path else ""
        inside = [name for name in sorted(entries) if name.startswith(start)]
        if path and not inside:
            raise HubError(404, "EntryNotFound", f"{path} does not exist on {revision}", snapshot.commit)
        self.send(200, [entries[name] for name in inside if recursive or "/" not in name.removeprefix(start)])

    def resolve(self, repo_id: str, revision: str, path: str, kind: str = "models") -> None:
        snapshot = self.snapshot(kind, repo_id, revision)
        if self.is_gated(kind, repo_id):
            raise HubError(401, "GatedRepo", f"Access to {repo_id} is restricted. You must be authenticated.")
        if path not in snapshot.files:
            raise HubError(404, "EntryNotFound", "Entry not found", snapshot.commit)
        content = (snapshot.folder / path).read_bytes()
        headers = {"X-Repo-Commit": snapshot.commit, "ETag": f'"{snapshot.files[path]["oid"]}"'}
        if not (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            return self.send(200, content, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.send(206, content[first : last + 1], headers)

    # ------------------------------------------------------------------------------------------------------- writing

    def knows_the_token(self) -> bool:
        return self.server.token is not None and self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def check_may_write(self) -> None:
        if not self.knows_the_token():
            raise HubError(401, "", "Invalid username or password.")
        if self.server.read_only:
            raise HubError(403, "", "You don't have the rights to write to this repository")

    def create(self) -> None:
        self.check_may_write()
        asked = json.loads(self.body)
        repo_id = f"{asked['organization'] or 'somebody'}/{asked['name']}"
        folder, url = self.server.root / "models" / repo_id, f"{self.server.url}/{repo_id}"
        if folder.is_dir():
            return self.send(409, {"error": "You already created this model repo", "url": url})
        folder.mkdir(parents=True)
        if asked.get("visibility") == "private" or asked.get("private"):
            (folder / ".private").touch()
        return self.send(200, {"url": url})

    def validate(self) -> None:
        """The Hub checks more; this is the block between the lines, and that each figure has a number."""
        from huggingface_hub import ModelCard

        try:
            ModelCard(json.loads(self.body)["content"])
        except ValueError as error:
            return self.send(400, {"errors": [{"message": str(error)}], "warnings": []})
        return self.send(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        self.check_may_write()
        folder, _, known = self.snapshot(kind, repo_id, revision)
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if b"\0" in base64.b64decode(file["sample"]) else "regular"
            oid = known.get(file["path"], {}).get("oid")
            if oid and mode == "lfs":
                oid = hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest()
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send(200, {"files": files})

    def lfs_batch(self, repo_id: str) -> None:
        self.check_may_write()
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            objects.append(wanted if wanted["oid"] in self.server.objects else wanted | {"actions": actions})
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.objects[oid] = self.body
        self.send(200, {})

    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        self.check_may_write()
        folder = self.snapshot(kind, repo_id, revision).folder
        lines = [json.loads(line) for line in self.body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) if line["key"] == "file"
            else self.server.objects[line["value"]["oid"]]
            for line in lines if line["key"] in ("file", "lfsFile")
        }  # fmt: skip
        for line in lines:
            if line["key"] == "deletedFile":
                (folder / line["value"]["path"]).unlink()
        for path, content in added.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        commit = self.snapshot(kind, repo_id, revision).commit
        self.server.commits.append([line["value"] for line in lines])
        self.send(200, {"commitUrl": f"{self.server.url}/{repo_id}/commit/{commit}", "commitOid": commit, "success": True})


class HubServer(ThreadingHTTPServer):
    """Serves the repositories under a folder from a thread, from entering the `with` block until leaving it.

    It sleeps for delay_seconds before each answer. With a status, such as 503, it answers everything with that status.
    """

    request_queue_size = 64  # the clients open many connections at once

    def __init__(self, root: Path | str, delay_seconds: float = 0.0, status: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.root, self.delay_seconds, self.status = Path(root), delay_seconds, status
        self.requests: list[str] = []
        self.token: str | None = None
        self.read_only = False
        self.objects: dict[str, bytes] = {}  # LFS objects by their sha256
        self.commits: list[list[dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()
