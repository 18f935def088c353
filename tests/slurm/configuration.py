"""The files of a private Slurm: ``slurm.conf`` for a machine of any shape, keys, names, devices."""

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from site_files import shape

# Times: a requeued job starts again after cred_expire; KillWait lies between TERM and KILL.
SLURM_CONF = """\
ClusterName=hpc_bnn_tests
SlurmctldHost={controller}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/node/%n/spool
TmpFS={folder}/node/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
EnforcePartLimits=ALL
JobRequeue=1
ReturnToService=2
KillWait=2
MinJobAge=3600
SlurmdTimeout=10
{nodes}
{partitions}
"""


@dataclass(frozen=True)
class Shape:
    """The machine that Slurm shall believe in; the nodes are n1, n2, ..."""

    nodes: int = 2
    cores: int = 8  # of a node
    threads_per_core: int = 1
    gpus: int = 0  # of a node
    memory_gb: int = 500
    partitions: tuple[str, ...] = ("batch",)  # the first is the default
    features: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [f"n{i + 1}" for i in range(self.nodes)]

    @classmethod
    def of_site(cls, site: str, *, nodes: int) -> "Shape":
        """Return a small machine with the nodes of a site."""
        need = shape(site)
        return cls(
            nodes=nodes,
            cores=int(need["cores"]),
            threads_per_core=int(need["threads"]),
            gpus=int(need["gpus"]),
            partitions=tuple(filter(None, need["partitions"].split(","))) or cls.partitions,
            features=tuple(filter(None, need["features"].split(","))),
        )


def configure(folder: Path, shape: Shape) -> None:
    """Write the files from which the daemons of one cluster start."""
    names = f"n[1-{shape.nodes}]"
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    # Each node's own name must lead to the address at which its slurmd listens.
    hosts = Path("/etc/hosts").read_text(encoding="utf-8")
    addresses = "".join(f"127.0.0.1 {name}\n" for name in shape.names)
    (folder / "hosts").write_text(f"{hosts}\n{addresses}", encoding="utf-8")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n", encoding="utf-8")
    devices = ""
    for i in range(shape.gpus):  # Slurm wants a device file for each GPU and never opens it
        (folder / "gpu" / str(i)).symlink_to("/dev/null")
        devices += f"NodeName={names} Name=gpu File={folder}/gpu/{i}\n"
    (folder / "gres.conf").write_text(devices, encoding="utf-8")
    partitions = "\n".join(
        f"PartitionName={name} Nodes=ALL Default={'NO' if i else 'YES'} MaxTime=7-0 State=UP"
        for i, name in enumerate(shape.partitions)
    )
    ports = _free_ports(1 + shape.nodes)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
        f"Sockets=1 CoresPerSocket={shape.cores} ThreadsPerCore={shape.threads_per_core} "
        f"CPUs={shape.cores * shape.threads_per_core} RealMemory={shape.memory_gb * 1000}"
        + (f" Gres=gpu:{shape.gpus}" if shape.gpus else "")
        + (f" Feature={','.join(shape.features)}" if shape.features else "")
        for name, port in zip(shape.names, ports[1:], strict=True)
    )
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(
            folder=folder, user=user.stdout.strip(), controller=socket.gethostname(),
            port=ports[0], nodes=nodes, partitions=partitions,
        ),
        encoding="utf-8",
    )  # fmt: skip


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
