"""A real Slurm of several nodes on one machine, for the tests and for whoever changes slurm/. Needs root.

    python tests/slurm/cluster.py up 2                     login host, node1, node2; packages: PACKAGES
    python tests/slurm/cluster.py run sbatch FILE ...      on the login host, in the folder where you are
    python tests/slurm/cluster.py kill 1 | boot 1          node1 loses power | comes back
    python tests/slurm/cluster.py cut 1 | mend 1           node1 off the network | on it again
    python tests/slurm/cluster.py stop | start             slurmctld; jobs go on without it
    python tests/slurm/cluster.py down

    login: munged, slurmctld, a bridge --+-- node1: slurmd, tasks
                                         +-- node2: slurmd, tasks

A host is a set of Linux namespaces (network, name, mounts, IPC, processes) held by a process that is its init: with it
all of the host ends at once. The disk is the machine's, as if shared; the networks lead nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "util-linux")
FOLDER = Path(f"/tmp/kws-cluster-{os.getuid()}")
NET = "10.213.66"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

# The init of a host: it sets the host up, says so, and reaps what is orphaned.
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
# What needs cgroups, mail or accounting is off.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
# A node has the cores below, whatever the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Everything soon: scheduling, finding a node dead, taking it back, starting a requeued job (cred_expire above; 5 s is
# the least that it takes).
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
SlurmctldTimeout=10
SlurmdTimeout=10
ReturnToService=2
KillWait=15
MinJobAge=86400
JobRequeue=1
NodeName=node[1-{nodes}] NodeAddr={net}.[11-{last}] CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if os.getuid() != 0:
        return "starting a Slurm needs root"
    absent = [name for name in ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter") if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install {' '.join(PACKAGES)})"
    allowed = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True
    )
    return f"no namespaces of one's own here: {allowed.stderr.decode().strip()}" if allowed.returncode else None


def wait_for(what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until it is so; AssertionError naming `what` where it does not become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s still not so: {what}")
        time.sleep(0.1)


@dataclasses.dataclass
class Cluster:
    """One cluster, all of it below `folder`, by which another process finds it again."""

    folder: Path = FOLDER
    """Anyone's to enter, and of a short name: munge's socket there may have 107 letters."""
    nodes: int = 2
    _holders: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)
    """What this process started to hold the hosts."""

    @classmethod
    def found(cls, folder: Path = FOLDER) -> Cluster:
        """The one that was started there."""
        try:
            return cls(folder, json.loads((folder / "cluster.json").read_text())["nodes"])
        except OSError:
            sys.exit(f"{folder}: no cluster there; type: python {sys.argv[0]} up 2")

    # --- up and down ------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Starts all; what a killed process left of an earlier one there goes first."""
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
        """Ends all hosts, with them all that runs on them, and removes the folder."""
        for host in list(self._pids()):
            self._end(host)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_settings(self) -> None:
        values = {"net": NET, "folder": self.folder, "nodes": self.nodes, "last": 10 + self.nodes}
        (self.folder / "etc" / "slurm.conf").write_text(CONFIG.format(**values))
        hosts = {f"{NET}.1": "login"} | {f"{NET}.{10 + number}": f"node{number}" for number in range(1, self.nodes + 1)}
        # Also as torch's store asks for them, which else waits for a name server that is not there.
        lines = [f"{prefix}{address} {host}" for address, host in hosts.items() for prefix in ("", "::ffff:")]
        (self.folder / "etc" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

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
            self._ip("login", f"link add {host} type veth peer name eth0 netns {init.pid}", there=False)
            self._ip("login", f"link set {host} master eth0 up")
        self._ip(host, f"addr add {address}/24 dev eth0")
        self._ip(host, "link set eth0 up")

    def _ip(self, host: str, words: str, there: bool = True) -> None:
        """`ip` on a host; where not `there`, with that host's network, but this machine's numbers of processes."""
        enter = self.command(host) if there else ["nsenter", "-t", str(self._pids()[host][0]), "--net"]
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
        """Each host's init: its number here, and when it began, as numbers are used again."""
        try:
            return dict(json.loads((self.folder / "cluster.json").read_text())["pids"])
        except OSError:
            return {}

    def _note(self, host: str, init: tuple[int, float] | None) -> None:
        pids = {name: found for name, found in self._pids().items() if name != host}
        text = json.dumps({"nodes": self.nodes, "pids": pids | ({host: init} if init else {})})
        (self.folder / "cluster.json").write_text(text)

    def command(self, host: str, *words: str) -> list[str]:
        """What to run here for `words` to run there, in the same folder."""
        pid = str(self._pids()[host][0])
        return ["nsenter", "-t", pid, "--net", "--uts", "--ipc", "--mount", "--pid", f"--wd={Path.cwd()}", "--", *words]

    def on(self, host: str, *words: str, env: dict[str, str] | None = None, check: bool = True) -> str:
        """Runs a command there; its output, both kinds."""
        # A surrounding job's variables are not this cluster's.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        done = subprocess.run(self.command(host, *words), env=clean | (env or {}), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stdout}")
        return done.stdout

    # --- faults -----------------------------------------------------------------------------------------------

    def boot(self, number: int) -> None:
        """Starts a node, or starts it again after `kill`."""
        host = f"node{number}"
        self._boot(host, f"{NET}.{10 + number}")
        (self.folder / "spool" / host).mkdir(exist_ok=True)
        self.on(host, "slurmd", "-N", host)

    def kill(self, number: int) -> None:
        """Takes a node's power away."""
        self._end(f"node{number}")

    def cut(self, number: int) -> None:
        """Takes a node off the network: the others hear nothing more, not even a reset."""
        self._ip("login", f"link set node{number} down")

    def mend(self, number: int) -> None:
        """Puts it back."""
        self._ip("login", f"link set node{number} up")

    def stop_controller(self) -> None:
        """Ends slurmctld: jobs go on, sbatch and scontrol fail."""
        pid = (self.folder / "run" / "slurmctld.pid").read_text().strip()
        self.on("login", "kill", pid)
        wait_for("slurmctld gone", lambda: "dead" in self.on("login", "sh", "-c", f"kill -0 {pid} || echo dead"))

    def start_controller(self) -> None:
        """Starts slurmctld, which takes its jobs up where they are."""
        self.on("login", "slurmctld")
        wait_for("slurmctld answers", lambda: "is UP" in self.on("login", "scontrol", "ping", check=False))

    # --- jobs -------------------------------------------------------------------------------------------------

    def states(self) -> list[str]:
        """Of every node."""
        return self.on("login", "sinfo", "-h", "-N", "-o", "%T", check=False).split()

    def sbatch(self, *words: str, env: dict[str, str] | None = None) -> str:
        """Submits; the job's number."""
        return self.on("login", "sbatch", "--parsable", *words, env=env).strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of it; {} where slurmctld does not answer."""
        words = self.on("login", "scontrol", "-o", "show", "job", number, check=False).split()
        return dict(word.partition("=")[::2] for word in words if "=" in word)

    def ended(self, number: str, seconds: float = 240.0) -> dict[str, str]:
        """Waits until it has ended for good, and what became of it."""
        wait_for(f"job {number} ended", lambda: self.training_set(number).get("JobState") in ENDED, seconds)
        return self.training_set(number)

    def signal_rank(self, number: int, rank: int, sent: signal.Signals) -> None:
        """Sends a signal to one rank's process alone, on that node."""
        for process in psutil.process_iter():
            try:
                environment, words = process.environ(), process.cmdline()
            except psutil.Error:
                continue
            # torchrun's processes have a RANK, and SLURM_PROCID is the number of their torchrun.
            own = environment.get("RANK", environment.get("SLURM_PROCID"))
            here = environment.get("SLURMD_NODENAME") == f"node{number}"
            if here and own == str(rank) and "train" in words and _is_kws(words):
                process.send_signal(sent)
                return
        raise AssertionError(f"no rank {rank} on node{number}")


def _is_kws(words: list[str]) -> bool:
    """`python .venv/bin/kws train` or `python -m kws train`, and not what starts that."""
    place = words.index("train")
    return Path(words[place - 1]).name == "kws" and "launch" not in words and "bash" not in words[0]


def main(words: list[str]) -> int:
    """The commands above."""
    faults = {"boot": Cluster.boot, "kill": Cluster.kill, "cut": Cluster.cut, "mend": Cluster.mend}
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
