"""An endpoint that speaks OpenAI's language, over checkpoints and over the sandbox's own hands and oracle.

start.py      names and flags → models → a running server
app.py        routes, and replies in OpenAI's shapes
requests.py   what may be asked: every field checked, every refusal in OpenAI's words for it
guard.py      who may ask: key, Host, Origin, size of a body
checkpoint.py a checkpoint's name, tokenizer and engine
engine.py     one thread a checkpoint, in which all its answers are drawn together
run.py        a request being answered, between a model's thread and a client's loop
writing.py    token ids → text that only grows: whole characters, stop strings held back
scripted.py   the sandbox's models: answerers and judges of stated quality
faults.py     429s, timeouts and spoilt replies, on request
harvest.py    prompts of users who were told, kept as records
"""
