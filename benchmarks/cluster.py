"""The whole micro grid through `--profile slurm` on the tests' cluster (two nodes on this machine): wall time, overhead.

PYTHONPATH=tests:workflow python benchmarks/cluster.py --folder /tmp/grid [TARGET ...]     as root, with Debian's SLURM
"""

import argparse
import re
import time
from pathlib import Path

import pandas as pd

from project import Project
from slurm.cluster import Cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    parser.add_argument("--jobs", default="4", help="queued or running at once")
    parser.add_argument("targets", nargs="*")
    asked = parser.parse_args()
    cluster = Cluster(asked.folder / "cluster")
    conf = asked.folder / "cluster/etc/slurm.conf"
    conf.write_text(conf.read_text().replace("MinJobAge=20", "MinJobAge=86400"))  # asked about at the end
    project = Project(asked.folder / "project")
    cluster.serve(project)
    try:
        cluster.start()
        before = time.monotonic()
        status = project.start(*asked.targets, "--profile", "slurm", "--jobs", asked.jobs).wait()
        wall = time.monotonic() - before
        said = (project.folder / "snakemake.log").read_text()
        if status:
            raise SystemExit(said[-4000:])
        queue = [cluster.run("scontrol", "show", "job", number) for number in re.findall(r"/(\d+)\.log\)", said)]
    finally:
        cluster.stop()

    def seconds(job: str, start: str, end: str) -> float:
        times = [pd.Timestamp(re.search(rf"{name}=(\S+)", job)[1]) for name in (start, end)]
        return (times[1] - times[0]).total_seconds()

    waits = [seconds(job, "SubmitTime", "StartTime") for job in queue]
    held = [seconds(job, "StartTime", "EndTime") for job in queue]
    tables = [pd.read_csv(path, sep="\t") for path in project.folder.glob("results/benchmarks/**/*.tsv")]
    work = pd.concat(tables).s.sum()
    print(f"{len(queue)} jobs of SLURM, {wall:.0f} s; {len(tables)} rules' work {work:.0f} s")
    print(f"wait in the queue: {pd.Series(waits).mean():.1f} s a job (median {pd.Series(waits).median():.0f})")
    print(f"a node is held for {sum(held):.0f} s: {(sum(held) - work) / len(queue):.1f} s a job beyond its work")


if __name__ == "__main__":
    main()
