"""A worker process: it serves Associations with one immutable configuration."""
