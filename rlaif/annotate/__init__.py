"""`rlaif annotate`: a page on this machine where people compare responses, and what becomes of their answers.

questions.py    which pairs are asked about, with which principles
desk.py         who is given which pair
store.py        answers.sqlite: every answer, on disk before the page hears that it was saved
publish.py      answers.sqlite -> annotations.jsonl and annotation_edits.jsonl, which the stage `pairs` reads
guard.py        who may talk to the server: token, Host, Origin, and the headers that bind the page
app.py          the addresses behind the page (FastAPI);  page/ is the page
command.py      the command: begins and ends all that
route.py        `rlaif route`: which judged pairs people should see; routers.py and predictor.py say in which order
conflicts.py    `rlaif conflicts`: where people and the judge disagree
"""
