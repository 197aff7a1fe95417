"""Requests on their way: received, approved, extended, closed; which are served next. Needs no torch."""
