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
