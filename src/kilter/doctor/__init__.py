"""The doctor: what can be known about data, template, checkpoint and method before a step is paid for.

finding.py   what a check says: a name, a level, what it saw, what to do
rows.py      lengths, rejected and repeated rows, ties, whether the longer answer wins
tokens.py    eos trained, BOS counted, the prompt a prefix of the whole, the template's end
numerics.py  log-probs and scores whatever the batch, the order and the padding; packing; sampler against trainer
reward.py    what a reward model says of empty, repeated and over-long answers
stage.py     a method at work: any micro-batch, lr = 0, frozen models; all checks of a stage, run before it trains
targets.py   a recipe, a checkpoint or a file of rows, examined
show.py      the findings on a terminal, and rows with their trained spans in colour

Every check is a function of what it is given and returns a `Finding`; none of them changes weights, gradients or a
random generator that training reads.
"""
