"""A real SLURM on this machine: slurmctld and two slurmd nodes with two fake GPUs each, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from project import Project, wait_until

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
NODES = ("n1", "n2")
MAX_MINUTES = 60

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={root}/etc/prolog
TaskEpilog={root}/etc/epilog
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge=20
MessageTimeout=5
SlurmdTimeout=6
SlurmctldTimeout=6
OverTimeLimit=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=32 RealMemory=16000 Gres=gpu:h100:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=32 RealMemory=16000 Gres=gpu:h100:2
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime={minutes}
PartitionName=gpu Nodes=n1,n2 MaxTime={minutes}
"""


def missing() -> list[str]:
    """What a cluster lacks here."""
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    return lacking + ([] if os.geteuid() == 0 else ["root"])


class Cluster:
    """The daemons; nothing outside ``root`` is written and nothing but what it started is stopped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("etc", "log", "spool/n1", "spool/n2", "state", "run", "dev", "bin"):
            (root / name).mkdir(parents=True)
        for index in range(2):
            subprocess.run(["mknod", f"{root}/dev/gpu{index}", "c", "1", "3"], check=True, timeout=60)
        conf = CONF.format(
            root=root, host=socket.gethostname().split(".")[0], ports=_free_ports(3), minutes=MAX_MINUTES
        )
        (root / "etc/slurm.conf").write_text(conf)
        (root / "etc/gres.conf").write_text(
            f"AutoDetect=off\nNodeName=n1,n2 Name=gpu Type=h100 File={root}/dev/gpu[0-1]\n"
        )
        (root / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for name in ("prolog", "epilog"):  # a project's own script, where it has one
            script = root / "etc" / name
            script.write_text(f'#!/bin/bash\ncd "$SLURM_SUBMIT_DIR" && [ -f {name}.sh ] && . ./{name}.sh\nexit 0\n')
            script.chmod(0o755)
        # A job step loses SLURM_CONF with the rest of SLURM_*: the commands must find the configuration by themselves.
        for name in ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct", "sacctmgr", "sshare"):
            if real := shutil.which(name):
                wrapper = root / "bin" / name
                wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={root}/etc/slurm.conf exec {real} "$@"\n')
                wrapper.chmod(0o755)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "PATH": f"{root}/bin:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start everything and wait until both nodes are idle."""
        key = self.root / "etc/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = [f"--{name}={self.root}/{file}" for name, file in (
            ("key-file", "etc/munge.key"), ("socket", "munge.socket"), ("pid-file", "run/munged.pid"),
            ("log-file", "log/munged.log"), ("seed-file", "run/munged.seed"),
        )]  # fmt: skip
        self._daemon("munged", "--force", *munge)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= 4, "both nodes are idle")

    def stop(self) -> None:
        """End every job and every daemon that this cluster started."""
        for node in NODES:
            self.lose(node)
        self.stop_controller()
        self.kill("munged", signal.SIGTERM)

    def serve(self, project: Project) -> None:
        """Edit the lines of a project's profile as a user of this cluster would, and look at jobs every second."""
        profile = project.folder / "slurm/config.yaml"
        text = profile.read_text()
        for line, edited in {
            "slurm_account: your-account": "slurm_account: default",
            "max_runtime: 1440": f"max_runtime: {MAX_MINUTES}",
            "before-status-checks: 40": "before-status-checks: 1",
            "per-second: 0.2": "per-second: 1",
            "latency-wait: 120": "latency-wait: 30",
        }.items():
            assert line in text
            text = text.replace(line, edited)
        profile.write_text(text)
        project.environment["PATH"] = f"{self.root}/bin:{project.environment['PATH']}"
        quick = str(Path(__file__).parent / "quick")
        project.environment.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONPATH=quick)

    def start_controller(self) -> None:
        """Start slurmctld; it restores the jobs of the previous one."""
        self._daemon("slurmctld", "-f", f"{self.root}/etc/slurm.conf")

    def stop_controller(self) -> None:
        """Ask slurmctld to end: killed, it would forget what happened since it last wrote its state, and hold nodes for
        jobs that have ended.
        """
        self.kill("slurmctld", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-N", node, "-f", f"{self.root}/etc/slurm.conf")

    def kill(self, daemon: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a daemon by its pid file and wait until it is gone."""
        file = self.root / "run" / f"{daemon}.pid"
        if not file.exists():
            return
        pid = int(file.read_text())
        try:
            os.kill(pid, number)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"{daemon} has ended")
        except ProcessLookupError:
            pass
        file.unlink(missing_ok=True)

    def lose(self, node: str) -> None:
        """A node goes away with all that runs on it: SLURM's step managers first, so that nobody reports the end."""
        there = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURMD_NODENAME") == node:
                    there.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                pass
        managers = {parent for process in there for parent in process.parents() if parent.name() == "slurmstepd"}
        self.kill(f"slurmd.{node}")
        for process in [*managers, *there]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a SLURM command."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def _daemon(self, *command: str) -> None:
        environment = {**self.environment, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
