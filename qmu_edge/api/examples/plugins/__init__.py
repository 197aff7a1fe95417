"""Plug-ins as a package of your own would bring them; the page of `api/` says how they are found."""
