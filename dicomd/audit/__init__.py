"""The audit trail of PS3.15 A.5: turns events into messages, and delivers these to a folder and to a syslog server.

Invariant: the trail never stops a reception. Events are handed over without waiting, and everything that can fail does
so behind a bounded queue, where it is retried, counted and logged.
"""
