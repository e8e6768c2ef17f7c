"""One tracer a file; each gives a Graph."""
