"""catdog score with photos and results on S3: a real server (moto) behind a proxy that fails on purpose."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3", reason="s3:// needs boto3")
pytest.importorskip("pyarrow", reason="needs catdog[score]")

from catdog.errors import DataError
from catdog.sources.stores import open_store
from tests.integration.s3_server import Proxy

ROOT = Path(__file__).parents[2]
PART_ROWS = 16


def start(model: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "catdog.score", "--workers", "1", "--part-rows", str(PART_ROWS)]
    return subprocess.Popen(
        [*command, "--model", str(model), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def end(run: subprocess.Popen[str], code: int) -> tuple[dict[str, Any], str]:
    """Its report and what it said; it has to end with this exit code and without a traceback."""
    output, error = run.communicate(timeout=100)
    assert "Traceback" not in error, error
    assert run.returncode == code, error
    return json.loads(output) if output else {}, error


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def without_place(rows: list[dict[str, str]], place: str) -> list[dict[str, str]]:
    """Without what differs between a disk and a bucket."""
    same = [{column: row[column] for column in row if column != "version"} for row in rows]
    return [row | {column: row[column].replace(place, "") for column in ("source", "error")} for row in same]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Callable[..., bytes]) -> Path:
    """Photos and two shards of them on disk."""
    folder = tmp_path_factory.mktemp("disk") / "photos"
    for i in range(60):
        path = folder / "in" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no photo" if i % 20 == 7 else photo(("red", "blue")[i % 2], "PNG", size=(200, 150 + i)))
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as tar:
            for i in range(shard, 60, 3):
                tar.add(folder / "in" / f"{i:02}.png", f"{i:02}.png")
    return folder


@pytest.fixture
def uploaded(folder: Path, bucket: str, admin: Any) -> str:
    """The same in a bucket; its address."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            admin.put_object(Bucket=bucket, Key=str(path.relative_to(folder)), Body=path.read_bytes())
    return f"s3://{bucket}"


def sources(place: str) -> list[str]:
    """A folder or prefix, a pattern, shards."""
    return [f"{place}/in", f"{place}/in/*3.png", f"{place}/shard-{{0..1}}.tar"]


@pytest.fixture(scope="module")
def expected(folder: Path, tiny_model: Path) -> list[dict[str, str]]:
    """The rows for the folder, without its name."""
    out = folder.parent / "expected.csv"
    end(start(tiny_model, *sources(str(folder)), "--out", str(out)), 1)
    return without_place(rows_of(out.read_bytes()), str(folder))


def stored(admin: Any, uploaded: str, key: str) -> list[dict[str, str]]:
    body: bytes = admin.get_object(Bucket=uploaded.removeprefix("s3://"), Key=key)["Body"].read()
    return without_place(rows_of(body), uploaded)


def keys(admin: Any, uploaded: str) -> set[str]:
    listed = admin.list_objects_v2(Bucket=uploaded.removeprefix("s3://"), Prefix="out/")
    return {item["Key"] for item in listed.get("Contents", ())}


def test_a_bucket_that_fails_now_and_then_gives_the_same_rows_as_a_disk(
    uploaded: str,
    expected: list[dict[str, str]],
    tiny_model: Path,
    admin: Any,
    proxy: Proxy,
) -> None:
    assert len(expected) == 60 + 6 + 40
    faults = ["", "", "slow", "", "", "", "cut", "", "", "", "", "broken", "", "", "hang up", "", "", "", ""]
    for how, plan in (("well", []), ("badly", itertools.cycle(faults))):
        proxy.plans["/"] = iter(plan)
        out = f"{uploaded}/out/{how}.csv"
        report, _ = end(start(tiny_model, *sources(uploaded), "--out", out), 1)
        assert report["photos"] == len(expected)
        assert stored(admin, uploaded, f"out/{how}.csv") == expected
    assert keys(admin, uploaded) == {f"out/{how}.csv{end}" for how in ("well", "badly") for end in ("", ".run.json")}


def test_a_list_of_addresses(uploaded: str, tiny_model: Path, tmp_path: Path) -> None:
    listed = [f"{uploaded}/in/01.png", f"{uploaded}/in/gone.png", f"{uploaded}/in/02.png", "s3://no-such-bucket?/x.png"]
    (tmp_path / "list.csv").write_text("uri\n" + "\n".join(listed) + "\n")
    out = tmp_path / "r.csv"
    end(start(tiny_model, "--list", str(tmp_path / "list.csv"), "--out", str(out)), 1)
    rows = rows_of(out.read_bytes())
    assert [row["source"] for row in rows] == listed
    assert [row["status"] for row in rows] == ["ok", "missing", "ok", "unsupported"]
    assert [row["label"] for row in rows] == ["dog", "", "cat", ""]


def test_killed_in_the_middle_it_goes_on(
    uploaded: str,
    expected: list[dict[str, str]],
    tiny_model: Path,
    admin: Any,
    proxy: Proxy,
) -> None:
    out = f"{uploaded}/out/r.csv"
    for count in (1, 3):
        run = start(tiny_model, *sources(uploaded), "--out", out)
        while len([key for key in keys(admin, uploaded) if "/part-" in key]) < count and run.poll() is None:
            time.sleep(0.01)
        run.kill()
        run.communicate()
    report, _ = end(start(tiny_model, *sources(uploaded), "--out", out), 1)
    assert report["scored_before"] >= 3 * PART_ROWS
    assert stored(admin, uploaded, "out/r.csv") == expected
    assert keys(admin, uploaded) == {"out/r.csv", "out/r.csv.run.json"}


def test_a_bucket_that_changed_costs_only_what_changed(
    uploaded: str, tiny_model: Path, admin: Any, proxy: Proxy, folder: Path
) -> None:
    """A photo that was overwritten, one that went, one that came; a shard that was replaced, and one that was not."""
    bucket, out = uploaded.removeprefix("s3://"), f"{uploaded}/out/r.csv"
    end(start(tiny_model, *sources(uploaded), "--out", out), 1)
    proxy.seen.clear()
    same, _ = end(start(tiny_model, *sources(uploaded), "--out", out), 1)
    assert same["changes"] == {"new": 0, "changed": 0, "gone": 0, "retried": 0, "kept": 106}
    photos = [request for request, _ in proxy.seen if "/in/" in request or ("GET" in request and "shard" in request)]
    assert photos == []
    admin.put_object(Bucket=bucket, Key="in/03.png", Body=(folder / "in/02.png").read_bytes())
    admin.delete_object(Bucket=bucket, Key="in/04.png")
    admin.put_object(Bucket=bucket, Key="in/99.png", Body=(folder / "in/02.png").read_bytes())
    admin.put_object(Bucket=bucket, Key="shard-1.tar", Body=(folder / "shard-0.tar").read_bytes())
    report, _ = end(start(tiny_model, *sources(uploaded), "--out", out), 1)
    # in/03.png is also one of in/*3.png; of the 20 members of shard-1.tar, those of shard-0.tar have other names
    assert report["changes"] == {"new": 1 + 20, "changed": 2, "gone": 1 + 20, "retried": 0, "kept": 106 - 3 - 20}
    end(start(tiny_model, *sources(uploaded), "--out", f"{uploaded}/out/fresh.csv"), 1)
    assert stored(admin, uploaded, "out/r.csv") == stored(admin, uploaded, "out/fresh.csv")


def test_two_runs_on_one_result_do_not_mix(
    uploaded: str,
    expected: list[dict[str, str]],
    tiny_model: Path,
    admin: Any,
) -> None:
    out = f"{uploaded}/out/r.csv"
    run = start(tiny_model, *sources(uploaded), "--out", out)
    while not any("/part-00000000" in key for key in keys(admin, uploaded)) and run.poll() is None:
        time.sleep(0.01)
    store, name = open_store(out)
    with pytest.raises(DataError, match="another run has written it meanwhile; let only one run write there"):
        store.put(f"{name}.parts/part-00000000.parquet", b"ours", new=True)
    end(run, 1)
    assert stored(admin, uploaded, "out/r.csv") == expected


@pytest.mark.parametrize(
    ("source", "fault", "words"),
    [
        ("s3://no-such-bucket/in/", "", "s3://no-such-bucket: there is no such bucket; check its name"),
        ("{}/in/", "forbidden", "{}: access is forbidden"),
        ("{}/in/", "expired", "{}: the AWS credentials are refused (ExpiredToken)"),
        ("{}/in/", "nobody", "{}: can't be reached"),
    ],
)
def test_a_bucket_that_can_not_be_used_is_one_line_at_once(
    source: str,
    fault: str,
    words: str,
    bucket: str,
    tiny_model: Path,
    tmp_path: Path,
    proxy: Proxy,
) -> None:
    proxy.plans[f"/{bucket}"] = itertools.repeat(fault)
    place, out = f"s3://{bucket}", tmp_path / "r.csv"
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"} if fault == "nobody" else {}
    for where in (str(out), f"{place}/out/r.csv") if "{}" in source else (str(out),):
        _, error = end(start(tiny_model, source.format(place), "--out", where, **nobody), 2)
        assert error.startswith("catdog score: error: s3://")
        assert where != str(out) or words.format(place) in error
        assert error.count("\n") == 1
    assert not out.exists()
