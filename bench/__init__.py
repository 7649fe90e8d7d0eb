"""The benchmark: dicomd and the receivers its users know, given the same work by the same senders.

Nothing here is imported by dicomd, and nothing here imports it: every receiver is a program that is started,
sent to over loopback and stopped. `scripts/bench` runs it, `docs/performance.md` says how to read it.
"""
