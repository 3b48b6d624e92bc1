"""Webhooks, pure: headers, bytes and secrets in; which repository was pushed to out.

Signatures are checked over the raw bytes before anything is parsed, and what a payload says is a hint: it selects
among the Sources that are watched already, and no URL, ref or commit of it is ever fetched or deployed. One module a
family of providers. What may not be in here: I/O, the clock, and anything that can raise for what a stranger sends
(but `Malformed`).
"""
