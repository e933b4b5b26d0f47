"""A real Slurm of several nodes on one machine, for the tests and for work on slurm/. Needs root.

    python tests/slurm/cluster.py up 2                     login host, node1, node2; packages: PACKAGES
    python tests/slurm/cluster.py run sbatch FILE ...      on the login host, in the folder where you are
    python tests/slurm/cluster.py kill 1 | boot 1          node1 loses power | comes back
    python tests/slurm/cluster.py cut 1 | reconnect 1      node1 loses its network | gets it back
    python tests/slurm/cluster.py stop | start             slurmctld; jobs run on without it
    python tests/slurm/cluster.py down

    login: munged, slurmctld, a bridge --+-- node1: slurmd, tasks
                                         +-- node2: slurmd, tasks

A host is a set of Linux namespaces (network, name, mounts, IPC, processes) with an init process; when that ends, the
whole host ends. All hosts share the file system of the machine. Their network is not connected to anything else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "util-linux")
FOLDER = Path(f"/tmp/kws-cluster-{os.getuid()}")
NET = "10.213.66"
GPUS = 4
"""Pretended GPUs of a node."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

# The init of a host: sets the host up, reports that with a file, and reaps orphans.
INIT = """
hostname "$HOST"; ip link set lo up; mount -t tmpfs tmpfs /dev/shm
mount --bind "$DIR/etc/hosts" /etc/hosts; mkdir -p /etc/slurm; mount --bind "$DIR/etc" /etc/slurm
touch "$DIR/run/$HOST"
while :; do sleep 3600 & wait; done
"""
CONFIG = """
ClusterName=test
SlurmctldHost=login({net}.1)
SlurmUser=root
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdUser=root
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd.%n
# Off: everything that needs cgroups, mail or accounting.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
# A node has the cores and GPUs below, whatever the machine has. The GPUs are pretended: SLURM gives them to jobs, no
# program can use them.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Short delays for scheduling, detecting a dead node, taking it back, and starting a requeued job (cred_expire above;
# 5 s is the minimum).
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
SlurmctldTimeout=10
SlurmdTimeout=10
ReturnToService=2
KillWait=15
MinJobAge=86400
JobRequeue=1
GresTypes=gpu
NodeName=DEFAULT CPUs=8 Sockets=2 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:a100:{gpus} State=UNKNOWN
NodeName=node[1-{nodes}] NodeAddr={net}.[11-{last}]
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    if os.getuid() != 0:
        return "starting a Slurm needs root"
    absent = [name for name in ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter") if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install {' '.join(PACKAGES)})"
    allowed = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True
    )
    return f"no own namespaces here: {allowed.stderr.decode().strip()}" if allowed.returncode else None


def wait_for(what: str, condition: Callable[[], object], seconds: float = 60.0, pause_s: float = 0.1) -> None:
    """Waits for a condition, tried every `pause_s`. Raises AssertionError naming `what` if it is not met in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not met after {seconds:.0f} s: {what}")
        time.sleep(pause_s)


@dataclasses.dataclass
class Cluster:
    """One cluster. All its files are in `folder`, through which another process finds it."""

    folder: Path = FOLDER
    """Readable by everybody, and with a short name: the path of munge's socket in it is limited to 107 characters."""
    nodes: int = 2
    _holders: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)
    """The processes that this process started to hold the namespaces of the hosts."""

    @classmethod
    def found(cls, folder: Path = FOLDER) -> Cluster:
        """The cluster that was started with this folder."""
        try:
            return cls(folder, json.loads((folder / "cluster.json").read_text())["nodes"])
        except OSError:
            sys.exit(f"{folder}: no cluster here; type: python {sys.argv[0]} up 2")

    # --- up and down ------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Starts all hosts, after removing what a killed process left of an earlier cluster."""
        self.down()
        for name in ("etc", "run", "log", "state", "spool"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "cluster.json").write_text(json.dumps({"nodes": self.nodes, "pids": {}}))
        self._write_settings()
        try:
            self._boot("login", f"{NET}.1")
            key = self.folder / "run" / "munge.key"
            key.touch(0o600)
            key.write_bytes(secrets.token_bytes(512))
            self.on("login", "munged", f"--key-file={key}", f"--socket={self.folder}/run/munge.socket",
                    f"--pid-file={self.folder}/run/munged.pid", f"--log-file={self.folder}/log/munged",
                    f"--seed-file={self.folder}/run/munge.seed")  # fmt: skip
            self.start_controller()
            for number in range(1, self.nodes + 1):
                self.boot(number)
            wait_for("all nodes idle", lambda: self.states() == ["idle"] * self.nodes)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Ends all hosts with everything on them, and removes the folder."""
        for host in list(self._pids()):
            self._end(host)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_settings(self) -> None:
        values = {"net": NET, "folder": self.folder, "nodes": self.nodes, "last": 10 + self.nodes, "gpus": GPUS}
        (self.folder / "etc" / "slurm.conf").write_text(CONFIG.format(**values))
        self._pretend_gpus()
        hosts = {f"{NET}.1": "login"} | {f"{NET}.{10 + number}": f"node{number}" for number in range(1, self.nodes + 1)}
        # Also in the form that torch's store asks for; otherwise it waits for a name server, and there is none.
        lines = [f"{prefix}{address} {host}" for address, host in hosts.items() for prefix in ("", "::ffff:")]
        (self.folder / "etc" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def _pretend_gpus(self) -> None:
        devices = self.folder / "gpu"
        devices.mkdir()
        for number in range(GPUS):
            os.mknod(devices / f"nvidia{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        (self.folder / "etc" / "gres.conf").write_text(f"Name=gpu Type=a100 File={devices}/nvidia[0-{GPUS - 1}]\n")

    # --- hosts ------------------------------------------------------------------------------------------------

    def _boot(self, host: str, address: str) -> None:
        ready = self.folder / "run" / host
        ready.unlink(missing_ok=True)
        words = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / "log" / host).open("w") as log:
            holder = subprocess.Popen(
                [*words, "bash", "-c", INIT], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOST": host, "DIR": str(self.folder)},
            )  # fmt: skip
        wait_for(f"{host} set up", ready.exists)
        self._holders[host] = holder
        init = psutil.Process(holder.pid).children()[0]
        self._note(host, (init.pid, init.create_time()))
        if host == "login":
            self._ip("login", "link add eth0 type bridge")
        else:
            self._ip("login", f"link add {host} type veth peer name eth0 netns {init.pid}", own_pids=False)
            self._ip("login", f"link set {host} master eth0 up")
        self._ip(host, f"addr add {address}/24 dev eth0")
        self._ip(host, "link set eth0 up")

    def _ip(self, host: str, words: str, own_pids: bool = True) -> None:
        """`ip` on a host; without `own_pids`, with the host's network but the process ids of this machine."""
        enter = self.command(host) if own_pids else ["nsenter", "-t", str(self._pids()[host][0]), "--net"]
        subprocess.run([*enter, "ip", *words.split()], check=True)

    def _end(self, host: str) -> None:
        pid, began = self._pids()[host]
        try:
            init = psutil.Process(pid)
            if init.create_time() == began:
                init.kill()
                psutil.wait_procs([init], timeout=30)
        except psutil.NoSuchProcess:
            pass
        if host in self._holders:
            self._holders.pop(host).wait()
        self._note(host, None)

    def _pids(self) -> dict[str, tuple[int, float]]:
        """Each host's init: its process id on this machine, and its start time, because ids are reused."""
        try:
            return dict(json.loads((self.folder / "cluster.json").read_text())["pids"])
        except OSError:
            return {}

    def _note(self, host: str, init: tuple[int, float] | None) -> None:
        pids = {name: found for name, found in self._pids().items() if name != host}
        text = json.dumps({"nodes": self.nodes, "pids": pids | ({host: init} if init else {})})
        (self.folder / "cluster.json").write_text(text)

    def command(self, host: str, *words: str) -> list[str]:
        """The command that runs `words` on a host, in the current folder."""
        pid = str(self._pids()[host][0])
        return ["nsenter", "-t", pid, "--net", "--uts", "--ipc", "--mount", "--pid", f"--wd={Path.cwd()}", "--", *words]

    def on(self, host: str, *words: str, env: dict[str, str] | None = None, check: bool = True) -> str:
        """Runs a command on a host. Returns stdout and stderr together."""
        # Without the variables of a job that these tests may run in.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        done = subprocess.run(self.command(host, *words), env=clean | (env or {}), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stdout}")
        return done.stdout

    # --- faults -----------------------------------------------------------------------------------------------

    def boot(self, number: int) -> None:
        """Starts a node, also after `kill`."""
        host = f"node{number}"
        self._boot(host, f"{NET}.{10 + number}")
        (self.folder / "spool" / host).mkdir(exist_ok=True)
        self.on(host, "slurmd", "-N", host)

    def kill(self, number: int) -> None:
        """Cuts a node's power."""
        self._end(f"node{number}")

    def cut(self, number: int) -> None:
        """Cuts a node's network: the others receive nothing from it, not even a reset."""
        self._ip("login", f"link set node{number} down")

    def reconnect(self, number: int) -> None:
        """Restores a node's network."""
        self._ip("login", f"link set node{number} up")

    def stop_controller(self) -> None:
        """Ends slurmctld: jobs continue, sbatch and scontrol fail."""
        pid = (self.folder / "run" / "slurmctld.pid").read_text().strip()
        self.on("login", "kill", pid)
        wait_for("slurmctld ended", lambda: "dead" in self.on("login", "sh", "-c", f"kill -0 {pid} || echo dead"))

    def start_controller(self) -> None:
        """Starts slurmctld, which recovers its jobs."""
        self.on("login", "slurmctld")
        wait_for("slurmctld answers", lambda: "is UP" in self.on("login", "scontrol", "ping", check=False))

    # --- jobs -------------------------------------------------------------------------------------------------

    def states(self) -> list[str]:
        """State of every node."""
        return self.on("login", "sinfo", "-h", "-N", "-o", "%T", check=False).split()

    def sbatch(self, *words: str, env: dict[str, str] | None = None) -> str:
        """Submits a job. Returns its id."""
        return self.on("login", "sbatch", "--parsable", *words, env=env).strip()

    def job(self, number: str) -> dict[str, str]:
        """The fields of `scontrol show job`; {} if slurmctld does not answer."""
        words = self.on("login", "scontrol", "-o", "show", "job", number, check=False).split()
        return dict(word.partition("=")[::2] for word in words if "=" in word)

    def ended(self, number: str, seconds: float = 600.0) -> dict[str, str]:
        """Waits until the job has ended and will not be requeued. Returns its fields."""
        # Each try starts nsenter and scontrol, on the cores that the job trains on.
        wait_for(f"job {number} ended", lambda: self.job(number).get("JobState") in ENDED, seconds, pause_s=0.5)
        return self.job(number)

    def signal_rank(self, number: int, rank: int, sent: signal.Signals) -> None:
        """Sends a signal to the process of one rank on a node."""
        for process in psutil.process_iter():
            try:
                environment, words = process.environ(), process.cmdline()
            except psutil.Error:
                continue
            # Processes of torchrun have RANK; their SLURM_PROCID is that of torchrun.
            own = environment.get("RANK", environment.get("SLURM_PROCID"))
            here = environment.get("SLURMD_NODENAME") == f"node{number}"
            if here and own == str(rank) and "train" in words and _is_kws(words):
                process.send_signal(sent)
                return
        raise AssertionError(f"no rank {rank} on node{number}")


def _is_kws(words: list[str]) -> bool:
    """Whether it is `python .venv/bin/kws train` or `python -m kws train`, and not its launcher."""
    place = words.index("train")
    return Path(words[place - 1]).name == "kws" and "launch" not in words and "bash" not in words[0]


def main(words: list[str]) -> int:
    """The commands above."""
    faults = {"boot": Cluster.boot, "kill": Cluster.kill, "cut": Cluster.cut, "reconnect": Cluster.reconnect}
    plain = {"down": Cluster.down, "stop": Cluster.stop_controller, "start": Cluster.start_controller}
    match words:
        case ["up", *count]:
            why = missing()
            if why:
                sys.exit(why)
            Cluster(nodes=int(count[0]) if count else 2).up()
            print(f"up; logs in {FOLDER}/log; next: python {sys.argv[0]} run sinfo")
        case ["run", _, *_]:
            return subprocess.run(Cluster.found().command("login", *words[1:]), check=False).returncode
        case [name, number] if name in faults:
            faults[name](Cluster.found(), int(number))
        case [name] if name in plain:
            plain[name](Cluster.found())
        case _:
            sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
