"""One script per published figure; each prints versions, seed and raw numbers."""
