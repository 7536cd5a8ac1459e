"""What runs ONNX files in a browser, onnxruntime-web, fetched once by npm; and a server for this machine alone."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from s2rm.files import write_whole

PACKAGE = "onnxruntime-web@1.30.0"
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""the files of the package that a page on one thread needs, and their SHA-256 sums"""
MINUTES = 5
"""that npm may take"""


def runtime() -> dict[str, bytes]:
    """The runtime's files by their names in an explorer's folder, from a cache or, the first time, by npm.

    Raises:
        ValueError: npm is not installed, did not answer, or gave other files.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "s2rm", PACKAGE)
    if not all((cache / name).is_file() and _is(name, (cache / name).read_bytes()) for name in FILES):
        for name, content in _from_npm().items():
            cache.mkdir(parents=True, exist_ok=True)
            write_whole(cache / name, content)
    plain = {f"runtime/{name}": (cache / name).read_bytes() for name in FILES}
    large = {name for name in plain if name.endswith(".wasm")}
    packed = {f"{name}.gz": gzip.compress(plain[name], mtime=0) for name in large}
    return {name: plain[name] for name in plain if name not in large} | packed


def _is(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == FILES[name]


def _from_npm() -> dict[str, bytes]:
    """The files out of the package, which `npm pack` fetches."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"explore: found no npm, which fetches {PACKAGE} once; install npm, which comes with Node.js")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [npm, "pack", PACKAGE, "--silent"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60 * MINUTES)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (getattr(error, "stderr", None) or "").strip().splitlines()
            raise ValueError(
                f"explore: npm did not fetch {PACKAGE} ({said[0] if said else 'no answer'}); it is needed once, so "
                "try again with a network"
            ) from error
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as packed:
            found = {name: packed.extractfile(f"package/dist/{name}") for name in FILES}
            content = {name: file.read() for name, file in found.items() if file is not None}
    wrong = [name for name in FILES if name not in content or not _is(name, content[name])]
    if wrong:
        raise ValueError(f"explore: npm gave another {wrong[0]} than that of {PACKAGE}; look at its settings")
    return content


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing; a page that was written anew is not taken from the browser's cache."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(folder: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder's files that only this machine reaches; call its `serve_forever`.

    Args:
        folder: what it serves.
        port: 0 takes any that is free.
    """
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
