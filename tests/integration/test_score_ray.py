"""``--engine ray`` on a real Ray cluster: two nodes on loopback, one of which dies in mid-run."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.detectors import build_detector, draw_photo

pq = pytest.importorskip("pyarrow.parquet", reason="scoring writes Parquet: pip install pyarrow")
pytest.importorskip("ray", reason="no Ray to test on: pip install 'ray[data]'")

ROOT = Path(__file__).parents[2]
MARK = "CATDOG_TEST_RAY"
"""Environment variable by which all processes of a node are found, however they were started."""
PHOTOS = 600
SERVING_S = 0.3  # for a photo, so that a run lasts
PATIENCE_S = 240  # of a test, on a machine that has much other work


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path, **more}


def processes(mark: str) -> dict[int, str]:
    """Process ids and command lines of what was started with that mark, and of all that these have started."""
    parents, found = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1]), command
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                found[int(folder.name)] = command
        except OSError:  # it has just ended
            continue
    while more := {pid: command for pid, (parent, command) in parents.items() if parent in found and pid not in found}:
        found |= more
    return {pid: command for pid, command in found.items() if command}  # a zombie has none


def kill(mark: str) -> None:
    """SIGKILL to all of a node at once, until nothing is left: as when its power goes."""
    until = time.monotonic() + 20
    while running := processes(mark):
        for pid in running:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert time.monotonic() < until, f"these processes don't end: {running}"
        time.sleep(0.1)


def free_port() -> int:
    """One that Ray does not take for its workers (10002 to 19999) or for itself."""
    for port in random.sample(range(20100, 29900), 100):
        with socket.socket() as server:
            try:
                server.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Cluster:
    """Two nodes with one CPU each, "head" and "second"; the last test takes the second one away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        self.marks = {name: f"{folder.name}-{name}" for name in ("head", "second")}
        self.log = folder / "start.log"

    def start(self) -> None:
        port = self.address.partition(":")[2]
        self._start("head", "--head", f"--port={port}", f"--temp-dir={self.folder}", "--include-dashboard=false")
        self._start("second", f"--address={self.address}")

    def _start(self, name: str, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--node-ip-address=127.0.0.1"]
        command += ["--num-cpus=1", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"]
        with self.log.open("ab") as log:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60, cwd=self.folder,
                env=environment(**{MARK: self.marks[name]}),
            )  # fmt: skip
        assert done.returncode == 0, self.log.read_text()

    def stop(self) -> None:
        for mark in reversed(self.marks.values()):
            kill(mark)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="cdr", dir="/tmp", ignore_cleanup_errors=True) as folder:  # short: sockets
        nodes = Cluster(Path(folder))
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.stop()


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "catdog.score", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(folder: Path, *arguments: str | Path, code: int) -> str:
    """What the command says on stderr."""
    process = start(folder, *arguments)
    with process:
        try:
            errors = process.communicate(timeout=PATIENCE_S)[1]
        finally:
            process.kill()
    assert process.returncode == code, errors
    return errors


def make_photos(photo: Callable[..., bytes], count: int) -> dict[str, bytes]:
    """Names and bytes; each tenth is damaged."""
    dice, photos = random.Random(0), {}
    for number in range(count):
        colour = tuple(dice.randrange(256) for _ in range(3))
        data = photo(colour, dice.choice(["PNG", "JPEG"]), size=(dice.randint(20, 90), dice.randint(20, 90)))
        photos[f"{number:04}.jpg"] = data[: dice.randrange(len(data))] if number % 10 == 9 else data
    return photos


class Photos(ThreadingHTTPServer):
    """Serves them, slowly, and knows how many were asked for."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, photos: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Serve)
        self.photos, self.asked = photos, 0


class Serve(BaseHTTPRequestHandler):
    server: Photos

    def do_GET(self) -> None:
        self.server.asked += 1
        time.sleep(SERVING_S)
        data = self.server.photos[self.path.strip("/")]
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(photo: Callable[..., bytes]) -> Iterator[Photos]:
    server = Photos(make_photos(photo, PHOTOS))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_same_rows_on_two_nodes_and_one_line_for_an_error(
    cluster: Cluster, photo: Callable[..., bytes], tiny_model: Path, tmp_path: Path
) -> None:
    ray = ("--engine", "ray", "--ray-address", cluster.address, "--model", tiny_model)
    (tmp_path / "photos").mkdir()
    for name, data in make_photos(photo, 150).items():
        (tmp_path / "photos" / name).write_bytes(data)
    with tarfile.open(tmp_path / "more.tar.gz", "w:gz") as archive:  # its photos travel inside the tasks
        archive.add(tmp_path / "photos", "inside")
    sources = ("photos", "more.tar.gz", "absent.jpg")
    run(tmp_path, *sources, "--out", "local.parquet", "--model", tiny_model, code=1)
    errors = run(tmp_path, *sources, "--out", "ray.parquet", *ray, code=1)
    rows = pq.read_table(tmp_path / "ray.parquet")
    assert rows.num_rows == 301
    assert rows.equals(pq.read_table(tmp_path / "local.parquet"))
    told = [line for line in errors.splitlines() if not line.startswith("scored ")]  # how far it is, each 10 s
    assert len(told) == 5, errors  # the summary, and no chatter of Ray's
    assert "with 2 workers" in errors

    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "cat").write_text("a file where the folder of the cats should be")
    errors = run(tmp_path, "photos", "--out", "x.parquet", "--sort-into", "sorted", *ray, code=2)
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(f"catdog score: error: {tmp_path}/sorted/cat: photos can't be sorted into it (")


def test_a_detector_s_rows_are_the_same_on_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "heads.onnx").write_bytes(build_detector())
    (tmp_path / "photos").mkdir()
    heads = [("red", (40, 60, 100, 110)), ("blue", (200, 20, 280, 90))]
    for number in range(40):  # with two heads, one or none, and some that are damaged
        draw_photo((320, 240), *heads[number % 3 :]).save(tmp_path / "photos" / f"{number:02}.png")
    for number in range(0, 40, 9):
        (tmp_path / "photos" / f"{number:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    common = ("photos", "--task", "detect", "--model", "heads.onnx")
    run(tmp_path, *common, "--out", "local.parquet", "--workers", "1", code=1)
    run(tmp_path, *common, "--out", "ray.parquet", "--engine", "ray", "--ray-address", cluster.address, code=1)
    rows = pq.read_table(tmp_path / "ray.parquet")
    assert {*rows["head"].to_pylist()} == {1, 2, None}
    assert rows.equals(pq.read_table(tmp_path / "local.parquet"))


def test_no_cluster_is_one_line_at_once(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    address = f"127.0.0.1:{free_port()}"
    errors = run(tmp_path, ".", "--out", "x.csv", "--engine", "ray", "--ray-address", address, code=2)
    assert errors.startswith(f"catdog score: error: no Ray cluster to join at {address} (")
    assert len(errors.splitlines()) == 1, errors


def test_a_node_that_dies_loses_no_row_and_doubles_none(
    cluster: Cluster, served: Photos, tiny_model: Path, tmp_path: Path
) -> None:
    port = served.server_address[1]
    (tmp_path / "list.txt").write_text("".join(f"http://127.0.0.1:{port}/{name}\n" for name in served.photos))
    common = ("--list", "list.txt", "--private-urls", "--model", tiny_model)
    process = start(tmp_path, *common, "--out", "ray.parquet", "--engine", "ray", "--ray-address", cluster.address)
    with process:
        try:
            until = time.monotonic() + PATIENCE_S
            while served.asked < PHOTOS // 4 or not any(
                "spawn_main" in c for c in processes(cluster.marks["second"]).values()
            ):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until, "nothing is scored"
                time.sleep(0.05)
            kill(cluster.marks["second"])
            assert served.asked < PHOTOS * 3 // 4, "the node died too late to show anything"
            errors = process.communicate(timeout=PATIENCE_S)[1]
        finally:
            process.kill()
    assert process.returncode == 1, errors
    run(tmp_path, *common, "--out", "local.parquet", code=1)
    rows = pq.read_table(tmp_path / "ray.parquet")
    assert rows.num_rows == PHOTOS
    assert rows.equals(pq.read_table(tmp_path / "local.parquet"))
