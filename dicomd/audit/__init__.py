"""The audit trail of PS3.15 A.5: what happened, as messages, and their way to a folder and to a syslog server.

The rule it keeps: the trail never stops a reception. What happens is handed over without waiting, and all that can
fail, fails behind a bounded queue, where it is tried again, counted and logged.
"""
