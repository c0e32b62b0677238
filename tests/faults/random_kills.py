"""Random SIGKILLs over a grid, any process of it, and reruns until it is done; the bytes must be those of a calm run.

PYTHONPATH=tests python -m faults.random_kills --kills 60 --folder /tmp/kills [--configfile FILE] [TARGET ...]

Without a target the whole grid of the configuration runs, twice. What is compared: every table, figure and claim.
"""

import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import yaml

from project import Project, Run

COMPARED = ("tables", "figures", "claims.*")


def processes(project: Project) -> list[psutil.Process]:
    """Every process at work in the project's folder, whoever started it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


def role(process: psutil.Process) -> str:
    """What a process is in the workflow."""
    line = process.cmdline()
    if "snakemake" in line:
        return "Snakemake"
    return next((part for part in line if part.startswith("diffinfo.")), "a shell") if line else "a shell"


def storm(project: Project, arguments: list[str], changes: dict | None, kills: int, pause: float, seed: int) -> Counter:
    """Run to the end in spite of ``kills`` SIGKILLs, ``pause`` seconds apart on average; returns what was hit."""
    rng = random.Random(seed)
    hit: Counter = Counter()
    run: Run | None = None
    while True:
        if run is None or run.poll() is not None:
            if run is not None and run.returncode == 0:
                break
            killed = hit.total() - hit["runs"]
            assert hit["runs"] <= killed + 2, (
                f"it fails without a fault:\n{(project.folder / 'snakemake.log').read_text()[-4000:]}"
            )
            project.snakemake("--unlock", changes=changes)
            run = project.start(*arguments, changes=changes)
            hit["runs"] += 1
        if hit.total() - hit["runs"] >= kills:
            run.ended(3600)
            continue
        try:
            run.wait(timeout=rng.expovariate(1 / pause))
        except subprocess.TimeoutExpired:
            victim = rng.choice(processes(project))
            try:
                name = role(victim)
                victim.kill()
                hit[name] += 1
            except psutil.NoSuchProcess:
                pass
    return hit


def compared(project: Project) -> dict[str, bytes]:
    """The contents of every final file."""
    results = project.folder / "results"
    paths = [path for pattern in COMPARED for found in results.glob(pattern) for path in (found, *found.rglob("*"))]
    return {str(path.relative_to(results)): path.read_bytes() for path in paths if path.is_file()}


def trial(
    folder: Path, arguments: list[str], changes: dict | None, kills: int, seed: int, spread: float = 1
) -> tuple[list[str], Counter]:
    """A calm run and a stormy one; returns the files that differ, and what was hit.

    The kills fall due within ``spread`` times the calm run's duration, on average.
    """
    calm, stormy = (Project(folder / name) for name in ("calm", "stormy"))
    before = time.monotonic()
    if calm.start(*arguments, changes=changes).ended(3600):
        raise SystemExit((calm.folder / "snakemake.log").read_text()[-4000:])
    seconds = time.monotonic() - before
    print(f"calm run: {seconds:.0f} s", flush=True)
    before = time.monotonic()
    hit = storm(stormy, arguments, changes, kills, pause=spread * seconds / kills, seed=seed)
    print(f"stormy run: {time.monotonic() - before:.0f} s; {dict(hit)}", flush=True)
    one, other = compared(calm), compared(stormy)
    assert one, "nothing was made"
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)), hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--spread", type=float, default=2.5, help="times the calm run's duration, for a stormy one takes longer"
    )
    parser.add_argument("--cores", default="2")
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for both runs")
    parser.add_argument("--configfile", type=Path, help="merged over config.yaml")
    parser.add_argument("targets", nargs="*")
    asked = parser.parse_args()
    changes = yaml.safe_load(asked.configfile.read_text()) if asked.configfile else None
    arguments = [*asked.targets, "--cores", asked.cores]
    different, _ = trial(asked.folder, arguments, changes, asked.kills, asked.seed, asked.spread)
    sys.exit(f"different: {', '.join(different)}" if different else None)


if __name__ == "__main__":
    main()
