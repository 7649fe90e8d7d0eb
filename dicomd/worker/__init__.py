"""The worker process, which serves Associations with one immutable configuration."""
