"""What the results take on the disk, and what of it no table needs any more.

``python -m diffinfo.operations.disk [--configfile FILE ...]`` reports; with ``--drop`` it deletes checkpoints that no
remaining job reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from diffinfo.cli import UserError
from diffinfo.config.reading import load
from diffinfo.config.types import RESULTS
from diffinfo.operations.jobs import Job, planned
from diffinfo.tables.artifacts import OUTPUTS
from diffinfo.tables.locks import at_work
from diffinfo.tables.parts import PARTS

LOCKS = Path(RESULTS, ".progress/locks")  # of the jobs of all runs
SHARES = ".progress/shares"  # what the jobs that share a table's parts leave, below a folder of results
LEFTOVERS = ".*.tmp"  # private files of jobs that were killed (artifacts.atomic, artifacts.whole_folder)


def size(folder: Path) -> int:
    """Bytes on disk, each once however many links it has."""
    files = (os.lstat(path) for path in folder.rglob("*") if not path.is_dir())
    return sum({file.st_ino: file.st_blocks * 512 for file in files}.values())


def report(results: Path) -> str:
    """One line: the whole, and its largest parts."""
    parts = {path.name: size(path) for path in results.iterdir() if path.is_dir()}
    largest = sorted(parts.items(), key=lambda part: -part[1])[:6]
    free = shutil.disk_usage(results).free
    return (
        f"{results}: {_gb(size(results))} ({', '.join(f'{name} {_gb(s)}' for name, s in largest)}), {_gb(free)} free."
    )


def clean(results: Path) -> None:
    """Delete the private files of killed jobs, unless a job of another Snakemake is at work."""
    if at_work(results / ".progress/locks"):
        return
    for path in list(results.rglob(LEFTOVERS)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def forget(results: Path, outputs: Collection[str]) -> None:
    """Delete the progress that has become ``outputs``, which are recorded."""
    for note in list((results / ".progress").glob(f"*/*/{OUTPUTS}")):
        if set(json.loads(note.read_text())) & set(outputs):
            for share in list((results / SHARES).rglob(PARTS)):  # it says that parts are there
                if share.is_file() and share.read_text() == note.parent.name:  # a model may be called so
                    shutil.rmtree(share.parent)
            done = note.parent.with_name(f".{note.parent.name}.done.tmp")  # a part of it would mislead a later run
            shutil.rmtree(done, ignore_errors=True)
            note.parent.rename(done)
            shutil.rmtree(done, ignore_errors=True)


def droppable(results: Path, everything: list[Job], remaining: list[Job]) -> list[Path]:
    """Checkpoints that no remaining job reads: epochs of policies with the trainer's state, and DID proxies.

    Only those of ``everything`` that the configuration makes: another configuration may share the folder. Progress of
    killed trainings goes too once nothing is left to be trained and no job is at work. Models to start from and SFT
    models stay: every further cell begins with them. So do paid replies.
    """
    made = {path for job in everything for path in job.outputs}
    needed = {path for job in remaining for path in job.inputs}
    found = [*results.glob("train/*/*/*/*/models"), *results.glob("did*/*/*/*/*/model")]
    paths = [path for path in found if str(path) in made - needed]
    trains = any(job.rule in ("sft", "preference", "did_train") for job in remaining)
    if not trains and not at_work(LOCKS):
        paths += results.glob(".progress/train")
    return sorted(paths)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def main() -> None:
    """Report, or drop."""
    parser = argparse.ArgumentParser(prog="python -m diffinfo.operations.disk", description=__doc__)
    parser.add_argument("--configfile", nargs="+", type=Path, default=[], help="files merged over config.yaml")
    parser.add_argument("--drop", action="store_true", help="delete checkpoints that no remaining job reads")
    asked = parser.parse_args()
    results = Path(load("config.yaml", *asked.configfile).results)
    if not results.is_dir():
        raise UserError(
            f"there is no folder {results}/ here: nothing has run yet, or this is not the project's folder."
        )
    if asked.drop:
        before = size(results)
        jobs = [planned(asked.configfile, everything) for everything in (True, False)]
        paths = droppable(results, *jobs)
        for path in paths:
            shutil.rmtree(path)
            print(f"dropped {path}")
        print(f"{len(paths)} folders dropped, {_gb(before - size(results))} freed.")
    print(report(results))


if __name__ == "__main__":
    try:
        main()
    except UserError as fault:
        sys.exit(f"error: {fault}")
