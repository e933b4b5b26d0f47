# Sourced by every job script: changes to the folder that the job was submitted from, sources slurm/site.sh, finds `kws`.
# `kws launch slurm` writes KWS_BIN, the folder of the kws that submitted the job, into its copies of the scripts.
# shellcheck shell=bash
cd "${SLURM_SUBMIT_DIR:?not in a job; type: sbatch slurm/train.sbatch CONFIG}" || exit 1
# What only this site needs, such as modules and the network for NCCL. Git ignores the file.
if [ -f slurm/site.sh ]; then
  set +u # modules and conda read unset variables
  # shellcheck source=/dev/null
  source slurm/site.sh
  set -u
fi
command -v kws >/dev/null || PATH="${KWS_BIN:-$PWD/.venv/bin}:$PATH"
if ! command -v kws >/dev/null; then
  echo "$HOSTNAME: kws is not in PATH; activate its environment in slurm/site.sh of $PWD"
  exit 2
fi

say() { echo "[$(date +%T)] $*"; }
refuse() { say "$*"; exit 2; }

# Sets nodes, tasks, each (tasks per node), cores (per task) and gpus (per node), in whatever way they were requested
# (table in docs/cluster.md). srun then gets these numbers and not sbatch's options, of which it would take some again.
read_shape() {
  case ${SLURM_TASKS_PER_NODE:-1} in # such as 4(x2), four on each of two nodes
    *,*) refuse "found $SLURM_TASKS_PER_NODE tasks on the nodes; wanted the same number on each: --ntasks-per-node=..." ;;
  esac
  # Not SLURM_NTASKS, which keeps its old value when the number of nodes is changed.
  nodes=$SLURM_JOB_NUM_NODES each=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE%%(*}}
  tasks=$((nodes * each))
  # --ntasks-per-gpu may give fewer cores than --cpus-per-task.
  local given=$((${SLURM_CPUS_ON_NODE:-each} / each))
  # shellcheck disable=SC2034 # for the script that sources this one
  cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_PER_GPU:-1}}
  if [ "$cores" -gt "$given" ] && [ "$given" -gt 0 ]; then cores=$given; fi
  # Counted on the first node; before Slurm 20.11 only their list is there, such as 0,1,2,3.
  local list=${SLURM_JOB_GPUS:-}
  gpus=${SLURM_GPUS_ON_NODE:-$(tr ',' '\n' <<<"$list" | grep -c .)}
  gpus_asked=${SLURM_GPUS:-} gpus_per_task=${SLURM_GPUS_PER_TASK:-}
  unset SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_SOCKET SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU SLURM_TRES_PER_TASK
}

# Refuses GPUs and tasks that do not fit together: each task is one process with one GPU.
check_gpus() {
  case ${gpus_per_task##*:} in
    '' | 1) ;;
    *) refuse "found --gpus-per-task=$gpus_per_task; wanted 1, because each task is one process with one GPU" ;;
  esac
  case $gpus_asked in
    '' | *,*) ;;
    *) # SLURM may spread them unevenly over the nodes
      if [ "${gpus_asked##*:}" != "$tasks" ] || [ "$gpus" != "$each" ]; then
        refuse "found --gpus=$gpus_asked, of which $HOSTNAME has $gpus for $each tasks; wanted one task per GPU:" \
          "--gpus-per-node=N --ntasks-per-node=N"
      fi ;;
  esac
  if [ "$gpus" != "$each" ]; then
    refuse "found $gpus GPUs and $each tasks on $HOSTNAME; wanted one task per GPU: --ntasks-per-node=$gpus"
  fi
}
