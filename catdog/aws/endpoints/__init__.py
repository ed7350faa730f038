"""Endpoints: put a model into service, keep it in order, and delete it. Uses jobs and calls, not vice versa."""
