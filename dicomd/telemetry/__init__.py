"""What dicomd reports to its operators: the log, with one line per event, and the metrics.

Invariants of this room: nothing that identifies a patient gets into it, and nothing in it stops reception.
"""
