"""The exporter process, which serves metrics, probes and the status page over HTTP."""
