"""A guard before a policy: an OpenAI-compatible chat endpoint that answers by a constitution, and takes feedback.

config.py     what a guard is: the input contract, the constitution, who judges, and what is done with what fails
language.py   the language of a request
decision.py   the rows of its log
decide.py     from requests to decisions, by a policy and a judge; nothing is served there
chat.py       the protocol: /v1/chat/completions and /v1/models
feedback.py   POST /feedback: thumbs, edits and pairs, into the store of the annotation page
"""
