"""Curation: what a training set keeps, and why it drops the rest. One file a step.

A step is a frozen `Config` and a pure function. Most judge a row by itself: `judge(item, config)` gives `Kept`
(perhaps with notes) or a `Drop` with its reason and evidence. Those that compare rows with each other take them all:
`curate(rows, config, report)` yields one outcome for each row, in their order, and writes into `report` what a reader
should know of the step as a whole. `rows` can be passed through several times and hands its parts to processes, so
the same functions serve a list in memory, a million rows on disk and shards.

    authors prefixes                 InstructGPT's practice: a cap per author, one row per long shared prefix
    exact near novelty               duplicates: the same text, MinHash with true Jaccard, ROUGE-L against a pool
    pii length language repetition boilerplate                  what a row by itself shows
    decontaminate                    n-grams of benchmarks, templates masked
    quality selection diversity mix  which of the good rows to train on
    bias                             a gate on preferences

    items.py texts.py minhash.py phrases.py     what rows are here, how texts are cut and compared
    steps.py                         the list of steps as YAML or as configurations, and the settings that ship
    run.py stage.py                  a whole curation on disk, resumable; the recipe's stage
"""
