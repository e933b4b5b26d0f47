# What every job here does first: the folder it was submitted from, this site's modules, `kws`. To be sourced.
# shellcheck shell=bash
cd "${SLURM_SUBMIT_DIR:?not in a job; type: sbatch slurm/train.sbatch CONFIG}" || exit 1
# Modules, NCCL's network: what only this site needs. Git ignores the file.
if [ -f slurm/site.sh ]; then
  set +u # modules and conda read variables that are not set
  # shellcheck source=/dev/null
  source slurm/site.sh
  set -u
fi
command -v kws >/dev/null || PATH="$PWD/.venv/bin:$PATH"
