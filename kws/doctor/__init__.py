"""`kws doctor`: is this machine ready to train and, under a launcher, are these machines; and what to do where not.

    each rank    identity -> rank_checks: a stage at a time, in child processes with a limit    -> its answers
    rank 0       gathering: all answers, by plain sockets -> findings: found, wanted, what to do -> the command's table

May import every folder but commands. Only `torch_probe`, which runs in a child process, imports torch: a torch that
does not import, a network that is cut and a file system that does not answer are what this command is for, so none of
them may stop it. Read in this order:

    identity            which rank this process is, and where rank 0 is
    child_process       a child process that answers in JSON, with a limit
    local_facts         facts about a rank, found without torch: versions, limits, cores, clock, host names
    torch_probe         in a child: torch and GPUs, the process group, all-reduce, a step of the config
    nccl_log            which network NCCL uses
    folder_probe        in a child: run folder and cache
    shard_probe         in a child: how fast shards are read
    rank_checks         the stages of one rank
    gathering           rank 0 collects the answers of all ranks, and does without those that do not arrive
    examination         the whole story
    answers, findings, software_findings, cluster_findings, speed_findings    from answers to the rows of the table
    scaling             all-reduce against a step: from how many ranks on it takes too long
"""
