"""Where bytes lie: local files, objects of remote stores, rows of Lance sets; and what is kept of them on this disk."""
