"""Worker processes that stay warm, and their leases to trials (Ray core)."""
