"""Count words: a pipeline in ten lines.

It prints:

    to: 1
    be: 1
    or: 1
    not: 1
    to: 2
    be: 2
"""

from __future__ import annotations

from streams import App
from streams.testing import TestDriver

app = App("wordcount")

(
    app.stream("lines", value=str)
    .flat_map(str.split, value=str)
    .key_by(lambda word: word)  # all records of a word meet in one task
    .count()  # kept on the log and in a store: survives a restart
    .to("counts")
)

if __name__ == "__main__":
    with TestDriver(app) as t:
        t.send("lines", "to be or not to be")
        for word, count in t.outputs("counts"):
            print(f"{word}: {count}")
