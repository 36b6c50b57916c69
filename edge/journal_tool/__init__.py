"""`edge-journal`: the journal looked at, held against the CSV files, and asked for another try."""
