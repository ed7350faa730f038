"""Time, machines and cost of scoring a huge collection on AWS, from a rate that was measured.

    catdog score photos/ --out r.parquet --summary summary.json
    python benchmarks/at_scale.py summary.json [--photos 100e6] [--hours 12]

Prices are us-east-1's, on demand, as AWS published them; they change, so give your own with the flags. A core here is
a virtual core, as on EC2; another kind of core gives another rate: measure it there, then run this again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

EC2_PRICE = 0.68  # $ an hour, c5.4xlarge (EC2 Auto Scaling user guide, example prices)
SPOT_PRICE = 0.34  # $ an hour, the same on spot (the same page: 0.318 to 0.361 by zone)
SAGEMAKER_FACTOR = 1.2  # an ml. instance to the EC2 instance (0.816 to 0.68 for c5.4xlarge)
CORES = 16  # virtual ones of a c5.4xlarge
GET_PRICE = 0.0004  # $ a thousand GETs, S3 Standard
LIST_PRICE = 0.005  # $ a thousand LISTs, of 1,000 keys each


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("summary", type=Path, help="what catdog.score --summary wrote")
    parser.add_argument("--photos", type=float, default=100e6)
    parser.add_argument("--hours", type=float, default=12.0, help="the time that it may take")
    parser.add_argument("--price", type=float, default=EC2_PRICE, help="$ an hour a machine")
    parser.add_argument("--spot-price", type=float, default=SPOT_PRICE)
    parser.add_argument("--cores", type=int, default=CORES, help="of a machine")
    parser.add_argument("--shard", type=int, default=1000, help="photos a tar shard")
    arguments = parser.parse_args()
    summary = json.loads(arguments.summary.read_text())
    rate = summary["photos_per_second"] / summary["workers"]
    machine_hours = arguments.photos / rate / 3600 / arguments.cores
    machines = math.ceil(machine_hours / arguments.hours)
    print(f"{rate:.1f} photos/s a core, {rate * arguments.cores:,.0f} a machine of {arguments.cores} cores\n")
    print(f"{arguments.photos:,.0f} photos: {machine_hours:,.0f} machine hours")
    print(f"one machine: {machine_hours / 24:,.1f} days; in {arguments.hours:g} hours: {machines} machines\n")
    print("| way | machines, $ |")
    print("| --- | --- |")
    for way, price in (
        ("EC2, on demand", arguments.price),
        ("EC2, spot", arguments.spot_price),
        ("SageMaker Batch Transform, at best", arguments.price * SAGEMAKER_FACTOR),
    ):
        print(f"| {way} | {machine_hours * price:,.0f} |")
    lists = arguments.photos / 1000 / 1000 * LIST_PRICE
    print(f"\nS3: {arguments.photos / 1000 * GET_PRICE:,.2f} $ of GETs for single photos ", end="")
    print(f"({arguments.photos / arguments.shard / 1000 * GET_PRICE:,.2f} $ as shards), {lists:,.2f} $ of LISTs")


if __name__ == "__main__":
    main()
