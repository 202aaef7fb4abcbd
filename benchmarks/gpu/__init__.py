"""The check of the trainer on a GPU: `python -m benchmarks.gpu`, see benchmarks/README.md.

    settings      dry or real, sizes, folders           findings      a stage's findings, as lines of JSON
    stages        which stages there are, in order      runner        runs them, each with a limit
    machine       what the card and its parts do        make_model    a random Mistral-7B, stored as nf4
    rows          rows of random tokens                 meters        steps, micro-batches, memory
    our_training  a TrainingRun through METHODS         arms          our arms: the product and its ablations
    peers         Trainer + PEFT of 2024, TRL           unsloth_arm   Unsloth, and our engine: unsloth
    correctness   attention, adapters, kernels, losses  estimate      the estimate against the allocator
    adapters      fused adapters and PEFT's             kernels       Liger's kernels against torch
    resume        resume, memory trouble                merge         merging nf4, DoRA's rounding
    sampler       ReFT's sampler against `generate`     jobs          every method as a whole tiny job
    reft_real     ReFT against SFT on a real model      reft_curves   its curves, in SVG
    profiling     where the time goes                   goals         what has to be reached: PASS or MISS
    report        everything as one page of Markdown

`prepare.sh`, `pack.py` and `offline.sh` bring all of it to a machine without a network.
"""
