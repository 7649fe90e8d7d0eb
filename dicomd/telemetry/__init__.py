"""What dicomd tells its operators: one log line an event, and the metrics.

The rule of this room: nothing that identifies a patient leaves through it, and nothing in it stops a reception.
"""
