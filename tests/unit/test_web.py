"""The URL fetcher against real servers on loopback: honest ones, broken ones and sly ones."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which

import pytest

from catdog.errors import ImageError
from catdog.sources.web import fetch, is_public, redact

PHOTO = b"\xff\xd8 pretend photo" * 100
RELEASE = threading.Event()  # lets the slow handlers go at the end


class Handler(BaseHTTPRequestHandler):
    """One path, one behaviour."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        getattr(self, path.strip("/").replace("-", "_").partition("/")[0])(query)

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def photo(self, query: str) -> None:
        self.answer(200, PHOTO)

    def echo(self, query: str) -> None:
        shown = (self.path, self.headers["Host"], str(self.headers["Authorization"]))
        self.answer(200, "\n".join(shown).encode())

    def status(self, query: str) -> None:
        self.answer(int(query), b"sorry")

    def to(self, query: str) -> None:
        self.answer(302, Location=query)

    def nowhere(self, query: str) -> None:
        self.answer(302)

    def again(self, query: str) -> None:
        left = int(query)
        self.answer(307, Location=f"/again?{left - 1}" if left > 1 else "/photo")

    def no_length(self, query: str) -> None:
        self.answer(200, PHOTO, Content_Length="")

    def chunked(self, query: str) -> None:
        self.answer(200, b"5\r\nhello\r\n0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked")

    def chunk_cut_off(self, query: str) -> None:
        self.answer(200, b"ff\r\nhello", Content_Length="", Transfer_Encoding="chunked")

    def too_short(self, query: str) -> None:
        self.answer(200, PHOTO, Content_Length=str(len(PHOTO) + 7))

    def claims_much(self, query: str) -> None:
        self.answer(200, PHOTO, Content_Length=str(10**15))

    def odd_length(self, query: str) -> None:
        self.answer(200, PHOTO, Content_Length="many")

    def endless(self, query: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.repeat(bytes(2**16), pause_s=0)

    def drip(self, query: str) -> None:
        self.answer(200, Content_Length="1000")
        self.repeat(b"x", pause_s=0.02)

    def drip_headers(self, query: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.repeat(b"x", pause_s=0.02)

    def silent(self, query: str) -> None:
        RELEASE.wait(30)

    def gibberish(self, query: str) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.close_connection = True

    def many_headers(self, query: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n")
        self.close_connection = True

    def repeat(self, data: bytes, pause_s: float) -> None:
        self.close_connection = True
        try:
            while not RELEASE.wait(pause_s):
                self.wfile.write(data)
        except OSError:
            pass  # the client has had enough


def serve(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    RELEASE.set()
    server.shutdown()
    server.server_close()
    thread.join()
    RELEASE.clear()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    yield from serve()


@pytest.fixture(scope="module")
def site(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def refused(url: str, **options: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(url, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("path", ["photo", "no-length", "odd-length", "photo?a=1#part"])
def test_gives_the_body(site: str, path: str) -> None:
    assert fetch(f"{site}/{path}") == PHOTO


def test_reads_a_chunked_body(site: str) -> None:
    assert fetch(f"{site}/chunked") == b"hello"


@pytest.mark.parametrize(
    ("path", "sent"),
    [("echo/кот 1.jpg?a=ö&b", "/echo/%D0%BA%D0%BE%D1%82%201.jpg?a=%C3%B6&b"), ("echo/a%20b", "/echo/a%20b")],
)
def test_paths_are_encoded_once(site: str, path: str, sent: str) -> None:
    assert fetch(f"{site}/{path}").decode().splitlines()[0] == sent


def test_a_line_break_in_a_url_adds_no_header(site: str) -> None:
    assert fetch(f"{site}/echo/a\r\nAuthorization: x").decode().splitlines()[2] == "None"


def test_login_goes_into_a_header_and_not_to_another_host(port: int) -> None:
    base = f"http://tom:s%40cret@127.0.0.1:{port}"
    assert fetch(f"{base}/echo").decode().splitlines()[1:] == [f"127.0.0.1:{port}", "Basic dG9tOnNAY3JldA=="]
    moved = fetch(f"{base}/to?http://localhost:{port}/echo", allowed=lambda ip: True)
    assert moved.decode().splitlines()[2] == "None"


@pytest.mark.parametrize(
    ("path", "reason", "words"),
    [
        ("status?404", "missing", "answers 404"),
        ("status?410", "missing", "answers 410"),
        ("status?403", "unreadable", "answers 403 Forbidden"),
        ("status?500", "unreadable", "answers 500 Internal Server Error"),
        ("status?799", "unreadable", "answers 799"),
        ("nowhere", "unreadable", "answers 302"),
        ("too-short", "unreadable", "7 bytes short"),
        ("chunk-cut-off", "unreadable", "IncompleteRead"),
        ("claims-much", "too_large", "over the limit"),
        ("endless", "too_large", "over the limit"),
        ("gibberish", "unreadable", "not an HTTP answer"),
        ("many-headers", "unreadable", "not an HTTP answer"),
        ("to?ftp://127.0.0.1/cat.jpg", "unsupported", "only http"),
        ("to?file:///etc/passwd", "unsupported", "only http"),
    ],
)
def test_broken_answers(site: str, path: str, reason: str, words: str) -> None:
    error = refused(f"{site}/{path}", max_bytes=10**6)
    assert error.reason == reason
    assert words in str(error)
    assert str(error).startswith(f"{site}/{path}: ")


@pytest.mark.parametrize("path", ["drip", "drip-headers", "silent"])
def test_slow_servers_run_into_the_deadline(site: str, path: str) -> None:
    assert "no complete answer within 0.3 s" in str(refused(f"{site}/{path}", timeout_s=0.3))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/photo",
        "http://localhost:{port}/photo",
        "http://2130706433:{port}/photo",
        "http://0x7f.1:{port}/photo",
        "http://0.0.0.0:{port}/photo",
        "http://[::1]:{port}/photo",
        "http://[::ffff:127.0.0.1]:{port}/photo",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "//127.0.0.1:{port}/photo",
        "/photo",
    ],
)
def test_a_redirect_never_goes_into_a_private_network(port: int, target: str) -> None:
    url = f"http://127.0.0.1:{port}/to?{target.format(port=port)}"
    assert "redirects into a private network" in str(refused(url))


def test_the_address_that_was_checked_is_the_one_connected_to(port: int) -> None:
    """A name that is asked for twice may change in between: it is asked for once a hop."""
    asked: list[str] = []
    checked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    def allowed(address: str) -> bool:
        checked.append(address)
        return True

    url = f"http://a.test:{port}/to?http://b.test:{port}/echo"
    body = fetch(url, resolve=resolve, allowed=allowed).decode().splitlines()
    assert body[1] == f"b.test:{port}"
    assert asked == ["a.test", "b.test"]
    assert checked == ["127.0.0.1"]  # the first host is the user's own choice


def test_one_private_address_among_public_ones_is_enough_to_refuse(port: int) -> None:
    addresses = {"a.test": ["127.0.0.1"], "b.test": ["93.184.215.14", "10.0.0.1"]}
    url = f"http://a.test:{port}/to?http://b.test/"
    assert "private network (b.test)" in str(refused(url, resolve=lambda host, port: addresses[host]))


def test_the_next_address_is_tried(port: int) -> None:
    """127.0.0.2 is refused: the server listens on 127.0.0.1 alone."""
    assert fetch(f"http://a.test:{port}/photo", resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"]) == PHOTO


def test_follows_five_redirects_and_no_more(site: str) -> None:
    assert fetch(f"{site}/again?5", allowed=lambda ip: True) == PHOTO
    assert "redirects more than 5 times" in str(refused(f"{site}/again?6", allowed=lambda ip: True))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "unsupported"),
        ("ftp://example.org/cat.jpg", "unsupported"),
        ("http://", "unreadable"),
        ("http://[::1/", "unreadable"),
        ("http://example.org:99999/", "unreadable"),
        ("http://exa..mple/", "unreadable"),
        (f"http://{'a' * 70}.org/", "unreadable"),
        ("http://nul\0.org/", "unreadable"),
        ("http://127.0.0.1:9/", "unreadable"),  # the discard port: nobody listens
        ("https://user:hunter2@host:port/", "unreadable"),
    ],
)
def test_urls_that_can_not_be_fetched(url: str, reason: str) -> None:
    error = refused(url)
    assert error.reason == reason
    assert "hunter2" not in str(error)


def test_a_url_that_nobody_typed_reaches_no_private_network(port: int) -> None:
    """One in a list, say, which may come from a stranger; the same URL is fetched for a user who typed it."""
    url = f"http://a.test:{port}/photo"
    assert "leads into a private network (a.test)" in str(
        refused(url, public_only=True, resolve=lambda *_: ["127.0.0.1"])
    )
    assert fetch(url, resolve=lambda *_: ["127.0.0.1"]) == PHOTO


def test_an_unknown_host_is_named() -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert str(refused("http://no.test/a", resolve=resolve)) == (
        "http://no.test/a: host not found (Name or service not known)"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/a.jpg", "https://example.org/a.jpg"),
        ("https://tom:pw@example.org/a.jpg", "https://***@example.org/a.jpg"),
        ("https://token@example.org/a.jpg", "https://***@example.org/a.jpg"),
        ("https://tom:p@w@example.org", "https://***@example.org"),
        ("https://tom:p/w@example.org/", "https://***@example.org/"),
        ("https://example.org/a@b:c", "https://example.org/a@b:c"),
        ("https://example.org:80/a@b", "https://example.org:80/a@b"),
        ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
        (
            "https://b.s3.amazonaws.com/a.jpg?X-Amz-Expires=60&X-Amz-Credential=AKIA%2F1&x-amz-signature=5e&v=1#top",
            "https://b.s3.amazonaws.com/a.jpg?X-Amz-Expires=60&X-Amz-Credential=***&x-amz-signature=***&v=1#top",
        ),
        (
            "https://x.blob.core.windows.net/c/a.jpg?sv=2024&sig=abc%3D",
            "https://x.blob.core.windows.net/c/a.jpg?sv=2024&sig=***",
        ),
        ("https://example.org/a.jpg?design=1", "https://example.org/a.jpg?design=1"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2001:0:0:0:0:0:80ff:fffe",
]
PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for photos.test, with its key."""
    if not which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "photos.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=photos.test"]
    names = ["-addext", "subjectAltName=DNS:photos.test"]
    subprocess.run(
        [*command, *names, "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture(scope="module")
def secure_port(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield from serve(context)


@pytest.fixture(scope="module")
def fetch_tls(certificate: Path, secure_port: int) -> Callable[[str], bytes]:
    """fetch, for hosts that are all on loopback, trusting the certificate above."""
    context = ssl.create_default_context(cafile=str(certificate))
    return lambda url: fetch(
        url.format(port=secure_port),
        resolve=lambda host, port: ["127.0.0.1"],
        allowed=lambda ip: True,
        context=context,
    )


def test_https_checks_the_certificate_against_the_host(fetch_tls: Callable[[str], bytes]) -> None:
    assert fetch_tls("https://photos.test:{port}/photo") == PHOTO
    with pytest.raises(ImageError, match="certificate is not trusted"):
        fetch_tls("https://other.test:{port}/photo")


def test_https_does_not_trust_a_stranger(secure_port: int) -> None:
    url = f"https://photos.test:{secure_port}/photo"
    assert "certificate is not trusted" in str(refused(url, resolve=lambda host, port: ["127.0.0.1"]))


def test_https_never_turns_into_http(fetch_tls: Callable[[str], bytes], port: int) -> None:
    with pytest.raises(ImageError, match="redirects from https to http"):
        fetch_tls(f"https://photos.test:{{port}}/to?http://photos.test:{port}/photo")
