"""`rlaif annotate`: a page on this machine where people compare responses, and what becomes of their answers.

desk.py         which pairs are asked about, with which principles, and who is given which
store.py        answers.sqlite: every answer, on disk before the page hears that it was saved; and what users of a
                served policy said of its replies
publish.py      annotations.jsonl, annotation_edits.jsonl and annotation_thumbs.jsonl, made of it, which the stage
                `pairs` reads
guard.py        who may talk to the server: token, Host, Origin, and the headers that bind the page
app.py          the server and its addresses (FastAPI);  page/ is the page
route.py        which judged pairs people should see, and where they and the judge disagree;
                routers.py says in which order
"""
