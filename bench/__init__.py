"""The benchmark: compares dicomd with other receivers, giving all of them the same work from the same senders.

Each receiver is a program that is started, sent to over loopback, and stopped. dicomd doesn't import this package, and
apart from `uncounted`, this package doesn't import dicomd. `scripts/bench` runs the benchmark, and
`docs/performance.md` explains its results.
"""
