"""The report's parts: what is read from a run directory, and how it becomes one page.

    markup.py    elements that escape whatever they are given, and numbers as people read them
    palette.py   colours for light and dark, and one colour and shape per model everywhere
    files.py     the run directory, read tolerantly: what is missing is noted, never guessed
    charts.py    lines over steps                 dots.py    intervals, dots and bars in rows
    verdict.py   headline, win rates, table       judges.py  raters, reward model, your own choices
    measures.py  what the table shows             account.py time, settings, versions
    training.py  learning curves, PPO             samples.py answers side by side
    page.py      the whole page                   style.css, page.js

`kilter.report.write` is the way in. Nothing here imports torch.
"""
