"""The server: an HTTP interface to explanations, with its own limits, and the page."""
