"""One file per property. Cases come from the registry; nothing here names a path."""
