"""The exporter process: metrics, probes and the status page over HTTP."""
