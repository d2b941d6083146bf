"""Generated samples made to look scanned, and written to a folder by many processes."""
