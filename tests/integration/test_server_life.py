"""catdog serve from its start to its end: load, decoders that die, signals, several workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from catdog.machine import usable_cores
from tests.integration.server_process import ServerProcess, go_on, stop, wait_until

Encode = Callable[..., bytes]
MIB = 2**20


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call the function on a thread; what comes back waits for its result."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function)
    pool.shutdown(wait=False)
    return lambda: future.result(60)


def gauge(server: ServerProcess) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith("catdog_requests_open"))


def test_while_it_starts_it_is_alive_and_says_503(tiny_model: Path, photo: Encode, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    os.mkfifo(model)  # reading it waits for a writer
    with ServerProcess(tmp_path / "log", "--model", str(model)) as server:
        assert server.http.get("/healthz").status_code == 200
        assert server.http.get("/ping").status_code == 503
        early = server.predict(photo("red"))
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        assert early.json() == {"error": "the server is loading its model; ask again"}
        assert server.http.get("/v2/models/catdog").status_code == 503
        model.write_bytes(tiny_model.read_bytes())
        assert server.wait_ready().predict(photo("red")).json()["label"] == "cat"


def test_sigterm_in_the_middle_of_a_request(tiny_model: Path, photo: Encode, tmp_path: Path) -> None:
    """It is unready and refuses new requests at once, answers the one that it has, and ends with 0."""
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model)) as server:
        server.wait_ready()
        stop(server.decoders())
        answer = in_thread(lambda: server.predict(photo("red")))
        wait_until(lambda: gauge(server) == 1, "the request is at work")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.http.get("/readyz").status_code == 503, "unready")
        refused = server.predict(photo("red"))
        assert (refused.status_code, refused.json()) == (503, {"error": "the server is ending; ask again"})
        assert server.http.get("/healthz").status_code == 200
        go_on(server.decoders())
        assert answer().json()["label"] == "cat"
        assert server.process.wait(30) == 0
        children = server.children()
    assert children == []


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_it_as_every_command(tiny_model: Path, tmp_path: Path, workers: int) -> None:
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model), "--workers", str(workers)) as server:
        server.wait_ready()
        wait_until(lambda: len(server.log()) == workers, "all are ready")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
        assert server.children() == []
    assert [line["message"] for line in server.log()] == ["ready"] * workers + ["ending"] * workers


def test_a_photo_that_kills_or_stalls_its_decoder_costs_its_own_request(
    tiny_model: Path, photo: Encode, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model), "--timeout", "2") as server:
        server.wait_ready()
        encoded = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64encode(photo("red")).decode()]}
        tensors = {"inputs": [encoded]}

        def predict() -> httpx.Response:
            return server.predict(photo("red"))

        def infer() -> httpx.Response:
            return server.http.post("/v2/models/catdog/infer", json=tensors)

        def kill_during(ask: Callable[[], httpx.Response], fatal: int) -> httpx.Response:
            """What is answered to a photo that was at a decoder when that got a signal."""
            while True:
                before = server.decoders()
                stop(before)
                answer = in_thread(ask)
                wait_until(lambda: gauge(server) == 1, "the request is at work")
                time.sleep(0.2)  # nothing tells when its photo is at a decoder
                for number in before:
                    os.kill(number, fatal)
                if fatal != signal.SIGKILL:  # which alone reaches a process that is halted
                    go_on(before)
                response: httpx.Response = answer()
                if response.status_code != 200:  # else it came after the signal
                    return response

        for ask in (predict, infer):
            for fatal, status, said in (
                (signal.SIGSEGV, 422, "damaged image (its decoder crashed)"),
                (signal.SIGKILL, 503, "its decoder was killed, as happens where memory runs out; send it again later"),
            ):
                killed = kill_during(ask, fatal)
                assert (killed.status_code, killed.json()["error"].partition(": ")[2]) == (status, said)
                assert server.predict(photo("red")).json()["label"] == "cat"
            stop(server.decoders())
            stalled = ask()
            assert stalled.status_code == 504
            assert "takes longer than 1 s to decode; save it anew, as a JPEG" in stalled.json()["error"]
            go_on(server.decoders())
        assert "catdog_decoders_replaced_total 6.0" in server.http.get("/metrics").text
        go_on(server.decoders())
        assert server.predict(photo("red")).json()["label"] == "cat"


def test_more_requests_than_may_wait_get_429(tiny_model: Path, photo: Encode, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model), "--max-waiting", "2", "--max-body", "1") as server:
        server.wait_ready()
        stop(server.decoders())
        inside = usable_cores() + 2
        answers = [in_thread(lambda: server.predict(photo("red"))) for _ in range(inside)]
        wait_until(lambda: gauge(server) == inside, "all are inside")
        one_more = server.predict(photo("red"))
        assert one_more.status_code == 429
        assert 1 <= int(one_more.headers["retry-after"]) <= 60
        assert "too many requests" in one_more.json()["error"]
        assert server.http.get("/readyz").status_code == 200
        go_on(server.decoders())
        assert {answer().json()["label"] for answer in answers} == {"cat"}
        assert server.predict(photo("red")).status_code == 200


def test_who_sends_slowly_takes_no_place_of_those_who_are_answered(
    tiny_model: Path, photo: Encode, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model), "--max-waiting", "0") as server:
        server.wait_ready()
        address = server.http.base_url.host, server.http.base_url.port or 0
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nx"
        callers = [socket.create_connection(address) for _ in range(usable_cores() + 3)]
        for caller in callers:
            caller.sendall(head)
        wait_until(lambda: gauge(server) == len(callers), "all are sending")
        assert server.predict(photo("red")).status_code == 200
        for caller in callers:
            caller.close()
        wait_until(lambda: gauge(server) == 0, "all have left")
        assert server.predict(photo("red")).status_code == 200


def test_a_thousand_mixed_requests_in_flat_memory(tiny_model: Path, photo: Encode, tmp_path: Path) -> None:
    red, blue = photo("red", "JPEG", size=(1200, 900)), photo("blue", size=(900, 1200))
    calls: list[tuple[bytes, str, int]] = [
        (red, "image/jpeg", 200),
        (blue, "image/png", 200),
        (red[:-500], "image/jpeg", 422),
        (b"junk", "image/png", 422),
        (b"{", "application/json", 400),
        (bytes(MIB + 1), "image/jpeg", 413),
        (red, "text/plain", 415),
    ]
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model), "--max-body", "1") as server:
        server.wait_ready()

        def ask(number: int) -> None:
            body, kind, status = calls[number % len(calls)]
            response = server.predict(body, kind)
            assert response.status_code == status, response.text
            if status == 200:
                assert response.json()["label"] == ("cat" if body is red else "dog")

        def ask_many(count: int) -> int:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(count)))
            return server.memory()

        ask_many(300)
        before = ask_many(100)
        after = ask_many(1000)
        assert after - before < 16 * MIB
        assert gauge(server) == 0
        assert not [line for line in server.log() if line["level"] == "error"]


def test_several_workers(tiny_model: Path, photo: Encode, tmp_path: Path) -> None:
    """One that dies is replaced, metrics are those of all, and SIGTERM ends all with 0."""
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model), "--workers", "2") as server:
        server.wait_ready()

        def workers() -> list[int]:
            parents = [
                int(Path(f"/proc/{n}/stat").read_text().rpartition(")")[2].split()[1]) for n in server.decoders()
            ]
            return sorted(set(parents))

        wait_until(lambda: len(workers()) == 2, "two workers with decoders")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.predict(photo("red"), Connection="close"), range(40)))
        assert {answer.json()["label"] for answer in answers} == {"cat"}
        assert 'catdog_photos_total{label="cat"} 40.0' in server.http.get("/metrics").text
        first = workers()[0]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(workers()) == 2 and first not in workers(), "a new one")
        assert server.predict(photo("red"), Connection="close").json()["label"] == "cat"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert server.children() == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_is_none_ends_it_with_a_line(tmp_path: Path, workers: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    command = [sys.executable, "-m", "catdog", "serve", "--port", "0", "--model", str(tmp_path / "model.onnx")]
    done = subprocess.run([*command, "--workers", workers], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("catdog serve: error: ")
    assert "not an ONNX model" in line
    assert "answers with" not in done.stdout


def test_what_cannot_be_listened_on_and_a_bad_prefix_end_it_with_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, variables, said in (
            (
                ["--port", port],
                {},
                f"127.0.0.1:{port} can't be listened on (Address already in use); choose another --port",
            ),
            (
                ["--port", "0", "--host", ""],
                {},
                "--host '': is empty; give it a value, or leave it out",
            ),
            (["--port", "0", "--host", "192.0.2.1"], {}, "--host 192.0.2.1: is no address of this machine; give one"),
            (["--port", "0", "--host", "nobody.invalid"], {}, "--host nobody.invalid: has no address ("),
            (["--port", "0", "--host", "a" * 70], {}, "has no address (it is no name)"),
            (["--port", "0", "--allow-s3", "nonsense"], {}, "--allow-s3: nonsense: not an S3 address"),
            (["--port", "0"], {"CATDOG_ALLOWED_S3": "x"}, "CATDOG_ALLOWED_S3: x: not an S3 address"),
        ):
            command = [sys.executable, "-m", "catdog", "serve", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | variables)
            assert (done.returncode, done.stdout) == (2, "")
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1
