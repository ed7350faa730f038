"""catdog.sources.objects and stores against a real S3 server (moto) behind a proxy that fails on purpose."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from catdog.errors import DataError, ImageError, SettingsError
from catdog.image import MAX_BYTES
from catdog.sources import content_for, list_inputs, objects
from catdog.sources.addresses import split_uri
from catdog.sources.objects import list_objects, object_version, open_object, read_object
from catdog.sources.stores import BucketStore, FolderStore, Store, open_store
from tests.integration.s3_server import Proxy

pytest.importorskip("obstore", reason="needs the extra cloud")

PHOTO = b"\xff\xd8 pretend photo" * 5000  # more than a socket holds back
LARGE = random.Random(0).randbytes(3 * 2**20 + 17)


@pytest.fixture
def upload(bucket: str, admin: Any) -> Callable[..., None]:
    """upload("a.jpg", "b.jpg", data=...) puts objects into the bucket."""

    def put(*keys: str, data: bytes = PHOTO) -> None:
        for key in keys:
            admin.put_object(Bucket=bucket, Key=key, Body=data)

    return put


@pytest.fixture
def settings(running: Proxy) -> Iterator[Callable[..., None]]:
    """settings(NAME=value or None) changes the environment of a new client until the test ends."""
    with pytest.MonkeyPatch.context() as environment:

        def change(**values: str | None) -> None:
            for name, value in values.items():
                if value is None:
                    environment.delenv(name)
                else:
                    environment.setenv(name, value)
            objects.close()

        yield change
    objects.close()


def refused(action: Callable[[], object]) -> str:
    """The one line of the DataError that ``action`` raises."""
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


# Addresses


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b c.jpg", ("s3://bucket", "a/b c.jpg")),
        ("gs://bucket/a.jpg", ("gs://bucket", "a.jpg")),
        ("AZ://container/a.jpg", ("az://container", "a.jpg")),
        ("s3://bucket/", ("s3://bucket", "")),
        ("s3://my.bucket-1", ("s3://my.bucket-1", "")),
        ("S3://bucket//a?b#c", ("s3://bucket", "/a?b#c")),
    ],
)
def test_split_uri(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


@pytest.mark.parametrize(
    "uri", ["", "s3://", "s3:///key", "s3://a b/key", "http://bucket/key", "bucket/key", "s3://-a/"]
)
def test_split_uri_names_a_bad_one(uri: str) -> None:
    with pytest.raises(SettingsError, match=f"^{uri}: not an S3 address"):
        split_uri(uri)


def test_no_module_loads_a_store_s_library_before_it_is_needed() -> None:
    code = """
import sys, catdog.sources.stores, catdog.sources.listing
print({'obstore', 'boto3', 'botocore', 'urllib3'} & set(sys.modules))"""
    with run_python(code) as process:
        assert process.communicate()[0] == "set()\n"


def test_without_obstore_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["obstore"] = None
from catdog.errors import SettingsError
from catdog.sources import objects, stores
some = stores.BucketStore("s3://bb", "")
for action in (lambda: list(objects.list_objects("s3://bb", "")), lambda: objects.read_object("s3://bb/k"),
               lambda: objects.object_version("s3://bb/k"), lambda: objects.open_object("s3://bb/k"),
               lambda: some.put("k", b"", new=True), lambda: some.put_file("k", "x")):
    try:
        action()
    except SettingsError as error:
        print(error)
"""
    with run_python(code) as process:
        lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert lines == ["object stores (s3://, gs://, az://) need one more package: pip install '.[cloud]'"] * 6


# Google Cloud Storage, whose XML interface is that of S3 with other names for the headers


def from_google(headers: dict[str, str]) -> dict[str, str]:
    """The headers of a request to Google as S3 has them; without the token, as anybody may do all in the bucket."""
    kept = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    if kept.pop("x-goog-if-generation-match", None) == "0":
        kept["If-None-Match"] = "*"
    return kept


@pytest.fixture
def google(proxy: Proxy, admin: Any, settings: Callable[..., None], tmp_path: Path) -> Iterator[str]:
    """The address of a bucket as Google's, with three objects."""
    bucket = f"photos{time.monotonic_ns()}"  # without a hyphen, which comes as %2D, and moto doesn't see that
    admin.create_bucket(Bucket=bucket)
    for key in ("photos/a.jpg", "photos/b/c.jpg", "other/d.jpg"):
        admin.put_object(Bucket=bucket, Key=key, Body=PHOTO)
    anybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}*"}
    admin.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [anybody]}))
    account = {"gcs_base_url": f"http://127.0.0.1:{proxy.server_port}", "disable_oauth": True}
    names = ("client_email", "private_key", "private_key_id")
    (tmp_path / "account.json").write_text(json.dumps(account | dict.fromkeys(names, "")))
    settings(GOOGLE_SERVICE_ACCOUNT=str(tmp_path / "account.json"))
    proxy.translate = from_google
    yield f"gs://{bucket}"
    proxy.translate = dict


def test_gs_is_listed_read_and_written(google: str, tmp_path: Path) -> None:
    found = list(list_inputs([f"{google}/photos/"]))
    assert [photo.source for photo in found] == [f"{google}/photos/a.jpg", f"{google}/photos/b/c.jpg"]
    assert all(photo.content.read(photo.source) == PHOTO for photo in found)
    assert [item.key for item in list_objects(google, "photos/", "photos/a.jpg")] == ["photos/b/c.jpg"]
    with pytest.raises(ImageError, match="no such object"):
        read_object(f"{google}/photos/none.jpg")
    store = BucketStore(google, "results")
    store.put("run.json", b"mine", new=True)
    assert "another run has written it" in refused(lambda: store.put("run.json", b"yours", new=True))
    (tmp_path / "large").write_bytes(LARGE * 4)  # in parts
    store.put_file("large", tmp_path / "large")
    with open_object(f"{google}/results/large") as stream:
        assert stream.read() == LARGE * 4
    store.delete("large")
    assert (store.get("run.json"), store.names("")) == (b"mine", ["run.json"])


# Listing


def test_lists_in_key_order_page_by_page(bucket: str, upload: Callable[..., None], proxy: Proxy) -> None:
    keys = [f"in/{i:02}.jpg" for i in range(25)]
    upload(*keys, "other.jpg")
    listing = list_objects(f"s3://{bucket}", "in/")
    key, size, version = next(listing)
    assert (key, size) == ("in/00.jpg", len(PHOTO))
    assert version
    assert [item.key for item in listing] == keys[1:]
    assert len(proxy.seen) == 3


def test_goes_on_after_a_key(bucket: str, upload: Callable[..., None]) -> None:
    upload(*(f"{i:02}.jpg" for i in range(25)))
    after = list_objects(f"s3://{bucket}", "", "11.jpg")
    assert [item.key for item in after] == [f"{i:02}.jpg" for i in range(12, 25)]
    assert list(list_objects(f"s3://{bucket}", "", "24.jpg")) == []


def test_odd_keys_come_as_they_are_and_folders_do_not_come(bucket: str, upload: Callable[..., None]) -> None:
    odd = ["a b+c%20.jpg", "a//b.jpg", "кот.jpg", "tab\there.jpg", "&<>.jpg", "😀.jpg"]
    upload(*odd, "folder/", "folder/sub/")
    assert [item.key for item in list_objects(f"s3://{bucket}", "")] == sorted(odd)
    assert all(read_object(f"s3://{bucket}/{key}") == PHOTO for key in odd)


def test_listing_survives_failures_between_pages(bucket: str, upload: Callable[..., None], proxy: Proxy) -> None:
    keys = [f"{i:02}.jpg" for i in range(25)]
    upload(*keys)
    proxy.plans["list-type=2"] = iter(["", "slow", "broken", "", "hang up", "cut", ""])
    assert [item.key for item in list_objects(f"s3://{bucket}", "")] == keys


def test_a_bucket_that_is_not_there(proxy: Proxy) -> None:
    assert refused(lambda: list(list_objects("s3://no-such", ""))) == (
        "s3://no-such: there is no such bucket; check its name"
    )
    assert "no such bucket" in refused(lambda: read_object("s3://no-such/cat.jpg"))


def test_a_directory_bucket_has_no_order_to_go_on_in() -> None:
    assert "lists its keys in no order" in refused(lambda: list(list_objects("s3://photos--use1-az4--x-s3", "")))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("forbidden", "access is forbidden; the credentials in use need s3:ListBucket"),
        ("expired", "the AWS credentials are refused (ExpiredToken); renew them"),
        ("elsewhere", "the bucket is in another region; set AWS_DEFAULT_REGION"),
    ],
)
def test_listing_that_is_refused(bucket: str, proxy: Proxy, fault: str, words: str) -> None:
    proxy.plans[f"/{bucket}"] = itertools.repeat(fault)
    assert refused(lambda: list(list_objects(f"s3://{bucket}", ""))).startswith(f"s3://{bucket}: {words}")


def test_without_credentials(settings: Callable[..., None]) -> None:
    settings(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert "no AWS credentials were found" in refused(lambda: list(list_objects("s3://photos", "")))
    assert "no AWS credentials were found" in refused(lambda: read_object("s3://photos/cat.jpg"))


def test_a_profile_or_endpoint_that_can_not_be(settings: Callable[..., None]) -> None:
    settings(AWS_PROFILE="nobody")
    with pytest.raises(SettingsError, match="nobody"):
        object_version("s3://photos/cat.jpg")
    settings(AWS_PROFILE=None, AWS_ENDPOINT_URL="not a URL")
    with pytest.raises(SettingsError, match="not a URL"):
        object_version("s3://photos/cat.jpg")


def test_an_endpoint_where_nobody_listens(settings: Callable[..., None]) -> None:
    settings(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="2")  # the discard port
    with ThreadPoolExecutor() as threads:
        listing = threads.submit(refused, lambda: list(list_objects("s3://photos", "")))
        reading = threads.submit(refused, lambda: read_object("s3://photos/cat.jpg"))
    assert "can't be reached" in listing.result()
    assert "127.0.0.1:9" in listing.result()
    assert reading.result().startswith("s3://photos: can't be reached")


# Reading photos


@pytest.mark.parametrize(
    "faults",
    [
        ["slow"],
        ["broken", "broken", "hang up"],
        ["hang up"],
        ["cut", "cut"],
        ["damage"],
        ["cut", "slow", "broken", "hang up", "damage"],
    ],
    ids=",".join,
)
def test_reads_come_out_right_after_failures(
    bucket: str, upload: Callable[..., None], proxy: Proxy, faults: list[str]
) -> None:
    upload("cat.jpg")
    proxy.plans["/cat.jpg"] = iter(faults)
    assert read_object(f"s3://{bucket}/cat.jpg") == PHOTO
    assert len(proxy.seen) == len(faults) + 1


def test_reads_from_many_threads_come_out_right(bucket: str, upload: Callable[..., None], proxy: Proxy) -> None:
    keys = [f"{i}.jpg" for i in range(40)]
    for key in keys:
        upload(key, data=key.encode() * 1000)
    proxy.plans[".jpg"] = itertools.cycle(["", "", "", "", "cut", "", "", "", "broken"])
    objects.close()
    with ThreadPoolExecutor(16) as threads:
        read = list(threads.map(lambda key: read_object(f"s3://{bucket}/{key}"), keys))
    assert read == [key.encode() * 1000 for key in keys]


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("huge", "too_large", f"{MAX_BYTES + 1} bytes, over the limit of {MAX_BYTES}"),
        ("forbidden", "unreadable", "access is forbidden"),
        ("archived", "unreadable", "it is archived (Glacier); restore it to S3 first"),
    ],
)
def test_photos_that_can_not_be_read(
    bucket: str, upload: Callable[..., None], proxy: Proxy, fault: str, reason: str, words: str
) -> None:
    upload("cat.jpg")
    proxy.plans["/cat.jpg"] = itertools.repeat(fault)
    with pytest.raises(ImageError) as caught:
        read_object(f"s3://{bucket}/cat.jpg")
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"s3://{bucket}/cat.jpg: {words}")
    assert len(proxy.seen) == 1  # no use in asking again


def test_a_missing_photo_and_an_empty_one(bucket: str, upload: Callable[..., None]) -> None:
    upload("empty.jpg", data=b"")
    assert read_object(f"s3://{bucket}/empty.jpg") == b""
    with pytest.raises(ImageError, match="no such object") as caught:
        read_object(f"s3://{bucket}/dog.jpg")
    assert caught.value.reason == "missing"


def test_credentials_that_run_out_stop_the_run_and_condemn_no_photo(
    bucket: str, upload: Callable[..., None], proxy: Proxy
) -> None:
    upload("cat.jpg")
    proxy.plans["/cat.jpg"] = itertools.repeat("expired")
    assert "credentials are refused (ExpiredToken)" in refused(lambda: read_object(f"s3://{bucket}/cat.jpg"))


def test_failures_that_do_not_pass_end_after_as_many_attempts_as_were_asked_for(
    bucket: str, upload: Callable[..., None], proxy: Proxy, settings: Callable[..., None]
) -> None:
    settings(AWS_MAX_ATTEMPTS="2")
    faults = {"slow": "SlowDown", "broken": "InternalError", "cut": "body error", "hang up": "HTTP error"}
    for fault in faults:
        upload(f"{fault}.jpg", data=b"small")
        proxy.plans[f"/{fault}.jpg".replace(" ", "%20")] = itertools.repeat(fault)

    def read(fault: str) -> ImageError:
        with pytest.raises(ImageError) as caught:
            read_object(f"s3://{bucket}/{fault}.jpg")
        return caught.value

    def stream(fault: str) -> str:
        return refused(lambda: open_object(f"s3://{bucket}/{fault}.jpg").read())

    with ThreadPoolExecutor(2 * len(faults)) as threads:
        errors, lines = threads.map(read, faults), threads.map(stream, faults)
    for (fault, words), error, line in zip(faults.items(), errors, lines, strict=True):
        assert error.reason == "unreadable"
        assert str(error).startswith(f"s3://{bucket}/{fault}.jpg: ")
        assert words in str(error)
        assert line.startswith(f"s3://{bucket}/{fault}.jpg: ")
    asked = [request for request, _ in proxy.seen if ".jpg" in request]
    # Each twice, a body that breaks off also in parts; and a stream's body by us three times more.
    assert len(asked) <= 2 * 2 * len(faults) + 2 * 4


def test_exists(bucket: str, upload: Callable[..., None], proxy: Proxy) -> None:
    upload("cat.jpg")
    proxy.plans["HEAD"] = iter(["slow", "hang up"])
    assert object_version(f"s3://{bucket}/cat.jpg")
    assert not object_version(f"s3://{bucket}/dog.jpg")
    proxy.plans["HEAD"] = itertools.repeat("forbidden")
    assert refused(lambda: object_version(f"s3://{bucket}/cat.jpg")).startswith(
        f"s3://{bucket}/cat.jpg: access is forbidden"
    )


# Streams of large objects


def test_a_stream_goes_on_where_the_connection_broke(bucket: str, upload: Callable[..., None], proxy: Proxy) -> None:
    upload("shard.tar", data=LARGE)
    proxy.plans["/shard.tar"] = iter(["slow", "cut", "broken", "cut", "hang up", "cut", ""])
    with open_object(f"s3://{bucket}/shard.tar") as stream:
        assert stream.read(10) == LARGE[:10]
        assert stream.read() == LARGE[10:]
        assert stream.read() == b""
    ranges = [byte_range for _, byte_range in proxy.seen]
    assert ranges[:2] == ["", ""]
    assert all(ranges[2:])  # no byte comes twice, but for the buffer that broke


def test_a_stream_notices_that_the_object_was_replaced(bucket: str, upload: Callable[..., None], proxy: Proxy) -> None:
    upload("shard.tar", data=LARGE)
    proxy.plans["/shard.tar"] = iter(["cut"])
    with open_object(f"s3://{bucket}/shard.tar") as stream:
        stream.read(10)
        upload("shard.tar", data=LARGE[::-1])
        assert "replaced by another one" in refused(stream.read)


def test_a_stream_is_not_glued_together_by_a_server_without_ranges(
    bucket: str, upload: Callable[..., None], proxy: Proxy
) -> None:
    upload("shard.tar", data=LARGE)
    proxy.plans["/shard.tar"] = itertools.chain(["cut"], itertools.repeat("ignore range"))
    with open_object(f"s3://{bucket}/shard.tar") as stream:
        assert stream.read() == LARGE


def test_streams_of_nothing(bucket: str, upload: Callable[..., None]) -> None:
    upload("empty.tar", data=b"")
    with open_object(f"s3://{bucket}/empty.tar") as stream:
        assert stream.read() == b""
    assert refused(lambda: open_object(f"s3://{bucket}/no.tar")) == f"s3://{bucket}/no.tar: there is no such object"


# Listings


def inputs(*sources: str) -> list[tuple[str, str]]:
    """The keys of all inputs, without the bucket, and why they are no photo."""
    found = list_inputs(list(sources))
    return [(item.source.partition("/")[2].split("/", 2)[2], getattr(item.content, "reason", "")) for item in found]


def test_junk_is_passed_over_in_prefixes_and_in_patterns(bucket: str, upload: Callable[..., None]) -> None:
    upload("p/ok.jpg", "p/__MACOSX/._1.jpg", "p/.hid/2.jpg", "p/@eaDir/3.jpg")
    for source in ("p", "p/**/*.jpg", "*/*.jpg"):
        assert inputs(f"s3://{bucket}/{source}") == [("p/ok.jpg", "")]


def test_a_folder_whose_name_ends_like_an_archive_s_separator(bucket: str, upload: Callable[..., None]) -> None:
    upload("wow!/1.jpg", "wow!/2.jpg")
    assert (
        inputs(f"s3://{bucket}/wow!/")
        == inputs(f"s3://{bucket}/wow!/*.jpg")
        == [("wow!/1.jpg", ""), ("wow!/2.jpg", "")]
    )


def test_keys_that_begin_with_a_slash_are_not_taken_for_others(bucket: str, upload: Callable[..., None]) -> None:
    """obstore has no name for them and drops the slash; boto3 reads them."""
    upload("/a.jpg", "/b.jpg", "c.jpg", "x//y/1.jpg", data=PHOTO)
    upload("a.jpg", data=b"another one")
    found = list(list_inputs([f"s3://{bucket}"]))
    assert [item.source for item in found] == [
        f"s3://{bucket}/{key}" for key in ("/a.jpg", "/b.jpg", "a.jpg", "c.jpg", "x//y/1.jpg")
    ]
    assert [item.content.read(item.source) for item in found] == [PHOTO, PHOTO, b"another one", PHOTO, PHOTO]
    for k, item in enumerate(found):
        assert list(list_inputs([f"s3://{bucket}"], after=item.cursor)) == found[k + 1 :]
    assert inputs(f"s3://{bucket}/x//y/") == [("x//y/1.jpg", "")]


def test_a_shard_that_is_not_there_is_one_failure_and_stops_nothing(bucket: str, admin: Any) -> None:
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        member = tarfile.TarInfo("1.jpg")
        member.size = len(PHOTO)
        archive.addfile(member, io.BytesIO(PHOTO))
    for n in (0, 2):
        admin.put_object(Bucket=bucket, Key=f"{n}.tar", Body=shard.getvalue())
    assert inputs(f"s3://{bucket}/{{0..2}}.tar") == [("0.tar!/1.jpg", ""), ("1.tar", "missing"), ("2.tar!/1.jpg", "")]
    assert inputs(f"s3://{bucket}/1.zip") == [("1.zip", "missing")]


def test_a_member_of_a_forbidden_archive_is_one_photo_and_expired_credentials_are_all(
    bucket: str, upload: Callable[..., None], proxy: Proxy
) -> None:
    upload("p.tar")
    source = f"s3://{bucket}/p.tar!/1.jpg"
    proxy.plans["/p.tar"] = itertools.repeat("forbidden")
    with pytest.raises(ImageError, match="access is forbidden"):
        content_for(source).read(source)
    proxy.plans["/p.tar"] = itertools.repeat("expired")
    assert refused(lambda: content_for(source).read(source))


# Stores


@pytest.fixture(params=["folder", "bucket", "whole bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "new" / "out")
    return BucketStore(f"s3://{request.getfixturevalue('bucket')}", "out/here" if request.param == "bucket" else "")


def test_stores_give_back_what_was_put(store: Store, tmp_path: Path) -> None:
    assert store.names("") == store.names("parts") == []
    assert store.get("parts/2") is None
    store.put("parts/2", b"two")
    store.put("parts/10", PHOTO)
    store.put("parts/deep/er", b"")
    store.put("result", b"old")
    (tmp_path / "finished").write_bytes(LARGE)
    store.put_file("result", tmp_path / "finished")
    assert store.names("parts") == ["10", "2"]
    assert store.names("") == ["result"]
    assert store.get("parts/10") == PHOTO
    assert store.get("parts/deep/er") == b""
    with store.open("result") as file:
        assert file.seek(-5, io.SEEK_END) == len(LARGE) - 5
        assert file.read() == LARGE[-5:]
    for name in ("parts/2", "parts/2", "parts/10", "parts/deep/er", "never/was"):
        store.delete(name)
    assert store.names("parts") == []
    assert "no such" in refused(lambda: store.open("parts/2")).lower()
    assert pickle.loads(pickle.dumps(store)) == store


def test_scratch_files_and_whole_folders_go(store: Store, tmp_path: Path) -> None:
    store.clear("parts")  # there is none
    store.put("parts/0", PHOTO)
    if isinstance(store, FolderStore):
        (store.folder / "parts" / ".1.abc.tmp").write_bytes(b"a kill left this")
    with store.scratch("parts") as path:
        path.write_bytes(LARGE)
        assert store.names("parts") == ["0"]
        store.put_file("result", path)
    assert not path.exists()
    with suppress(KeyboardInterrupt), store.scratch("parts") as path:
        path.write_bytes(LARGE)
        raise KeyboardInterrupt
    assert not path.exists()
    assert store.exists("result")
    assert store.exists("parts/0")
    store.clear("parts")
    assert not store.exists("parts/0")
    assert store.get("result") == LARGE
    if isinstance(store, FolderStore):
        assert [path.name for path in store.folder.iterdir()] == ["result"]


def test_a_new_part_replaces_no_other(store: Store) -> None:
    store.put("parts/0", b"mine", new=True)
    assert "another run has written it" in refused(lambda: store.put("parts/0", b"yours", new=True))
    assert store.get("parts/0") == b"mine"
    store.put("parts/0", b"yours")
    assert store.get("parts/0") == b"yours"


def test_a_new_part_whose_answer_got_lost_is_no_conflict(bucket: str, proxy: Proxy) -> None:
    proxy.plans["PUT"] = iter(["lose answer"])
    store = BucketStore(f"s3://{bucket}", "out")
    store.put("parts/0", b"mine", new=True)
    assert len([request for request, _ in proxy.seen if request.startswith("PUT")]) == 2
    assert store.get("parts/0") == b"mine"


def test_a_bucket_store_survives_passing_failures(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    store = BucketStore(f"s3://{bucket}", "out")
    (tmp_path / "finished").write_bytes(LARGE * 4)  # over 8 MiB: in parts
    proxy.plans[f"/{bucket}"] = itertools.cycle(["broken", "", "hang up", "", "slow", ""])
    store.put("part", PHOTO)
    store.put_file("result", tmp_path / "finished")
    assert store.names("") == ["part", "result"]
    assert store.get("part") == PHOTO
    with store.open("result") as file:
        assert file.read() == LARGE * 4
    store.delete("part")
    assert store.names("") == ["result"]


def test_a_failed_upload_leaves_nothing_behind(bucket: str, admin: Any, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "finished").write_bytes(LARGE * 4)
    proxy.plans["partNumber=2"] = itertools.repeat("forbidden")
    store = BucketStore(f"s3://{bucket}", "out")
    line = refused(lambda: store.put_file("result", tmp_path / "finished"))
    assert line.startswith(f"s3://{bucket}/out/result: access is forbidden")
    assert store.names("") == []
    assert "Uploads" not in admin.list_multipart_uploads(Bucket=bucket)
    proxy.plans["PUT"] = itertools.repeat("forbidden")
    assert "access is forbidden" in refused(lambda: store.put("part", b""))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("results.parquet", (FolderStore(Path()), "results.parquet")),
        ("/a/b/r.csv", (FolderStore(Path("/a/b")), "r.csv")),
        ("s3://bucket/r.csv", (BucketStore("s3://bucket", ""), "r.csv")),
        ("s3://bucket/a/b/r.csv", (BucketStore("s3://bucket", "a/b"), "r.csv")),
    ],
)
def test_open_store(place: str, expected: tuple[Store, str]) -> None:
    assert open_store(place) == expected


@pytest.mark.parametrize("place", ["", ".", "/", "tests/", "tests", "s3://bucket", "s3://bucket/", "s3://bucket/a/"])
def test_open_store_wants_a_file(place: str) -> None:
    with pytest.raises(SettingsError, match=r"name(s no| a) file"):
        open_store(place)


def test_a_killed_put_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    code = """
import itertools, sys
from pathlib import Path
from catdog.sources.stores import FolderStore
for letter in itertools.cycle("ab"):
    FolderStore(Path(sys.argv[1])).put("part", letter.encode() * 2**22)
    print(letter, flush=True)
"""
    store = FolderStore(tmp_path)
    for delay_s in (0.0, 0.005, 0.01, 0.02):
        with run_python(code, tmp_path) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(delay_s)
            process.kill()
        data = store.get("part")
        assert data in (b"a" * 2**22, b"b" * 2**22)
        assert store.names("") == ["part"]


def test_a_full_disk_is_said_in_one_line_and_leaves_the_old(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the error comes in the middle of writing just so."""
    code = """
import resource, sys
from pathlib import Path
from catdog.errors import DataError
from catdog.sources.stores import FolderStore
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
store = FolderStore(Path(sys.argv[1]))
for data in (b"small", bytes(2**20)):
    try:
        store.put("part", data)
    except DataError as error:
        print(error)
"""
    with run_python(code, tmp_path) as process:
        line = process.communicate()[0]
    assert line.startswith(f"{tmp_path / 'part'}: can't be written: over the largest file allowed here")
    assert line.endswith("start the same command again: it goes on\n")
    assert line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert (tmp_path / "part").read_bytes() == b"small"


def test_folders_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "can't be written: a file stands where a folder should be" in refused(
        lambda: FolderStore(tmp_path / "file").put("part", b"")
    )
    assert "can't be listed: a file stands where a folder should be" in refused(
        lambda: FolderStore(tmp_path).names("file")
    )
    (tmp_path / "folder").mkdir()
    assert "can't be read: Is a directory" in refused(lambda: FolderStore(tmp_path).get("folder"))
    assert "can't be written" in refused(lambda: FolderStore(tmp_path).put("folder", b""))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "folder").chmod(0o500)
        assert "no permission" in refused(lambda: FolderStore(tmp_path / "folder").put("part", b""))


def test_a_file_from_another_file_system_is_copied(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("only one file system here")
    source = other / f"catdog-{os.getpid()}"
    source.write_bytes(PHOTO)
    try:
        FolderStore(tmp_path).put_file("result", source)
    finally:
        source.unlink(missing_ok=True)
    assert (tmp_path / "result").read_bytes() == PHOTO
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_lock_is_held_until_its_process_dies(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from catdog.sources.stores import FolderStore
with FolderStore(Path(sys.argv[1])).lock("result"):
    print("locked", flush=True)
    time.sleep(60)
"""
    store = FolderStore(tmp_path)
    with run_python(code, tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"

        def enter() -> None:
            with store.lock("result"):
                pass

        assert refused(enter).startswith(f"{tmp_path / 'result'}: another run is writing it")
        with store.lock("another"):
            assert store.names("") == []
        process.send_signal(signal.SIGKILL)
    enter()
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_store_has_no_lock() -> None:
    with BucketStore("s3://bucket", "").lock("result"):
        pass
