# What every job here does first: the folder it was submitted from, this site's modules, `kws`. To be sourced.
# shellcheck shell=bash
cd "${SLURM_SUBMIT_DIR:?not in a job; type: sbatch slurm/train.sbatch CONFIG}" || exit 1
# Modules, a container, NCCL's network: what only this site needs. Git ignores the file.
# shellcheck source=/dev/null
if [ -f slurm/site.sh ]; then source slurm/site.sh; fi
command -v kws >/dev/null || PATH="$PWD/.venv/bin:$PATH"
