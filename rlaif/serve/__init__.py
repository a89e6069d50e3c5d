"""A reward, or a judge, behind HTTP: `rlaif serve`. Other people's trainers ask it in their own protocols.

target.py      what is served: a reward model, a recipe's `optimise.scoring`, or a constitution with a judge
batching.py    what waits is scored together; the queue is bounded
records.py     what was answered, on disk before it is sent
service.py     one request, from items to answers
responses.py   the objects that NeMo-Gym sends
protocols.py   each trainer's request and reply
access.py      who may call
app.py         all of it as one application
server.py      the process that serves it
guard/         before a policy: what a constitution lets pass is sent, and what users say of it is kept
"""
