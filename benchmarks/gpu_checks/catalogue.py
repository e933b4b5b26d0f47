"""The list of checks. The limits are about twice what a check should take on one GPU of a data centre."""

from __future__ import annotations

from benchmarks.gpu_checks.check import Check

CHECKS = (
    Check(0, "versions, driver, NCCL, corpora", "imports", "environment:check", 90),
    Check(1, "front end against float64", "at most 0.01 dB", "front_end:check", 80),
    Check(
        2, "train by gpu1.yaml, evaluate, predict, verify", "exit codes 0, over 95 % on tones", "training:check", 110
    ),
    Check(3, "host waits", "0 a slot, 1 a step", "host_waits:check", 45),
    Check(4, "again, killed, resumed", "equal bits with train.deterministic", "equal_bits:check", 140),
    Check(5, "one rank with NCCL, by torchrun", "bits of a run without it", "training:check_nccl", 70),
    Check(6, "two ranks on one GPU, gloo", "losses to 1e-5; a killed rank named in 20 s", "two_ranks:check", 110),
    Check(7, "precision x reduction x layout", "finite, falling, gradients within 3 %", "precision:check", 80),
    Check(8, "each network, GPU against CPU", "1e-4; batch norm on views: equal bits", "networks_equal:check", 130),
    Check(9, "refusals", "one line each, exit code 2", "refusals:check", 70),
    Check(10, "ZeRO-1 and ZeRO-2 alone", "losses to 1e-5, less than 0.3 GB extra", "sharded:check", 110),
    Check(
        11, "WRN-28-10 and WRN-52-10", "MFU at least 40 % of a bf16 product", "wide_networks:check", 120, alone=True
    ),
    Check(
        12, "train wrn_28_10, classic chain, 60 steps", "front end <= 5 %, data <= 2 %, GPU busy > 90 %",
        "wide_networks:check_training", 80, alone=True,
    ),
    Check(
        13, "small networks, epochs, saves, loader", ">= 30,000 clips/s, loader >= 0.7, memory flat",
        "small_networks:check", 110, alone=True,
    ),
    Check(14, "torch.compile", "at most 6 graphs, loss to 1e-3", "compiling:check", 110, alone=True),
)  # fmt: skip
